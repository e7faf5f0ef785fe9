"""A tiny model and data that the layouts are compared on, made once."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint import import_stage
from megatron_dasd.config.base import Settings
from megatron_dasd.config.training import ImportHf, Train
from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.data.meta import DOCUMENT_GROUPS
from megatron_dasd.manifests import LOGS, METRICS
from megatron_dasd.sources.random_model import byte_tokenizer
from megatron_dasd.training import stage as train_stage

SEQ_LENGTH = 64
PACK_ALIGN = 4
"""Documents of 4 to 39 tokens: three of four have padding behind them."""
GROUPS = {"domain": ["code", "math"], "temperature": ["0.6", "1"]}
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


DELTA_NET = {
    "head_dim": 16,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 6,
    # What a query reads may be near 0, where the norm behind it would make differences of rounding
    # up to a thousand times as large.
    "rms_norm_eps": 1e-2,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
}


class Workshop:
    """Runs stages in folders of one place and keeps the models and data they work on."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.tokenizer = byte_tokenizer("abcdefghijklmnopqrstuvwxyz ")
        size = len(self.tokenizer)
        shape = {"vocab_size": size, **SHAPE}
        configs = {
            "llama": LlamaConfig(tie_word_embeddings=True, **shape),
            "qwen3": Qwen3Config(tie_word_embeddings=False, head_dim=16, **shape),
            "qwen3_moe": Qwen3MoeConfig(
                head_dim=16,
                num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=24,
                norm_topk_prob=True,
                **shape,
            ),
        }
        self._shape = shape
        torch.manual_seed(0)
        self.models = {
            name: self._save(name, AutoModelForCausalLM.from_config(config))
            for name, config in configs.items()
        }
        self.data = self.write_data("data", made_up_documents(60))
        self.heldout = self.write_data("heldout", made_up_documents(11))
        self.checkpoints = {name: self._import(name) for name in self.models}

    def run(
        self, name: str, run: Callable[..., dict[str, Any]], settings: Settings, **inputs: Path
    ) -> StageFolder:
        """Run a stage to its end; an input's reference is its name."""
        with StageFolder(self.place / name, name, settings.kind, {"name": name}, {}) as folder:
            folder.finish(figures=run(settings, inputs, folder))
        return folder

    def train(
        self,
        name: str,
        model: str = "llama",
        teacher_topk: Path | None = None,
        data: Path | None = None,
        ramp_data: Path | None = None,
        heldout: Path | None = None,
        **changes: Any,
    ) -> list[dict[str, Any]]:
        """Train ten steps and return the lines of its metrics."""
        further = {"teacher_topk": teacher_topk, "ramp_data": ramp_data}
        more = {name: path for name, path in further.items() if path}
        given = {
            "global_batch_size": 4,
            "epochs": 2.5,
            "lr": 1e-3,
            "min_lr": 1e-4,
            "precision": "fp32",
            "seed": 11,
        }
        references = {x: x for x in ("model", "checkpoint", "data", "heldout", *more)}
        self.run(
            name,
            train_stage.run,
            Train(kind="train", **references, **(given | changes)),
            model=self.models[model],
            checkpoint=self.checkpoints[model],
            data=data or self.data,
            heldout=heldout or self.heldout,
            **more,
        )
        return self.metrics(name)

    def metrics(self, name: str) -> list[dict[str, Any]]:
        """The metrics that a training stage wrote."""
        text = (self.place / name / LOGS / METRICS).read_text()
        return [json.loads(line) for line in text.splitlines()]

    def add_delta_nets(self) -> None:
        """Keep models with linear attention, dense and of experts, where that is not done yet."""
        if "qwen3_5" in self.models:
            return
        experts = {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 20,
        }
        for name, kind, more in (
            ("qwen3_5", Qwen3_5TextConfig, {}),
            ("qwen3_5_moe", Qwen3_5MoeTextConfig, experts),
        ):
            config = kind(**self._shape | DELTA_NET | more)
            torch.manual_seed(1)
            model = AutoModelForCausalLM.from_config(config)
            # As they are made, states forget within two tokens.
            for part, parameter in model.named_parameters():
                if part.endswith("A_log"):
                    torch.nn.init.uniform_(parameter, -4.0, -1.0)
                elif part.endswith("conv1d.weight"):
                    torch.nn.init.normal_(parameter, 0.0, 0.7)
            self.add_model(name, model)

    def add_model(self, name: str, model: Any) -> None:
        """Keep a further model and its checkpoint."""
        self.models[name] = self._save(name, model)
        self.checkpoints[name] = self._import(name)

    def _save(self, name: str, model: Any) -> Path:
        folder = self.place / name
        model.float().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder

    def _import(self, name: str) -> Path:
        settings = ImportHf(kind="import_hf", model="model")
        return self.run(
            f"imported {name}", import_stage.run, settings, model=self.models[name]
        ).path

    def write_data(
        self, name: str, documents: Iterable[dict[str, Any]], seq_length: int = SEQ_LENGTH
    ) -> Path:
        """Pack documents into rows."""
        folder = self.place / name
        folder.mkdir()
        data_format = DataFormat(
            seq_length, PACK_ALIGN, len(self.tokenizer), 2, companions=("sentence_classes",)
        )
        writer = ShardWriter(folder, data_format)
        num_documents = 0
        for number, document in enumerate(documents):
            writer.add(str(number), document)
            num_documents += 1
        writer.close()
        # every other document of one domain; few of the second temperature
        groups = [[1 + number % 2, 1 + (number % 20 == 3)] for number in range(num_documents)]
        np.save(folder / DOCUMENT_GROUPS, np.array(groups, np.uint16))
        write_data(folder, [folder], data_format, GROUPS)
        return folder


def made_up_documents(count: int) -> Iterator[dict[str, Any]]:
    """Of 4 to 39 tokens, the first two of which are no targets."""
    random = np.random.default_rng(count)
    for number in range(count):
        length = int(random.integers(4, 40))
        # no sentence, the teacher's or a shared one; one document has a student's
        classes = [1 + (number == 5)] * (length // 2) + [3 * (number % 2)] * (length - length // 2)
        yield {
            "tokens": random.integers(3, 30, length),
            "loss_mask": [0, 0, *[1] * (length - 2)],
            "sentence_classes": classes,
        }


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The place where all layouts run."""
    return Workshop(tmp_path_factory.mktemp("workshop"))
