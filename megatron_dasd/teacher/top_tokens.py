"""Stage score_topk: the teacher's likeliest tokens at every position of packed data.

For teachers that share the student's tokenizer: through ``transformers`` in this process, one
forward pass a document, or behind servers.  A shard of documents exists only when it is complete,
so a run that was killed resumes after the shards that exist.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.teacher import ScoreTopk
from megatron_dasd.data.meta import DATA, META, TOKENS, Document
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.data.teacher_top import (
    TopMeta,
    documents_digest,
    unknown_top,
    write_top,
)
from megatron_dasd.engines.base import no_teacher
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures, checked_as
from megatron_dasd.manifests import model_folder
from megatron_dasd.printing import say
from megatron_dasd.progress import progress
from megatron_dasd.records_io import read_records
from megatron_dasd.teacher.top_model import load_teacher, top_of_document
from megatron_dasd.teacher.top_shards import (
    ShardBuilder,
    made_shards,
    plan_shards,
    total_facts,
)
from megatron_dasd.teacher.top_work import NOT_ASKED, TopWork
from megatron_dasd.text.encoding import load_tokenizer

_SHARDS = ".shards.tmp"
"""Deleted when the stage finishes, as everything that ends in ``.tmp``."""


def run(settings: ScoreTopk, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write the companions of the data.

    Raises:
        UserError: a teacher has another tokenizer than the student or is no such model, or a
            domain of the data has no teacher.
    """
    data = PackedDataset(inputs[settings.data])
    meta_file = folder.path / DATA / META
    figures: Figures = {"num_documents": data.meta.num_documents, "top_k": settings.top_k}
    if not meta_file.exists():
        shards = _all_shards(settings, inputs, folder, data)
        facts = total_facts(shards)
        if facts.faults:
            figures["faults"] = dict(facts.faults)
        scratch = folder.scratch(DATA)
        meta = TopMeta(
            top_k=settings.top_k,
            documents=documents_digest(inputs[settings.data]),
            mean_mass=facts.mean_mass,
            teachers=facts.teachers,
            unscored=dict(facts.unscored),
        )
        write_top(scratch, shards, np.concatenate(facts.sizes), meta)
        folder.commit(scratch)
    meta = checked_as(TopMeta, meta_file.read_bytes())
    if meta.unscored:
        figures["unscored"] = meta.unscored
        reasons = ", ".join(f"{count} x {kind}" for kind, count in meta.unscored.items())
        say(f"    documents without the teacher's tokens: {reasons}")
    return figures


def _all_shards(
    settings: ScoreTopk, inputs: Mapping[str, Path], folder: StageFolder, data: PackedDataset
) -> list[Path]:
    """Make the missing shards; returns all in order."""
    student = model_folder(inputs[settings.model])
    teachers = {
        domain: model_folder(inputs[name]) for domain, name in settings.teacher_folders.items()
    }
    for teacher in dict.fromkeys(teachers.values()):
        _check_tokenizers(teacher, student)
    if settings.top_k >= data.meta.vocab_size:
        raise UserError(
            f"top_k {settings.top_k}: the vocabulary has {data.meta.vocab_size} tokens only"
        )
    asked = _asked(data, settings, list(teachers))
    shard_folder = folder.path / _SHARDS
    shard_folder.mkdir(exist_ok=True)
    lengths = data.datasets[TOKENS].sequence_lengths
    plan = list(plan_shards(lengths))
    shards = [shard_folder / f"{index:06d}.top" for index in range(len(plan))]
    made = made_shards(shards)
    missing = [
        pair for pair, done in zip(zip(shards, plan, strict=True), made, strict=True) if not done
    ]
    if missing:
        num_missing = sum(int(lengths[documents].sum()) for _, documents in missing)
        num_tokens = int(lengths.sum())
        _score(
            TopWork(settings, teachers, data, asked, missing, num_tokens, num_tokens - num_missing)
        )
    return shards


def _check_tokenizers(teacher: Path, student: Path) -> None:
    ours, theirs = (load_tokenizer(folder).get_vocab() for folder in (student, teacher))
    if ours != theirs:
        differing = min(ours.items() ^ theirs.items())[0]
        raise UserError(
            f"{teacher}: its tokenizer is not that of {student} (they differ in {differing!r}); "
            "token-level distillation needs a teacher that shares the tokenizer"
        )


def _asked(data: PackedDataset, settings: ScoreTopk, domains: list[str]) -> npt.NDArray[np.int16]:
    """[documents] The number of the teacher that is asked about each; -1: none is.

    Raises:
        UserError: ``only_rollouts``, and no document is a whole rollout of the student, so there
            would be nothing to distil from; or a document's domain has no teacher.
    """
    asked = np.zeros(data.meta.num_documents, np.int16)
    if not settings.only_rollouts and not settings.teachers:
        return asked
    for number, document in enumerate(read_records(data.path, Document)):
        if settings.teachers:
            domain = document.domain or "unknown"
            if domain not in settings.teachers:
                raise UserError(no_teacher(f"{data.path}: document {number}", domain, domains))
            asked[number] = domains.index(domain)
        # only the end-of-turn token may follow what the student wrote
        if settings.only_rollouts and (
            not document.num_prefix_tokens
            or document.num_loss_tokens > document.num_prefix_tokens + 1
        ):
            asked[number] = NOT_ASKED
    if (asked == NOT_ASKED).all():
        raise UserError(f"{data.path}: only_rollouts: none is a whole rollout of the student")
    return asked


def _score(work: TopWork) -> None:
    """Write the missing shards."""
    if not work.settings.needs_gpus:
        # without servers no HTTP client is imported
        from megatron_dasd.teacher.top_servers import score_by_servers

        score_by_servers(work)
        return
    settings, data = work.settings, work.data
    (folder,) = work.teachers.values()
    model = load_teacher(folder, settings.dtype)
    with progress("scoring", total=work.num_tokens, unit="tokens", done=work.num_done) as bar:
        for shard, documents in work.missing:
            builder = ShardBuilder(shard)
            for number in range(documents.start, documents.stop):
                tokens = data.document(number)[TOKENS]
                if work.asked[number] == NOT_ASKED:
                    builder.add(*unknown_top(len(tokens), settings.top_k))
                else:
                    shape = settings.top_k, data.meta.vocab_size
                    builder.add(*top_of_document(model, tokens, *shape))
                bar.advance(len(tokens))
            builder.write(teachers={"": folder.name})
