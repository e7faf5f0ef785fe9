"""What a program of ranks is given to do: one typed, frozen object, handed over as a JSON file."""

from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from megatron_dasd.errors import UserError


class Payload(BaseModel):
    """Base of the payloads: unknown fields are errors, values do not change.

    A payload that was written and read back equals the one that was written.
    """

    # by default pydantic writes infinities and NaN as null
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


def write_payload(path: Path, payload: object) -> None:
    """Write a payload as JSON; anything that pydantic can serialise will do."""
    path.write_bytes(TypeAdapter(type(payload)).dump_json(payload, indent=2))


def read_payload[P](main: Callable[[P], None], path: Path) -> P:
    """Read a payload as the type of the program's only parameter.

    Args:
        main: the program, ``main(payload)``, its parameter annotated.

    Raises:
        UserError: no such file, or a field that is missing, unknown or of another type.
    """
    kind = next(iter(get_type_hints(main).values()))
    try:
        payload: P = TypeAdapter(kind).validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "(all of it)"
        raise UserError(
            f"{path}: no payload of {main.__module__}: field {field}: {first['msg']}; it is "
            "written by the process that starts the program, so run the stage again"
        ) from None
    return payload
