"""Random draws that depend on what is drawn, and on nothing that came before."""

import hashlib
import json


def derive_seed(seed: int | None, *what: str | int | float) -> int:
    """A seed of 63 bits for one draw, e.g. ``derive_seed(settings.seed, prompt_id, 0.6)``.

    Draws named by what they are for do not move when others are added, left out, done in another
    order or done after a restart.
    """
    digest = hashlib.sha256(json.dumps([seed, *what]).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1
