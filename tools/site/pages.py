"""A page of the documentation that is made from the program: every setting of every stage.

``mkdocs.yml`` names this file as a hook, so ``make docs`` writes the page.
"""

from collections.abc import Iterable, Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from megatron_dasd.config.reference import Setting, SettingsClass, settings_classes, stage_classes

_PAGE = "settings.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated page; called by mkdocs."""
    files.append(File.generated(config, _PAGE, content=settings_page()))
    return files


def settings_page() -> str:
    """The reference of settings as Markdown."""
    stages = stage_classes()
    blocks = _blocks(stages.values())
    parts = [
        "# Settings",
        "Made from the settings classes. `dasd settings KIND` prints the same. A setting without a "
        "default must be given.",
        "## Stages",
        *(_section(kind, one, blocks) for kind, one in stages.items()),
        "## Blocks within stages",
        *(_section(name, one, blocks) for name, one in blocks.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _blocks(classes: Iterable[SettingsClass]) -> dict[str, SettingsClass]:
    """The classes of nested blocks, sorted by name."""
    known = settings_classes()
    found: dict[str, SettingsClass] = {}
    pending = list(classes)
    while pending:
        for setting in pending.pop().settings:
            if setting.inner in known and setting.inner not in found:
                found[setting.inner] = known[setting.inner]
                pending.append(known[setting.inner])
    return dict(sorted(found.items()))


def _section(title: str, described: SettingsClass, blocks: dict[str, SettingsClass]) -> str:
    return "\n".join(
        [
            f"### {title}",
            "",
            _plain(described.doc),
            "",
            "| setting | value | default | |",
            "|---|---|---|---|",
            *_rows(described.settings, blocks),
        ]
    )


def _rows(settings: Iterable[Setting], blocks: dict[str, SettingsClass]) -> Iterator[str]:
    for setting in settings:
        value = setting.type
        if setting.inner in blocks:
            value = f"{value}: [{setting.inner}](#{setting.inner.lower()})"
        default = "" if setting.default is None else f"`{setting.default}`"
        cells = (f"`{setting.name}`", value, default, _plain(setting.doc))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """Markdown of a docstring: double backquotes are single ones."""
    return text.replace("``", "`")
