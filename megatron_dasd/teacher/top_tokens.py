"""Stage score_topk: the teacher's likeliest tokens at every position of packed data.

For teachers that share the student's tokenizer.  One forward pass a document, through
``transformers`` in this process.  A shard of documents exists only when it is complete, so a run
that was killed resumes after the shards that exist.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from megatron_dasd.arrays import Ints
from megatron_dasd.artifacts import StageFolder, write_atomic
from megatron_dasd.config.teacher import ScoreTopk
from megatron_dasd.data.meta import DATA, META, TOKENS, Document
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.data.teacher_top import (
    DTYPES,
    IDS,
    LOGPROBS,
    UNKNOWN_ID,
    TopMeta,
    documents_digest,
    write_top,
)
from megatron_dasd.engines.auto_class import auto_class
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures
from megatron_dasd.manifests import file_sha256, hashing_threads, model_folder
from megatron_dasd.progress import progress
from megatron_dasd.records_io import read_records
from megatron_dasd.text.encoding import load_tokenizer

_SHARDS = ".shards.tmp"
"""Deleted when the stage finishes, as everything that ends in ``.tmp``."""
_DIGEST = ".sha256"
"""Of a shard's files, in a file that is written last."""
_SHARD_TOKENS = 65_536
_LOGIT_TOKENS = 256
"""Positions whose logits exist at a time."""


def run(settings: ScoreTopk, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write the companions of the data.

    Raises:
        UserError: the teacher has another tokenizer than the student, or is no such model.
    """
    data = PackedDataset(inputs[settings.data])
    if not (folder.path / DATA / META).exists():
        teacher = model_folder(inputs[settings.teacher])
        _check_tokenizers(teacher, model_folder(inputs[settings.model]))
        if settings.top_k >= data.meta.vocab_size:
            raise UserError(
                f"top_k {settings.top_k}: the vocabulary has {data.meta.vocab_size} tokens only"
            )
        shards = _score(settings, teacher, data, folder.path / _SHARDS)
        scratch = folder.scratch(DATA)
        meta = TopMeta(
            top_k=settings.top_k,
            documents=documents_digest(inputs[settings.data]),
            mean_mass=_mean_mass(shards, settings.top_k),
        )
        write_top(scratch, shards, data.datasets[TOKENS].sequence_lengths, meta)
        folder.commit(scratch)
    return {"num_documents": data.meta.num_documents, "top_k": settings.top_k}


def _check_tokenizers(teacher: Path, student: Path) -> None:
    ours, theirs = (load_tokenizer(folder).get_vocab() for folder in (student, teacher))
    if ours != theirs:
        differing = min(ours.items() ^ theirs.items())[0]
        raise UserError(
            f"{teacher}: its tokenizer is not that of {student} (they differ in {differing!r}); "
            "token-level distillation needs a teacher that shares the tokenizer"
        )


def _score(settings: ScoreTopk, teacher: Path, data: PackedDataset, folder: Path) -> list[Path]:
    """Make the missing shards; returns all in order."""
    folder.mkdir(exist_ok=True)
    lengths = data.datasets[TOKENS].sequence_lengths
    plan = list(_plan(lengths))
    shards = [folder / f"{index:06d}" for index in range(len(plan))]
    with hashing_threads() as threads:
        done = list(threads.map(_is_made, shards))
    num_done = sum(
        int(lengths[documents].sum()) for documents, d in zip(plan, done, strict=True) if d
    )
    if all(done):
        return shards
    model = _load(teacher, settings.dtype)
    left_out = _not_rollouts(data) if settings.only_rollouts else set()
    with progress("scoring", total=int(lengths.sum()), unit="tokens", done=num_done) as bar:
        for shard, documents, is_done in zip(shards, plan, done, strict=True):
            if is_done:
                continue
            made: dict[str, list[npt.NDArray[np.number]]] = {name: [] for name in DTYPES}
            for number in range(documents.start, documents.stop):
                tokens = data.document(number)[TOKENS]
                if number in left_out:
                    ids, logprobs = _unknown(len(tokens), settings.top_k)
                else:
                    shape = settings.top_k, data.meta.vocab_size
                    ids, logprobs = top_of_document(model, tokens, *shape)
                made[IDS].append(ids.astype(DTYPES[IDS]))
                made[LOGPROBS].append(logprobs)
                bar.advance(len(tokens))
            for name in (IDS, LOGPROBS):
                values_of_all = np.concatenate(made[name])
                write_atomic(shard.with_suffix(f".{name}"), values_of_all.tobytes())
            write_atomic(shard.with_suffix(_DIGEST), _digest(shard).encode())
    return shards


def _is_made(shard: Path) -> bool:
    """Whether the shard's files hold what an earlier attempt wrote."""
    try:
        return shard.with_suffix(_DIGEST).read_text() == _digest(shard)
    except (OSError, ValueError):
        return False


def _digest(shard: Path) -> str:
    """SHA-256 of a shard's files."""
    return " ".join(file_sha256(shard.with_suffix(f".{name}")) for name in (IDS, LOGPROBS))


def _not_rollouts(data: PackedDataset) -> set[int]:
    """Numbers of the documents that are not whole rollouts of the student.

    Raises:
        UserError: none is, so there would be nothing to distil from.
    """
    documents = list(read_records(data.path, Document))
    found = {
        number
        for number, document in enumerate(documents)
        # only the end-of-turn token may follow what the student wrote
        if not document.num_prefix_tokens
        or document.num_loss_tokens > document.num_prefix_tokens + 1
    }
    if len(found) == len(documents):
        raise UserError(f"{data.path}: only_rollouts: none is a whole rollout of the student")
    return found


def _plan(lengths: npt.NDArray[np.integer]) -> Iterator[slice]:
    """Documents of each shard."""
    start = num_tokens = 0
    for number, length in enumerate(lengths.tolist()):
        num_tokens += length
        if num_tokens >= _SHARD_TOKENS or number == len(lengths) - 1:
            yield slice(start, number + 1)
            start, num_tokens = number + 1, 0


def _load(folder: Path, dtype: str) -> PreTrainedModel:
    try:
        model = auto_class(folder).from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no model to load ({error})") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval()


@torch.no_grad()
def top_of_document(
    model: PreTrainedModel, tokens: npt.NDArray[np.number], top_k: int, vocab_size: int
) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Ids and log-probs ``[tokens, k]`` of the distribution that each token was drawn from.

    Those of the first token are unknown.  Logits beyond the vocabulary are padding and left out.
    """
    ids, logprobs = _unknown(len(tokens), top_k)
    given = torch.from_numpy(tokens.astype(np.int64)).unsqueeze(0).to(model.device)
    hidden: Tensor = model.base_model(input_ids=given, use_cache=False).last_hidden_state[0]
    head = model.get_output_embeddings()
    for start in range(0, len(tokens) - 1, _LOGIT_TOKENS):
        end = min(start + _LOGIT_TOKENS, len(tokens) - 1)
        logits = head(hidden[start:end])[:, :vocab_size].float()
        best = logits.log_softmax(-1).topk(top_k)
        ids[start + 1 : end + 1] = best.indices.cpu().numpy()
        logprobs[start + 1 : end + 1] = best.values.cpu().numpy()
    return ids, logprobs


def _unknown(num_tokens: int, top_k: int) -> tuple[Ints, npt.NDArray[np.float32]]:
    shape = (num_tokens, top_k)
    return np.full(shape, UNKNOWN_ID, np.int64), np.full(shape, -np.inf, np.float32)


def _mean_mass(shards: list[Path], top_k: int) -> float:
    total = places = 0.0
    for shard in shards:
        values = np.fromfile(shard.with_suffix(f".{LOGPROBS}"), DTYPES[LOGPROBS]).reshape(-1, top_k)
        known = values[:, 0] > -np.inf
        total += float(np.exp(values[known].astype(np.float64)).sum())
        places += int(known.sum())
    return total / max(1.0, places)
