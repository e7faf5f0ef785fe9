"""Values that a training's settings and the flags of ``tools/pretrain_dasd.py`` choose from.

Nothing is imported here, so that ``--help`` shows them at once.
"""

from typing import Literal

Precision = Literal["fp32", "bf16", "fp8-blockwise", "fp8-tensorwise", "fp8-delayed"]
Loader = Literal["torch", "dali"]
LossGradients = Literal["backward", "forward"]
Normalisation = Literal["token", "sequence"]
"""See ``losses.cross_entropy``."""
Divergence = Literal["forward_kl", "reverse_kl", "jensen_shannon", "skew_kl", "total_variation"]
"""See ``losses.divergences``."""
