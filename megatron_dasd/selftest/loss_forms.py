"""Time of the chunked loss on this machine in both of its forms, beside torch's own loss."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_dasd.device import gpus
from megatron_dasd.losses.linear_logprobs import VocabShard, linear_logprobs
from megatron_dasd.losses.linear_loss import linear_loss

_REPETITIONS = 3
_GRADIENT_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Shape:
    """Sizes of an output projection."""

    num_tokens: int
    hidden: int
    vocabulary: int
    dtype: torch.dtype

    def __str__(self) -> str:
        """In words."""
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.num_tokens:,} tokens x {self.hidden:,} x {self.vocabulary:,}, {kind}"


ON_GPU = Shape(4096, 2560, 151_936, torch.bfloat16)
ON_CPU = Shape(512, 256, 16_384, torch.float32)


@dataclass(frozen=True)
class Timing:
    """Of a form of the loss, forwards and backwards."""

    form: str
    seconds: float
    """The fastest of three."""
    peer_seconds: float
    """Of torch's output layer and cross-entropy, which hold all logits."""
    gradient_distance: float
    """Of the weight's gradient, to torch's: norm of the difference over the norm."""
    tolerance: float


def time_loss_forms() -> tuple[Shape, list[Timing]]:
    """Measure on the GPU, or without one on the CPU.  The GPU must have 16 GB free."""
    gpu = _on_gpu()
    shape = ON_GPU if gpu else ON_CPU
    device = torch.device("cuda" if gpu else "cpu")
    generator = torch.Generator(device).manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    hidden = drawn(shape.num_tokens, shape.hidden).to(shape.dtype).requires_grad_()
    weight = (0.02 * drawn(shape.vocabulary, shape.hidden)).to(shape.dtype).requires_grad_()
    labels = torch.randint(
        shape.vocabulary, (shape.num_tokens,), generator=generator, device=device
    )
    shard = VocabShard(0, shape.vocabulary)

    def whole() -> Tensor:
        logits = (hidden @ weight.t()).float()
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    def recompute() -> Tensor:
        return -linear_logprobs(hidden, weight, labels[:, None], shard)[0].sum()

    def forward() -> Tensor:
        factors = torch.ones(shape.num_tokens, device=device)
        return linear_loss(hidden, weight, labels, factors, shard)[0]

    peer_seconds, expected = _measure(whole, weight)
    tolerance = _GRADIENT_TOLERANCE[shape.dtype]
    timings = []
    for form in (recompute, forward):
        seconds, gradient = _measure(form, weight)
        apart = float((gradient - expected).norm() / expected.norm())
        timings.append(Timing(form.__name__, seconds, peer_seconds, apart, tolerance))
    return shape, timings


def _measure(loss: Callable[[], Tensor], weight: Tensor) -> tuple[float, Tensor]:
    """Seconds of the fastest pass, and the weight's gradient in float32."""
    seconds = []
    for _ in range(1 + _REPETITIONS):
        weight.grad = None
        _wait()
        started = time.perf_counter()
        loss().backward()
        _wait()
        seconds.append(time.perf_counter() - started)
    assert weight.grad is not None
    return min(seconds[1:]), weight.grad.float()


def _on_gpu() -> bool:
    """Whether torch can use a GPU; the CPU adapter answers torch's own question with yes."""
    return gpus.in_sight() and torch.cuda.is_available()


def _wait() -> None:
    if _on_gpu():
        torch.cuda.synchronize()
