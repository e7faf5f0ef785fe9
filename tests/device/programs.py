"""Small programs for the launcher's tests; each is what a rank runs."""

import os
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
        case other:
            sys.exit(f"no program {other}")


def all_reduce(rank: int, out: Path) -> None:
    import torch

    torch.distributed.init_process_group("gloo")
    value = torch.tensor([rank + 1])
    torch.distributed.all_reduce(value)
    (out / f"sum-{rank}").write_text(str(value.item()))
