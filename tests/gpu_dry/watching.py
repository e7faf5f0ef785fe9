"""What is seen of a program while a rank of it is played; :mod:`.programs` plays it."""

import sys
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from functools import wraps
from typing import Any

from packaging.version import Version

from megatron_dasd.models.attention_backend import AttentionShape, name_of, question
from tests.gpu_dry import h100, host_reads, kernels, on_meta, seen
from tests.gpu_dry.case import Result


def replace(module: types.ModuleType, name: str, value: object) -> None:
    """Put a value in place of something that a module has already."""
    assert hasattr(module, name) or name == "fused_weight_gradient_mlp_cuda", name
    setattr(module, name, value)


def bring_apex() -> None:
    """Let apex's fused kernel for the weights' gradients be there."""
    from megatron.core.tensor_parallel import layers

    kernel = types.ModuleType("fused_weight_gradient_mlp_cuda")
    kernel.wgrad_gemm_accum_fp32 = kernels.weight_gradient
    kernel.wgrad_gemm_accum_fp16 = kernels.weight_gradient
    sys.modules[kernel.__name__] = kernel
    replace(layers, kernel.__name__, kernel)
    replace(layers, "_grad_accum_fusion_available", True)


def watch_model(result: Result) -> None:
    """Note what the backward pass left without a gradient, before the optimizer's step."""
    from megatron.training import training

    set_up = training.setup_model_and_optimizer
    without: set[str] = set()

    def watched(*args: object, **kwargs: object) -> object:
        model, optimizer, scheduler = set_up(*args, **kwargs)
        for number, chunk in enumerate(model):
            for name, parameter in chunk.named_parameters():
                result.num_parameters += parameter.numel()
                without.add(f"{number}.{name}")
                parameter.register_post_accumulate_grad_hook(
                    lambda _, name=f"{number}.{name}": without.discard(name)
                )
        step = optimizer.step

        def noted(*step_args: object, **step_kwargs: object) -> object:
            result.without_gradient = sorted(without)
            return step(*step_args, **step_kwargs)

        optimizer.step = noted
        for chunk in model:
            names = [type(module).__name__ for module in chunk.modules()]
            for name, count in Counter(names).items():
                result.modules[name] = result.modules.get(name, 0) + count
        return model, optimizer, scheduler

    replace(training, "setup_model_and_optimizer", watched)


def watch_backends(result: Result) -> None:
    """Note what Transformer Engine is asked for an attention kernel, and what it chooses.

    The same question is asked once more for each version of FlashAttention, as if it were there.
    """
    try:
        from transformer_engine.pytorch.attention.dot_product_attention import utils
    except ImportError:  # a player without it
        return
    choose = utils.get_attention_backend

    def watched(params: Any) -> object:
        answer = choose(params)
        found: dict[str, object] = {"chosen": name_of(answer)}
        for version in ("2", "3"):
            with _flash_attention(utils.FlashAttentionUtils, version):
                left = choose(params)[5]
                found[f"left with FlashAttention {version}"] = [bool(kernel) for kernel in left]
        shape = AttentionShape(
            params.num_heads,
            params.num_gqa_groups,
            params.head_dim_qk,
            params.num_tokens_q,
            params.cp_size,
        )
        ours = question(shape)
        names = [field.name for field in fields(params)]
        other = sorted(n for n in names if getattr(params, n) != getattr(ours, n))
        asked = {"pad_between_seqs": params.pad_between_seqs, "other": other}
        result.backends.append(asdict(shape) | asked | found)
        return answer

    replace(utils, "get_attention_backend", watched)


@contextmanager
def _flash_attention(known: Any, version: str) -> Iterator[None]:
    """Let a version of FlashAttention be installed, as far as the choice looks."""
    flags = {
        "2": {"is_installed": True, "version": Version("2.8.3")},
        "3": {"v3_is_installed": True, "fa3_version": Version("3.0.0b1"), "use_v3": True},
    }[version]
    before = {name: getattr(known, name) for name in flags}
    for name, value in flags.items():
        setattr(known, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(known, name, value)


def leave_out_saves() -> None:
    """Let training save nothing."""
    from megatron.training import training

    @wraps(training.save_checkpoint_and_time)
    def saved(*_: object, **__: object) -> None: ...

    replace(training, "save_checkpoint_and_time", saved)


def leave_out_worker() -> None:
    """Let no process be started that would write checkpoints."""
    from megatron.training import initialize

    replace(initialize, "init_persistent_async_worker", lambda *_: None)


def watch_checkpoints(result: Result) -> None:
    """Note the keys that are loaded and saved; neither is done."""
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace
    from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest

    def load(state: dict[str, object], folder: str, *_: object, **__: object) -> object:
        result.loaded += keys(state)
        common = dist_checkpointing.load_common_state_dict(folder)
        model = {name: dict_list_map_outplace(_data, part) for name, part in state.items()}
        return common | model

    def save(state: object, *_: object, **given: object) -> AsyncRequest | None:
        result.saved += keys(state)
        return AsyncRequest(None, (), []) if given["async_sharded_save"] else None

    replace(dist_checkpointing, "load", load)
    replace(dist_checkpointing, "save", save)


def _data(entry: object) -> object:
    """What a checkpoint would give for an entry: a tensor of its shape."""
    return getattr(entry, "data", entry)


def keys(state: object) -> list[str]:
    """Keys of the sharded objects in a state dict, and keys and whole shapes of the tensors."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import (
        ShardedObject,
        ShardedTensor,
        ShardedTensorFactory,
    )

    found = set()
    for value in nested_values(state):
        built = value.build() if isinstance(value, ShardedTensorFactory) else value
        for entry in nested_values({"": built}):
            if isinstance(entry, ShardedTensor):
                found.add(f"{entry.key} {list(entry.global_shape)}")
            elif isinstance(entry, ShardedObject):
                found.add(entry.unique_key)
    return sorted(found)


def note_arguments(result: Result) -> None:
    """Megatron's, where a program came that far."""
    from megatron.training import get_args

    with suppress(AssertionError):
        result.args = {
            name: value if isinstance(value, bool | int | float | None) else str(value)
            for name, value in vars(get_args()).items()
        }


def note(result: Result) -> None:
    """What the stand-ins saw."""
    note_arguments(result)
    result.attention = [asdict(call) for call in seen.attention]
    result.products = [(*kinds, count) for kinds, count in seen.products.items()]
    result.calls = dict(seen.calls)
    result.host_reads = dict(host_reads.reads) | {
        f"cuda {name}": count for name, count in h100.waits.items()
    }
    kinds = Counter((c.name, len(c.ranks), c.num_bytes) for c in on_meta.collectives)
    result.collectives = [(*kind, count) for kind, count in kinds.items()]
