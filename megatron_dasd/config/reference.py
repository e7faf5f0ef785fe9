"""The settings as their source describes them: name, type, default, what each is for.

The source is parsed, not imported: building the settings classes takes longer than a command's
``--help`` may.  The docstring below a field is its description.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import cleandoc
from pathlib import Path

_FOLDER = Path(__file__).parent
_PLAIN_TYPES = {
    "str": "text",
    "int": "integer",
    "float": "number",
    "bool": "true or false",
    "object": "any value",
    "Any": "any value",
    "Input": "stage or path",
}
_LIMITS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_UNWRAPPED = ("Annotated", "SerializeAsAny")


@dataclass(frozen=True)
class Setting:
    """One field of a settings class."""

    name: str
    type: str
    """In words, e.g. ``integer > 0`` or ``one of all, heldout``."""
    default: str | None
    """As the source has it; None: it must be given."""
    doc: str
    """What it is for, as one line; empty where the source says nothing."""
    inner: str | None
    """Settings class of a nested block, or of the entries of a list or mapping."""
    shape: str
    """``one``, ``list`` or ``mapping``."""


@dataclass(frozen=True)
class SettingsClass:
    """A class of settings."""

    name: str
    doc: str
    """Its docstring."""
    kind: str | None
    """Of the stage that it describes; None: it is a block within others."""
    settings: tuple[Setting, ...]
    """Inherited ones last."""


@dataclass(frozen=True)
class _Source:
    """The parsed modules of ``config``."""

    classes: Mapping[str, ast.ClassDef]
    aliases: Mapping[str, ast.expr]
    """Names of types, e.g. ``Positive``."""


@cache
def settings_classes() -> dict[str, SettingsClass]:
    """All classes of settings of the package, by the class's name."""
    source = _source()
    own = {name: _described(node, source) for name, node in source.classes.items()}
    return {name: one for name, one in own.items() if one.settings or one.kind}


@cache
def stage_classes() -> dict[str, SettingsClass]:
    """The settings classes of stages, by kind, sorted."""
    found = {one.kind: one for one in settings_classes().values() if one.kind}
    return dict(sorted(found.items()))


def first_sentence(text: str) -> str:
    """A docstring's first sentence, without the full stop."""
    match = re.match(r"(.+?)\.(\s|$)", text, re.DOTALL)
    return _one_line(match[1] if match else text)


@cache
def _source() -> _Source:
    classes: dict[str, ast.ClassDef] = {}
    aliases: dict[str, ast.expr] = {}
    for path in sorted(_FOLDER.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and _may_hold_settings(node):
                classes[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                aliases[node.targets[0].id] = node.value
    return _Source(classes, aliases)


def _may_hold_settings(node: ast.ClassDef) -> bool:
    """Whether a class has a base: those of settings all do, dataclasses here do not."""
    return bool(node.bases)


def _described(node: ast.ClassDef, source: _Source) -> SettingsClass:
    settings = {setting.name: setting for setting in _fields(node, source)}
    kind = settings.pop("kind", None)
    is_kind = kind is not None and kind.type.startswith("one of ")
    name = kind.type.removeprefix("one of ") if kind and is_kind else None
    doc = ast.get_docstring(node) or ""
    return SettingsClass(node.name, doc, name, tuple(settings.values()))


def _fields(node: ast.ClassDef, source: _Source) -> Iterator[Setting]:
    """Own fields with the docstrings below them, then those of the bases."""
    own: set[str] = set()
    for index, statement in enumerate(node.body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        name = statement.target.id
        own.add(name)
        if name.startswith("_") or ast.unparse(statement.annotation).startswith("ClassVar"):
            continue
        yield _setting(name, statement, _docstring_at(node, index + 1), source)
    for base in node.bases:
        parent = source.classes.get(ast.unparse(base))
        if parent is not None:
            yield from (one for one in _fields(parent, source) if one.name not in own)


def _docstring_at(node: ast.ClassDef, index: int) -> str:
    if index < len(node.body):
        below = node.body[index]
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            return _one_line(str(below.value.value))
    return ""


def _setting(name: str, statement: ast.AnnAssign, doc: str, source: _Source) -> Setting:
    annotation, default = statement.annotation, statement.value
    limits = ""
    if isinstance(default, ast.Call) and ast.unparse(default.func) == "Field":
        limits = _limits(default)
        default = _default_of_field(default)
    shape, inner = _shape(annotation, source)
    return Setting(
        name=name,
        type=_words(annotation, source) + limits,
        default=None if default is None else _default_text(default),
        doc=doc,
        inner=inner,
        shape=shape,
    )


def _default_of_field(call: ast.Call) -> ast.expr | None:
    if call.args:
        return None if ast.unparse(call.args[0]) == "..." else call.args[0]
    return next((word.value for word in call.keywords if word.arg == "default"), None)


def _default_text(default: ast.expr) -> str:
    """A default as YAML would have it; a block of settings has its own defaults."""
    if isinstance(default, ast.Constant):
        plain = {None: "none", True: "true", False: "false"}
        if default.value is None or isinstance(default.value, bool):
            return plain[default.value]
        return repr(default.value) if default.value == "" else _quoted(str(default.value))
    if isinstance(default, ast.Call):
        return "its own defaults"
    return ast.unparse(default).replace("'", "")


def _quoted(text: str) -> str:
    return repr(text) if text != text.strip() or "\n" in text else text


def _unwrapped(annotation: ast.expr, source: _Source) -> ast.expr:
    """The annotation without marks, and with the meaning of its name in place of an alias."""
    while True:
        if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in _UNWRAPPED:
            inner = annotation.slice
            annotation = inner.elts[0] if isinstance(inner, ast.Tuple) else inner
        elif isinstance(annotation, ast.Name) and annotation.id != "Input":
            meaning = source.aliases.get(annotation.id)
            if meaning is None:
                return annotation
            annotation = meaning
        else:
            return annotation


def _options(annotation: ast.expr) -> list[ast.expr]:
    """The types that an annotation allows beside None."""
    if isinstance(annotation, ast.BinOp):
        return [*_options(annotation.left), *_options(annotation.right)]
    is_none = isinstance(annotation, ast.Constant) and annotation.value is None
    return [] if is_none else [annotation]


def _shape(annotation: ast.expr, source: _Source) -> tuple[str, str | None]:
    """Whether it is one value, a list or a mapping; and the settings class within."""
    for option in _options(_unwrapped(annotation, source)):
        plain = _unwrapped(option, source)
        if isinstance(plain, ast.Subscript) and ast.unparse(plain.value) in ("list", "dict"):
            elements = plain.slice.elts if isinstance(plain.slice, ast.Tuple) else [plain.slice]
            shape = "list" if ast.unparse(plain.value) == "list" else "mapping"
            return shape, _shape(elements[-1], source)[1]
        if isinstance(plain, ast.BinOp):
            return _shape(plain, source)
        if isinstance(plain, ast.Name) and plain.id in source.classes:
            return "one", plain.id
    return "one", None


def _words(annotation: ast.expr, source: _Source) -> str:
    """A type in words, with its limits."""
    if isinstance(annotation, ast.Name) and annotation.id not in _PLAIN_TYPES:
        if annotation.id in source.classes:
            return f"settings {annotation.id}"
        if annotation.id in source.aliases:
            return _words(source.aliases[annotation.id], source)
    if isinstance(annotation, ast.BinOp):
        return " or ".join(_words(one, source) for one in _options(annotation))
    if isinstance(annotation, ast.Subscript):
        inner = annotation.slice
        elements = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        outer = ast.unparse(annotation.value)
        if outer in _UNWRAPPED:
            return _words(elements[0], source) + _limits(annotation)
        if outer == "Literal":
            values = [str(one.value) for one in elements if isinstance(one, ast.Constant)]
            return f"one of {', '.join(values)}"
        if outer == "list":
            return f"list of {_words(elements[0], source)}"
        if outer == "dict":
            return f"mapping of names to {_words(elements[-1], source)}"
    name = ast.unparse(annotation)
    return _PLAIN_TYPES.get(name, name)


def _limits(node: ast.expr) -> str:
    """`` > 0``: the numeric limits of a ``Field(...)``, or of those in an ``Annotated[...]``."""
    marks = [node]
    if isinstance(node, ast.Subscript):
        marks = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
    calls = [one for one in marks if isinstance(one, ast.Call)]
    found = [
        f" {_LIMITS[word.arg]} {ast.unparse(word.value)}"
        for call in calls
        for word in call.keywords
        if word.arg in _LIMITS
    ]
    return ",".join(found)


def _one_line(text: str) -> str:
    return " ".join(cleandoc(text).split()).replace("``", "`")
