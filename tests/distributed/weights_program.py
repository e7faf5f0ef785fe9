"""Makes one step with the gradients given, and exports the weights behind it, twice."""

import torch

from megatron_dasd.models.program import parse_argv, to_argv
from megatron_dasd.training.job import TrainingJob


def main(job: TrainingJob) -> None:
    """Export at once, and again when all ranks have been given the step's weights."""
    args = parse_argv(to_argv(job.flags))
    from megatron.core.enums import ModelType
    from megatron.training.argument_utils import pretrain_cfg_container_from_args
    from megatron.training.initialize import initialize_megatron
    from megatron.training.training import force_param_sync, setup_model_and_optimizer

    from megatron_dasd.models.provider import model_provider
    from megatron_dasd.training.on_policy import save_weights

    initialize_megatron()
    model, optimizer, _scheduler = setup_model_and_optimizer(
        ModelType.encoder_or_decoder,
        model_provider,
        cfg_container=pretrain_cfg_container_from_args(args),
    )
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for parameter in model[0].parameters():
        parameter.main_grad.fill_(1.0)
    optimizer.step()
    assert job.metrics is not None
    folder = job.metrics / "weights"  # one for both: a checkpoint holds its path
    for name in ("at once", "gathered"):
        save_weights(folder, 1, model)
        torch.distributed.barrier()
        if args.rank == 0:
            (folder / "iter_0000001").rename(job.metrics / name)
        torch.distributed.barrier()
        force_param_sync(model)
