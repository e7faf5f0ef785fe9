import json
from pathlib import Path

import pytest
from megatron.core.transformer.moe import token_dispatcher

from megatron_dasd.device import gloo
from megatron_dasd.device.launch import launch


def test_parts_of_unequal_length(tmp_path: Path) -> None:
    launch("tests.device.gloo_program", {"out": str(tmp_path)}, 3, tmp_path / "logs")
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    for rank, result in enumerate(results):
        assert result["gathered"] == [[0.0, 0.0], [], [2.0, 2.0, 2.0]]
        # (0 + r) + (10 + r) + (20 + r)
        assert result["reduced"] == [30.0 + 3 * rank] * [2, 0, 3][rank]
        # what was given is left as it was
        assert result["given"] == [[10.0 * rank] * 2, [], [10.0 * rank + 2] * 3]
    assert results[0]["within"] == results[2]["within"] == [[0.0], [2.0, 2.0]]


def test_another_signature_of_megatrons_function_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_dispatcher, "maybe_move_tensor_to_cpu", lambda tensor: tensor)
    with pytest.raises(RuntimeError, match="another signature than known"):
        gloo.install()
