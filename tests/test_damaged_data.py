"""Packed data, models, checkpoints and Parquet files that are damaged, through their real readers.

Seeded mutations: each is refused in one line, or read; nothing else is raised.
"""

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint import tracker
from megatron_dasd.checkpoint.artifact import TRACKER, open_checkpoint
from megatron_dasd.checkpoint.hf_folder import HfWeights, check_weights
from megatron_dasd.checkpoint.pickles import read_metadata
from megatron_dasd.checkpoint.seal import SEAL, damage, write_seal
from megatron_dasd.config.sources import ImportGguf
from megatron_dasd.data.integrity import faults
from megatron_dasd.data.meta import META
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import ATTEMPT, input_digest
from megatron_dasd.records import Prompt
from megatron_dasd.records_io import count_records, read_records
from megatron_dasd.sources import gguf
from tests.checkpoint.test_pickles import ENTRY, EXTRA, checkpoint, saved_bytes
from tests.data.test_packed_dataset import write
from tests.sources.test_gguf import CONFIG, write_gguf
from tests.test_damaged_files import mutated

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")

PACKED = (
    "tokens.idx", "loss_mask.idx", "tokens.bin", "loss_mask.bin", "sentence_classes.bin",
    "pack_documents.npy", "pack_offsets.npy",
)  # fmt: skip
ROWS = [
    {"prompt_id": f"p{i}", "messages": [{"role": "user", "content": "q" * i}]} for i in range(1, 20)
]


def make_data(folder: Path) -> None:
    write(folder / "data")


def read_data(path: Path) -> None:
    """Its size is made to fit, so that more than the size is looked at."""
    meta = path.with_name(META)
    described = json.loads(meta.read_text())
    described["file_bytes"][path.name] = path.stat().st_size
    meta.write_text(json.dumps(described))
    list(faults(path.parents[1]))
    rows = PackedDataset(path.parents[1])
    for index in range(len(rows)):
        for use in (rows.__getitem__, rows.loss_counts, rows.lengths):
            with suppress(UserError):
                use(index)


def make_gguf(folder: Path) -> None:
    torch.manual_seed(0)
    write_gguf(folder / "m.gguf", LlamaForCausalLM(CONFIG))


def read_gguf(path: Path) -> None:
    settings = ImportGguf(kind="import_gguf", package="carrier", file="m.gguf", dtype="float32")
    with (
        pytest.MonkeyPatch.context() as patch,
        StageFolder(path.parent / "stage", "s", "import_gguf", {}, {}) as stage,
    ):
        patch.setattr(gguf, "package_file", lambda *_: path)
        gguf.run(settings, {}, stage)


def make_model(folder: Path) -> None:
    save_file({"a": torch.ones(2), "b": torch.zeros(3)}, folder / "model.safetensors")
    places = dict.fromkeys("ab", "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def read_model(path: Path) -> None:
    with suppress(UserError):
        check_weights(path.parent)
    weights = HfWeights(path.parent)
    for name in weights.names():
        weights.read(name)


def make_records(folder: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "x.parquet")


def read_all(path: Path) -> None:
    with suppress(UserError):
        count_records(path)
    list(read_records(path, Prompt))


def make_saves(folder: Path) -> None:
    saved = checkpoint(
        folder / "iter_0000010", **{ENTRY: {"a": [1, 2]}, EXTRA: [saved_bytes({"a": 1})]}
    )
    (saved / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    (folder / TRACKER).write_text("10")
    write_seal(saved)


def read_saves(path: Path) -> None:
    saves = path.parent if path.name == TRACKER else path.parents[1]
    found = damage(saves / "iter_0000010")
    assert found is None or "\n" not in found
    tracker.read(saves)
    tracker.whole(saves)
    with suppress(UserError):  # these weights are no model's
        open_checkpoint(saves)
    read_metadata(saves / "iter_0000010")


def make_attempt(folder: Path) -> None:
    with StageFolder(folder / "s", "s", "k", {}, {}):
        pass


def read_attempt(path: Path) -> None:
    with suppress(UserError):
        input_digest(path.parent)
    with StageFolder(path.parent, "s", "k", {}, {}):
        pass


Make = Callable[[Path], None]
KINDS: dict[str, tuple[Make, Callable[[Path], None]]] = {
    **{f"data/{name}": (make_data, read_data) for name in PACKED},
    "m.gguf": (make_gguf, read_gguf),
    "model.safetensors": (make_model, read_model),
    "model.safetensors.index.json": (make_model, read_model),
    "x.parquet": (make_records, read_all),
    "iter_0000010/.metadata": (make_saves, read_saves),
    "iter_0000010/__0_0.distcp": (make_saves, read_saves),
    "iter_0000010/metadata.json": (make_saves, read_saves),
    f"iter_0000010/{SEAL}": (make_saves, read_saves),
    TRACKER: (make_saves, read_saves),
    f"s/{ATTEMPT}": (make_attempt, read_attempt),
}
"""By the file's path: what makes its folder, and what reads the file."""
COSTLY = ("m.gguf", "iter_0000010/.metadata", "iter_0000010/__0_0.distcp")


def fuzz(kind: str, folder: Path, number: int) -> None:
    make, read = KINDS[kind]
    make(folder)
    path = folder / kind
    sound = path.read_bytes()
    read(path)
    luck = random.Random(f"{kind} of damaged data")
    head = 12_000 if kind == "m.gguf" else len(sound)  # the rest of it are weights
    for _ in range(number):
        damaged = mutated(sound[:head], luck) + sound[head:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(damaged)
        try:
            with suppress(UserError):
                read(path)
        except Exception as error:
            raise AssertionError(f"{kind}: {damaged[:2000]!r}") from error


@pytest.mark.parametrize("kind", KINDS)
def test_mutations_are_refused_or_read(kind: str, tmp_path: Path) -> None:
    fuzz(kind, tmp_path, 20 if kind == "m.gguf" else 100)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutations_are_refused_or_read(kind: str, tmp_path: Path) -> None:
    fuzz(kind, tmp_path, 200 if kind in COSTLY else 2000)
