"""Whether a stage can read the files and folders that it is given, before any stage runs."""

from dataclasses import is_dataclass
from itertools import islice
from pathlib import Path

from megatron_dasd.config.base import Settings
from megatron_dasd.config.connections import check_readable, named_references, what_it_reads
from megatron_dasd.config.formats import UserFiles
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.config.stages import stage_kinds
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import read_manifest
from megatron_dasd.records_io import numbered_rows, parse_rows, record_files


def check_given(pipeline: Pipeline, stage: str) -> None:
    """Check the kinds of other runs' stages, and the first record of each of the user's files.

    Raises:
        UserError: a file or folder is not what the stage reads.
    """
    try:
        _check(pipeline, pipeline.stages[stage])
    except UserError as error:
        raise type(error)(f"stage {stage}: {error}") from None


def _check(pipeline: Pipeline, settings: Settings) -> None:
    made = {}
    for setting, reference in named_references(settings):
        if reference in pipeline.stages:
            continue  # checked when the pipeline file was read
        path = pipeline.resolve(reference)
        manifest = read_manifest(path)
        reads = settings.stage.reads.get(setting)
        if manifest and manifest.kind in stage_kinds():
            made[reference] = (manifest.kind, stage_kinds()[manifest.kind].stage.makes)
        elif isinstance(reads, type) and is_dataclass(reads) and path.exists():
            if isinstance(settings, UserFiles) or getattr(settings, "on_malformed", "") != "stop":
                continue  # its files have a form of their own, or bad records are set aside
            _check_first(path, reads, what_it_reads(settings, setting))
    check_readable("", settings, made)


def _check_first(path: Path, record_type: type, reads: str) -> None:
    def stop(reason: str, record: str) -> None:
        raise UserError(f"{reason}; {reads}")

    file = record_files(path)[0]
    for _ in parse_rows(file, islice(numbered_rows(file), 1), record_type, stop):
        pass
