"""New weights for running servers: which version they have, and how they load another.

Servers report the version they have.  One that was restarted in between reports another, and loads
the weights again.  The version is the digest of the model's folder.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from megatron_dasd.engines.faults import Fault
from megatron_dasd.engines.network import Answer, Http, decode
from megatron_dasd.json_values import JsonObject, read_object
from megatron_dasd.manifests import input_digest
from megatron_dasd.printing import say

_DIGITS = 16
_RELOAD_SECONDS = 600.0
"""Longest time that a server may take to load weights."""


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
class _Server:
    """A server that weights are loaded into."""

    http: Http
    root: str
    """URL without ``/v1``."""

    async def ask(self, method: str, path: str, body: JsonObject | None = None) -> Answer:
        """Make a request to a path below the root.

        Raises:
            Fault: there is no whole answer.
        """
        data = None if body is None else msgspec.json.encode(body)
        try:
            async with asyncio.timeout(_RELOAD_SECONDS):
                return await self.http.ask(method, self.root + path, data)
        except TimeoutError:
            raise Fault("time-out", f"{path}: no answer in {_RELOAD_SECONDS:g} s") from None

    async def ask_all(self, steps: list[tuple[str, JsonObject | None]]) -> str | None:
        """Post (path, body) one after the other; returns what went wrong, None for nothing."""
        for path, body in steps:
            answer = await self.ask("POST", path, body)
            if answer.status != 200:
                return f"{path}: status {answer.status}: {self.http.excerpt(answer)}"
        return None


@dataclass(frozen=True)
class _Program:
    """How one kind of server reports and loads weights."""

    version_path: str
    how_to_start: str
    load: Callable[[_Server, Weights], Awaitable[str | None]]
    """Returns what went wrong, None for nothing."""


async def bring(http: Http, root: str, by: str, weights: Weights) -> str | None:
    """Load weights into a server that has others; returns what is wrong, None when it has them.

    Args:
        root: URL without ``/v1``.
        by: a key of ``_PROGRAMS``.

    Raises:
        Fault: it gives no whole answer.
    """
    server, program = _Server(http, root), _PROGRAMS[by]
    has = await _version(server, program)
    if has is None:
        return (
            f"reports no version of its weights at {program.version_path}: {program.how_to_start}"
        )
    if has == weights.version:
        return None
    if wrong := await program.load(server, weights):
        return f"does not load {weights.folder}: {wrong}"
    has = await _version(server, program)
    if has != weights.version:
        reports = None if has is None else http.scrub(has)
        return f"has loaded {weights.folder} and reports version {reports}, not {weights.version}"
    say(f"    {root} has the weights of {weights.folder} (version {has})")
    return None


class _Info(msgspec.Struct):
    weight_version: str = ""


_info = msgspec.json.Decoder(_Info)


async def _version(server: _Server, program: _Program) -> str | None:
    answer = await server.ask("GET", program.version_path)
    if answer.status == 200:
        with suppress(Fault):
            return decode(_info, answer.body).weight_version
    return None


async def _load_vllm(server: _Server, weights: Weights) -> str | None:
    """Aborts requests in flight and empties the prefix cache: both belong to the old weights."""
    if weights.shares_output_layer and await _is_on_cpu(server):
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
    return await server.ask_all(steps)


class _DeviceConfig(msgspec.Struct):
    device: object = None


class _VllmConfig(msgspec.Struct):
    device_config: _DeviceConfig = msgspec.field(default_factory=_DeviceConfig)


class _ServerInfo(msgspec.Struct):
    vllm_config: _VllmConfig = msgspec.field(default_factory=_VllmConfig)


_server_info = msgspec.json.Decoder(_ServerInfo)


async def _is_on_cpu(server: _Server) -> bool:
    answer = await server.ask("GET", "/server_info?config_format=json")
    if answer.status != 200:
        return False
    return decode(_server_info, answer.body).vllm_config.device_config.device == "cpu"


async def _load_sglang(server: _Server, weights: Weights) -> str | None:
    body: JsonObject = {
        "model_path": str(weights.folder),
        "weight_version": weights.version,
        "abort_all_requests": True,
    }
    return await server.ask_all([("/update_weights_from_disk", body)])


_PROGRAMS = {
    "vllm": _Program(
        "/weight_info", "vLLM 0.32 or newer, started with VLLM_SERVER_DEV_MODE=1", _load_vllm
    ),
    "sglang": _Program("/model_info", "SGLang with weight versions", _load_sglang),
}
