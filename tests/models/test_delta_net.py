from types import SimpleNamespace
from typing import Any

import pytest
import torch
from megatron.core.ssm.gated_delta_net import GatedDeltaNet, common, gdn

from megatron_dasd.models import delta_net, gated_delta

CONFIG: Any = SimpleNamespace(
    params_dtype=torch.bfloat16, sequence_parallel=False, layernorm_zero_centered_gamma=True
)


@pytest.fixture
def megatrons_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megatron's layer as it is before this process has changed it."""
    monkeypatch.setattr(delta_net, "_installed", [])
    for module, name, value in (
        (common, "HAVE_FLA", False),
        (common, "l2norm", None),
        (gdn, "causal_conv1d", None),
        (gdn, "chunk_gated_delta_rule", None),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("megatrons_own")
def test_the_layer_computes_without_fla() -> None:
    spec = delta_net.local_spec()
    assert issubclass(spec.module, GatedDeltaNet)
    assert common.HAVE_FLA
    x = torch.randn(1, 5, 3)
    weight = torch.randn(3, 2)
    out, _ = gdn.causal_conv1d(x=x, weight=weight, activation="silu")
    torch.testing.assert_close(out, gated_delta.causal_conv1d(x, weight, activation="silu")[0])
    torch.testing.assert_close(common.l2norm(x), gated_delta.l2norm(x))


@pytest.mark.usefixtures("megatrons_own")
def test_kernels_get_16_bits_on_a_gpu_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "l2norm", lambda x: "kernel")
    monkeypatch.setattr(gated_delta, "l2norm", lambda x: "torch")
    delta_net.install()
    for is_cuda, size, expected in (
        (True, 2, "kernel"),
        (True, 4, "torch"),
        (False, 2, "torch"),
    ):
        tensor: Any = SimpleNamespace(is_cuda=is_cuda, element_size=lambda size=size: size)
        assert common.l2norm(tensor) == expected


@pytest.mark.usefixtures("megatrons_own")
def test_another_layer_of_megatrons_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GatedDeltaNet, "forward", lambda self, x: x)
    with pytest.raises(RuntimeError, match="is another than known"):
        delta_net.install()


def test_the_output_norm_scales_by_its_weight_in_a_model_of_centred_norms() -> None:
    norm = delta_net.UncentredRMSNorm(CONFIG, 2, eps=0.0)
    assert norm.weight.tolist() == [1.0, 1.0]
    assert norm(torch.tensor([[3.0, 3.0]], dtype=torch.bfloat16)).tolist() == [[1.0, 1.0]]


def test_decay_and_output_norm_stay_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def shaped(self: Any) -> None:
        torch.nn.Module.__init__(self)
        self.A_log = torch.nn.Parameter(torch.tensor([2.5078125 + 2**-12], dtype=torch.float32))
        self.dt_bias = torch.nn.Parameter(torch.ones(1))
        self.out_norm = torch.nn.LayerNorm(2, bias=False)

    monkeypatch.setattr(GatedDeltaNet, "__init__", shaped)
    model = torch.nn.Sequential(delta_net.DeltaNet())
    layer: Any = model.bfloat16()[0]
    assert layer.dt_bias.dtype == torch.bfloat16
    assert layer.A_log.dtype == layer.out_norm.weight.dtype == torch.float32
    assert layer.A_log.item() == 2.5078125 + 2**-12  # with digits that bfloat16 has not
    moved: Any = model.to("meta")[0]
    assert moved.A_log.is_meta
