import json
from pathlib import Path

from megatron_dasd.device.launch import launch


def test_float32_is_float32_where_the_container_turns_tf32_on(tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_theta": 1e4,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 64,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    payload = {"model": str(tmp_path), "out": str(tmp_path / "out")}
    launch("tests.models.programs", payload, 1, tmp_path / "logs")
    assert (tmp_path / "out").read_text() == "highest"
