import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3_5TextConfig

from megatron_dasd.config.base import Engine as EngineSettings
from megatron_dasd.engines.base import Generation, GenerationRequest
from megatron_dasd.engines.transformers_engine import TransformersEngine, common_prefix
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import model_folder
from megatron_dasd.text.encoding import encode, load_tokenizer

END = 2
REQUESTS = [
    GenerationRequest(
        prompt=f"<|im_start|>abc{'de' * i}<|im_end|>",
        max_new_tokens=6 + 3 * i,
        seed=i,
        temperature=0.6 + 0.2 * i,
        top_p=1.0 if i % 2 else 0.9,
    )
    for i in range(5)
]


@pytest.fixture(scope="module")
def folder(random_model_dir: Path) -> Path:
    return model_folder(random_model_dir)


@pytest.fixture(scope="module")
def engine(folder: Path) -> TransformersEngine:
    return open_engine(folder)


def open_engine(folder: Path, batch_size: int = 8) -> TransformersEngine:
    return TransformersEngine(folder, EngineSettings(batch_size=batch_size, dtype="float32"), "m")


def texts(generations: Sequence[Generation]) -> list[str]:
    return [generation.text for generation in generations]


def test_logprobs_are_those_of_a_plain_forward_pass(
    engine: TransformersEngine, folder: Path
) -> None:
    """Prefix shared out, padding, batch that shrinks, temperature, top-p: none of it may show."""
    check_logprobs(engine, folder)


def test_a_model_that_keeps_states(folder: Path, tmp_path: Path) -> None:
    """Three prompts of one length and two of others, and caps that let the batch shrink."""
    tokenizer = load_tokenizer(folder)
    config = Qwen3_5TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
        max_position_embeddings=256,
        initializer_range=0.3,
        eos_token_id=END,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    torch.nn.init.uniform_(model.model.layers[0].linear_attn.A_log, -4.0, -1.0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    prompts = [REQUESTS[3].prompt.replace("abc", begin) for begin in ("abd", "zzz", "abz")]
    requests = [
        *(replace(REQUESTS[i], prompt=prompt) for i, prompt in enumerate(prompts)),
        *REQUESTS[3:],
    ]
    check_logprobs(open_engine(tmp_path), tmp_path, requests)


def check_logprobs(
    engine: TransformersEngine, folder: Path, requests: Sequence[GenerationRequest] = REQUESTS
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = load_tokenizer(folder)
    for request, generation in zip(requests, engine.generate_batch(requests), strict=True):
        prompt, written = encode(tokenizer, request.prompt), generation.tokens.token_ids
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(written)[:, None])[:, 0]
        torch.testing.assert_close(
            torch.tensor(generation.tokens.logprobs), expected, atol=1e-4, rtol=0
        )


def test_a_request_gives_the_same_beside_any_others(engine: TransformersEngine) -> None:
    together = engine.generate_batch(REQUESTS)
    alone = [engine.generate_batch([request])[0] for request in REQUESTS]
    assert texts(together) == texts(alone)
    for a, b in zip(together, alone, strict=True):
        assert a.tokens.token_ids == b.tokens.token_ids
        assert a.tokens.logprobs == pytest.approx(b.tokens.logprobs, abs=1e-4)


def test_batches_of_any_size_give_the_same_in_the_requests_order(
    engine: TransformersEngine, folder: Path
) -> None:
    assert (
        texts(open_engine(folder, batch_size=2).generate_batch(REQUESTS[::-1]))
        == texts(engine.generate_batch(REQUESTS))[::-1]
    )


def test_equal_seeds_give_equal_texts_and_others_do_not(engine: TransformersEngine) -> None:
    request = replace(REQUESTS[1], max_new_tokens=12, temperature=1.0)
    same, again, other = engine.generate_batch([request, request, replace(request, seed=77)])
    assert texts([same]) == texts([again])
    assert same.tokens.token_ids == again.tokens.token_ids
    # rows of one matrix product may be rounded differently
    assert same.tokens.logprobs == pytest.approx(again.tokens.logprobs, abs=1e-4)
    assert same.tokens.token_ids != other.tokens.token_ids


def test_each_request_keeps_its_own_cap_and_end(engine: TransformersEngine) -> None:
    many = [replace(REQUESTS[0], seed=seed, max_new_tokens=3 + seed % 20) for seed in range(60)]
    generations = engine.generate_batch(many)
    for request, generation in zip(many, generations, strict=True):
        ids = generation.tokens.token_ids
        if generation.finish_reason == "length":
            assert len(ids) == request.max_new_tokens
            assert END not in ids
        else:
            assert ids.index(END) == len(ids) - 1 < request.max_new_tokens
            assert generation.tokens.num_bytes[-1] == 0
        assert sum(generation.tokens.num_bytes) == len(generation.text.encode())
    assert {generation.finish_reason for generation in generations} == {"stop", "length"}


def test_a_longer_cap_only_adds(engine: TransformersEngine) -> None:
    short, long = engine.generate_batch([REQUESTS[0], replace(REQUESTS[0], max_new_tokens=30)])
    assert long.tokens.token_ids[: len(short.tokens.token_ids)] == short.tokens.token_ids


def test_greedy_takes_the_likeliest_token(engine: TransformersEngine, folder: Path) -> None:
    (generation,) = engine.generate_batch([replace(REQUESTS[0], temperature=0.0)])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = encode(load_tokenizer(folder), REQUESTS[0].prompt)
    written = generation.tokens.token_ids
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1]
    assert logits.argmax(-1).tolist() == written


def test_the_text_ends_before_a_stop_text(engine: TransformersEngine) -> None:
    free = next(
        request
        for request in (replace(REQUESTS[0], seed=s, max_new_tokens=30) for s in range(99))
        if len(texts(engine.generate_batch([request]))[0]) > 8
    )
    (whole,) = engine.generate_batch([free])
    stop = whole.text[5:7]
    (stopped,) = engine.generate_batch([replace(free, stop=("no such", stop))])
    end = whole.text.index(stop)
    assert stopped.text == whole.text[:end]
    assert stopped.tokens.token_ids == whole.tokens.token_ids[:end]  # a token a byte
    assert stopped.finish_reason == "stop"


def test_generation_ends_where_the_context_ends(folder: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    shutil.copytree(folder, short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 12}))
    engine = open_engine(short)
    request = replace(REQUESTS[0], prompt="abcabcabc", max_new_tokens=50)
    lengths = [
        len(engine.generate_batch([replace(request, seed=seed)])[0].tokens.token_ids)
        for seed in range(12)
    ]
    assert max(lengths) == 3
    with pytest.raises(UserError, match="m: a prompt of 12 tokens fills its context of 12"):
        engine.generate_batch([replace(request, prompt="abcabcabcabc")])


def test_a_folder_without_weights_is_the_users_mistake(model_dir: Path) -> None:
    with pytest.raises(UserError, match="no such file; safetensors weights"):
        open_engine(model_dir)


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [
        ([[1, 2, 3]], [1, 2]),
        ([[1, 2, 3], [1, 2, 4, 5]], [1, 2]),
        ([[1, 2], [1, 2, 3]], [1]),  # each keeps a token to be run
        ([[1, 2, 3], [1, 2, 3]], [1, 2]),
        ([[1], [2, 3]], []),
        ([[1, 9, 5], [1, 9, 4], [1, 8, 7]], [1]),
    ],
)
def test_common_prefix(prompts: list[list[int]], shared: list[int]) -> None:
    assert common_prefix(prompts) == shared


def test_pickled_weights_are_not_opened(folder: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    (pickled / "model.safetensors").unlink()
    weights = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    torch.save(weights, pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match="only pickled weights here"):
        open_engine(pickled)
