"""Megatron's distributed optimizer over torch's AdamW, patched so that a run resumes exactly.

Megatron falls back to torch's AdamW where neither apex nor Transformer Engine is installed.  The
distributed optimizer (0.19) then cannot be loaded: it reads the count of steps before there is
a state; it copies into parameters that require gradients; and it lets all parameters share one
tensor of steps, which each of them advances, so that the resumed run is wrong.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Protocol

import torch
from torch import Tensor


class _Distributed(Protocol):
    """Megatron's distributed optimizer, the part that is patched."""

    optimizer: torch.optim.Optimizer


_KNOWN = {
    "state_dict": ["self"],
    "load_state_dict": ["self", "state_dict"],
    "_set_main_param_and_optimizer_states": ["self", "model_param", "tensors"],
}
_done: list[bool] = []


def mend() -> None:
    """Wrap what is wrong, once; nothing is done where apex or Transformer Engine is there.

    Raises:
        RuntimeError: Megatron's functions are not the ones known here.
    """
    from megatron.core.optimizer import distrib_optimizer

    if _done or distrib_optimizer.HAVE_APEX_OR_TE:
        return
    optimizer = distrib_optimizer.DistributedOptimizer
    for name, known in _KNOWN.items():
        found = list(inspect.signature(getattr(optimizer, name)).parameters)
        if found != known:
            raise RuntimeError(f"megatron's DistributedOptimizer.{name} has the arguments {found}")
    optimizer.state_dict = _with_state(optimizer.state_dict)
    optimizer.load_state_dict = _with_own_steps(optimizer.load_state_dict)
    optimizer._set_main_param_and_optimizer_states = _without_gradient(
        optimizer._set_main_param_and_optimizer_states
    )
    _done.append(True)


def _with_state[R](state_dict: Callable[[_Distributed], R]) -> Callable[[_Distributed], R]:
    """Before the first step the state is that of no steps, as AdamW would make it."""

    @wraps(state_dict)
    def wrapped(self: _Distributed) -> R:
        if not self.optimizer.state:
            for group in self.optimizer.param_groups:
                for parameter in group["params"]:
                    self.optimizer.state[parameter] = {
                        "step": torch.tensor(0.0),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": torch.zeros_like(parameter),
                    }
        return state_dict(self)

    return wrapped


def _with_own_steps(
    load_state_dict: Callable[[_Distributed, object], None],
) -> Callable[[_Distributed, object], None]:
    """Every parameter counts its own steps."""

    @wraps(load_state_dict)
    def wrapped(self: _Distributed, state_dict: object) -> None:
        load_state_dict(self, state_dict)
        for state in self.optimizer.state.values():
            state["step"] = state["step"].clone()

    return wrapped


def _without_gradient(set_states: Callable[..., None]) -> Callable[..., None]:
    """Copies are no part of any graph; steps come with the groups, not with the tensors.

    What a ``dp_reshardable`` checkpoint gives as a tensor's step is that of before the load.
    """

    @wraps(set_states)
    def wrapped(self: object, model_param: Tensor, tensors: dict[str, object]) -> None:
        with torch.no_grad():
            set_states(self, model_param, {**tensors, "step": None})

    return wrapped
