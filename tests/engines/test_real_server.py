"""The client against a real vLLM: its tokens and log-probs are the model's own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from megatron_dasd.config.base import Server
from megatron_dasd.engines.base import (
    Generation,
    GenerationRequest,
    Scored,
    ScoringRequest,
    TopRequest,
)
from megatron_dasd.engines.server_engine import ServerEngine
from megatron_dasd.engines.top_answers import Top, Vocabulary
from megatron_dasd.engines.top_engine import Room, TopEngine
from megatron_dasd.errors import UserError
from megatron_dasd.records import Message
from megatron_dasd.text.chat import render_turns
from megatron_dasd.text.encoding import encode, load_tokenizer
from tests.engines.test_server_engine import Seen
from tests.vllm_server import serving

pytestmark = pytest.mark.slow
TASKS = ("Name three colours.", "Why is the sky blue?", "Write a line about a 猫 (cat) 😀.")


@pytest.fixture(scope="module")
def tokenizer(smollm2_dir: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(smollm2_dir)


Score = Callable[[Sequence[int], Sequence[int]], np.ndarray]


@pytest.fixture(scope="module")
def own_logprobs(smollm2_dir: Path) -> Score:
    """ln p of a response's tokens by ``transformers``, in the server's precision."""
    return scorer(smollm2_dir, torch.bfloat16)


def scorer(folder: Path, dtype: torch.dtype) -> Score:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    def score(prompt_ids: Sequence[int], response_ids: Sequence[int]) -> np.ndarray:
        ids = torch.tensor([[*prompt_ids, *response_ids]])
        with torch.inference_mode():
            logprobs = torch.log_softmax(model(ids).logits[0].float(), dim=-1)
        rows = logprobs[len(prompt_ids) - 1 : -1]
        picked: np.ndarray = rows.gather(1, ids[0, len(prompt_ids) :, None])[:, 0].numpy()
        return picked

    return score


def requests(tokenizer: PreTrainedTokenizerBase, **fields: Any) -> list[GenerationRequest]:
    asked = []
    for number, task in enumerate(TASKS):
        turns = (Message(role="user", content=task),)
        given: dict[str, Any] = {
            "prompt": render_turns(tokenizer, turns) + fields.get("prefix", ""),
            "turns": turns,
            "max_new_tokens": 40,
            "seed": number,
            "temperature": 0.6,
        }
        asked.append(GenerationRequest(**given | fields))
    return asked


def generate(
    url: str, folder: Path | None, asked: list[GenerationRequest], **fields: Any
) -> list[Generation]:
    engine = ServerEngine(Server(urls=[url], patience_seconds=5, **fields), folder)
    ((_, answers),) = engine.generate([(0, asked)], Seen())
    assert engine.version.startswith("vllm 0.")
    found = [answer for answer in answers if isinstance(answer, Generation)]
    assert len(found) == len(asked), answers
    return found


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_sampled_logprobs_are_the_untempered_ones_of_the_same_prompt(
    vllm_server: Callable[..., str],
    smollm2_dir: Path,
    tokenizer: PreTrainedTokenizerBase,
    own_logprobs: Callable[..., np.ndarray],
    api: str,
) -> None:
    asked = requests(tokenizer, top_p=0.9)
    found = generate(vllm_server(smollm2_dir), smollm2_dir, asked, api=api, probe=True)
    for request, written in zip(asked, found, strict=True):
        prompt_ids = encode(tokenizer, request.prompt)
        ids = written.tokens.token_ids
        assert written.usage is not None
        assert written.usage.prompt_tokens == len(prompt_ids)
        assert written.usage.completion_tokens == len(ids)
        assert written.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert sum(written.tokens.num_bytes) == len(written.text.encode())
        gap = np.abs(own_logprobs(prompt_ids, ids) - np.array(written.tokens.logprobs))
        assert gap.mean() < 0.05
    assert {w.finish_reason for w in found} <= {"stop", "length"}


def test_without_the_tokenizer_the_bytes_come_from_the_server(
    vllm_server: Callable[..., str], smollm2_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    asked = requests(tokenizer, temperature=0.0)
    url = vllm_server(smollm2_dir)
    spelled = generate(url, smollm2_dir, asked, api="chat", probe=False)
    told = generate(url, None, asked, api="chat", probe=False)
    plain = {"return_token_ids": None}
    no_ids = generate(url, None, asked, api="chat", probe=False, extra_body=plain)
    for one, other, third in zip(spelled, told, no_ids, strict=True):
        assert one.text == other.text == third.text
        # which of a character's tokens has which of its bytes is not told; that they have some is
        some = [n > 0 for n in one.tokens.num_bytes]
        assert some == [n > 0 for n in other.tokens.num_bytes]
        assert some == [n > 0 for n in third.tokens.num_bytes]
        assert one.tokens.token_ids == other.tokens.token_ids
        assert set(third.tokens.token_ids) == {-1}


def test_a_turn_that_was_begun_is_continued(
    vllm_server: Callable[..., str],
    smollm2_dir: Path,
    tokenizer: PreTrainedTokenizerBase,
    own_logprobs: Callable[..., np.ndarray],
) -> None:
    url = vllm_server(smollm2_dir)
    asked = requests(tokenizer, prefix="The sky is", temperature=0.0, max_new_tokens=8)[1:2]
    prompt_ids = encode(tokenizer, asked[0].prompt)
    for api in ("completions", "chat"):
        (written,) = generate(url, smollm2_dir, asked, api=api, probe=False)
        assert written.usage is not None
        assert written.usage.prompt_tokens == len(prompt_ids)
        # likely after the prefix, and only after it
        told = np.array(written.tokens.logprobs)
        own = own_logprobs(prompt_ids, written.tokens.token_ids)
        assert np.abs(own - told).mean() < 0.05


def test_stops_and_limits(
    vllm_server: Callable[..., str], smollm2_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    url = vllm_server(smollm2_dir)
    (whole,) = generate(url, smollm2_dir, requests(tokenizer, temperature=0.0)[:1], probe=False)
    stop = whole.text[len(whole.text) // 2 :][:3]
    cut = requests(tokenizer, temperature=0.0, stop=(stop,))[:1]
    (written,) = generate(url, smollm2_dir, cut, probe=False)
    assert written.text == whole.text[: whole.text.index(stop)]
    assert sum(written.tokens.num_bytes) == len(written.text.encode())
    assert written.finish_reason == "stop"
    short = requests(tokenizer, temperature=0.0, max_new_tokens=3)[:1]
    (limited,) = generate(url, smollm2_dir, short, probe=False)
    assert limited.finish_reason == "length"
    assert len(limited.tokens.token_ids) == 3


@pytest.mark.parametrize("rescore_by", ["prompt_logprobs", "echo"])
def test_given_texts_are_scored_as_by_transformers(
    vllm_server: Callable[..., str],
    smollm2_dir: Path,
    tokenizer: PreTrainedTokenizerBase,
    own_logprobs: Score,
    rescore_by: str,
) -> None:
    server = Server(urls=[vllm_server(smollm2_dir)], rescore_by=rescore_by)
    for own, scored in scored_by_both(server, smollm2_dir, tokenizer, own_logprobs):
        # in bfloat16, and the less likely the text, the coarser
        assert np.abs(own - scored).mean() < 0.05 * np.abs(own).mean()


def test_in_float32_the_scores_are_the_same(
    vllm_server: Callable[..., str], smollm2_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    server = Server(urls=[vllm_server(smollm2_dir, "--dtype=float32")])
    score = scorer(smollm2_dir, torch.float32)
    for own, scored in scored_by_both(server, smollm2_dir, tokenizer, score):
        np.testing.assert_allclose(scored, own, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_likeliest_tokens_are_those_of_transformers(
    vllm_server: Callable[..., str],
    smollm2_dir: Path,
    tokenizer: PreTrainedTokenizerBase,
    dtype: str,
) -> None:
    flags = ["--dtype=float32"] if dtype == "float32" else []
    server = Server(urls=[vllm_server(smollm2_dir, *flags)], max_attempts=2)
    vocab_size = AutoConfig.from_pretrained(smollm2_dir).vocab_size
    sizes = Vocabulary(student=vocab_size, teacher=vocab_size)
    engine = TopEngine(server, smollm2_dir, 20, sizes, Room(1 << 30))
    texts = [encode(tokenizer, r.prompt) + encode(tokenizer, TASKS[2]) for r in requests(tokenizer)]
    asked = [TopRequest(np.array(ids)) for ids in texts]
    ((_, found),) = engine.top([(0, asked)], Seen(), max_open=2)
    exact = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32).eval()
    rounded = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.bfloat16).eval()
    for ids, top in zip(texts, found, strict=True):
        assert isinstance(top, Top), top
        own, own_rounded = (logprobs_of(model, ids) for model in (exact, rounded))
        of_same_ids = own.gather(1, torch.from_numpy(top.ids).long()).numpy()
        if dtype == "float32":
            np.testing.assert_allclose(top.logprobs, own.topk(20).values, rtol=0, atol=1e-4)
            np.testing.assert_allclose(top.logprobs, of_same_ids, rtol=0, atol=1e-4)
        else:  # as far from float32 as the same model of transformers in bfloat16, or twice as far
            noise = (own_rounded - own).gather(1, torch.from_numpy(top.ids).long()).abs().mean()
            assert np.abs(top.logprobs - of_same_ids).mean() < 2 * noise


def logprobs_of(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """``[tokens - 1, vocabulary]`` of the distributions that all tokens but the first follow."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([ids])).logits
    return logits[0, :-1].float().log_softmax(-1)


def test_it_is_given_other_weights_and_the_first_ones_again(
    tokenizer: PreTrainedTokenizerBase, smollm2_dir: Path, tmp_path: Path
) -> None:
    """A model with an output layer of its own; with a shared one see below."""
    config = AutoConfig.from_pretrained(smollm2_dir, num_hidden_layers=2, tie_word_embeddings=False)
    folders = [tmp_path / "first", tmp_path / "second"]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).float().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    with serving(folders[0], tmp_path / "log", "--dtype=float32") as url:
        for folder in (folders[1], folders[0]):
            server = Server(urls=[url], reload="vllm", patience_seconds=60)
            score = scorer(folder, torch.float32)
            for own, scored in scored_by_both(server, folder, tokenizer, score):
                np.testing.assert_allclose(scored, own, rtol=0, atol=1e-4)


def test_on_a_cpu_it_is_not_given_weights_whose_output_layer_it_would_keep(
    vllm_server: Callable[..., str], smollm2_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Measured on vLLM 0.32: log-probs up to 0.17 off, and a version that says all is well."""
    server = Server(urls=[vllm_server(smollm2_dir)], reload="vllm", patience_seconds=60)
    with pytest.raises(UserError, match="would keep the old output layer, .* reload: restart"):
        list(ServerEngine(server, smollm2_dir).generate([(0, requests(tokenizer))], Seen()))


def scored_by_both(
    server: Server, folder: Path, tokenizer: PreTrainedTokenizerBase, score: Score
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(by ``transformers``, by the server) for each of some texts."""
    texts = [
        ScoringRequest(
            encode(tokenizer, request.prompt), encode(tokenizer, " Because of scattering. 日本")
        )
        for request in requests(tokenizer)
    ]
    ((_, found),) = ServerEngine(server, folder).score([(0, texts)], Seen())
    both = []
    for text, scored in zip(texts, found, strict=True):
        assert isinstance(scored, Scored)
        assert len(scored.logprobs) == len(text.response_ids)
        both.append((score(text.prompt_ids, text.response_ids), np.array(scored.logprobs)))
    return both


def test_the_probe_refuses_a_server_that_tempers(
    vllm_server: Callable[..., str], smollm2_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    url = vllm_server(smollm2_dir, "--logprobs-mode=processed_logprobs")
    with pytest.raises(UserError, match=r"untempered .* --logprobs-mode raw_logprobs"):
        generate(url, smollm2_dir, requests(tokenizer))
    with pytest.raises(UserError, match="untempered"):
        generate(url, smollm2_dir, requests(tokenizer, temperature=1.0, top_p=0.5))
    assert generate(url, smollm2_dir, requests(tokenizer, temperature=1.0))
