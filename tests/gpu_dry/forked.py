"""A rank that says whether CUDA could start in it; no GPU is needed for that."""

from pathlib import Path

from megatron_dasd.device.payload import Payload


class Answer(Payload):
    """What it is to do."""

    out: Path
    """File that it writes its answer to."""


def main(payload: Answer) -> None:
    """Say it."""
    import torch

    dead = torch.cuda._is_in_bad_fork()
    payload.out.write_text("CUDA is dead" if dead else "CUDA can start")
