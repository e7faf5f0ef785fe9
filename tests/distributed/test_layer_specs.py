"""Checkpoints of the local layer spec and of Transformer Engine's are interchangeable.

Real here: Megatron's specs, its wrappers around Transformer Engine (``TELinear`` and its like,
``TEGroupedMLP``), their sharding and renaming.  What stands in is Transformer Engine itself, which
does not run without CUDA: ``stand_in/`` holds classes with its parameters' names and shapes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STAND_IN = Path(__file__).parent / "stand_in"
CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}
DENSE = {"architectures": ["Qwen3ForCausalLM"], **CONFIG}
EXPERTS = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    **CONFIG,
}
TE = {"transformer-impl": "transformer_engine"}


def start(config: dict[str, Any], flags: dict[str, Any], folder: Path) -> subprocess.Popen[str]:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    payload = {"model": str(folder), "flags": flags, "out": str(folder / "keys.json")}
    (folder / "payload.json").write_text(json.dumps(payload))
    path = os.pathsep.join([str(STAND_IN)] * bool(flags) + [str(Path.cwd())])
    environment = os.environ | {
        "PYTHONPATH": path,
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    }
    command = [sys.executable, "-m", "tests.distributed.keys_program", str(folder / "payload.json")]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def keys(config: dict[str, Any], specs: dict[str, dict[str, Any]], place: Path) -> dict[str, Any]:
    """What a checkpoint of each spec holds."""
    runs = {name: start(config, flags, place / name) for name, flags in specs.items()}
    for run in runs.values():
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output
    return {name: json.loads((place / name / "keys.json").read_text()) for name in specs}


def test_dense(tmp_path: Path) -> None:
    found = keys(DENSE, {"local": {}, "te": TE}, tmp_path)
    assert found["local"] == found["te"]
    # Transformer Engine fuses both norms of a layer into the projections that follow
    names = {key for key, *_ in found["local"]}
    assert "decoder.layers.mlp.linear_fc1.layer_norm_weight" in names
    assert "decoder.layers.self_attention.linear_qkv.layer_norm_weight" in names
    assert "decoder.layers.pre_mlp_layernorm.weight" not in names


def test_experts(tmp_path: Path) -> None:
    specs = {
        "local": {},
        "te": TE | {"moe-grouped-gemm": False},
        "te grouped": TE | {"moe-grouped-gemm": True},
    }
    found = keys(EXPERTS, specs, tmp_path)
    assert found["local"] == found["te"]
    assert found["local"] == found["te grouped"]
    # the norm before experts stays a tensor of its own, since the router reads it too
    names = {key for key, *_ in found["local"]}
    assert "decoder.layers.pre_mlp_layernorm.weight" in names
    assert "decoder.layers.mlp.linear_fc1.layer_norm_weight" not in names
    assert "decoder.layers.mlp.experts.experts.linear_fc1.weight" in names
