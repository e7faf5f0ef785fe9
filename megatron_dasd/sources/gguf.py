"""Stage import_gguf: the model that a Python package carries as a GGUF file, dequantised.

The package is found without being imported, so its own dependencies need not be installed.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from gguf import GGUFReader, ReaderTensor, TokenType, dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.sources import ImportGguf
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures
from megatron_dasd.manifests import MODEL
from megatron_dasd.sources.gguf_header import check_header

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_PRE_TOKENIZERS = {"smollm": [pre_tokenizers.Digits(individual_digits=True)]}
"""Splitters that run before the byte-level step, by GGUF's name for them."""


def run(settings: ImportGguf, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write the Hugging Face folder of the model and its tokenizer."""
    file = package_file(settings.package, settings.file)
    check_header(file)
    try:
        reader = GGUFReader(file)
        values = _Values(file, reader)
        config, tokenizer = llama_config(values, settings.dtype), bpe_tokenizer(values)
        tensors = {
            hf_name(tensor.name, file): hf_tensor(tensor, config).to(getattr(torch, settings.dtype))
            for tensor in reader.tensors
        }
    except UserError:
        raise
    except Exception as error:  # of damaged files the libraries raise any kind, a bare one too
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file}: not a readable GGUF file ({reason})") from None
    config.tie_word_embeddings = "lm_head.weight" not in tensors
    scratch = folder.scratch(MODEL)
    save_file(tensors, scratch / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(scratch)
    GenerationConfig.from_model_config(config).save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    folder.commit(scratch)
    return {"num_parameters": sum(tensor.numel() for tensor in tensors.values())}


def package_file(package: str, name: str) -> Path:
    """A file inside an installed package, which is not imported.

    Raises:
        UserError: the package is not installed or carries no such file.
    """
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise UserError(f"package: {package} is not installed")
    home = Path(places[0])
    path = home / name
    if "\0" in name or not path.resolve().is_relative_to(home.resolve()) or not path.is_file():
        raise UserError(f"file: package {package} carries no {name}")
    return path


class _Values:
    """The metadata of a GGUF file by key."""

    def __init__(self, file: Path, reader: GGUFReader) -> None:
        self.file = file
        self._fields = reader.fields

    def require[T](self, key: str, kind: type[T]) -> T:
        """A value of a type.

        Raises:
            UserError: it is missing or of another type.
        """
        value = self.get(key, kind)
        if value is None:
            raise UserError(f"{self.file}: metadata {key} is missing")
        return value

    def get[T](self, key: str, kind: type[T]) -> T | None:
        """A value of a type; None when it is missing.

        Raises:
            UserError: it is of another type.
        """
        if key not in self._fields:
            return None
        value = self._fields[key].contents()
        if not isinstance(value, kind):
            raise UserError(f"{self.file}: metadata {key} is no {kind.__name__}")
        return value


def llama_config(values: _Values, dtype: str) -> LlamaConfig:
    """The model's shape.

    Raises:
        UserError: another architecture than Llama's.
    """
    architecture = values.require("general.architecture", str)
    if architecture != "llama":
        raise UserError(f"{values.file}: architecture {architecture}; only llama can be read")
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(values.require("tokenizer.ggml.tokens", list)),
        hidden_size=values.require("llama.embedding_length", int),
        intermediate_size=values.require("llama.feed_forward_length", int),
        num_hidden_layers=values.require("llama.block_count", int),
        num_attention_heads=values.require("llama.attention.head_count", int),
        num_key_value_heads=values.require("llama.attention.head_count_kv", int),
        max_position_embeddings=values.require("llama.context_length", int),
        rms_norm_eps=values.require("llama.attention.layer_norm_rms_epsilon", float),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": values.require("llama.rope.freq_base", float),
        },
        bos_token_id=values.get("tokenizer.ggml.bos_token_id", int),
        eos_token_id=values.require("tokenizer.ggml.eos_token_id", int),
        pad_token_id=values.get("tokenizer.ggml.padding_token_id", int),
        dtype=dtype,
    )


def hf_name(name: str, file: Path) -> str:
    """Hugging Face's name of a tensor, e.g. ``blk.0.attn_q.weight``.

    Raises:
        UserError: a tensor that Llama does not have.
    """
    layer, stem = "", name.removesuffix(".weight")
    if stem.startswith("blk."):
        _, number, stem = stem.split(".", 2)
        layer = f"model.layers.{number}."
    if stem not in _NAMES:
        raise UserError(f"{file}: tensor {name} has no place in a Llama model")
    return f"{layer}{_NAMES[stem]}.weight"


def hf_tensor(tensor: ReaderTensor, config: LlamaConfig) -> Tensor:
    """A tensor in float32, rows in Hugging Face's order.

    GGUF interleaves the two halves of every query and key head, which suits the other of the two
    layouts of rotary embeddings.
    """
    weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
    heads = {
        "attn_q.weight": config.num_attention_heads,
        "attn_k.weight": config.num_key_value_heads,
    }.get(tensor.name.split(".", 2)[-1])
    if heads is None:
        return weight
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def bpe_tokenizer(values: _Values) -> PreTrainedTokenizerFast:
    """The byte-level BPE tokenizer with its special tokens and chat template.

    Raises:
        UserError: another kind of tokenizer.
    """
    model, splitter = (
        values.require("tokenizer.ggml.model", str),
        values.require("tokenizer.ggml.pre", str),
    )
    if model != "gpt2" or splitter not in _PRE_TOKENIZERS:
        raise UserError(f"{values.file}: tokenizer {model}/{splitter} is not supported")
    tokens, types = (
        values.require("tokenizer.ggml.tokens", list),
        values.require("tokenizer.ggml.token_type", list),
    )
    merges = [tuple(merge.split(" ")) for merge in values.require("tokenizer.ggml.merges", list)]
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*_PRE_TOKENIZERS[splitter], pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    specials = [t for t, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL]
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    named = {
        f"{role}_token": tokens[index]
        for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))
        if (index := values.get(f"tokenizer.ggml.{key}_token_id", int)) is not None
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=values.get("tokenizer.chat_template", str),
        model_max_length=values.require("llama.context_length", int),
        clean_up_tokenization_spaces=False,
        **named,
    )
