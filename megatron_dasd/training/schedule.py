"""A schedule of learning rate and weight decay, compared with a checkpoint's before ranks meet."""

import warnings
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

from megatron_dasd.errors import UserError

_REFUSAL = "OptimizerParamScheduler: class input value"
"""How Megatron begins to say what differs."""


def check_schedule(args: Namespace, weights: Path) -> None:
    """Let Megatron compare its flags with the schedule in a checkpoint to go on from.

    It would do so itself once all ranks have met and the model is loaded.

    Args:
        args: Megatron's, as its ``get_args()`` gives them too.
        weights: folder of an iteration whose pickles were inspected.

    Raises:
        UserError: they differ.
    """
    if args.finetune or args.no_load_optim:
        return
    from megatron.core.dist_checkpointing import load_common_state_dict
    from megatron.training.training import get_optimizer_param_scheduler

    with warnings.catch_warnings(action="ignore", category=UserWarning):
        # torch says that it loads without the other ranks, as it should
        saved = load_common_state_dict(str(weights)).get("opt_param_scheduler")
    if saved is None:
        return
    try:
        get_optimizer_param_scheduler(SimpleNamespace(param_groups=[])).load_state_dict(saved)
    except AssertionError as error:
        said = " ".join(
            str(error).removeprefix(_REFUSAL).replace("checkpointvalue", "checkpoint value").split()
        )
        raise UserError(
            f"{weights}: the checkpoint to go on from has another schedule (this command {said}); "
            "give the same --train-iters and --lr-..., or --override-opt_param-scheduler to take "
            "this command's"
        ) from None
