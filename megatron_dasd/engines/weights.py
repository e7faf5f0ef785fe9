"""New weights for servers that run already: which they have, and how they are told to load others.

A server says which version it has; one that was started again in between has another, and is told
once more.  The version is the digest of the model's folder.
"""

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from megatron_dasd.manifests import input_digest

_DIGITS = 16
_RELOAD_SECONDS = 600.0
"""In which a server has loaded them."""

Ask = Callable[[str, str, dict[str, Any] | None], Awaitable[tuple[int, bytes]]]
"""Method, path below the server's root, JSON body; gives status and answer."""


@dataclass(frozen=True)
class Weights:
    """The weights that servers are to have."""

    folder: Path
    """A Hugging Face folder, under a path that the servers see too."""
    version: str
    shares_output_layer: bool
    """With the embedding."""

    @classmethod
    def of(cls, folder: Path) -> "Weights":
        """Those of a folder; reads all of it, once."""
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        shares = bool(config.get("tie_word_embeddings", False))
        return cls(folder.absolute(), input_digest(folder)[:_DIGITS], shares)


@dataclass(frozen=True)
class _Way:
    """How one kind of server is asked and told."""

    version_path: str
    how_to_start: str
    load: Callable[[Ask, Weights], Awaitable[str | None]]
    """Gives what went wrong."""


async def bring(session: aiohttp.ClientSession, root: str, by: str, weights: Weights) -> str | None:
    """Let a server have some weights; gives what is wrong, None when it says that it has them.

    Args:
        root: URL without ``/v1``.
        by: a key of ``_WAYS``.
    """

    async def ask(method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=_RELOAD_SECONDS)
        async with session.request(method, root + path, json=body, timeout=timeout) as answer:
            return answer.status, await answer.read()

    way = _WAYS[by]
    has = await _version(ask, way)
    if has is None:
        return f"tells no version of its weights at {way.version_path}: {way.how_to_start}"
    if has == weights.version:
        return None
    if wrong := await way.load(ask, weights):
        return f"does not load {weights.folder}: {wrong}"
    has = await _version(ask, way)
    if has != weights.version:
        return f"has loaded {weights.folder} and says it has version {has}, not {weights.version}"
    print(f"    {root} has the weights of {weights.folder} (version {has})", flush=True)
    return None


class _Info(msgspec.Struct):
    weight_version: str = ""


async def _version(ask: Ask, way: _Way) -> str | None:
    status, raw = await ask("GET", way.version_path, None)
    if status == 200:
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(raw, type=_Info).weight_version
    return None


async def _load_vllm(ask: Ask, weights: Weights) -> str | None:
    """Requests under way are ended, the cache of prefixes is emptied: both are of the old ones."""
    if weights.shares_output_layer and await _is_on_cpu(ask):
        return (
            "vLLM on a CPU would keep the old output layer, which this model shares with its "
            "embedding; use reload: restart"
        )
    reload = {"method": "reload_weights", "kwargs": {"weights_path": str(weights.folder)}}
    steps: list[tuple[str, dict[str, Any] | None]] = [
        ("/pause?mode=abort", None),
        ("/collective_rpc", reload),
        ("/reset_prefix_cache", None),
        ("/update_weight_version", {"new_version": weights.version}),
        ("/resume", None),
    ]
    return await _all(ask, steps)


async def _is_on_cpu(ask: Ask) -> bool:
    status, raw = await ask("GET", "/server_info?config_format=json", None)
    if status != 200:
        return False
    config = msgspec.json.decode(raw)["vllm_config"]
    return bool(config["device_config"]["device"] == "cpu")


async def _load_sglang(ask: Ask, weights: Weights) -> str | None:
    body = {
        "model_path": str(weights.folder),
        "weight_version": weights.version,
        "abort_all_requests": True,
    }
    return await _all(ask, [("/update_weights_from_disk", body)])


async def _all(ask: Ask, steps: list[tuple[str, dict[str, Any] | None]]) -> str | None:
    for path, body in steps:
        status, raw = await ask("POST", path, body)
        if status != 200:
            said = " ".join(raw[:200].decode(errors="replace").split())
            return f"{path}: status {status}: {said}"
    return None


_WAYS = {
    "vllm": _Way(
        "/weight_info", "vLLM 0.32 or newer, started with VLLM_SERVER_DEV_MODE=1", _load_vllm
    ),
    "sglang": _Way("/model_info", "SGLang with weight versions", _load_sglang),
}
