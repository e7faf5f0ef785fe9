"""Every family under every layout: the logits of transformers, and its tensors bit for bit."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3_5Config,
    Qwen3_5MoeConfig,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3VLConfig,
    SmolLM3Config,
)

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint import export_stage, import_stage
from megatron_dasd.checkpoint.artifact import CHECKPOINT_FOLDER, open_checkpoint
from megatron_dasd.checkpoint.compare_program import same_bits
from megatron_dasd.checkpoint.hf_folder import HfWeights, set_dtype
from megatron_dasd.checkpoint.hf_writer import write_hf_folder
from megatron_dasd.config.training import ExportHf, ImportHf
from megatron_dasd.device.launch import launch
from megatron_dasd.engines.auto_class import auto_class
from megatron_dasd.manifests import LOGS
from tests.sampled import left_out, sampled

NUM_TOKENS = 512
LAYOUTS = {
    "one rank": {"num_ranks": 1},
    "tp2": {"num_ranks": 2, "tensor_parallel": 2},
    "pp2": {"num_ranks": 2, "pipeline_parallel": 2},
    "tp2 pp2": {"num_ranks": 4, "tensor_parallel": 2, "pipeline_parallel": 2},
    "ep2": {"num_ranks": 2, "expert_parallel": 2},
    "cp2": {"num_ranks": 2, "context_parallel": 2},
    # more ranks than key-value heads
    "tp4": {"num_ranks": 4, "tensor_parallel": 4},
    "pp2 uneven": {"num_ranks": 2, "pipeline_parallel": 2, "first_stage_layers": 1},
    "tp2 pp2 cp2": {
        "num_ranks": 8,
        "tensor_parallel": 2,
        "pipeline_parallel": 2,
        "context_parallel": 2,
    },
}
SHAPE = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.5, "factor": 3.0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
SHARED_EXPERT = {"shared_expert_intermediate_size": 24}
DELTA_NET = {
    "head_dim": 48,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 12,
    "linear_key_head_dim": 7,
    "linear_value_head_dim": 11,
    "linear_conv_kernel_dim": 3,
    # both kinds of layer on either pipeline stage
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
}
CONFIGS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {"tie_word_embeddings": True}),
    # its 16 frequencies lie on both sides of the scaling's bounds and between them
    "llama3": (LlamaConfig, {"rope_parameters": LLAMA3_ROPE, "head_dim": 32}),
    "llama3 other constants": (
        LlamaConfig,
        {
            "rope_parameters": LLAMA3_ROPE
            | {"high_freq_factor": 3.0, "original_max_position_embeddings": 256},
            "head_dim": 32,
        },
    ),
    "llama linear biases": (LlamaConfig, {"rope_parameters": LINEAR, "attention_bias": True}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "qwen2 windows": (
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 37, "max_window_layers": 2},
    ),
    "qwen3": (Qwen3Config, {"head_dim": 32}),
    "qwen3 tied": (Qwen3Config, {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3 yarn": (Qwen3Config, {"head_dim": 32, "rope_parameters": YARN}),
    "smollm3": (SmolLM3Config, {"attention_bias": True, "pad_token_id": 0}),
    "qwen3_vl": (Qwen3VLConfig, {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3_moe": (Qwen3MoeConfig, {"head_dim": 32, "norm_topk_prob": True, **EXPERTS}),
    "qwen3_moe raw weights": (Qwen3MoeConfig, {"norm_topk_prob": False, **EXPERTS}),
    "qwen3_5": (Qwen3_5TextConfig, DELTA_NET),
    "qwen3_5 with images": (Qwen3_5Config, {"tie_word_embeddings": True, **DELTA_NET}),
    "qwen3_5_moe": (Qwen3_5MoeTextConfig, SHARED_EXPERT | EXPERTS | DELTA_NET),
    "qwen3_5_moe with images": (
        Qwen3_5MoeConfig,
        {"tie_word_embeddings": False} | SHARED_EXPERT | EXPERTS | DELTA_NET,
    ),
}
VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": SHAPE["hidden_size"],
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
MULTIMODAL: dict[type[PreTrainedConfig], set[str]] = {
    Qwen3VLConfig: set(VISION),
    Qwen3_5Config: set(VISION) - {"deepstack_visual_indexes"},
    Qwen3_5MoeConfig: set(VISION) - {"deepstack_visual_indexes"},
}
"""Configs around a text model's, and the fields of their vision model's."""
CASES = [
    (name, layout)
    for name, (_, fields) in CONFIGS.items()
    for layout in LAYOUTS
    if layout != "ep2" or "num_experts" in fields
]
NEW_IN_CI = [
    ("llama linear biases", "tp4"),
    ("qwen2 windows", "cp2"),
    ("qwen3 yarn", "pp2 uneven"),
    ("smollm3", "pp2"),
    ("qwen3_vl", "tp2"),
    ("qwen3_5", "cp2"),
    ("qwen3_5 with images", "one rank"),
    ("qwen3_5_moe", "ep2"),
]
"""One of every kind of position, mask and checkpoint that Megatron's flags alone do not give."""
QUICK = [
    ("llama3", "one rank"),
    ("qwen2", "one rank"),
    ("qwen3 tied", "one rank"),
    ("qwen3_moe", "ep2"),
]


def config_of(name: str, **changes: Any) -> PreTrainedConfig:
    """A small model's config, some of its fields changed."""
    kind, fields = CONFIGS[name]
    fields = SHAPE | fields | changes
    if kind not in MULTIMODAL:
        return kind(**fields)
    tied = fields.pop("tie_word_embeddings")
    known = MULTIMODAL[kind]
    vision = {field: value for field, value in VISION.items() if field in known}
    return kind(text_config=fields, vision_config=vision, tie_word_embeddings=tied)


class Gallery:
    """Random models of all families, imported once each."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._checkpoints: dict[str, Path] = {}
        self._expected: dict[str, tuple[torch.Tensor, float]] = {}
        text = (files("reasoning_gym") / "data/in_the_year_2889.txt").read_bytes()
        # a token a byte, after the ids of three special tokens
        self.token_ids = [3 + byte for byte in text[5000 : 5000 + NUM_TOKENS]]

    def model(self, name: str) -> Path:
        """The Hugging Face folder of a family's model; float32, no parameter left at its start."""
        folder = self.place / name
        if not folder.exists():
            torch.manual_seed(sum(name.encode()))
            config = config_of(name)
            multimodal = type(config) in MULTIMODAL
            kind = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
            model = kind.from_config(config).float()
            for part, parameter in model.named_parameters():
                if part.endswith("A_log"):  # from memory of few tokens to that of hundreds
                    torch.nn.init.uniform_(parameter, -6.0, 1.0)
                    continue
                around = 1.0 if parameter.ndim == 1 and parameter.mean() > 0.5 else 0.0
                torch.nn.init.normal_(parameter, around, 0.12)
            model.save_pretrained(folder)
        return folder

    def checkpoint(self, name: str) -> Path:
        """The stage folder of the imported model."""
        if name not in self._checkpoints:
            settings = ImportHf(kind="import_hf", model="model")
            inputs = {"model": self.model(name)}
            self._checkpoints[name] = self.stage(
                f"{name} imported", import_stage.run, settings, inputs
            )
        return self._checkpoints[name]

    @torch.no_grad()
    def expected(self, name: str) -> tuple[torch.Tensor, float]:
        """transformers' logits in float32, and how far they are from its own in float64."""
        if name not in self._expected:
            row = torch.tensor([self.token_ids])
            single, double = (
                auto_class(self.model(name)).from_pretrained(self.model(name), dtype=dtype, **how)(
                    row
                )
                for dtype, how in (
                    (torch.float32, {}),
                    # its grouped product of experts knows no float64
                    (torch.float64, {"experts_implementation": "eager"}),
                )
            )
            single, double = single.logits[0], double.logits[0]
            self._expected[name] = single, float((single - double).abs().max())
        return self._expected[name]

    def load_and_save(self, name: str, layout: str) -> tuple[torch.Tensor, Path]:
        """Logits under a layout, and the stage folder of the checkpoint that it saved."""
        logits = self.place / f"{name} {layout} logits"
        logits.mkdir()

        def run(_: Any, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, Any]:
            start = open_checkpoint(inputs["checkpoint"])
            scratch = folder.scratch(CHECKPOINT_FOLDER)
            payload = {
                "model": str(self.model(name)),
                "checkpoint": str(start.folder),
                "save": str(scratch),
                "launch": LAYOUTS[layout],
                "token_ids": self.token_ids,
                "logits": str(logits),
            }
            ranks = LAYOUTS[layout]["num_ranks"]
            launch("tests.distributed.reload_program", payload, ranks, folder.path / LOGS)
            folder.commit(scratch)
            return {"dtype": start.dtype}

        settings = ImportHf(kind="import_hf", model="model")
        inputs = {"checkpoint": self.checkpoint(name)}
        saved = self.stage(f"{name} {layout}", run, settings, inputs)
        columns: dict[str, np.ndarray] = {}
        for path in sorted(logits.iterdir()):
            part = np.load(path)
            of_all = np.zeros((NUM_TOKENS, part["logits"].shape[-1]), np.float32)
            whole = columns.setdefault(path.name.partition("-")[0], of_all)
            whole[part["positions"]] = part["logits"]
        joined = torch.from_numpy(np.concatenate(list(columns.values()), axis=-1))
        return joined[:, : SHAPE["vocab_size"]], saved

    def export(self, name: str, layout: str, checkpoint: Path) -> Path:
        """The Hugging Face folder that a checkpoint becomes."""
        settings = ExportHf(kind="export_hf", model="model", checkpoint="checkpoint")
        inputs = {"model": self.model(name), "checkpoint": checkpoint}
        return self.stage(f"{name} {layout} out", export_stage.run, settings, inputs) / "model"

    def stage(self, name: str, run: Any, settings: Any, inputs: Mapping[str, Path]) -> Path:
        """Run a stage to its end, and give its folder."""
        with StageFolder(self.place / name, name, settings.kind, {"name": name}, {}) as folder:
            folder.finish(figures=run(settings, inputs, folder))
        return self.place / name


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return Gallery(tmp_path_factory.mktemp("gallery"))


@pytest.mark.parametrize(("name", "layout"), QUICK)
def test_logits_and_round_trip(name: str, layout: str, gallery: Gallery) -> None:
    check_logits_and_round_trip(name, layout, gallery)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layout"),
    sampled(
        [case for case in CASES if case not in QUICK],
        len(NEW_IN_CI),
        always=NEW_IN_CI,
    ),
)
def test_logits_and_round_trip_of_the_others(name: str, layout: str, gallery: Gallery) -> None:
    check_logits_and_round_trip(name, layout, gallery)


def check_logits_and_round_trip(name: str, layout: str, gallery: Gallery) -> None:
    logits, saved = gallery.load_and_save(name, layout)
    expected, noise = gallery.expected(name)
    difference = float((logits - expected).abs().max())
    print(f"{name}, {layout}: {difference:.2e} from transformers, whose own noise is {noise:.2e}")
    assert logits.shape == (NUM_TOKENS, SHAPE["vocab_size"])
    assert float(expected.std()) > 0.5  # else small differences would say little
    assert difference <= min(3 * noise, 5e-4)

    source, exported = gallery.model(name), gallery.export(name, layout, saved)
    before, after = HfWeights(source), HfWeights(exported)
    assert after.names() == before.names()
    assert [n for n in before.names() if not torch.equal(before.read(n), after.read(n))] == []
    if CONFIGS[name][0] in MULTIMODAL:  # laid into the source's files, whose other bytes stay
        for file in ("config.json", "model.safetensors"):
            assert (exported / file).read_bytes() == (source / file).read_bytes()


@pytest.mark.parametrize(("wide", "mtp"), [(True, "copy"), left_out(False, "drop")])
def test_float32_beside_bfloat16_and_heads_that_guess_ahead(
    wide: bool, mtp: Literal["copy", "drop"], gallery: Gallery, tmp_path: Path
) -> None:
    """Qwen3.5 publishes the decay and the output norm of its delta nets in float32, 3.6 not."""
    source = HfWeights(gallery.model("qwen3_5"))
    float32 = ("A_log", "linear_attn.norm.weight") if wide else ()
    tensors = {
        name: source.read(name).to(torch.float32 if name.endswith(float32) else torch.bfloat16)
        for name in source.names()
    }
    heads = {"mtp.fc.weight": torch.randn(3, 2).bfloat16()}
    folder = tmp_path / "model"
    folder.mkdir()
    write_hf_folder(folder, tensors | heads, source.folder)
    set_dtype(folder, "bfloat16")
    settings = ImportHf(kind="import_hf", model="model")
    inputs = {"model": folder}
    inputs["checkpoint"] = gallery.stage(f"wide {wide}", import_stage.run, settings, inputs)
    export = ExportHf(kind="export_hf", model="model", checkpoint="checkpoint", mtp=mtp)
    out = gallery.stage(f"wide {wide} out", export_stage.run, export, inputs) / "model"
    after = HfWeights(out)
    expected = tensors | (heads if mtp == "copy" else {})
    assert after.names() == expected.keys()
    assert [n for n in expected if not same_bits(expected[n], after.read(n))] == []
    AutoModelForCausalLM.from_pretrained(out)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_text_tells_the_families_apart(name: str, gallery: Gallery) -> None:
    """A model whose rotary scaling, router or bias were left out would differ by far more."""
    expected, noise = gallery.expected(name)
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    others: dict[str, dict[str, Any]] = {
        "llama3": {"rope_parameters": LLAMA3_ROPE | {"rope_type": "default"}},
        "llama3 other constants": {"rope_parameters": LLAMA3_ROPE},
        "llama linear biases": {"rope_parameters": plain},
        "qwen2 windows": {"sliding_window": 38},
        "qwen3 yarn": {"rope_parameters": YARN | {"attention_factor": 1.0}},
        "smollm3": {"no_rope_layers": [0, 0, 0, 1]},
        "qwen3_moe": {"norm_topk_prob": False},
        "qwen3_moe raw weights": {"norm_topk_prob": True},
    }
    if name not in others:
        pytest.skip("its options are tensors of their own")
    config = config_of(name, **others[name])
    other = AutoModelForCausalLM.from_pretrained(
        gallery.model(name), config=config, dtype=torch.float32
    )
    with torch.no_grad():
        logits = other(torch.tensor([gallery.token_ids])).logits[0]
    assert float((logits - expected).abs().max()) > max(100 * noise, 5e-3)
