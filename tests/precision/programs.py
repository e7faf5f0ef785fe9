"""What a rank runs for the emulation's tests: Megatron's own model, with experts, in emulated FP8."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from megatron_dasd.device import cpu_adapter

ARGUMENTS = Namespace(
    fp8="hybrid",
    fp8_recipe="delayed",
    fp8_amax_history_len=4,
    fp8_amax_compute_algo="max",
    fp8_margin=0,
)


def main(payload: dict[str, Any]) -> None:
    cpu_adapter.install()
    from megatron.core import parallel_state

    from megatron_dasd.precision.emulation import emulate

    torch.distributed.init_process_group("gloo")
    parallel_state.initialize_model_parallel()
    model = expert_model(**payload["config"])
    exact = losses(model)
    emulate(model.decoder, Namespace(**(vars(ARGUMENTS) | payload["arguments"])))
    emulated = [losses(model) for _ in range(payload["micro_batches"])]
    facts = {
        "emulated": [
            name for name, part in model.named_modules() if type(part).__name__.startswith("Fp8")
        ],
        "exact": exact,
        "losses": emulated,
        "scales": {
            name: part.get_extra_state()[-1].tolist()
            for name, part in model.named_modules()
            if type(part).__name__.startswith("Fp8") and part.get_extra_state() is not None
        },
        "gradients": {name: p.grad is not None for name, p in model.named_parameters()},
    }
    Path(payload["out"]).write_text(json.dumps(facts))


def expert_model(**changes: Any) -> Any:
    """A two-layer model with a layer of four experts each, from Megatron's own layer spec."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer.transformer_config import TransformerConfig

    model_parallel_cuda_manual_seed(1)
    config = TransformerConfig(
        **{
            "num_layers": 2,
            "hidden_size": 32,
            "ffn_hidden_size": 64,
            "num_attention_heads": 2,
            "num_moe_experts": 4,
            "moe_router_topk": 2,
            "moe_ffn_hidden_size": 48,
            "moe_shared_expert_intermediate_size": 32,
            "add_bias_linear": False,
            "use_cpu_initialization": True,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "pipeline_dtype": torch.float32,
            **changes,
        }
    )
    spec = get_gpt_layer_local_spec(num_experts=4, moe_grouped_gemm=False)
    return GPTModel(config, spec, vocab_size=64, max_sequence_length=16)


def losses(model: Any) -> float:
    """One micro-batch forward and backward; its mean loss."""
    tokens = torch.arange(16)[None] * 3 % 64
    mask = torch.ones(1, 1, 16, 16).triu(1).bool()
    loss = model(tokens, torch.arange(16)[None], mask, labels=tokens.roll(-1, dims=1)).mean()
    loss.backward()
    return float(loss)
