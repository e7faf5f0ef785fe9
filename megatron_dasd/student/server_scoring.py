"""The student's log-probs from servers that run its exported weights."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.engines.base import Engine, ScoringRequest
from megatron_dasd.engines.scoring_parts import ScoringJob, score_parts
from megatron_dasd.engines.server_engine import ServerEngine
from megatron_dasd.manifests import model_folder
from megatron_dasd.records import FilteredResponse, ScoredResponse
from megatron_dasd.records_io import SetAside, record_files
from megatron_dasd.student.scored import StudentReader, read_split
from megatron_dasd.text.chat import read_few_shot
from megatron_dasd.text.encoding import load_tokenizer


def run_on_servers(
    settings: ScoreStudent, inputs: Mapping[str, Path], folder: StageFolder
) -> dict[str, object]:
    """Score each input part into a part of its own."""
    assert settings.server is not None
    model = model_folder(inputs[settings.model])
    few_shot = read_few_shot(inputs[settings.few_shot] if settings.few_shot else None)
    reader = StudentReader(load_tokenizer(model), settings, few_shot)

    def jobs(file: Path, aside: SetAside) -> Iterator[ScoringJob[ScoredResponse]]:
        for record in read_split(file, settings, aside):
            prompt_ids, response_ids = reader.encode(record)
            yield ScoringJob(
                request=ScoringRequest(prompt_ids, response_ids),
                record=partial(_scored, record, response_ids),
                about=record,
            )

    def _scored(
        record: FilteredResponse, ids: list[int], logprobs: list[float], engine: Engine
    ) -> ScoredResponse:
        return reader.scored(record, ids, logprobs, engine.name)

    files: Sequence[Path] = record_files(inputs[settings.responses])
    score_parts(
        files,
        jobs,
        ScoredResponse,
        folder=folder,
        engine=ServerEngine(settings.server, model),
        on_malformed=settings.on_malformed,
        what="student scores",
    )
    return {}
