#!/usr/bin/env python3
"""Train under torchrun or srun on Megatron's own flags; the architecture's come from the model.

torchrun --nproc-per-node 8 tools/pretrain_dasd.py --dasd-hf-model DIR --dasd-data DIR ...
"""

from megatron_dasd.training.by_hand import main

if __name__ == "__main__":
    main()
