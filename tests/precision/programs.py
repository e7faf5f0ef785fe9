"""What a rank runs for the emulation's tests: Megatron's own layers in emulated FP8."""

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

    torch.distributed.init_process_group("gloo")
    size = torch.distributed.get_world_size()
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=size)
    if payload["do"] == "experts":
        experts(payload)
    else:
        shards(payload, parallel_state.get_tensor_model_parallel_rank(), size)


def experts(payload: dict[str, Any]) -> None:
    """Micro-batches through a model with experts, and what became of its parts."""
    from megatron_dasd.precision.emulation import emulate
    from megatron_dasd.precision.numerics import Numerics

    model = expert_model(**payload["config"])
    exact = losses(model)
    emulate(model.decoder, Namespace(**(vars(ARGUMENTS) | payload["arguments"])), Numerics())
    emulated = [losses(model) for _ in range(payload["micro_batches"])]
    facts = {
        "emulated": [
            name for name, part in model.named_modules() if type(part).__name__.startswith("Fp8")
        ],
        "exact": exact,
        "losses": emulated,
        "scales": {
            name: part.scaling.state()[-1].tolist()
            for name, part in model.named_modules()
            if type(part).__name__.startswith("Fp8") and part.scaling.state() is not None
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


# -- tensor parallel ---------------------------------------------------------------------------

TOKENS, WIDTH, INNER = 256, 128, 256


def whole_tensors() -> dict[str, torch.Tensor]:
    """Input, two weights and the output's gradient, the same on every rank."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (TOKENS, WIDTH), "fc1": (INNER, WIDTH), "fc2": (WIDTH, INNER)}
    shapes["gradient"] = (TOKENS, WIDTH)
    # Rows and columns differ in size, and so do the shards' largest numbers.
    return {
        name: torch.randn(shape, generator=generator)
        * torch.logspace(0, 1, shape[0])[:, None]
        * torch.logspace(0.5, -0.5, shape[1])
        for name, shape in shapes.items()
    }


def shards(payload: dict[str, Any], rank: int, size: int) -> None:
    """Column-parallel, then row-parallel, in fp32 with sequence parallelism; results by shards."""
    from megatron_dasd.precision.emulation import emulate
    from megatron_dasd.precision.numerics import Numerics

    whole = whole_tensors()
    block = two_layers(size)
    fc1, fc2 = block.layers[0].linear_fc1, block.layers[0].linear_fc2
    with torch.no_grad():
        fc1.weight.copy_(whole["fc1"].chunk(size, dim=0)[rank])
        fc2.weight.copy_(whole["fc2"].chunk(size, dim=1)[rank])
    emulate(block, Namespace(**(vars(ARGUMENTS) | payload["arguments"])), Numerics())
    for _ in range(payload["micro_batches"]):
        x = whole["x"].chunk(size)[rank].unsqueeze(1).clone().requires_grad_()
        fc1.weight.grad = fc2.weight.grad = None
        y = block(x)
        y.backward(whole["gradient"].chunk(size)[rank].unsqueeze(1))
    results = {"y": y, "x": x.grad, "fc1": fc1.weight.grad, "fc2": fc2.weight.grad}
    torch.save({k: v.detach().squeeze(1) for k, v in results.items()}, f"{payload['out']}-{rank}")


def two_layers(size: int) -> Any:
    """A block of one layer, as far as the emulation looks at it: a column- and a row-parallel."""
    from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.transformer_config import TransformerConfig

    config = TransformerConfig(
        num_layers=1,
        hidden_size=WIDTH,
        num_attention_heads=4,
        tensor_model_parallel_size=size,
        sequence_parallel=size > 1,
        use_cpu_initialization=True,
        pipeline_dtype=torch.float32,
    )
    shared: dict[str, Any] = {"config": config, "init_method": torch.nn.init.zeros_}
    shared |= {"bias": False, "skip_bias_add": False}

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config, self.layer_number = config, 1
            self.linear_fc1 = ColumnParallelLinear(WIDTH, INNER, gather_output=False, **shared)
            self.linear_fc2 = RowParallelLinear(INNER, WIDTH, input_is_parallel=True, **shared)

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.linear_fc2(self.linear_fc1(hidden_states)[0])[0]
            return output

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config, self.layers = config, torch.nn.ModuleList([Layer()])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.layers[0](hidden_states=x)
            return output

    return Block()
