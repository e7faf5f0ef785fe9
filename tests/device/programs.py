"""Small programs for the launcher's tests; each is what a rank runs."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from megatron_dasd.errors import UserError


def main(payload: dict[str, Any]) -> None:
    rank = int(os.environ["RANK"])
    print(f"rank {rank} of {os.environ['WORLD_SIZE']}")
    match payload["do"]:
        case "all_reduce":
            all_reduce(rank, Path(payload["out"]))
        case "complain" if rank == payload["rank"]:
            raise UserError("field lr: is not a number")
        case "crash" if rank == payload["rank"]:
            raise RuntimeError("no such tensor")
        case "wait" | "complain" | "crash":
            (Path(payload["out"]) / f"pid-{rank}").write_text(str(os.getpid()))
            time.sleep(600)
        case "save":
            save(rank, Path(payload["out"]))
        case other:
            sys.exit(f"no program {other}")


def all_reduce(rank: int, out: Path) -> None:
    import torch

    torch.distributed.init_process_group("gloo")
    value = torch.tensor([rank + 1])
    torch.distributed.all_reduce(value)
    (out / f"sum-{rank}").write_text(str(value.item()))


def save(rank: int, out: Path) -> None:
    """Told to end, take a while to save."""

    def on_signal(*_: Any) -> None:
        time.sleep(0.3)
        (out / f"saved-{rank}").write_text("all")
        sys.exit()

    signal.signal(signal.SIGTERM, on_signal)
    (out / f"pid-{rank}").write_text(str(os.getpid()))
    time.sleep(600)
