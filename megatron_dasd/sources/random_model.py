"""Stage random_model: a small Llama-shaped model with random weights, for runs of seconds.

Its tokenizer has one token for each of the 256 bytes, so it encodes any text.  With an alphabet its
model writes (almost) only these characters and the end of the turn: with a few tens of them a fair
share of its texts holds a given character and stops within as many tokens.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.sources import RandomModel
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures
from megatron_dasd.manifests import MODEL
from megatron_dasd.seeds import derive_seed
from megatron_dasd.text.encoding import byte_alphabet, encode
from megatron_dasd.text.layout import end_of_turn_id

END_OF_TURN = "<|im_end|>"
SPECIALS = ("<|endoftext|>", "<|im_start|>", END_OF_TURN)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_FAVOUR_NATS = 12.0
"""How far the logits of what the model may write lie above the others, after such a token."""
_SHARE_OF_OTHERS = 0.25
"""The other tokens' share of the constant below; above 0, else one such token drew the next."""


def run(settings: RandomModel, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write the Hugging Face folder of the model and its tokenizer."""
    tokenizer = byte_tokenizer(settings.alphabet or "")
    model = random_llama(settings, tokenizer)
    scratch = folder.scratch(MODEL)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    folder.commit(scratch)
    return {"num_parameters": model.num_parameters(), "vocab_size": len(tokenizer)}


def byte_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes: the special tokens, the alphabet's characters, the other bytes.

    Raises:
        UserError: the alphabet repeats a character or has one that is not ASCII.
    """
    if not alphabet.isascii() or len(set(alphabet)) != len(alphabet):
        raise UserError(f"alphabet: {alphabet!r} repeats a character or has one that is not ASCII")
    character_of = {byte: character for character, byte in byte_alphabet().items()}
    first = [ord(character) for character in alphabet]
    in_order = first + [byte for byte in range(256) if byte not in first]
    tokens = [*SPECIALS, *(character_of[byte] for byte in in_order)]
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=SPECIALS[0],
        eos_token=END_OF_TURN,
        pad_token=SPECIALS[0],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def random_llama(settings: RandomModel, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Random weights, float32, a function of the settings alone.

    Raises:
        UserError: sizes that do not divide.
    """
    if settings.hidden_size % settings.num_attention_heads:
        raise UserError("hidden_size: is no multiple of num_attention_heads")
    if settings.num_attention_heads % settings.num_key_value_heads:
        raise UserError("num_attention_heads: is no multiple of num_key_value_heads")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_attention_heads,
        num_key_value_heads=settings.num_key_value_heads,
        max_position_embeddings=settings.max_position_embeddings,
        initializer_range=settings.initializer_std,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "random_model"))
        model = LlamaForCausalLM(config).eval()
    if settings.alphabet is not None:
        favoured = [end_of_turn_id(tokenizer), *encode(tokenizer, settings.alphabet)]
        _favour(model, torch.tensor(favoured))
    return model


@torch.no_grad()
def _favour(model: LlamaForCausalLM, token_ids: torch.Tensor) -> None:
    """Raise the logits of some tokens by a bias, which the architecture has no parameter for.

    The residual stream's first dimension carries a constant from the (tied) embedding to the
    logits: no layer reads or writes it, and the last norm's weight sets how much it counts.
    """
    for layer in model.model.layers:
        for writes in (layer.self_attn.o_proj, layer.mlp.down_proj):
            writes.weight[0] = 0
        layer.input_layernorm.weight[0] = layer.post_attention_layernorm.weight[0] = 0
    constant = model.model.embed_tokens.weight[:, 0]
    constant[:] = _SHARE_OF_OTHERS
    constant[token_ids] = 1.0
    hidden_BH = model.model(token_ids[:, None]).last_hidden_state[:, 0]
    difference = float(hidden_BH[:, 0].mean()) * (1.0 - _SHARE_OF_OTHERS)
    model.model.norm.weight[0] = _FAVOUR_NATS / difference
