import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_dasd.config.sources import PruneLayers, RandomModel
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import MODEL, model_folder
from megatron_dasd.sources import prune, random_model
from megatron_dasd.sources.prune import kept_layers, renamed, smaller_config
from tests.conftest import RunStage


@pytest.mark.parametrize(
    ("num_layers", "num_kept", "kept"),
    [
        (4, 2, [0, 3]),
        (5, 3, [0, 2, 4]),
        (6, 4, [0, 2, 3, 5]),
        (30, 15, [0, 2, 4, 6, 8, 10, 12, 15, 17, 19, 21, 23, 25, 27, 29]),
    ],
)
def test_first_and_last_stay_and_the_rest_is_evenly_spaced(
    num_layers: int, num_kept: int, kept: list[int]
) -> None:
    assert kept_layers(num_layers, num_kept) == kept


@pytest.mark.parametrize("num_kept", range(2, 31))
def test_as_many_different_layers_stay_as_asked(num_kept: int) -> None:
    kept = kept_layers(30, num_kept)
    assert len(set(kept)) == num_kept
    assert (kept[0], kept[-1]) == (0, 29)


def test_names_in_the_smaller_model() -> None:
    assert renamed("model.layers.12.mlp.up_proj.weight", [0, 12]) == (
        "model.layers.1.mlp.up_proj.weight"
    )
    assert renamed("model.layers.1.mlp.up_proj.weight", [0, 12]) is None
    assert renamed("model.norm.weight", [0, 12]) == "model.norm.weight"


def test_lists_of_layers_in_the_config_are_pruned_too() -> None:
    config = {"num_hidden_layers": 3, "layer_types": ["full", "sliding", "full"], "x": 1}
    assert smaller_config(config, [0, 1]) == {
        "num_hidden_layers": 2,
        "layer_types": ["full", "sliding"],
        "x": 1,
    }


def test_the_smaller_model_is_the_larger_without_its_middle(
    run_stage: RunStage, tmp_path: Path
) -> None:
    teacher = RandomModel(
        kind="random_model",
        num_layers=4,
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        alphabet="ab",
    )
    run_stage(random_model.run, teacher, {}, "teacher")
    settings = PruneLayers(kind="prune_layers", model="teacher", num_layers_removed=2)
    manifest = run_stage(prune.run, settings, {"teacher": tmp_path / "teacher"}, "student")
    assert manifest.figures["kept_layers"] == [0, 3]

    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "teacher" / MODEL)
    expected.model.layers = torch.nn.ModuleList([expected.model.layers[i] for i in (0, 3)])
    expected.config.num_hidden_layers = 2
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "student" / MODEL)
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        logits = student(ids).logits
        torch.testing.assert_close(logits, expected(ids, use_cache=False).logits)
    assert student.num_parameters() == manifest.figures["num_parameters"]


def test_the_first_and_the_last_layer_cannot_go(
    run_stage: RunStage, random_model_dir: Path
) -> None:
    layers = json.loads((model_folder(random_model_dir) / "config.json").read_text())
    assert layers["num_hidden_layers"] == 2
    settings = PruneLayers(kind="prune_layers", model="m", num_layers_removed=1)
    with pytest.raises(UserError, match="num_layers_removed: 1 of 2 layers"):
        run_stage(prune.run, settings, {"m": random_model_dir})
