"""The gated delta rule in torch: time and peak memory of one forward and backward pass.

Its peer is the form that ``transformers`` falls back to without ``fla``.  It takes no borders of
documents, so a row of several is one call for each.  Each sample runs in a process of its own
(``python -m benchmarks.linear_attention VARIANT ROW``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import REPETITIONS, Row, at_most

if TYPE_CHECKING:  # the process that only collects samples needs no torch
    from torch import Tensor

HEADS, CHANNELS = 16, 128
ROWS = {"one": [2_048], "many": [700, 90, 512, 33, 400, 313]}
"""Lengths of the documents of a row of 2,048 tokens."""
SHAPE = f"2,048 tokens x {HEADS} heads of {CHANNELS} channels, forward + backward"
PEER = "transformers' torch_chunk_gated_delta_rule"
MIB = 2**20


def rows() -> Iterator[Row]:
    """Figures of linear attention."""
    for row, lengths in ROWS.items():
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
        for _ in range(REPETITIONS):
            for name, taken in samples.items():
                taken.append(_sample(name, row))
        for what, unit in (("seconds", "s"), ("mebibytes", "MiB")):
            own, peer = ([s[what] for s in samples[name]] for name in ("own", "transformers"))
            measured = "CPU time" if unit == "s" else "peak extra memory"
            yield at_most(
                1.0,
                name=f"gated delta rule, {SHAPE}, documents: {len(lengths)}: {measured}",
                unit=unit,
                own=own,
                peer=peer,
                peer_name=PEER,
            )


def _sample(variant: str, row: str) -> dict[str, float]:
    environment = dict(os.environ)
    paths = [str(Path(__file__).parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.linear_attention", variant, row],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        text=True,
    )
    sample: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return sample


def _own(inputs: list[Tensor], borders: list[int]) -> Tensor:
    import torch

    from megatron_dasd.models.gated_delta import chunk_gated_delta_rule

    q, k, v, g, beta = inputs
    return chunk_gated_delta_rule(q, k, v, g, beta, cu_seqlens=torch.tensor(borders))[0]


def _transformers(inputs: list[Tensor], borders: list[int]) -> Tensor:
    import torch
    from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule

    parts = [
        torch_chunk_gated_delta_rule(*(x[:, start:end] for x in inputs))[0]
        for start, end in pairwise(borders)
    ]
    return torch.cat(parts, dim=1)


VARIANTS: dict[str, Callable[[list[Tensor], list[int]], Tensor]] = {
    "own": _own,
    "transformers": _transformers,
}


def _measure(variant: str, lengths: list[int]) -> dict[str, float]:
    """CPU seconds of one pass after another one, and the peak of both above the inputs."""
    import torch

    from megatron_dasd.models.gated_delta import l2norm

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens = sum(lengths)
    q, k, v = (torch.randn(1, tokens, HEADS, CHANNELS) for _ in range(3))
    inputs = [l2norm(q), l2norm(k), v, -torch.rand(1, tokens, HEADS), torch.rand(1, tokens, HEADS)]
    for x in inputs:
        x.requires_grad_()
    borders = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    VARIANTS[variant](inputs, borders).sum().backward()
    for x in inputs:
        x.grad = None
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _peak_bytes()
    started = time.process_time()
    VARIANTS[variant](inputs, borders).sum().backward()
    seconds = time.process_time() - started
    return {"seconds": seconds, "mebibytes": (_peak_bytes() - before) / MIB}


def _peak_bytes() -> int:
    """Largest resident memory of this process since its peak was set back."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], ROWS[sys.argv[2]])))
