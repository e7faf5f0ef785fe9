"""New weights for running servers: which version they have, and how they load another.

Servers report the version they have.  One that was restarted in between reports another, and loads
the weights again.  The version is the digest of the model's folder.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from megatron_dasd.json_values import JsonObject, read_object
from megatron_dasd.manifests import input_digest

_DIGITS = 16
_RELOAD_SECONDS = 600.0
"""Longest time that a server may take to load weights."""

Ask = Callable[[str, str, JsonObject | None], Awaitable[tuple[int, bytes]]]
"""Called with method, path below the server's root, JSON body; returns status and answer."""


@dataclass(frozen=True)
class Weights:
    """The weights that servers must have."""

    folder: Path
    """A Hugging Face folder, under a path that the servers can read too."""
    version: str
    shares_output_layer: bool
    """Whether the output layer is the embedding."""

    @classmethod
    def from_folder(cls, folder: Path) -> "Weights":
        """The weights in a folder; hashes all its files, once."""
        config = read_object(folder / "config.json")
        shares = bool(config.get("tie_word_embeddings", False))
        return cls(folder.absolute(), input_digest(folder)[:_DIGITS], shares)


@dataclass(frozen=True)
class _Program:
    """How one kind of server reports and loads weights."""

    version_path: str
    how_to_start: str
    load: Callable[[Ask, Weights], Awaitable[str | None]]
    """Returns what went wrong, None for nothing."""


async def bring(session: aiohttp.ClientSession, root: str, by: str, weights: Weights) -> str | None:
    """Load weights into a server that has others; returns what is wrong, None when it has them.

    Args:
        root: URL without ``/v1``.
        by: a key of ``_PROGRAMS``.
    """

    async def ask(method: str, path: str, body: JsonObject | None) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=_RELOAD_SECONDS)
        async with session.request(method, root + path, json=body, timeout=timeout) as answer:
            return answer.status, await answer.read()

    program = _PROGRAMS[by]
    has = await _version(ask, program)
    if has is None:
        return (
            f"reports no version of its weights at {program.version_path}: {program.how_to_start}"
        )
    if has == weights.version:
        return None
    if wrong := await program.load(ask, weights):
        return f"does not load {weights.folder}: {wrong}"
    has = await _version(ask, program)
    if has != weights.version:
        return f"has loaded {weights.folder} and reports version {has}, not {weights.version}"
    print(f"    {root} has the weights of {weights.folder} (version {has})", flush=True)
    return None


class _Info(msgspec.Struct):
    weight_version: str = ""


async def _version(ask: Ask, program: _Program) -> str | None:
    status, raw = await ask("GET", program.version_path, None)
    if status == 200:
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(raw, type=_Info).weight_version
    return None


async def _load_vllm(ask: Ask, weights: Weights) -> str | None:
    """Aborts requests in flight and empties the prefix cache: both belong to the old weights."""
    if weights.shares_output_layer and await _is_on_cpu(ask):
        return (
            "vLLM on a CPU would keep the old output layer, which this model shares with its "
            "embedding; use reload: restart"
        )
    reload: JsonObject = {
        "method": "reload_weights",
        "kwargs": {"weights_path": str(weights.folder)},
    }
    steps: list[tuple[str, JsonObject | None]] = [
        ("/pause?mode=abort", None),
        ("/collective_rpc", reload),
        ("/reset_prefix_cache", None),
        ("/update_weight_version", {"new_version": weights.version}),
        ("/resume", None),
    ]
    return await _all(ask, steps)


class _DeviceConfig(msgspec.Struct):
    device: object


class _VllmConfig(msgspec.Struct):
    device_config: _DeviceConfig


class _ServerInfo(msgspec.Struct):
    vllm_config: _VllmConfig


async def _is_on_cpu(ask: Ask) -> bool:
    status, raw = await ask("GET", "/server_info?config_format=json", None)
    if status != 200:
        return False
    return msgspec.json.decode(raw, type=_ServerInfo).vllm_config.device_config.device == "cpu"


async def _load_sglang(ask: Ask, weights: Weights) -> str | None:
    body: JsonObject = {
        "model_path": str(weights.folder),
        "weight_version": weights.version,
        "abort_all_requests": True,
    }
    return await _all(ask, [("/update_weights_from_disk", body)])


async def _all(ask: Ask, steps: list[tuple[str, JsonObject | None]]) -> str | None:
    for path, body in steps:
        status, raw = await ask("POST", path, body)
        if status != 200:
            said = " ".join(raw[:200].decode(errors="replace").split())
            return f"{path}: status {status}: {said}"
    return None


_PROGRAMS = {
    "vllm": _Program(
        "/weight_info", "vLLM 0.32 or newer, started with VLLM_SERVER_DEV_MODE=1", _load_vllm
    ),
    "sglang": _Program("/model_info", "SGLang with weight versions", _load_sglang),
}
