"""Whether this machine has an NVIDIA GPU, asked without touching it.

``torch.cuda.is_available()`` starts CUDA's driver in the process that asks, and whatever is forked
from that process cannot use a GPU any more.  The driver's management library has no such effect.
"""

import ctypes
import os

_LIBRARY = "libnvidia-ml.so.1"


def in_sight() -> bool:
    """Whether there is a GPU that ``CUDA_VISIBLE_DEVICES`` does not hide."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return False
    try:
        library = ctypes.CDLL(_LIBRARY)
        if library.nvmlInit_v2() != 0:
            return False
    except (OSError, AttributeError):  # no driver here, or none that has this function
        return False
    count = ctypes.c_uint()
    found = library.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0 and count.value > 0
    library.nvmlShutdown()
    return found
