"""Stage score_student: student log-probs of every response token."""

from collections.abc import Mapping
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint.artifact import open_checkpoint
from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.device.launch import launch
from megatron_dasd.manifests import LOGS, model_folder
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.models.hf_flags import check_launch
from megatron_dasd.progress import progress
from megatron_dasd.records_io import record_files
from megatron_dasd.student.payload import ScoringPayload
from megatron_dasd.student.server_scoring import run_on_servers


def run(
    settings: ScoreStudent, inputs: Mapping[str, Path], folder: StageFolder
) -> dict[str, object]:
    """Score each input part into a part of its own; the data-parallel ranks share the parts."""
    if settings.checkpoint is None:
        return run_on_servers(settings, inputs, folder)
    parts = record_files(inputs[settings.responses])
    missing = [index for index in range(len(parts)) if not folder.has_part(index)]
    if not missing:
        return {}
    done = len(parts) - len(missing)
    with progress(folder.path.name, total=len(parts), unit="parts", done=done) as bar:
        shown = done

        def show() -> None:
            nonlocal shown
            now = sum(folder.has_part(index) for index in range(len(parts)))
            bar.advance(now - shown)
            shown = now

        model = model_folder(inputs[settings.model])
        check_launch(read_architecture(model), settings.launch)
        launch(
            "megatron_dasd.student.scoring_program",
            ScoringPayload(
                settings=settings,
                responses=inputs[settings.responses],
                few_shot=inputs[settings.few_shot] if settings.few_shot else None,
                model=model,
                checkpoint=open_checkpoint(inputs[settings.checkpoint]).folder,
                out=folder.path,
                parts=missing,
            ),
            settings.launch.num_ranks,
            folder.path / LOGS,
            on_poll=show,
        )
    return {}
