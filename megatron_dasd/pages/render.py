"""A page from a room's template; all extend ``page.html.j2``, which gives them one look."""

from typing import Any

import jinja2


def render(room: str, template: str, **values: Any) -> str:
    """One HTML file that needs nothing else.

    Args:
        room: folder of this package in which the template lies.
        template: its file's name.
        values: what it names.
    """
    rooms = [jinja2.PackageLoader("megatron_dasd", name) for name in (room, "pages")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(rooms),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
