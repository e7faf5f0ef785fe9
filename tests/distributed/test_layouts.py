"""Loss and gradient norm are the same under every layout, on real processes over gloo."""

from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from megatron_dasd.errors import Stopped, UserError
from tests.sampled import left_out

LAYOUTS = {
    "tp2": {"num_ranks": 2, "tensor_parallel": 2},
    "pp2": {"num_ranks": 2, "pipeline_parallel": 2},
    "dp2": {"num_ranks": 2},
    "tp2 pp2": {"num_ranks": 4, "tensor_parallel": 2, "pipeline_parallel": 2},
    # all that is exchanged beside the passes: gradients backwards, weights forwards
    "pp2 sharded": {"num_ranks": 4, "pipeline_parallel": 2, "distributed_optimizer": True},
    "cp2": {"num_ranks": 2, "context_parallel": 2},
    "tp2 cp2": {"num_ranks": 4, "tensor_parallel": 2, "context_parallel": 2},
}
EXPERT_LAYOUTS = {
    "ep2": {"num_ranks": 2, "expert_parallel": 2},
    "tp2 ep2": {"num_ranks": 4, "tensor_parallel": 2, "expert_parallel": 2},
}
TOLERANCE = 2e-6
EXHAUSTIVE = pytest.mark.exhaustive
COMPARED = (
    *("loss", "grad_norm", "heldout_loss", "teacher_loss", "student_loss", "shared_loss"),
    *("domain_code_loss", "domain_math_loss", "temperature_0.6_loss", "temperature_1_loss"),
)
LEFT_OUT = {"tp2", "tp2 cp2"}
"""CI has them in a sample of ``test_layout_matrix``."""
EXPERT_TOLERANCE = 1e-5
"""Each expert's gradient is a sum over the tokens in the order in which its rank gets them."""


@pytest.fixture(scope="module")
def one_rank(workshop: Any) -> list[dict[str, Any]]:
    metrics: list[dict[str, Any]] = workshop.train("one rank")
    return metrics


@pytest.fixture(scope="module")
def experts_on_one_rank(workshop: Any) -> list[dict[str, Any]]:
    metrics: list[dict[str, Any]] = workshop.train("one rank of experts", "qwen3_moe")
    return metrics


def assert_same(
    metrics: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float = TOLERANCE
) -> None:
    assert [line["iteration"] for line in metrics] == [line["iteration"] for line in expected]
    for line, wanted in zip(metrics, expected, strict=True):
        assert line.keys() == wanted.keys()
        for what in COMPARED:
            if what in wanted:
                assert line[what] == pytest.approx(wanted[what], rel=tolerance), (what, line)


def test_one_rank_learns(one_rank: list[dict[str, Any]]) -> None:
    steps = [line for line in one_rank if "loss" in line]
    assert [line["iteration"] for line in steps] == list(range(1, 1 + len(steps)))
    assert len(steps) >= 10
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.1
    assert [line["iteration"] for line in one_rank if "heldout_loss" in line] == [len(steps)]


def test_losses_of_sentence_classes_are_told_where_there_are_any(
    one_rank: list[dict[str, Any]],
) -> None:
    steps = [line for line in one_rank if "loss" in line]
    assert all(0 < line["teacher_loss"] != line["loss"] for line in steps)
    assert 0 < sum("student_loss" in line for line in steps) < len(steps)
    assert not any("boosted_loss" in line for line in steps)


def test_losses_of_domains_and_temperatures_are_told(one_rank: list[dict[str, Any]]) -> None:
    steps = [line for line in one_rank if "loss" in line]
    both = [line for line in steps if {"domain_code_loss", "domain_math_loss"} <= line.keys()]
    assert len(both) >= len(steps) - 3  # the last step of an epoch has few documents
    for line in both:
        assert min(line["domain_code_loss"], line["domain_math_loss"]) < line["loss"]
        assert max(line["domain_code_loss"], line["domain_math_loss"]) > line["loss"]
    assert 0 < sum("temperature_1_loss" in line for line in steps) < len(steps)
    heldout = one_rank[-1]
    assert heldout["heldout_domain_code_loss"] != heldout["heldout_loss"]


@pytest.mark.parametrize(
    "layout", [name if name not in LEFT_OUT else left_out(name) for name in LAYOUTS]
)
def test_layout_equals_one_rank(layout: str, workshop: Any, one_rank: list[dict[str, Any]]) -> None:
    assert_same(workshop.train(layout, launch=LAYOUTS[layout]), one_rank)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "more", "tolerance"),
    [
        ("llama", {}, TOLERANCE),
        pytest.param("qwen3_moe", {"expert_parallel": 2}, EXPERT_TOLERANCE, marks=EXHAUSTIVE),
    ],
)
def test_exchanges_beside_the_passes_change_no_loss(
    model: str, more: dict[str, int], tolerance: float, workshop: Any
) -> None:
    """Gradients are summed and weights gathered while other layers compute, or after all."""
    launch = {"num_ranks": 2, "distributed_optimizer": True, **more}
    apart = {"overlap-grad-reduce": False, "overlap-param-gather": False}
    expected = workshop.train(f"{model} after the passes", model, launch=launch, megatron=apart)
    assert_same(workshop.train(f"{model} beside", model, launch=launch), expected, tolerance)


@pytest.mark.parametrize("layout", ["one rank", "tp2", left_out("tp2 pp2")])
def test_whole_logits_give_the_same(
    layout: str, workshop: Any, one_rank: list[dict[str, Any]]
) -> None:
    launch = LAYOUTS.get(layout, {})
    metrics = workshop.train(f"{layout} whole logits", launch=launch, chunked_loss=False)
    assert_same(metrics, one_rank)


@pytest.mark.parametrize("layout", ["one rank", "tp2 pp2", left_out("tp2 cp2")])
def test_gradients_made_forwards_are_the_same(
    layout: str, workshop: Any, one_rank: list[dict[str, Any]]
) -> None:
    launch = LAYOUTS.get(layout, {})
    metrics = workshop.train(f"{layout} forwards", launch=launch, loss_gradients="forward")
    assert_same(metrics, one_rank)


def test_sequences_weigh_the_same_under_every_layout(
    workshop: Any, one_rank: list[dict[str, Any]]
) -> None:
    expected = workshop.train("by sequence", normalise_by="sequence", epochs=1)
    assert expected[0]["loss"] != pytest.approx(one_rank[0]["loss"], rel=1e-4)
    for layout in ("dp2", "tp2 pp2"):
        changes = {"launch": LAYOUTS[layout], "normalise_by": "sequence", "epochs": 1}
        assert_same(workshop.train(f"by sequence {layout}", **changes), expected)


def test_a_checkpoint_goes_on_under_another_layout(
    workshop: Any, one_rank: list[dict[str, Any]]
) -> None:
    name = "tp2 then pp2"
    with pytest.raises(Stopped, match="training stopped at iteration 5"):
        workshop.train(name, launch=LAYOUTS["tp2"], megatron={"exit-interval": 5})
    metrics = workshop.train(name, launch=LAYOUTS["pp2"])
    steps = [line for line in metrics if "loss" in line]
    assert_same(steps, [line for line in one_rank if "loss" in line])


@pytest.mark.parametrize(
    "layout",
    ["ep2", left_out("tp2 ep2")],
)
def test_experts_apart_equal_one_rank(
    layout: str, workshop: Any, experts_on_one_rank: list[dict[str, Any]]
) -> None:
    metrics = workshop.train(f"experts {layout}", "qwen3_moe", launch=EXPERT_LAYOUTS[layout])
    assert metrics[0]["loss"] > metrics[-2]["loss"] + 0.1
    assert_same(metrics, experts_on_one_rank, EXPERT_TOLERANCE)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_checkpoint_of_experts_goes_on_under_another_layout(
    workshop: Any, experts_on_one_rank: list[dict[str, Any]]
) -> None:
    name = "experts ep2 then tp2 pp2"
    with pytest.raises(Stopped, match="training stopped at iteration 5"):
        workshop.train(
            name, "qwen3_moe", launch=EXPERT_LAYOUTS["ep2"], megatron={"exit-interval": 5}
        )
    metrics = workshop.train(name, "qwen3_moe", launch=LAYOUTS["tp2 pp2"])
    steps = [line for line in metrics if "loss" in line]
    expected = [line for line in experts_on_one_rank if "loss" in line]
    assert_same(steps, expected, EXPERT_TOLERANCE)


def test_load_balancing_counts_when_it_is_asked_for(
    workshop: Any, experts_on_one_rank: list[dict[str, Any]]
) -> None:
    metrics = workshop.train("balanced", "qwen3_moe", moe_aux_loss_coeff=0.1)
    first, plain = metrics[0], experts_on_one_rank[0]
    # the same forward pass, another gradient
    assert first["loss"] == pytest.approx(plain["loss"], rel=TOLERANCE)
    assert abs(first["grad_norm"] / plain["grad_norm"] - 1) > 1e-3


def test_a_megatron_flag_that_contradicts_the_model_is_an_error(workshop: Any) -> None:
    with pytest.raises(UserError, match=r"^--num-layers 3 contradicts the model's 4, which follo"):
        workshop.train("contradiction", megatron={"num-layers": 3})


def test_documents_that_a_layout_cannot_divide_are_an_error(workshop: Any) -> None:
    """They are padded to multiples of 4."""
    launch = {"num_ranks": 4, "context_parallel": 4}
    with pytest.raises(UserError, match=r"of 4 \(pack_align\) in rows of 64; 4 context-paral"):
        workshop.train("not divided", launch=launch)


@pytest.mark.parametrize("layout", ["cp2", left_out("tp2 cp2")])
def test_sequences_divided_over_ranks_count_once(layout: str, workshop: Any) -> None:
    one = workshop.train(f"by sequence, {layout} alone", normalise_by="sequence", epochs=1)
    changes = {"launch": LAYOUTS[layout], "normalise_by": "sequence", "epochs": 1}
    assert_same(workshop.train(f"by sequence {layout}", **changes), one)


@pytest.mark.parametrize("layout", ["cp2", "dp2"])
def test_a_rank_without_any_target(layout: str, workshop: Any) -> None:
    """Rows of one document each; of every two only the first has a target, in the first chunk."""
    documents = [
        {
            "tokens": np.random.default_rng(number).integers(3, 30, 60),
            "loss_mask": [float(i == 10 and number < 4) for i in range(60)],
            "sentence_classes": [0] * 60,
        }
        for number in range(8)
    ]
    data = workshop.write_data(f"few targets {layout}", documents)
    changes: dict[str, Any] = {"data": data, "global_batch_size": 8, "epochs": 6}
    one = workshop.train(f"few targets on one rank, {layout}", **changes)
    assert all(0 < line["loss"] < 20 for line in one if "loss" in line)
    assert_same(workshop.train(f"few targets on {layout}", launch=LAYOUTS[layout], **changes), one)


def test_a_loss_that_is_no_number_names_rank_and_row(workshop: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(workshop.models["llama"])
    model.model.norm.weight.data[0] = float("nan")
    workshop.add_model("broken", model)
    told = r"^iteration 1, rank [01]: the loss of row \d+ is nan; lower the lr, or look at "
    with pytest.raises(UserError, match=told):
        workshop.train("diverged", "broken", launch=LAYOUTS["dp2"])
