"""Stage preprocess_data: responses to packed data, with the loss on the response.

::

    files ─► shards ─► workers: tokens, masks, companions of a shard each ─► concatenated, packed

Shards are cut by the input files alone and concatenated in their order, so the result is the same
byte for byte for any number of workers.  A shard exists only when it is complete, so a run that was
killed resumes after the shards that exist.

For mixed-policy data, off-policy responses are added (``mix``), drawn without replacement.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_dasd.arrays import Ints
from megatron_dasd.artifacts import StageFolder, tally_of, write_atomic
from megatron_dasd.config.data import PreprocessData
from megatron_dasd.data.groups import groups_of_documents
from megatron_dasd.data.indexed import DataFormat, write_data
from megatron_dasd.data.meta import (
    COMPANIONS,
    DATA,
    DOCUMENT_GROUPS,
    META,
    SEQUENCE_WEIGHTS,
    Document,
    read_meta,
)
from megatron_dasd.data.pieces import InputShard, plan_shards
from megatron_dasd.data.responses import IDENTITY, read_shard
from megatron_dasd.data.shards import ShardJob, is_done, make_shard, shard_path, skipped, tools
from megatron_dasd.data.tokenizer import read_vocab_size
from megatron_dasd.data.weights import sequence_weights
from megatron_dasd.errors import NothingLeftError, UserError
from megatron_dasd.json_values import Figures
from megatron_dasd.manifests import hashing_threads, model_folder
from megatron_dasd.printing import say
from megatron_dasd.progress import progress
from megatron_dasd.records_io import ignore_malformed, read_records
from megatron_dasd.seeds import derive_seed
from megatron_dasd.text.bulk import ExactnessError, choose_library
from megatron_dasd.text.layout import end_of_turn_id
from megatron_dasd.workers import Workers

_SHARDS = ".shards.tmp"
"""Deleted when the stage finishes, as everything that ends in ``.tmp``."""
_STRUCTURE = "dropped: structure"
_INEXACT = "inexact"
"""File in the folder of shards that exists once ``gigatoken`` was found to give wrong ids."""


def run(settings: PreprocessData, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write the packed data, and a record of every document beside it.

    Raises:
        NothingLeftError: no response is left to train on.
        UserError: a record is malformed.
    """
    if not _is_whole(folder):
        _Preprocessing(settings, inputs, folder).run()
    return asdict(read_meta(folder.path))


def _is_whole(folder: StageFolder) -> bool:
    """Whether the data exists, which is written last, and a record of every document."""
    if not (folder.path / DATA / META).exists():
        return False
    return _num_kept(folder) == read_meta(folder.path).num_documents


def _num_kept(folder: StageFolder) -> int:
    counts = folder.tally()
    names = ("kept", "earlier turns", "mix: kept", "mix: earlier turns")
    return sum(counts[name] for name in names)


class _Preprocessing:
    """One run of the stage."""

    def __init__(
        self, settings: PreprocessData, inputs: Mapping[str, Path], folder: StageFolder
    ) -> None:
        self._settings, self._folder = settings, folder
        self._responses = inputs[settings.responses]
        self._pool = inputs[settings.mix] if settings.mix else None
        self._shards = folder.path / _SHARDS
        self._shards.mkdir(exist_ok=True)
        model = model_folder(inputs[settings.model])
        tools.cache_clear()
        tokenizer = tools(model).tokenizer
        self._format = DataFormat(
            settings.seq_length,
            settings.pack_align,
            read_vocab_size(model),
            end_of_turn_id(tokenizer, settings.chat_template_kwargs),
            tuple(COMPANIONS),
        )
        library, reason = choose_library(tokenizer, tools(model).encoder_by)
        if (self._shards / _INEXACT).exists():
            library, reason = "tokenizers", (self._shards / _INEXACT).read_text()
        if reason:
            say(f"tokenising with tokenizers, not gigatoken: {reason}")
        self._template = ShardJob(
            0, (), settings, self._format, library, model, folder.path, self._shards
        )

    def run(self) -> None:
        """Make all shards and concatenate them."""
        try:
            shards = self._make_shards()
        except ExactnessError as error:
            self._give_up_gigatoken(str(error))
            shards = self._make_shards()
        if not _num_kept(self._folder):
            raise NothingLeftError(
                f"{self._responses}: no response left to train on ({self._what_took_all()})"
            )
        scratch = self._folder.scratch(DATA)
        if self._settings.reweight_tau is not None:
            np.save(scratch / SEQUENCE_WEIGHTS, self._weights(self._settings.reweight_tau))
        names, numbers = groups_of_documents(self._folder.path)
        np.save(scratch / DOCUMENT_GROUPS, numbers)
        write_data(scratch, shards, self._format, names)
        self._folder.commit(scratch)

    def _what_took_all(self) -> str:
        """Why nothing is left: the counts of this stage, or of the one that made its input."""
        counts = dict(self._folder.tally())
        if counts:
            return f"{counts}; split, temperature and seq_length decide"
        before = tally_of(self._responses)
        dropped = {name: n for name, n in before.items() if name.startswith("dropped: ")}
        if not dropped:
            return "the input holds none"
        hint = "; its setting thinking: null keeps plain answers" if _STRUCTURE in dropped else ""
        return f"the stage before dropped {dropped}{hint}"

    def _weights(self, tau: float) -> npt.NDArray[np.float32]:
        """[documents] The weight of each.

        Raises:
            UserError: the teacher's log-probs of a response are missing.
        """
        prompt_ids, logprobs = [], []
        for document in read_records(self._folder.path, Document):
            if document.mean_teacher_logprob is None:
                raise UserError(
                    f"{self._responses}: {document.name}: field tokens.logprobs: is empty; "
                    "reweight_tau needs the teacher's log-probs"
                )
            prompt_ids.append(str(document.prompt_id))
            logprobs.append(document.mean_teacher_logprob)
        return sequence_weights(prompt_ids, logprobs, tau)

    def _make_shards(self) -> list[Path]:
        """Make the missing shards; returns the folders of all, in order."""
        jobs = [
            replace(self._template, index=index, shard=shard)
            for index, shard in enumerate(plan_shards(self._responses))
        ]
        self._do(jobs, "tokenising")
        if self._pool:
            mixed = self._mix_jobs(self._pool, len(jobs), self._folder.tally()["kept"])
            self._do(mixed, "mixing in")
            jobs += mixed
        return [shard_path(self._shards, job.index) for job in jobs]

    def _do(self, jobs: Sequence[ShardJob], label: str) -> None:
        with hashing_threads() as threads:
            is_there = list(threads.map(is_done, jobs))
        missing = [job for job, there in zip(jobs, is_there, strict=True) if not there]
        num_tokens = 0
        done = len(jobs) - len(missing)
        with (
            Workers(self._settings.num_workers, len(missing)) as workers,
            progress(label, total=len(jobs), unit="shards", done=done) as bar,
        ):
            for more in workers.in_order(make_shard, missing):
                num_tokens += more
                bar.advance(1, note=f"{num_tokens:,} tokens")

    def _mix_jobs(self, pool: Path, first_index: int, num_kept: int) -> list[ShardJob]:
        """Jobs for the shards of the pool from which a response was drawn."""
        shards = plan_shards(pool)
        num_wanted = round(self._settings.mix_ratio * num_kept)
        drawn = [
            (shard, numbers)
            for shard, numbers in zip(shards, self._draw(shards, num_wanted), strict=True)
            if numbers.size
        ]
        jobs = [
            replace(self._template, index=index, shard=shard, drawn=numbers)
            for index, (shard, numbers) in enumerate(drawn, start=first_index)
        ]
        if jobs:
            jobs[0] = replace(jobs[0], counts=Counter({"mix: wanted": num_wanted}))
        return jobs

    def _draw(self, shards: Sequence[InputShard], num_wanted: int) -> list[Ints]:
        """Draw ``num_wanted`` responses, or all if there are fewer; their numbers by shard.

        A response's place in the draw is a hash of its key, so responses added to the pool do not
        change the order of the others.
        """
        places, numbers, sizes = array("q"), array("q"), []
        with progress("drawing", total=len(shards), unit="shards") as bar:
            for shard in shards:
                before = len(places)
                for number, place in self._places(shard):
                    places.append(place)
                    numbers.append(number)
                sizes.append(len(places) - before)
                bar.advance(1)
        drawn = np.zeros(len(places), dtype=np.bool_)
        drawn[np.argsort(np.asarray(places), kind="stable")[:num_wanted]] = True
        ends = np.cumsum(sizes)[:-1]
        return [
            own[chosen]
            for own, chosen in zip(
                np.split(np.asarray(numbers), ends), np.split(drawn, ends), strict=True
            )
        ]

    def _places(self, shard: InputShard) -> Iterator[tuple[int, int]]:
        """Number in the shard and place in the draw of every response that is not skipped."""
        first = 0
        # making the shard reports malformed records
        for batch in read_shard(shard, IDENTITY, ignore_malformed):
            for row, reason in enumerate(skipped(batch, self._settings)):
                if not reason:
                    prompt_id = batch.prompts[row].prompt_id
                    what = prompt_id, batch.temperature(row), batch.candidate(row)
                    yield first + row, derive_seed(self._settings.seed, "mix", *what)
            first += len(batch.prompts)

    def _give_up_gigatoken(self, reason: str) -> None:
        """Start again with ``tokenizers``: the shards made so far may have wrong ids."""
        say(f"starting again with tokenizers, not gigatoken: {reason}")
        write_atomic(self._shards / _INEXACT, reason.encode())
        self._folder.delete_parts()
        self._template = replace(self._template, library="tokenizers")
