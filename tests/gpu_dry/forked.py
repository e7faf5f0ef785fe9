"""A rank that says whether CUDA could start in it; no GPU is needed for that."""

from pathlib import Path
from typing import Any


def main(payload: dict[str, Any]) -> None:
    """Payload: out, a file."""
    import torch

    dead = torch.cuda._is_in_bad_fork()
    Path(payload["out"]).write_text("CUDA is dead" if dead else "CUDA can start")
