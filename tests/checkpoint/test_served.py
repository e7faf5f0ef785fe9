"""What is exported is a model that others load and serve."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_dasd.pipeline import cli

NUM_TOKENS = 32


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    """The answer of a server to a request in JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_vllm_and_transformers_write_the_same_greedy_text(
    vllm_server: Callable[..., str], smollm2_dir: Path, tmp_path: Path
) -> None:
    ckpt, out = tmp_path / "ckpt", tmp_path / "model"
    assert cli.run_kind("import_hf", ["--hf", str(smollm2_dir), "--out", str(ckpt)]) == 0
    arguments = ["--ckpt", str(ckpt), "--out", str(out), "--max-shard-gb", "0.1"]
    assert cli.run_kind("export_hf", arguments) == 0
    assert len(list(out.glob("model-*.safetensors"))) > 1
    tokenizer = AutoTokenizer.from_pretrained(out)
    chat = [{"role": "user", "content": "Why is the sky blue? Answer in two sentences."}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    token_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    # float32 on both sides: in bfloat16 near ties fall either way
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    written = model.generate(
        torch.tensor([token_ids]), max_new_tokens=NUM_TOKENS, do_sample=False, temperature=None
    )[0, len(token_ids) :]
    url = vllm_server(out, "--dtype=float32")
    (served,) = ask(f"{url}/models")["data"]
    asked = {
        "model": served["id"],
        "prompt": token_ids,
        "max_tokens": NUM_TOKENS,
        "temperature": 0.0,
    }
    (choice,) = ask(f"{url}/completions", asked)["choices"]
    assert choice["text"] == tokenizer.decode(written, skip_special_tokens=True)
    assert len(choice["text"]) > NUM_TOKENS
