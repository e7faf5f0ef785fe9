"""The real server that other tests rest on."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vllm_server import SERVED_NAME


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    data = json.dumps({"model": SERVED_NAME} | body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        read: dict[str, Any] = json.load(answer)
    return read


@pytest.mark.slow
def test_one_server_a_folder_answers_with_token_ids_and_logprobs(
    vllm_server: Callable[..., str], smollm2_dir: Path
) -> None:
    url = vllm_server(smollm2_dir)
    assert vllm_server(smollm2_dir) == url
    body = {"prompt": "One, two,", "max_tokens": 4, "logprobs": 0, "return_token_ids": True}
    (choice,) = ask(f"{url}/completions", body)["choices"]
    assert len(choice["token_ids"]) == len(choice["logprobs"]["token_logprobs"]) == 4
