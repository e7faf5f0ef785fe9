"""All engines by name, and the one that a stage's settings ask for.

A new engine is a module with its class, its block of settings in ``config.base.Engine``, and an
entry in :data:`ENGINES`.
"""

from collections.abc import Callable
from pathlib import Path

from megatron_dasd.config.base import Engine as EngineSettings
from megatron_dasd.engines.base import Engine
from megatron_dasd.errors import UserError


def open_engine(settings: EngineSettings, folder: Path | None, name: str) -> Engine:
    """Load a model in this process, or get ready to ask the servers that run it.

    Args:
        folder: Hugging Face folder; servers need its tokenizer alone, some not even that.
        name: the model's name in responses, where no server names its model.

    Raises:
        UserError: the settings name no registered engine, or there is no such model.
    """
    if settings.name not in ENGINES:
        raise UserError(f"engine {settings.name}: unknown; engines are {', '.join(ENGINES)}")
    return ENGINES[settings.name](settings, folder, name)


# Each imports its module when it is called: asking a server needs no torch, and generating in this
# process no HTTP client.


def _transformers(settings: EngineSettings, folder: Path | None, name: str) -> Engine:
    if folder is None:
        raise UserError("the engine in this process needs model, a Hugging Face folder")
    from megatron_dasd.engines.transformers_engine import TransformersEngine

    return TransformersEngine(folder, settings, name)


def _server(settings: EngineSettings, folder: Path | None, name: str) -> Engine:
    assert settings.server is not None
    from megatron_dasd.engines.server_engine import ServerEngine

    return ServerEngine(settings.server, folder)


ENGINES: dict[str, Callable[[EngineSettings, Path | None, str], Engine]] = {
    "transformers": _transformers,
    "server": _server,
}
"""What opens an engine, by the name of its block of settings."""
