"""Renders a room's page template; all extend ``page.html.j2``, which gives them one look."""

import jinja2

from megatron_dasd.printing import shown


def render(room: str, template: str, **values: object) -> str:
    """Render one self-contained HTML file.

    Args:
        room: the package folder that holds the template.
        template: file name.
        values: the variables of the template.
    """
    rooms = [jinja2.PackageLoader("megatron_dasd", name) for name in (room, "pages")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(rooms),
        autoescape=True,
        finalize=_plain,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _plain(value: object) -> object:
    """A text with its control characters written out; SVG and other values as they are."""
    return shown(value) if type(value) is str else value
