"""The gathering pass that a training stage makes before it goes on under another layout."""

from pathlib import Path

from megatron_dasd.checkpoint import interim, tracker
from megatron_dasd.checkpoint.artifact import CHECKPOINT_FOLDER
from megatron_dasd.checkpoint.seal import write_seal
from megatron_dasd.config.base import Launch
from megatron_dasd.device.launch import launch as start
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import LOGS
from megatron_dasd.models.architecture import Flags
from megatron_dasd.models.program import layout_flags
from megatron_dasd.printing import say
from megatron_dasd.training.job import TrainingJob


def gather_if_needed(job: TrainingJob, launch: Launch, stage: Path, iteration: int) -> None:
    """Make sure that a stage's newest checkpoint loads under a layout.

    Args:
        job: the training that is going to load it.
        launch: its layout.
        stage: the stage's folder.
        iteration: of the checkpoint; 0: there is none.

    Raises:
        UserError: the layout that wrote it needs more ranks than there are, or a rank failed.
        Stopped: by a signal; the next call starts over.
    """
    saves = stage / CHECKPOINT_FOLDER
    folder = tracker.checkpoint_folder(saves, iteration)
    written = interim.layout_of(folder)
    if written is None or not interim.needs_gathering(written, launch):
        return
    old = interim.gathering_launch(written, launch.num_ranks)
    if old is None:
        raise UserError(
            f"{folder} was saved by {written.num_ranks} ranks, tensor_parallel "
            f"{written.tensor_parallel}, pipeline_parallel {written.pipeline_parallel}, "
            f"expert_parallel {written.expert_parallel}, and {launch.num_ranks} ranks cannot hold "
            "that layout, which is needed once to go on under another; go on with it, and stop the "
            "run by SIGTERM: what it then saves loads under any layout"
        )
    say(
        f"    checkpoint of iteration {iteration} is gathered on {old.num_ranks} ranks for another "
        "layout"
    )
    gathered = saves / interim.GATHERED
    start(
        "megatron_dasd.training.gather_program",
        job.model_copy(update={"flags": job.flags | _flags(job, old, written, gathered)}),
        old.num_ranks,
        stage / LOGS / interim.GATHERED,
    )
    write_seal(tracker.checkpoint_folder(gathered, iteration))
    interim.adopt_gathered(saves)


def _flags(job: TrainingJob, old: Launch, written: Launch, gathered: Path) -> Flags:
    """What the pass needs of Megatron beside the training's own flags."""
    seq_length, bf16 = job.flags["seq-length"], job.flags["bf16"]
    assert isinstance(seq_length, int)
    return {
        **layout_flags(old, seq_length, "bfloat16" if bf16 else "float32"),
        "use-distributed-optimizer": True,
        "overlap-param-gather": True,
        # The buckets of the ranks that wrote it, on however many there are now.
        "ddp-bucket-size": interim.bucket_size(written),
        "dist-ckpt-optim-fully-reshardable": True,
        "save": str(gathered),
        "async-save": False,
        # No step is made: as many rows as ranks, and the checkpoint's own schedule.
        "global-batch-size": old.num_ranks // (old.tensor_parallel * old.pipeline_parallel),
        "use-checkpoint-opt_param-scheduler": True,
    }
