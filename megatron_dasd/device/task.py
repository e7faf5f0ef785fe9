"""One rank of a program as a task of a Slurm step, from which it takes its rank.

``python -m megatron_dasd.device.task MODULE PAYLOAD``; see ``device.srun``.
"""

import os
import sys

from megatron_dasd.device.launch import end_on_signals, run_module


def main() -> None:
    """Run the module's ``main`` with the payload."""
    end_on_signals()
    module = sys.argv.pop(1)
    task = os.environ
    num_ranks, num_nodes = int(task["SLURM_NTASKS"]), int(task["SLURM_STEP_NUM_NODES"])
    task.update(
        RANK=task["SLURM_PROCID"],
        LOCAL_RANK=task["SLURM_LOCALID"],
        WORLD_SIZE=str(num_ranks),
        LOCAL_WORLD_SIZE=str(num_ranks // num_nodes),
    )
    run_module(module)


if __name__ == "__main__":
    main()
