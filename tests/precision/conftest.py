"""A model of FP8's sizes and data that it can learn, trained through the stage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen3MoeConfig

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint import export_stage, import_stage
from megatron_dasd.config.training import ExportHf, ImportHf, Train
from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.manifests import LOGS, METRICS, Manifest, model_folder
from megatron_dasd.sources.random_model import byte_tokenizer
from megatron_dasd.training import stage as train_stage

SEQ_LENGTH = 128
PACK_ALIGN = 16
STEPS = 200
BATCH = 2


SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": SEQ_LENGTH,
    "tie_word_embeddings": False,
}
EXPERTS = {
    "head_dim": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
}


class Laboratory:
    """Trains imported models in several precisions on the same rows."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.tokenizer = byte_tokenizer("abcdefghijklmnopqrstuvwxyz ")
        size = len(self.tokenizer)
        self.data = self.write_rows(SEQ_LENGTH, PACK_ALIGN)
        self._add_model("dense", LlamaConfig(vocab_size=size, **SHAPE))
        self._add_model("experts", Qwen3MoeConfig(vocab_size=size, **SHAPE, **EXPERTS))

    def train(
        self,
        name: str,
        steps: int,
        model: str = "dense",
        begin_with: str | None = None,
        data: Path | None = None,
        **changes: Any,
    ) -> Manifest:
        """Train for some steps, from the imported weights or those of another run.

        The rows are the same in every run.
        """
        checkpoint = self.place / (begin_with or f"{model} imported")
        given = {"global_batch_size": BATCH, "lr": 1e-3, "min_lr": 1e-4, "seed": 5}
        given["epochs"] = steps * BATCH / self.num_packs
        references = {x: x for x in ("model", "checkpoint", "data")}
        settings = Train(kind="train", **references, **(given | changes))
        inputs = {"model": self.place / model, "checkpoint": checkpoint}
        inputs["data"] = data or self.data
        with StageFolder(self.place / name, name, "train", {"name": name}, {}) as folder:
            return folder.finish(figures=train_stage.run(settings, inputs, folder))

    def export(self, name: str) -> dict[str, torch.Tensor]:
        """The weights of a run as a Hugging Face folder has them."""
        inputs = {"model": self.place / "dense", "checkpoint": self.place / name}
        settings = ExportHf(kind="export_hf", model="model", checkpoint="checkpoint")
        place = self.place / f"{name} exported"
        with StageFolder(place, "exported", "export_hf", {}, {}) as folder:
            folder.finish(figures=export_stage.run(settings, inputs, folder))
        (weights,) = model_folder(place).glob("*.safetensors")
        return load_file(weights)

    def curve(self, name: str, what: str = "loss") -> np.ndarray:
        """The loss, or another figure, of every step of a run."""
        return np.array([line[what] for line in self.lines(name)])

    def lines(self, name: str) -> list[dict[str, Any]]:
        """What the metrics of a run say of every step."""
        text = (self.place / name / LOGS / METRICS).read_text()
        return [json.loads(line) for line in text.splitlines()]

    def _add_model(self, name: str, config: PretrainedConfig) -> None:
        torch.manual_seed(0)
        folder = self.place / name
        AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        settings = ImportHf(kind="import_hf", model="model")
        with StageFolder(self.place / f"{name} imported", name, "import_hf", {}, {}) as imported:
            imported.finish(figures=import_stage.run(settings, {"model": folder}, imported))

    def write_rows(self, seq_length: int, pack_align: int) -> Path:
        """Rows in which a letter follows from the one before, three times in four."""
        folder = self.place / f"rows of {seq_length}"
        folder.mkdir()
        data_format = DataFormat(seq_length, pack_align, len(self.tokenizer), eod_id=2)
        writer = ShardWriter(folder, data_format)
        random = np.random.default_rng(1)
        self.num_packs = 64
        for number in range(self.num_packs):
            letters = [int(random.integers(26))]
            while len(letters) < seq_length:
                follows = random.random() < 0.75
                letters.append((5 * letters[-1] + 7) % 26 if follows else int(random.integers(26)))
            document = {"tokens": [3 + letter for letter in letters]}
            writer.add(str(number), document | {"loss_mask": [0, *[1] * (seq_length - 1)]})
        writer.close()
        write_data(folder, [folder], data_format)
        return folder


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """The place where all precisions are compared."""
    return Laboratory(tmp_path_factory.mktemp("precision"))
