"""A gathering pass of one rank: an interim checkpoint, written again so that any layout loads it.

Runs in the layout that wrote the checkpoint.  The distributed optimizer's state is gathered through
the memory of the hosts, see ``planning.host_memory``.
"""

from megatron_dasd.checkpoint.artifact import open_loaded
from megatron_dasd.checkpoint.pickles import allow_extra_states
from megatron_dasd.device.launch import run_program
from megatron_dasd.models.program import parse_argv, to_argv
from megatron_dasd.training.job import TrainingJob


def main(job: TrainingJob) -> None:
    """Load the newest checkpoint of the flag ``load`` and write it into the folder ``save``."""
    args = parse_argv(to_argv(job.flags))
    open_loaded(args.load, None, None)
    allow_extra_states()  # it was looked through just now
    # after start-up: these modules take their device from the adapter
    from megatron.core.enums import ModelType
    from megatron.training.argument_utils import pretrain_cfg_container_from_args
    from megatron.training.checkpointing import save_checkpoint
    from megatron.training.initialize import initialize_megatron
    from megatron.training.training import setup_model_and_optimizer

    from megatron_dasd.device import adamw
    from megatron_dasd.models.provider import model_provider
    from megatron_dasd.precision.emulation import with_precision
    from megatron_dasd.precision.numerics import Numerics

    adamw.mend()
    initialize_megatron()
    model, optimizer, scheduler = setup_model_and_optimizer(
        ModelType.encoder_or_decoder,
        with_precision(args, model_provider, Numerics()),
        cfg_container=pretrain_cfg_container_from_args(args),
    )
    save_checkpoint(
        args.iteration,
        model,
        optimizer,
        scheduler,
        args.num_floating_point_operations_so_far,
    )


if __name__ == "__main__":
    run_program(main)
