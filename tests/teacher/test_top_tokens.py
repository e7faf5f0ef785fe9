"""Stage score_topk: a real model's likeliest tokens, and going on after a kill."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset
from transformers import AutoModelForCausalLM

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.teacher import ScoreTopk
from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.data.top_codec import decode_top
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import Manifest
from megatron_dasd.teacher import top_model, top_shards, top_tokens

RunStage = Callable[..., Manifest]
LENGTHS = [5, 9, 2, 12]
K = 3


def settings(**changes: Any) -> ScoreTopk:
    given = {"data": "data", "model": "model", "teacher": "model", "top_k": K, "dtype": "float32"}
    return ScoreTopk(kind="score_topk", **(given | changes))


@pytest.fixture
def data(random_model_dir: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "packed"
    folder.mkdir()
    config = json.loads((random_model_dir / "model" / "config.json").read_text())
    data_format = DataFormat(16, 1, config["vocab_size"], eod_id=2)
    writer = ShardWriter(folder, data_format)
    random = np.random.default_rng(0)
    for number, length in enumerate(LENGTHS):
        tokens = random.integers(3, data_format.vocab_size, length)
        mask = [0, *[1] * (length - 1)]
        writer.add(str(number), {"tokens": tokens, "loss_mask": mask})
    writer.close()
    write_data(folder, [folder], data_format)
    return folder


@pytest.fixture
def inputs(data: Path, random_model_dir: Path) -> dict[str, Path]:
    return {"data": data, "model": random_model_dir}


def test_equals_the_whole_distribution(
    run_stage: RunStage,
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(top_model, "_LOGIT_TOKENS", 4)
    monkeypatch.setattr(top_shards, "SHARD_TOKENS", 10)
    run_stage(top_tokens.run, settings(), inputs)
    folder = tmp_path / "stage" / "data"
    tokens = IndexedDataset(str(inputs["data"] / "tokens"))
    top = IndexedDataset(str(folder / "teacher_topk"))
    model = AutoModelForCausalLM.from_pretrained(inputs["model"] / "model", dtype=torch.float32)
    masses = []
    for number, length in enumerate(LENGTHS):
        given = torch.from_numpy(tokens[number].astype(np.int64))[None]
        with torch.no_grad():
            expected = model(given).logits[0].log_softmax(-1).topk(K)
        ids, own = decode_top(top[number], length, K)
        assert (ids[0] == -1).all()
        assert np.isneginf(own[0]).all()
        assert (ids[1:] == expected.indices[:-1].numpy()).all()
        np.testing.assert_allclose(own[1:], expected.values[:-1].numpy(), rtol=0, atol=1e-5)
        masses += np.exp(own[1:]).sum(1).tolist()
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["mean_mass"] == pytest.approx(np.mean(masses), rel=1e-5)
    assert 0 < meta["mean_mass"] < 1


def test_goes_on_where_it_was_killed(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_shards, "SHARD_TOKENS", 10)

    def attempt(name: str) -> StageFolder:
        with StageFolder(tmp_path / name, name, "score_topk", {}, {}) as folder:
            folder.finish(figures=top_tokens.run(settings(), inputs, folder))
        return folder

    whole = attempt("whole").path / "data"
    scored: list[int] = []
    score = top_tokens.top_of_document

    def dies_at_the_last(model: Any, tokens: Any, *rest: Any) -> Any:
        scored.append(len(tokens))
        if scored == LENGTHS:
            raise KeyboardInterrupt
        return score(model, tokens, *rest)

    monkeypatch.setattr(top_tokens, "top_of_document", dies_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        attempt("killed")
    scored.clear()
    resumed = attempt("killed").path / "data"
    assert scored == LENGTHS[2:]  # the shard of the first two was whole
    for file in whole.iterdir():
        assert (resumed / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("suffix", ["top", "json"])
def test_a_changed_shard_is_made_again(
    suffix: str, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_shards, "SHARD_TOKENS", 10)

    def attempt(name: str) -> StageFolder:
        with StageFolder(tmp_path / name, name, "score_topk", {}, {}) as folder:
            folder.finish(figures=top_tokens.run(settings(), inputs, folder))
        return folder

    whole = attempt("whole").path / "data"

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(top_tokens, "write_top", dies)
        with pytest.raises(KeyboardInterrupt):
            attempt("changed")
    (shard,) = (tmp_path / "changed").rglob(f"000000*{suffix}")
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    scored: list[int] = []
    score = top_tokens.top_of_document

    def counted(model: Any, tokens: Any, *rest: Any) -> Any:
        scored.append(len(tokens))
        return score(model, tokens, *rest)

    monkeypatch.setattr(top_tokens, "top_of_document", counted)
    resumed = attempt("changed").path / "data"
    assert scored == LENGTHS[:2]  # those of the changed shard, and no others
    for file in whole.iterdir():
        assert (resumed / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_teacher_with_another_tokenizer_is_refused(
    run_stage: RunStage, inputs: dict[str, Path], model_dir: Path
) -> None:
    with pytest.raises(UserError, match="needs a teacher that shares the tokenizer"):
        run_stage(top_tokens.run, settings(teacher="other"), inputs | {"other": model_dir})


def test_more_tokens_than_there_are(run_stage: RunStage, inputs: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="top_k 999: the vocabulary has"):
        run_stage(top_tokens.run, settings(top_k=999), inputs)
