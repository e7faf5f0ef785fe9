"""The chunked loss: peak memory and time of one forward and backward pass.

Each sample runs in a process of its own (``python -m benchmarks.losses VARIANT``), so memory that
one pass leaves allocated is not part of the next one's peak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from benchmarks.figures import REPETITIONS, Row, at_most

if TYPE_CHECKING:  # the process that only collects samples needs no torch
    from torch import Tensor

    from megatron_dasd.losses.output_layer import OutputLayer

TOKENS, HIDDEN, VOCABULARY = 8_192, 1_024, 151_936
SHAPE = "8,192 tokens x hidden 1,024 x vocabulary 151,936, forward + backward"
MEGATRON = "the output layer + Megatron's vocabulary-parallel loss"
TORCH = "torch.nn.functional.linear_cross_entropy with chunking at one rank"
FORWARD = "a form that makes the gradients in the forward pass"
MIB = 2**20


def rows() -> Iterator[Row]:
    """Figures of the losses room."""
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(REPETITIONS):
        for name, taken in samples.items():
            taken.append(sample_of(name))
    memory = {name: [s["peak_bytes"] / MIB for s in taken] for name, taken in samples.items()}
    seconds = {name: [s["seconds"] for s in taken] for name, taken in samples.items()}
    yield at_most(
        0.10,
        name=f"linear cross-entropy, {SHAPE}: peak extra memory, the gradients left out",
        unit="MiB",
        own=memory["own"],
        peer=memory["megatron"],
        peer_name=MEGATRON,
        bar="at most 10 %",
    )
    forms = (("own", "with recomputed logits", 1.40), ("forward", FORWARD, 1.08))
    for variant, form, ratio in forms:
        for peer, most, peer_name in (("megatron", ratio, MEGATRON), ("torch", 1.0, TORCH)):
            yield at_most(
                most,
                name=f"linear cross-entropy, {SHAPE}: time, {form}",
                unit="s",
                own=seconds[variant],
                peer=seconds[peer],
                peer_name=peer_name,
                bar="not slower" if peer == "torch" else f"at most {ratio:.2f} x",
            )


def sample_of(variant: str, module: str = "benchmarks.losses") -> dict[str, float]:
    """A sample of a variant, taken by a module in a process of its own."""
    environment = dict(os.environ)
    paths = [str(Path(__file__).parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run(
        [sys.executable, "-m", module, variant],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    sample: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return sample


def _measure(variant: str, meeting_place: Path) -> dict[str, float]:
    """Seconds of one pass, and its peak memory above the inputs and their gradients."""
    import torch

    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, 1, HIDDEN).requires_grad_()
    layer = output_layer(meeting_place)
    labels = torch.randint(VOCABULARY, (1, TOKENS))
    gradients = (hidden.numel() + layer.weight.numel()) * hidden.element_size()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak_bytes()
    started = time.perf_counter()
    VARIANTS[variant](hidden, layer, labels).sum().backward()
    seconds = time.perf_counter() - started
    assert hidden.grad is not None
    assert layer.weight.grad is not None
    return {"seconds": seconds, "peak_bytes": peak_bytes() - before - gradients}


def output_layer(meeting_place: Path, vocabulary: int = VOCABULARY) -> OutputLayer:
    """Megatron's output layer on one rank, float32."""
    import torch

    from megatron_dasd.device import cpu_adapter

    cpu_adapter.install()
    from megatron.core import mpu
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear
    from megatron.core.transformer.transformer_config import TransformerConfig

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting_place}", rank=0, world_size=1
    )
    mpu.initialize_model_parallel()
    config = TransformerConfig(
        num_layers=1, hidden_size=HIDDEN, num_attention_heads=8, use_cpu_initialization=True
    )
    layer: OutputLayer = ColumnParallelLinear(
        HIDDEN,
        vocabulary,
        config=config,
        init_method=lambda weight: torch.nn.init.normal_(weight, std=0.02),
        bias=False,
    )
    return layer


def _own(hidden: Tensor, layer: OutputLayer, labels: Tensor) -> Tensor:
    from megatron_dasd.losses.output_layer import token_losses

    return token_losses(
        vocab_size=VOCABULARY,
        hidden_states=hidden,
        output_layer=layer,
        output_weight=None,
        labels=labels,
        scale_logits=lambda x: x,
    )


def _forward(hidden: Tensor, layer: OutputLayer, labels: Tensor) -> Tensor:
    import torch

    from megatron_dasd.losses.output_layer import summed_loss

    total, _ = summed_loss(
        vocab_size=VOCABULARY,
        factors=torch.ones(labels.shape),
        hidden_states=hidden,
        output_layer=layer,
        output_weight=None,
        labels=labels,
        scale_logits=lambda x: x,
    )
    return total


def _megatron(hidden: Tensor, layer: OutputLayer, labels: Tensor) -> Tensor:
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    forward = cast("Callable[[Tensor], tuple[Tensor, None]]", layer)
    losses: Tensor = vocab_parallel_cross_entropy(forward(hidden)[0], labels.t())
    return losses


def _torch(hidden: Tensor, layer: OutputLayer, labels: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.linear_cross_entropy(
        hidden.squeeze(1),
        layer.weight,
        labels.squeeze(0),
        reduction="sum",
        options=torch.nn.LinearCrossEntropyOptions(),
    )


VARIANTS: dict[str, Callable[[Tensor, OutputLayer, Tensor], Tensor]] = {
    "own": _own,
    "forward": _forward,
    "megatron": _megatron,
    "torch": _torch,
}


def peak_bytes() -> int:
    """The process's highest resident memory since the peak started anew."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status: names no VmHWM")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(_measure(sys.argv[1], Path(folder) / "ranks")))
