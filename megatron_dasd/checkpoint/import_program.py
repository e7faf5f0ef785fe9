"""One-rank program of stage import_hf.  Payload: model, save, dtype."""

from pathlib import Path
from typing import Any

from megatron_dasd.config.base import Launch
from megatron_dasd.device.launch import run_program
from megatron_dasd.models.architecture import read_architecture
from megatron_dasd.models.program import common_flags, load_model


def main(payload: dict[str, Any]) -> None:
    """Build the model, fill it, save it."""
    folder = Path(payload["model"])
    architecture = read_architecture(folder)
    flags = common_flags(architecture, Launch(), seq_length=1, dtype=payload["dtype"])
    flags |= {"save": payload["save"], "save-interval": 1}
    flags |= {"no-save-optim": True, "no-save-rng": True}
    (model,) = load_model(flags, checkpoint=None)
    # after start-up: these modules take their device from the adapter
    from megatron.core.utils import unwrap_model
    from megatron.training.checkpointing import save_checkpoint

    from megatron_dasd.checkpoint.convert import load_hf

    load_hf(unwrap_model(model), folder, architecture)
    save_checkpoint(0, [model], None, None, num_floating_point_operations_so_far=0)


if __name__ == "__main__":
    run_program(main)
