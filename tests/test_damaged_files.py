"""Small files that are damaged: each is refused in one line, or read; nothing else is raised.

A table of attempts that once ended in a traceback, a hang or all memory, then seeded mutations of
sound files, each through the reader that the program uses.
"""

import json
import random
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from megatron_dasd.config.pipeline import load_pipeline
from megatron_dasd.config.yaml_files import read_yaml
from megatron_dasd.data.meta import META, DataMeta, read_meta
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import (
    MANIFEST,
    FileFacts,
    Manifest,
    digest_of,
    fingerprint_of,
    read_manifest,
)
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.records import Prompt
from megatron_dasd.records_io import read_records
from megatron_dasd.sources.gguf_header import check_header
from megatron_dasd.sources.random_model import byte_tokenizer
from megatron_dasd.text.encoding import load_tokenizer
from megatron_dasd.training.exchange import Exchange
from megatron_dasd.training.ledger import read_ledger

ROUND = {"iteration": 1, "num_rows": 2, "data": "data"}
FIRST = b'{"round": 0, "weights": 0, "iterations": [9, null]}\n'
BOMB = b"a: &a {x: 1, y: 2, z: 3, u: 4, v: 5, w: 6, t: 7}\n" + b"".join(
    b"%c: &%c [%s]\n" % (name, name, b", ".join([b"*%c" % (name - 1)] * 10))
    for name in range(ord("b"), ord("j"))
)
INSERTED = [b"\0", b"\xff", b"[", b"-", b"9" * 30, b'"', b"\n"]
DEEP = b"[" * 100_000 + b"]" * 100_000


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def head(tensors: int, keys: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def gguf() -> bytes:
    names = struct.pack("<IIQ", 9, 8, 2) + text("ab") + text("c")
    keys = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    keys += text("tokenizer.ggml.tokens") + names
    tensor = text("output.weight") + struct.pack("<IQQIQ", 2, 4, 2, 0, 0)
    return head(1, 2) + keys + tensor + bytes(64)


def meta() -> DataMeta:
    return DataMeta(
        seq_length=8, pack_align=1, num_documents=1, num_tokens=4, num_loss_tokens=2, num_packs=1,
        fill=0.5, vocab_size=10, eod_id=1, companions=[], file_bytes={"tokens.bin": 8},
    )  # fmt: skip


def manifest() -> Manifest:
    facts: dict[str, FileFacts] = {"part-00000.parquet": {"bytes": 3, "sha256": "0" * 64}}
    return Manifest(
        stage="s", kind="k", settings={}, inputs={}, fingerprint=fingerprint_of("k", {}, {}),
        version="1", counts={"kept": 1}, figures={}, seconds=1.0, files=facts,
        digest=digest_of(facts),
    )  # fmt: skip


PIPELINE = b"""\
name: x
run_dir: run
stages:
  first: {kind: make_prompts, tasks: [{generator: basic_arithmetic, size: 4}]}
  second: &two {kind: make_prompts, files: [first], heldout_fraction: 0.5}
  third: {<<: *two, files: [second]}
"""
PROMPT = b'{"prompt_id": "p", "messages": [{"role": "user", "content": "q"}]}\n'
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8,
    "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 16,
    "num_key_value_heads": 1, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}  # fmt: skip


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def read_round(folder: Path, data: bytes) -> object:
    exchange = Exchange(folder)
    exchange.make()
    put(exchange.rounds, "00000.json", data)
    return list(exchange.finished())


def read_tokenizer(folder: Path, data: bytes) -> object:
    byte_tokenizer("abc").save_pretrained(folder)
    put(folder, "tokenizer.json", data)
    return load_tokenizer(folder)


def tokenizer_json() -> bytes:
    made: PreTrainedTokenizerFast = byte_tokenizer("abc")
    return str(made.backend_tokenizer.to_str()).encode()


def read_gguf(folder: Path, data: bytes) -> object:
    check_header(put(folder, "x.gguf", data))
    return None


Reader = Callable[[Path, bytes], object]
READERS: dict[str, tuple[Reader, Callable[[], bytes]]] = {
    "ledger": (
        lambda f, d: read_ledger(put(f, "l", d)).figures(), lambda: b'{"reached": 8}\n' + FIRST,
    ),
    "round": (read_round, lambda: json.dumps(ROUND).encode()),
    "meta": (
        lambda f, d: read_meta(put(f, META, d).parent), lambda: json.dumps(asdict(meta())).encode(),
    ),
    "manifest": (
        lambda f, d: read_manifest(put(f, MANIFEST, d).parent),
        lambda: json.dumps(asdict(manifest())).encode(),
    ),
    "yaml": (lambda f, d: read_yaml(put(f, "p.yaml", d)), lambda: PIPELINE),
    "pipeline": (lambda f, d: load_pipeline(put(f, "p.yaml", d)), lambda: PIPELINE),
    "records": (lambda f, d: list(read_records(put(f, "p.jsonl", d), Prompt)), lambda: PROMPT * 3),
    "gguf": (read_gguf, gguf),
    "config": (
        lambda f, d: read_architecture(put(f, "config.json", d).parent),
        lambda: json.dumps(CONFIG).encode(),
    ),
    "tokenizer": (read_tokenizer, tokenizer_json),
}  # fmt: skip

#: name: (kind of file, content)
DAMAGED: dict[str, tuple[str, bytes]] = {
    "a replayed round": ("ledger", FIRST * 2),
    "a round left out": ("ledger", FIRST.replace(b'd": 0', b'd": 7')),
    "steps that go back": ("ledger", b'{"reached": 8}\n{"reached": 1}\n'),
    "no iterations": ("ledger", b'{"round": 0, "weights": 0, "iterations": null}\n'),
    "zeros of a power cut": ("ledger", FIRST + bytes(512) + b"\n"),
    "brackets in a ledger": ("ledger", DEEP + b"\n"),
    "a list in a ledger": ("ledger", b"[1]\n"),
    "a round's data outside": ("round", json.dumps(ROUND | {"data": "../../etc"}).encode()),
    "a round's data anywhere": ("round", json.dumps(ROUND | {"data": "/etc"}).encode()),
    "rows below 0": ("round", json.dumps(ROUND | {"num_rows": -3}).encode()),
    "an unknown field": ("round", json.dumps(ROUND | {"x": 1}).encode()),
    "brackets in a round": ("round", DEEP),
    "a file outside": ("meta", json.dumps(asdict(meta()) | {"file_bytes": {"../x": 1}}).encode()),
    "no rows": ("meta", json.dumps(asdict(meta()) | {"num_packs": -1}).encode()),
    "an unknown companion": ("meta", json.dumps(asdict(meta()) | {"companions": ["x"]}).encode()),
    "a manifest that is a list": ("manifest", b"[]"),
    "counts that are texts": (
        "manifest", json.dumps(asdict(manifest()) | {"counts": {"kept": "x"}}).encode(),
    ),
    "a manifest's file outside": (
        "manifest", json.dumps(asdict(manifest())).replace("part-00000", "../part").encode(),
    ),
    "a manifest that is no UTF-8": ("manifest", b"\xff\xfe{}"),
    "brackets in a manifest": ("manifest", DEEP),
    "aliases that multiply": ("yaml", BOMB),
    "merge keys that multiply": (
        "yaml",
        b"a0: &a0 {x: 1}\n"
        + b"".join(
            b"a%d: &a%d {<<: [%s]}\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9))
            for i in range(1, 9)
        ),
    ),
    "an anchor within itself": ("yaml", b"a: &a [*a]\n"),
    "brackets in YAML": ("yaml", DEEP),
    "a date that is none": ("yaml", b"a: 2024-99-99\n"),
    "a list as a key": ("yaml", b"? [1, 2]\n: 3\n"),
    "a number without digits": ("yaml", b"a: !!int ''\n"),
    "a line break in run_dir": ("pipeline", PIPELINE.replace(b"run_dir: run", b'run_dir: "a\\nb"')),
    "a server named like a path": (
        "pipeline", PIPELINE + b"cluster: {servers: {../x: {command: [a]}}}\n",
    ),
    "brackets in records": ("records", b'{"a": ' + DEEP + b"}\n"),
    "GGUF that is empty": ("gguf", b""),
    "2^60 tensors": ("gguf", head(1 << 60, 0) + bytes(64)),
    "2^60 keys": ("gguf", head(0, 1 << 60) + bytes(64)),
    "a string of 2^60 bytes": ("gguf", head(0, 1) + struct.pack("<Q", 1 << 60) + bytes(64)),
    "an array of 2^40 bytes": (
        "gguf", head(0, 1) + text("x") + struct.pack("<IIQ", 9, 0, 1 << 40) + bytes(64),
    ),
    "arrays 1,000 deep": (
        "gguf", head(0, 1) + text("x") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 1000,
    ),
    "a key twice": ("gguf", head(0, 2) + (text("a") + struct.pack("<II", 4, 1)) * 2 + bytes(64)),
    "2^31 dimensions": ("gguf", head(1, 0) + text("a") + struct.pack("<I", 1 << 31) + bytes(64)),
    "brackets in a config": ("config", DEEP),
    "a tokenizer that is a list": ("tokenizer", b"[]"),
    "brackets in a tokenizer": ("tokenizer", DEEP),
    "a token id of 2^31": (
        "tokenizer",
        tokenizer_json().replace(b'"a":3', b'"a":2147483647'),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_damaged_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    kind, data = DAMAGED[case]
    read, _ = READERS[kind]
    with pytest.raises(UserError) as refused:
        read(tmp_path, data)
    assert str(tmp_path) in str(refused.value)
    assert len(str(refused.value)) < 2000


@pytest.mark.parametrize("kind", READERS)
def test_what_is_sound_is_read(kind: str, tmp_path: Path) -> None:
    read, sound = READERS[kind]
    read(tmp_path, sound())


def mutated(data: bytes, luck: random.Random) -> bytes:
    """Flip, cut, swap or insert bytes, once to three times."""
    found = bytearray(data)
    for _ in range(luck.randint(1, 3)):
        first, second = sorted(luck.randrange(len(found) + 1) for _ in range(2))
        match luck.randrange(4):
            case 0 if first < len(found):
                found[first] ^= 1 << luck.randrange(8)
            case 1:
                del found[first : min(second, first + 40)]
            case 2:
                found[first:second] = found[first:second][::-1]
            case _:
                found[first:first] = luck.choice(
                    [b"\0", b"\xff", b"[", b"-", b"9" * 30, b'"', b"\n"]
                )
    return bytes(found)


def fuzz(kind: str, folder: Path, number: int) -> None:
    read, sound = READERS[kind]
    luck, data = random.Random(f"{kind} of damaged files"), sound()
    for _ in range(number):
        damaged = mutated(data, luck)
        try:
            read(folder, damaged)
        except UserError:
            pass
        except Exception as error:
            raise AssertionError(f"{kind}: {damaged[:2000]!r}") from error


@pytest.mark.parametrize("kind", READERS)
def test_mutations_are_refused_or_read(kind: str, tmp_path: Path) -> None:
    fuzz(kind, tmp_path, 20 if kind == "tokenizer" else 100)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", READERS)
def test_many_mutations_are_refused_or_read(kind: str, tmp_path: Path) -> None:
    fuzz(kind, tmp_path, 200 if kind == "tokenizer" else 2000)
