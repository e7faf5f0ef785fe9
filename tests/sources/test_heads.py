from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_dasd.errors import UserError
from megatron_dasd.sources.heads import add_zero_heads

CONFIG: dict[str, Any] = {
    "hidden_size": 48,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
TOKENS = torch.arange(20)[None] % 50


def models() -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).double()
    tensors, config = add_zero_heads(dict(model.state_dict()), CONFIG, 4)
    wider = LlamaForCausalLM(LlamaConfig(**config)).double()
    wider.load_state_dict(tensors)
    return model, wider


def test_shapes_and_config() -> None:
    _, wider = models()
    assert wider.config.num_attention_heads == 8
    assert wider.config.num_key_value_heads == 4
    assert wider.config.head_dim == 8
    attention = wider.model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (64, 48)
    assert attention.k_proj.weight.shape == (32, 48)
    assert attention.o_proj.weight.shape == (48, 64)


def test_the_model_says_the_same() -> None:
    model, wider = models()
    torch.testing.assert_close(wider(TOKENS).logits, model(TOKENS).logits, atol=1e-12, rtol=0)


def test_training_leaves_the_added_heads_at_zero() -> None:
    _, wider = models()
    optimizer = torch.optim.AdamW(wider.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        wider(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    attention = wider.model.layers[1].self_attn
    assert attention.q_proj.weight[48:].abs().sum() == 0
    assert attention.k_proj.weight[24:].abs().sum() == 0
    assert attention.v_proj.weight[24:].abs().sum() == 0
    assert attention.o_proj.weight[:, 48:].abs().sum() == 0
    assert attention.q_proj.weight[:48].abs().min() > 0


def test_fewer_heads_are_refused() -> None:
    with pytest.raises(UserError, match="must be over the model's 3"):
        add_zero_heads({}, CONFIG, 3)
