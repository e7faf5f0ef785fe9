"""What the tests of several rooms share: a byte-level tokenizer, made-up responses, stage runs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import LlamaConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from megatron_dasd.artifacts import Manifest, StageFolder
from megatron_dasd.config.base import Settings
from megatron_dasd.config.sources import RandomModel
from megatron_dasd.records import Message, Prompt, Response, TokenLogprobs
from megatron_dasd.records_io import to_table
from megatron_dasd.sources import random_model
from megatron_dasd.sources.random_model import byte_tokenizer
from megatron_dasd.text.encoding import load_tokenizer
from tests.real_tokenizers import tokenizer_folder

RunStage = Callable[..., Manifest]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte: ids 0 to 2 are special, ``chr(3 + i)`` is the alphabet's character i."""
    return byte_tokenizer("abcdefghijklmnopqrstuvwxyz")


@pytest.fixture(scope="session")
def qwen3() -> PreTrainedTokenizerBase:
    """The real tokenizer of Qwen3."""
    return load_tokenizer(tokenizer_folder("qwen3"))


@pytest.fixture(scope="session")
def gptoss() -> PreTrainedTokenizerBase:
    """The real tokenizer of gpt-oss."""
    return load_tokenizer(tokenizer_folder("gptoss"))


@pytest.fixture(scope="session")
def model_dir(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with that tokenizer and a config, without weights."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer.save_pretrained(folder)
    LlamaConfig(vocab_size=len(tokenizer)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished random_model stage: two layers, float32; its alphabet is the one below."""
    settings = RandomModel(
        kind="random_model",
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        alphabet="abcdefghij .=\n",
        max_position_embeddings=512,
        initializer_std=0.15,
        seed=3,
    )
    path = tmp_path_factory.mktemp("random") / "teacher"
    with StageFolder(path, "teacher", settings.kind, settings.model_dump(), {}) as folder:
        folder.finish(figures=random_model.run(settings, {}, folder))
    return path


@pytest.fixture
def make_prompt() -> Callable[..., Prompt]:
    """Make a prompt of one user turn; further fields by name."""

    def make(prompt_id: str = "p0", content: str = "q", **fields: Any) -> Prompt:
        messages = [Message(role="user", content=content)]
        return Prompt(prompt_id=prompt_id, messages=messages, **fields)

    return make


@pytest.fixture
def make_response(make_prompt: Callable[..., Prompt]) -> Callable[..., Response]:
    """Make a response, or a record that extends it, from its text; further fields by name.

    Its teacher has a token a byte, all equally likely.
    """

    def make(
        text: str, record_type: type[Response] = Response, logprob: float = -1.0, **fields: Any
    ) -> Response:
        tokens = list(text.encode())
        given = {
            "prompt": make_prompt(),
            "temperature": 1.0,
            "candidate": 0,
            "seed": 0,
            "model": "teacher",
            "text": text,
            "tokens": TokenLogprobs(
                token_ids=tokens, num_bytes=[1] * len(tokens), logprobs=[logprob] * len(tokens)
            ),
            "finish_reason": "stop",
        }
        return record_type(**(given | fields))

    return make


@pytest.fixture
def write_records(tmp_path: Path) -> Callable[[str, Sequence[Sequence[Any]]], Path]:
    """Write parts of records into a folder of that name and return it."""

    def write(name: str, parts: Sequence[Sequence[Any]]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for index, records in enumerate(parts):
            table = to_table(type(records[0]), records, {})
            pq.write_table(table, folder / f"part-{index:05d}.parquet")
        return folder

    return write


@pytest.fixture
def run_stage(tmp_path: Path) -> RunStage:
    """Run a stage's ``run`` in its folder, ``stage`` unless named, and finish it."""

    def run_it(
        run: Callable[[Any, Mapping[str, Path], StageFolder], dict[str, Any]],
        settings: Settings,
        inputs: Mapping[str, Path],
        name: str = "stage",
    ) -> Manifest:
        folder = StageFolder(
            tmp_path / name, name, type(settings).__name__, settings.model_dump(), {}
        )
        with folder:
            return folder.finish(figures=run(settings, inputs, folder))

    return run_it
