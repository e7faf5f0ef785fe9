import pytest
import torch

from megatron_dasd.selftest import loss_forms


def test_both_forms_have_torchs_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    small = loss_forms.Shape(24, 16, 100, torch.float32)
    monkeypatch.setattr(loss_forms, "ON_CPU", small)
    shape, timings = loss_forms.time_loss_forms()
    assert str(shape) == "24 tokens x 16 x 100, float32"
    assert [timing.form for timing in timings] == ["recompute", "forward"]
    for timing in timings:
        assert timing.gradient_distance <= timing.tolerance == 1e-5
        assert timing.seconds > 0
        assert timing.peer_seconds == timings[0].peer_seconds
