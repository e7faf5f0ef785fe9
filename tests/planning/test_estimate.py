"""Operations, hours and disk; against hand counts and what others publish."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.config.base import Launch
from megatron_dasd.config.pipeline import load_pipeline
from megatron_dasd.config.planning import Corpus, Plan
from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import Architecture, Experts
from megatron_dasd.models.families import Family
from megatron_dasd.models.flops import products_of
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.planning.cost import Cost
from megatron_dasd.planning.estimate import costs, recipe_of, training_cost
from megatron_dasd.planning.growth import GPUS, growth, growth_chart
from megatron_dasd.planning.host_memory import host_memory
from megatron_dasd.planning.layouts import efficiency, fitting, usable_bytes
from megatron_dasd.planning.memory import Recipe, highest, memory, parameters
from megatron_dasd.planning.report import collect, show, write_page
from megatron_dasd.planning.totals import corpus_totals

EXAMPLES = Path(__file__).parents[2] / "examples"


def named(cost: Cost) -> bool:
    """Whether it is the scoring's."""
    return cost.stage == "score"


def shape(layers: int, hidden: int, heads: int, groups: int, ffn: int, vocab: int) -> Architecture:
    """A Llama."""
    return Architecture(
        family=Family(),
        num_layers=layers,
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=groups,
        head_dim=128,
        ffn_hidden_size=ffn,
        vocab_size=vocab,
        max_position_embeddings=8192,
        norm_epsilon=1e-5,
        rotary_base=500_000,
        tied_embeddings=False,
    )


LLAMA3_8B = shape(32, 4096, 32, 8, 14_336, 128_256)
LLAMA3_70B = shape(80, 8192, 64, 8, 28_672, 128_256)
LLAMA31_405B = shape(126, 16_384, 128, 8, 53_248, 128_256)
PUBLISHED = [
    # Megatron Bridge, docs/performance-summary.md, NeMo 25.11, DGX-H100, FP8: documents of a row's
    # length; tokens/s/GPU and model TFLOP/s/GPU
    (LLAMA3_8B, 8192, 14_451, 744),
    (LLAMA3_70B, 8192, 1_602, 719),
    (LLAMA31_405B, 8192, 292, 737),
    (read_architecture(EXAMPLES / "qwen3_30b_a3b" / "student"), 4096, 5_275, 121),
]
FITTED = [
    # the same table: GPUs and layouts that ran on 80 GB
    (LLAMA3_70B, Launch(num_ranks=64, tensor_parallel=4, pipeline_parallel=8), 8192, 64),
    (
        LLAMA31_405B,
        Launch(
            num_ranks=1024,
            tensor_parallel=8,
            pipeline_parallel=8,
            first_stage_layers=15,  # embedding and output layer stand for one each of 128
            last_stage_layers=15,
            context_parallel=2,
            distributed_optimizer=True,
        ),
        8192,
        64,
    ),
]


@pytest.mark.parametrize(("architecture", "seq", "tokens_per_second", "tflops"), PUBLISHED)
def test_operations_of_a_token_are_what_others_count(
    architecture: Architecture, seq: int, tokens_per_second: float, tflops: float
) -> None:
    own = products_of(architecture).training_flops(seq, seq**2) / seq
    assert own == pytest.approx(tflops * 1e12 / tokens_per_second, rel=0.01)


@pytest.mark.parametrize(("architecture", "launch", "seq", "rows"), FITTED)
def test_layouts_that_others_run_fit(
    architecture: Architecture, launch: Launch, seq: int, rows: int
) -> None:
    recipe = Recipe(architecture, launch, seq, num_micro_batches=rows)
    sharded = launch.model_copy(update={"distributed_optimizer": True})
    found = highest(Recipe(architecture, sharded, seq, num_micro_batches=rows))
    assert found.total < 80e9
    assert found.total > 0.3 * 80e9
    assert highest(recipe).activations == found.activations


def test_squares_of_log_normal_lengths() -> None:
    lengths = corpus_totals(Corpus(mean_tokens=100.0, sigma=0.5), 10)
    assert lengths.num_tokens == 1000.0
    assert lengths.squared == pytest.approx(10 * 100.0**2 * math.exp(0.25))
    assert lengths.times(3).num_tokens == 3000.0


def test_hours_of_a_stage_worked_out_by_hand() -> None:
    pipeline = load_pipeline(EXAMPLES / "qwen3_4b" / "pipeline.yaml", Path("/run"))
    cost = training_cost(pipeline, "stage1")
    tokens = 6 * 104_900 * 13_757
    layer = 2560 * (2 * 4096 + 2 * 1024) + 3 * 2560 * 9728
    weights = 36 * layer + 2560 * 151_936
    squared = 6 * 104_900 * 13_757.0**2 * math.exp(0.93**2)
    flops = 6 * (tokens * weights + 36 * 4096 * squared)
    assert cost.num_tokens == pytest.approx(tokens)
    assert cost.flops == pytest.approx(flops)
    assert cost.hours == pytest.approx(flops / (64 * 0.35 * 989e12) / 3600)
    assert cost.gpu_hours == pytest.approx(64 * cost.hours)


def test_cached_fp8_weights_are_counted() -> None:
    """Two bytes, the second transposed, for each weight of the layers' products."""
    recipe = Recipe(LLAMA3_8B, Launch(num_ranks=2, tensor_parallel=2), 8192)
    layer = 4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 14_336
    more = memory(replace(recipe, fp8=True), 0).weights - memory(recipe, 0).weights
    assert more == 2 * 32 * layer / 2


def test_moments_and_gradients_have_the_types_that_the_optimizer_is_told() -> None:
    """Half as many bytes of moments and gradients in bfloat16, and half of the float32 copy."""
    path = EXAMPLES / "qwen3_30b_a3b" / "h100_8.yaml"
    narrow = recipe_of(load_pipeline(path, Path("/run")), "stage1")
    assert (narrow.moment_bytes, narrow.gradient_bytes) == (2 + 2, 2)
    wide = recipe_of(load_pipeline(path.with_name("h100_16.yaml"), Path("/run")), "stage1")
    assert (wide.moment_bytes, wide.gradient_bytes) == (4 + 4, 4)
    of_narrow = highest(narrow)
    wide_bytes = {"moment_bytes": 8, "gradient_bytes": 4, "saved_copy_bytes": 0}
    of_wide = highest(replace(narrow, **wide_bytes))
    assert of_wide.gradients == pytest.approx(2 * of_narrow.gradients)
    assert of_wide.optimizer == pytest.approx(2 * of_narrow.optimizer)  # 4 + 8 of 2 + 4
    assert of_wide.total > usable_bytes(Plan()) > of_narrow.total


@pytest.mark.parametrize(
    "path",
    sorted(EXAMPLES.glob("qwen3_*/h100_*.yaml")),
    ids=lambda path: f"{path.parent.name} {path.stem}",
)
def test_the_recipes_fit_the_clusters_that_they_name(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    pipeline = load_pipeline(path)
    figures = collect(pipeline)
    gpus = int(path.stem.removeprefix("h100_"))
    trained = [row for row in figures["stages"] if row["kind"] == "train"]
    assert {row["gpus"] for row in trained} == {gpus}
    assert all(row["fits"] for row in figures["memory"].values())
    # no stage leaves most of the cluster idle for longer than training takes
    training = sum(row["hours"] for row in trained)
    idle = [row for row in figures["stages"] if 0 < row["gpus"] < gpus / 2]
    assert all(row["hours"] < training for row in idle)
    assert figures["gpu_hours"] == pytest.approx(sum(row["gpu_hours"] for row in figures["stages"]))
    json.dumps(figures)
    show(figures)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line or "..." in line for line in lines)
    # every stage has hours and a place, and the line of layouts stands once for those alike
    places = {step["stage"] for step in figures["time_line"]}
    assert places == set(pipeline.stages) == {row["stage"] for row in figures["stages"]}
    alike = {str(row) for row in figures["memory"].values()}
    assert sum("layouts of as many GPUs fit" in line for line in lines) == len(alike)
    write_page(figures, tmp_path / "plan.html")
    page = (tmp_path / "plan.html").read_text()
    assert "<svg" in page
    assert f"Plan of {pipeline.name}" in page


def test_float32_scoring_is_planned_at_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/run")
    path = EXAMPLES / "qwen3_4b" / "h100_64.yaml"
    hours = [
        next(cost.hours for cost in costs(load_pipeline(path, Path("/run"), given)) if named(cost))
        for given in ([], ["score.dtype=float32"])
    ]
    assert hours[1] == pytest.approx(16 * hours[0])


def test_host_memory_of_saves_worked_out_by_hand() -> None:
    """Half of 4.02 G weights a rank, 8 ranks a node, 8 x 4 ranks share a state."""
    recipe = recipe_of(
        load_pipeline(EXAMPLES / "qwen3_4b" / "h100_64.yaml", Path("/run")), "stage1"
    )
    own = sum(parameters(recipe, 0))
    found = host_memory(recipe)
    assert found.last == 8 * 12 * own
    assert found.last == pytest.approx(193e9, rel=0.01)
    assert found.interim == pytest.approx(8 * (12 + 2) * own / 32)
    plain = replace(
        recipe, launch=recipe.launch.model_copy(update={"distributed_optimizer": False})
    )
    assert host_memory(plain).last == host_memory(plain).interim == found.interim


def test_recomputation_takes_a_third_longer_and_does_the_same() -> None:
    pipeline = load_pipeline(EXAMPLES / "qwen3_4b" / "pipeline.yaml", Path("/run"))
    plain = training_cost(pipeline, "stage1")
    again = training_cost(
        pipeline, "stage1", replace(recipe_of(pipeline, "stage1"), recompute="full")
    )
    assert again.flops == plain.flops
    assert again.hours == pytest.approx(4 / 3 * plain.hours)


def test_more_gpus_take_less_time_and_more_of_them_in_all() -> None:
    pipeline = load_pipeline(EXAMPLES / "qwen3_4b" / "pipeline.yaml", Path("/run"))
    by_gpus = growth(pipeline)["stage2"]
    assert list(by_gpus) == list(GPUS)
    hidden, shown = zip(*(both for both in by_gpus.values() if both), strict=True)
    assert list(hidden) == sorted(hidden, reverse=True)
    assert all(a < b for a, b in zip(hidden, shown, strict=True))
    assert hidden[0] / hidden[1] == pytest.approx(2)
    assert "GPUs" in growth_chart({"stage2": by_gpus})


def test_what_is_exchanged_worked_out_by_hand() -> None:
    """Two pipeline stages, eight rows: an eighth of the time is empty, and the rest exchanged."""
    launch = Launch(num_ranks=2, pipeline_parallel=2)
    recipe = Recipe(LLAMA3_8B, launch, 8192, num_micro_batches=8)
    assert efficiency(recipe, 10.0) == pytest.approx(10 / (10 + 10 / 8))
    alone = Recipe(LLAMA3_8B, Launch(), 8192)
    assert efficiency(alone, 10.0) == 1.0


def test_layouts_that_do_not_divide_are_no_candidates() -> None:
    recipe = Recipe(LLAMA3_8B, Launch(num_ranks=8), 8192)
    fits = fitting(recipe, Plan(), 8)
    assert fits
    assert all(fit.memory.total <= usable_bytes(Plan()) for fit in fits)
    assert all(8 % fit.recipe.data_parallel == 0 for fit in fits)
    assert [fit.plainness for fit in fits] == sorted(fit.plainness for fit in fits)
    assert not fitting(recipe, Plan(gpu_memory_gb=10.0), 8)


def test_experts_that_a_token_meets() -> None:
    dense = shape(2, 256, 2, 1, 512, 1000)
    experts = Experts(16, 4, 128, weights_sum_to_one=True)
    moe: Any = Architecture(**{**dense.__dict__, "experts": experts})
    attention = 2 * 256 * (2 * 256 + 2 * 128)
    routed = 2 * (4 * 3 * 256 * 128 + 256 * 16)
    assert products_of(moe).weights_met == attention + routed + 256 * 1000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plan", "data_low does not exist yet; .* in plan.corpora.data_low"),
        (
            "rates",
            "stage sample uses service teacher; .* in plan.server_tokens_per_second.teacher",
        ),
    ],
)
def test_what_is_not_said_is_asked_for(override: str, message: str, tmp_path: Path) -> None:
    source = EXAMPLES / "qwen3_4b"
    text = f"extends: {source / 'pipeline.yaml'}\n"
    (tmp_path / "p.yaml").write_text(text)
    for name in ("student", "teacher", "prompts"):
        (tmp_path / name).symlink_to(source / name)
    pipeline = load_pipeline(tmp_path / "p.yaml", tmp_path / "run")
    corpora = dict(pipeline.plan.corpora)
    if override == "plan":
        del corpora["data_low"]
        changed = pipeline.plan.model_copy(update={"corpora": corpora})
    else:
        changed = pipeline.plan.model_copy(update={"server_tokens_per_second": {}})
    object.__setattr__(pipeline, "plan", changed)
    with pytest.raises(UserError, match=message):
        collect(pipeline)
