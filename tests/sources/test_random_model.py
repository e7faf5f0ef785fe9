from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_dasd.config.base import Engine
from megatron_dasd.config.sources import RandomModel
from megatron_dasd.engines.base import GenerationRequest
from megatron_dasd.engines.transformers_engine import TransformersEngine
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import MODEL, model_folder
from megatron_dasd.sources import random_model
from megatron_dasd.sources.random_model import byte_tokenizer
from megatron_dasd.text.encoding import encode, load_tokenizer, token_bytes
from tests.conftest import RunStage

SETTINGS = RandomModel(
    kind="random_model",
    num_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    alphabet="abc =",
    seed=1,
)


def weights(folder: Path) -> bytes:
    return (folder / MODEL / "model.safetensors").read_bytes()


def test_tokens_are_the_specials_the_alphabet_and_the_other_bytes() -> None:
    tokenizer = byte_tokenizer("ba")
    assert len(tokenizer) == 259
    assert encode(tokenizer, "<|endoftext|><|im_start|><|im_end|>ba") == [0, 1, 2, 3, 4]
    ids = encode(tokenizer, "a\x00é日")
    assert len(set(ids)) == len(ids) == 7
    assert b"".join(token_bytes(tokenizer, ids)) == "a\x00é日".encode()


@pytest.mark.parametrize("alphabet", ["aba", "é"])
def test_a_bad_alphabet_is_the_users_mistake(alphabet: str) -> None:
    with pytest.raises(UserError, match="alphabet"):
        byte_tokenizer(alphabet)


@pytest.mark.parametrize(
    ("field", "value"), [("num_attention_heads", 5), ("num_key_value_heads", 3)]
)
def test_sizes_that_do_not_divide_are_the_users_mistake(
    run_stage: RunStage, field: str, value: int
) -> None:
    with pytest.raises(UserError, match="is no multiple of"):
        run_stage(random_model.run, SETTINGS.model_copy(update={field: value}), {})


def test_the_folder_is_what_transformers_reads(run_stage: RunStage, tmp_path: Path) -> None:
    manifest = run_stage(random_model.run, SETTINGS, {})
    folder = model_folder(tmp_path / "stage")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.tie_word_embeddings
    assert model.num_parameters() == manifest.figures["num_parameters"]
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<|im_end|>"


def test_the_seed_alone_decides_the_weights(run_stage: RunStage, tmp_path: Path) -> None:
    run_stage(random_model.run, SETTINGS, {}, "a")
    run_stage(random_model.run, SETTINGS, {}, "b")
    run_stage(random_model.run, SETTINGS.model_copy(update={"seed": 2}), {}, "c")
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert a == b != c


def test_it_writes_its_alphabet_and_ends(random_model_dir: Path) -> None:
    """The other 245 tokens would else be 94 % of what it draws, and few texts would end."""
    engine = TransformersEngine(
        model_folder(random_model_dir), Engine(batch_size=64, dtype="float32"), "m"
    )
    requests = [
        GenerationRequest(prompt="<|im_start|>assistant\n", max_new_tokens=40, seed=seed)
        for seed in range(64)
    ]
    generations = engine.generate_batch(requests)
    tokenizer = load_tokenizer(model_folder(random_model_dir))
    allowed = {2, *encode(tokenizer, "abcdefghij .=\n")}
    drawn = [token for generation in generations for token in generation.tokens.token_ids]
    assert sum(token in allowed for token in drawn) > 0.99 * len(drawn)
    assert sum(generation.finish_reason == "stop" for generation in generations) > 32
    parts = [generation.text.partition("=") for generation in generations]
    assert sum(bool(thinking and answer) for thinking, _, answer in parts) > 12
