"""The modules that Megatron builds a model of, with the parameters that the real ones have."""

from typing import Any

import torch
from torch.nn import Parameter


class _Module(torch.nn.Module):
    """What the real ones share: a state of their own in every state dict, empty without FP8."""

    def get_extra_state(self) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None: ...


class Linear(_Module):
    def __init__(
        self, in_features: int, out_features: int, parallel_mode: str | None = None, **_: Any
    ) -> None:
        super().__init__()
        self.parallel_mode = parallel_mode
        self.weight = Parameter(torch.empty(out_features, in_features))


class LayerNormLinear(Linear):
    def __init__(self, in_features: int, out_features: int, **options: Any) -> None:
        super().__init__(in_features, out_features, **options)
        self.layer_norm_weight = Parameter(torch.empty(in_features))


class GroupedLinear(_Module):
    def __init__(self, num_gemms: int, in_features: int, out_features: int, **_: Any) -> None:
        super().__init__()
        self.num_gemms = num_gemms
        self.use_bias = self.fp8 = self.fp8_calibration = False
        self.fp8_meta = {"fp8_checkpoint": False}
        for index in range(num_gemms):
            self.register_parameter(
                f"weight{index}", Parameter(torch.empty(out_features, in_features))
            )


class RMSNorm(_Module):
    def __init__(self, normalized_shape: int, **_: Any) -> None:
        super().__init__()
        self.weight = Parameter(torch.empty(normalized_shape))


class LayerNorm(RMSNorm): ...


class DotProductAttention(_Module):
    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()
