"""Which model a server runs, by which program, with which weights; asked at every health check."""

import asyncio
from contextlib import suppress

import msgspec

from megatron_dasd.config.base import Server
from megatron_dasd.engines.faults import Fault
from megatron_dasd.engines.network import CONNECT_SECONDS, Http, decode
from megatron_dasd.engines.weights import Weights, bring
from megatron_dasd.errors import UserError

_HEALTH_TIMEOUT_SECONDS = 30.0
_VERSION_CHARACTERS = 100
"""Of a server's program and version, longest."""


class _Model(msgspec.Struct):
    id: str
    owned_by: str = ""


class _Models(msgspec.Struct):
    data: list[_Model]


class _Version(msgspec.Struct):
    version: str


_models = msgspec.json.Decoder(_Models)
_version = msgspec.json.Decoder(_Version)


class ModelCheck:
    """Checks that servers run the model of the settings; finds its name where none is set."""

    def __init__(self, settings: Server, http: Http, weights: Weights | None) -> None:
        """Nothing is asked yet.

        Args:
            weights: those that the servers must have; None: whichever they have.
        """
        self._settings, self._http, self._weights = settings, http, weights
        self.model = settings.model or ""
        """The model's name at the servers; one that a server gives is clean."""
        if weights and settings.service and settings.reload == "restart":
            self.model = weights.version  # the name by which they serve it
        self.version = ""
        """The servers' program and its version."""
        self.started = False
        """Whether a server has passed: until then a wrong model ends the run."""

    async def check(self, url: str) -> str | None:
        """Ask a server for its models; returns what is wrong, None for nothing.

        Raises:
            UserError: at the start of a run, when it does not serve the model.
        """
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT_SECONDS):
                answer = await self._http.ask("GET", f"{url}/models")
        except TimeoutError:
            return "no answer in time"
        except Fault as fault:
            return fault.detail
        if answer.status in (401, 403):  # waiting does not help; the first request reports it
            return None
        if 300 <= answer.status < 400:
            return f"status {answer.status}: {self._http.excerpt(answer)}"
        if answer.status != 200:
            return f"status {answer.status}"
        try:
            models = decode(_models, answer.body).data
        except Fault:
            return "its list of models is no JSON"
        if not self.version:
            self.version = await self._read_version(url, models[0].owned_by if models else "")
        return self._choose_model(url, [m.id for m in models]) or await self._bring(url)

    def _choose_model(self, url: str, names: list[str]) -> str | None:
        clean = [self._http.scrub(name) for name in names[:8]]
        if not self.model and clean == names and len(names) == 1:
            self.model = names[0]
        if self.model and self.model in names:
            return None
        shown = ", ".join(clean) or "none"
        want = f"does not serve {self.model}" if self.model else "which model is not named"
        if not self.started and self._settings.reload != "restart":
            raise UserError(f"{url}: {want} in the settings (it serves: {shown})")
        return f"serves other models: {shown}"

    async def _bring(self, url: str) -> str | None:
        """Load the stage's weights into a server that has others; returns what is wrong.

        Raises:
            UserError: at the start of a run, when the server does not load them.
        """
        by = self._settings.reload
        if self._weights is None or by is None or by == "restart":
            return None
        try:
            wrong = await bring(self._http, url.removesuffix("/v1"), by, self._weights)
        except Fault as fault:
            return fault.detail
        if wrong and not self.started:
            raise UserError(f"{url}: {wrong}")
        return wrong

    async def _read_version(self, url: str, program: str) -> str:
        """``vllm 0.32.0``; the program alone where the server reports no version."""
        root = url.removesuffix("/v1")
        for path in ("/version", "/get_server_info"):
            with suppress(Fault, TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    answer = await self._http.ask("GET", root + path)
                if answer.status == 200:
                    program = f"{program} {decode(_version, answer.body).version}".strip()
                    break
        return self._http.scrub(program, _VERSION_CHARACTERS) or "unknown"
