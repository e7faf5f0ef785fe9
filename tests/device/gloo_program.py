"""A rank of the tests of exchanges of unequal parts.  Payload: out, a folder."""

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_dasd.device import gloo

SIZES = [2, 0, 3]


def main(payload: dict[str, Any]) -> None:
    dist.init_process_group("gloo")
    gloo.install()
    rank = int(os.environ["RANK"])
    gathered = [torch.empty(size) for size in SIZES]
    dist.all_gather(gathered, torch.full((SIZES[rank],), float(rank)))
    # every rank gives each other 10 x its own number + the other's
    parts = [torch.full((size,), 10.0 * rank + other) for other, size in enumerate(SIZES)]
    reduced = torch.empty(SIZES[rank])
    dist.reduce_scatter(reduced, parts)
    pair = dist.new_group([0, 2])
    if rank != 1:
        within = [torch.empty(1), torch.empty(2)]
        dist.all_gather(within, torch.full((1 + rank // 2,), float(rank)), group=pair)
    result = {
        "gathered": [part.tolist() for part in gathered],
        "reduced": reduced.tolist(),
        "given": [part.tolist() for part in parts],
        "within": [part.tolist() for part in within] if rank != 1 else None,
    }
    (Path(payload["out"]) / f"{rank}.json").write_text(json.dumps(result))
