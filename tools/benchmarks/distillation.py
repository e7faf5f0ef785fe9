"""Our forward KL from the teacher's k likeliest tokens, beside Megatron-Core's cached-logit loss.

Megatron's ``topk_kl_div`` adds the rest of the mass as one more outcome, as ours does; it takes the
rest as 1 less the known part, and at least 1e-8.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from benchmarks.figures import REPETITIONS, Row, at_most
from benchmarks.losses import HIDDEN, MIB, output_layer, peak_bytes, sample_of

if TYPE_CHECKING:
    from torch import Tensor

    from megatron_dasd.losses.distillation import TeacherTop
    from megatron_dasd.losses.output_layer import OutputLayer

TOKENS, VOCABULARY, TOP_K = 4_096, 128_256, 64
COMPARED = 256
"""Tokens whose values are compared."""
SHAPE = "4,096 tokens x hidden 1,024 x vocabulary 128,256, k = 64, float32, forward + backward"
MEGATRON = "the output layer + Megatron's topk_kl_div"


def rows() -> Iterator[Row]:
    """Figures of token-level distillation."""
    gap = sample_of("compare", "benchmarks.distillation")["gap"]
    yield at_most(
        1.0,
        name="forward KL from the teacher's 64 likeliest tokens: largest difference of a token",
        unit="nats",
        own=[gap],
        peer=[1e-5],
        peer_name="1e-5 from Megatron's topk_kl_div",
        bar="equal to 1e-5",
    )
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(REPETITIONS):
        for name, taken in samples.items():
            taken.append(sample_of(name, "benchmarks.distillation"))
    for what, most, unit, size in (("seconds", 1.40, "s", 1), ("peak_bytes", 0.15, "MiB", MIB)):
        own, peer = ([s[what] / size for s in samples[name]] for name in ("own", "megatron"))
        yield at_most(
            most,
            name=f"forward KL, {SHAPE}: {'time' if unit == 's' else 'peak extra memory'}",
            unit=unit,
            own=own,
            peer=peer,
            peer_name=MEGATRON,
        )


def made_up(num_tokens: int, vocabulary: int) -> tuple[Tensor, Tensor, TeacherTop]:
    """(hidden ``[seq, 1, hidden]``, labels ``[1, seq]``, a teacher whose rest has a tenth)."""
    import torch

    from megatron_dasd.losses.distillation import TeacherTop

    torch.manual_seed(0)
    hidden = torch.randn(num_tokens, 1, HIDDEN).requires_grad_()
    labels = torch.randint(vocabulary, (1, num_tokens))
    first = torch.randint(vocabulary, (1, num_tokens, 1))
    ids = (first + 997 * torch.arange(TOP_K)) % vocabulary
    known = torch.randn(1, num_tokens, TOP_K).mul(2).log_softmax(-1)
    return hidden, labels, TeacherTop(ids, known + math.log(0.9))


def _own(hidden: Tensor, layer: OutputLayer, labels: Tensor, teacher: TeacherTop) -> Tensor:
    from megatron_dasd.losses.distillation import token_distances

    return token_distances(
        vocab_size=layer.weight.shape[0],
        name="forward_kl",
        beta=0.5,
        teacher=teacher,
        hidden_states=hidden,
        output_layer=layer,
        output_weight=None,
        labels=labels,
        scale_logits=lambda x: x,
    )[1]


def _megatron(hidden: Tensor, layer: OutputLayer, labels: Tensor, teacher: TeacherTop) -> Tensor:
    from megatron.training.distillation.cached_logits_loss import topk_kl_div

    forward = cast("Callable[[Tensor], tuple[Tensor, None]]", layer)
    losses: Tensor = topk_kl_div(
        forward(hidden)[0],
        teacher.logprobs.transpose(0, 1),
        teacher.token_ids.transpose(0, 1),
        tp_size=1,
        tp_rank=0,
        tp_group=layer.tp_group,
        add_ghost_token=True,
    )
    return losses


VARIANTS: dict[str, Callable[[Tensor, OutputLayer, Tensor, TeacherTop], Tensor]] = {
    "own": _own,
    "megatron": _megatron,
}


def _measure(variant: str, meeting_place: Path) -> dict[str, float]:
    layer = output_layer(meeting_place, VOCABULARY)
    if variant == "compare":
        given = made_up(COMPARED, VOCABULARY)
        own, theirs = (run(given[0], layer, *given[1:]) for run in VARIANTS.values())
        return {"gap": float((own - theirs).abs().max())}
    hidden, labels, teacher = made_up(TOKENS, VOCABULARY)
    gradients = (hidden.numel() + layer.weight.numel()) * hidden.element_size()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak_bytes()
    started = time.perf_counter()
    VARIANTS[variant](hidden, layer, labels, teacher).sum().backward()
    seconds = time.perf_counter() - started
    assert hidden.grad is not None
    assert layer.weight.grad is not None
    return {"seconds": seconds, "peak_bytes": peak_bytes() - before - gradients}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(_measure(sys.argv[1], Path(folder) / "ranks")))
