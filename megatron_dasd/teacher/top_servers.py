"""The teachers' likeliest tokens from servers, written shard by shard as the answers come."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megatron_dasd.data.meta import TOKENS
from megatron_dasd.data.teacher_top import unknown_top
from megatron_dasd.data.tokenizer import read_vocab_size
from megatron_dasd.engines.base import Failure, TopRequest
from megatron_dasd.engines.panel import TopPanel
from megatron_dasd.engines.parts import BarMeter
from megatron_dasd.engines.top_answers import Top, Vocabulary
from megatron_dasd.engines.top_engine import Room, TopEngine
from megatron_dasd.errors import UserError
from megatron_dasd.progress import progress
from megatron_dasd.teacher.top_shards import ShardBuilder
from megatron_dasd.teacher.top_work import NOT_ASKED, TopWork

_VALUE_BYTES = 8
"""Of one token at one place: an id and a log-prob."""


class _TokenMeter(BarMeter):
    """Counts tokens on the bar, where other stages count records."""

    def ended(self, num_tokens: int) -> None:
        """One document has ended."""
        self.num_tokens += num_tokens
        self.bar.advance(num_tokens, note=self._note())


def score_by_servers(work: TopWork) -> None:
    """Write the missing shards.

    Half of ``memory_mib`` is for answers in flight, half for those that wait for the rest of their
    shard.

    Raises:
        UserError: a document's answer would not fit into it, or the servers cannot do this work.
    """
    settings, data = work.settings, work.data
    half = settings.memory_mib << 19
    panel = _panel(work, Room(half))
    lengths = data.datasets[TOKENS].sequence_lengths
    longest = int(np.argmax(np.where(work.asked == NOT_ASKED, 0, lengths)))
    _require_room(work, panel, longest, half)
    largest = max(int(lengths[documents].sum()) for _, documents in work.missing)
    max_open = max(2, half // (largest * settings.top_k * _VALUE_BYTES))
    domains = list(work.teachers)

    def batches() -> Iterator[tuple[int, list[TopRequest]]]:
        for index, (_, documents) in enumerate(work.missing):
            yield (
                index,
                [
                    TopRequest(data.document(number)[TOKENS], domains[work.asked[number]])
                    for number in range(documents.start, documents.stop)
                    if work.asked[number] != NOT_ASKED
                ],
            )

    with progress("scoring", total=work.num_tokens, unit="tokens", done=work.num_done) as bar:
        meter = _TokenMeter(bar)
        for index, answers in panel.top(batches(), meter, max_open):
            _write(work, *work.missing[index], answers, panel, meter)


def _panel(work: TopWork, room: Room) -> TopPanel:
    settings = work.settings
    engines = {}
    for domain, folder in work.teachers.items():
        sizes = Vocabulary(
            student=work.data.meta.vocab_size,
            teacher=max(read_vocab_size(folder), work.data.meta.vocab_size),
        )
        server = settings.servers[domain]
        engines[domain] = TopEngine(server, folder, settings.top_k, sizes, room)
    return TopPanel(engines)


def _require_room(work: TopWork, panel: TopPanel, number: int, size: int) -> None:
    """Make sure that the longest document's answer fits."""
    num_tokens = int(work.data.datasets[TOKENS].sequence_lengths[number])
    needed = max(engine.answer_bytes(num_tokens) for engine in panel.engines.values())
    if needed > size:
        raise UserError(
            f"{work.data.path}: document {number} has {num_tokens} tokens: one answer with "
            f"top_k {work.settings.top_k} may take {needed >> 20} MiB, and memory_mib "
            f"{work.settings.memory_mib} leaves {size >> 20}; set memory_mib to at least "
            f"{2 * (1 + (needed >> 20))}, or use SGLang, which answers by parts"
        )


def _write(
    work: TopWork,
    shard: Path,
    documents: slice,
    answers: list[Top | Failure],
    panel: TopPanel,
    meter: _TokenMeter,
) -> None:
    """Write a shard; the documents that no server answered well for are unknown, and counted."""
    top_k, lengths = work.settings.top_k, work.data.datasets[TOKENS].sequence_lengths
    builder, given = ShardBuilder(shard), iter(answers)
    unscored: dict[str, int] = {}
    for number in range(documents.start, documents.stop):
        ids, logprobs = unknown_top(int(lengths[number]), top_k)
        if work.asked[number] == NOT_ASKED:
            meter.bar.advance(len(ids))
        else:
            answer = next(given)
            if isinstance(answer, Failure):
                reason = f"server: {answer.kind}"
                unscored[reason] = unscored.get(reason, 0) + 1
            else:
                ids[1:], logprobs[1:] = answer.ids, answer.logprobs
        builder.add(ids, logprobs)
    names = {domain: engine.servers.name for domain, engine in panel.engines.items()}
    builder.write(unscored, meter.take_faults(), {d: name for d, name in names.items() if name})
