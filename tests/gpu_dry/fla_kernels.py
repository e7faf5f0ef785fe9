"""``fla`` by shapes: the three functions that Megatron's gated delta net takes from it.

Names, arguments and what is refused are those of fla-core 0.6.0 (``modules/causal_conv1d/ops.py``,
``modules/norm/l2norm.py``, ``ops/gated_delta_rule/chunk.py``).
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from torch import Tensor

from tests.gpu_dry.seen import calls, kind


def causal_conv1d(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool | None = False,
    activation: str | None = None,
    backend: str | None = "triton",
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, None]:
    """``[1, T, channels]``; the weight is ``[channels, width]``."""
    assert x.shape[0] == 1
    assert weight is not None
    assert weight.shape[0] == x.shape[2]
    assert cu_seqlens is not None
    calls[f"fla causal_conv1d {kind(x)} {list(x.shape)}"] += 1
    return x + weight.sum(-1), None


def l2norm(x: Tensor, eps: float = 1e-6, output_dtype: object = None) -> Tensor:
    """Of the last dimension."""
    assert x.is_contiguous()
    calls[f"fla l2norm {kind(x)} {list(x.shape)}"] += 1
    return x * 1.0


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, None]:
    """Queries and keys ``[1, T, N, K]``, values ``[1, T, N, V]``, decay and beta ``[1, T, N]``."""
    assert q.shape == k.shape
    assert q.shape[:3] == v.shape[:3] == g.shape == beta.shape
    assert kind(q) == kind(k) == kind(v)
    assert cu_seqlens is not None
    calls[f"fla chunk_gated_delta_rule {kind(q)} {kind(g)} {list(v.shape)}"] += 1
    return v + ((q * k).sum(-1) * beta * g.to(q.dtype)).unsqueeze(-1), None


def install() -> None:
    """Make them importable in this process, for good; before Megatron is imported."""
    functions = {
        "fla": {},
        "fla.modules": {},
        "fla.modules.convolution": {"causal_conv1d": causal_conv1d},
        "fla.modules.l2norm": {"l2norm": l2norm},
        "fla.ops": {},
        "fla.ops.gated_delta_rule": {"chunk_gated_delta_rule": chunk_gated_delta_rule},
    }
    for name, content in functions.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__path__ = []
        vars(module).update(content)
        sys.modules[name] = module
