"""Reading YAML files that users write, and laying one mapping over another."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from megatron_dasd.errors import UserError

type Content = dict[str, object]
"""A mapping as written in YAML, not checked yet."""

_MOST_BYTES = 1 << 22
_MOST_VALUES = 100_000
"""Values of a file, aliases expanded."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that is written twice is an error; plain YAML keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        # `<<` takes over another mapping's keys, which those written here may replace
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        seen: set[object] = set()
        for node_of_key in own:
            key = self.construct_object(node_of_key, deep=True)
            if key in seen:
                mark = node_of_key.start_mark
                raise yaml.MarkedYAMLError(problem=f"{key} is given twice", problem_mark=mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """YAML without anchors: a value that occurs twice is written twice."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # a line break as \n, not as an empty line
    style = '"' if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def read_yaml(path: Path) -> Content:
    """The mapping that a file holds.

    Raises:
        UserError: the file cannot be read, is not YAML, repeats a key or holds no mapping.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path}: is larger than {_MOST_BYTES:,} bytes")
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping with name, run_dir and stages or a recipe")
    return content


def parse_yaml(text: str) -> object:
    """The value that a text in YAML stands for.

    Raises:
        ValueError: it is no YAML, repeats a key, or expands to too much; in one line.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _expanded_size(node, {})
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError("not YAML that can be read: it is nested too deep") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"not YAML that can be read ({error})") from None


def _expanded_size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Number of values of a node, those behind an alias counted wherever it stands.

    Args:
        node: the node.
        known: sizes of nodes; 0 of one that is being counted.

    Raises:
        ValueError: too many, or a node that holds itself.
    """
    if node in known:
        if not known[node]:
            line = node.start_mark.line + 1
            raise ValueError(f"line {line}: an anchor holds an alias of itself")
        return known[node]
    known[node] = 0
    parts = node.value if isinstance(node, yaml.CollectionNode) else ()
    size = 1
    for part in parts:
        for inner in part if isinstance(part, tuple) else (part,):
            size += _expanded_size(inner, known)
    if size > _MOST_VALUES:
        line = node.start_mark.line + 1
        raise ValueError(f"line {line}: aliases expand to more than {_MOST_VALUES:,} values")
    known[node] = size
    return size


def yaml_text(content: Mapping[str, object], in_one_line: bool = False) -> str:
    """A mapping as plain YAML: keys in the given order, no anchors.

    Args:
        in_one_line: the value of each key in one line, as a person would write a short one.
    """
    if in_one_line:
        return "".join(f"{key}: {_inline(value)}\n" for key, value in content.items())
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _inline(value: object) -> str:
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=10**6,
        default_flow_style=True,
    )
    return text.removesuffix("\n").removesuffix("\n...")


def laid_over(base: Mapping[str, object], above: Mapping[str, object]) -> Content:
    """The mapping ``above`` laid over ``base`` key by key; neither is changed.

    Where both hold a mapping the rule applies again; any other value of ``above`` replaces the
    value of ``base``.
    """
    result = dict(base)
    for key, value in above.items():
        below = base.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            result[key] = laid_over(below, value)
        else:
            result[key] = value
    return result
