"""What every rank imports, imported once: the fork server of :mod:`.launch` preloads this.

Importing Megatron takes some eight seconds; a rank forked from a process that has done so starts in
a tenth of one.  For machines without a GPU alone: Megatron and its like ask for CUDA when they are
imported, and what is forked after that cannot use it.
"""

import signal
import warnings
from contextlib import suppress

from megatron_dasd.device import cpu_adapter

# A signal to stop may reach all processes of a job.  The ranks deal with it; this process, which
# reports their end, has to outlive them.
for _number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(_number, signal.SIG_IGN)

# Each import warns that Transformer Engine and apex are missing; without a GPU they always are.
warnings.filterwarnings("ignore", category=UserWarning, module="megatron")

# What fails here fails in a rank too, which reports it in one line; this process would end on it.
with suppress(Exception):
    if cpu_adapter.needed():
        cpu_adapter.install()

    import megatron.core.tokenizers.text
    import megatron.training
    import megatron.training.training  # noqa: F401
    import transformers  # noqa: F401
