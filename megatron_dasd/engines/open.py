"""The engine that a stage's settings ask for."""

from pathlib import Path

from megatron_dasd.config.base import Engine as EngineSettings
from megatron_dasd.engines.base import Engine
from megatron_dasd.errors import UserError


def open_engine(settings: EngineSettings, folder: Path | None, name: str) -> Engine:
    """Load a model in this process, or make ready to ask the servers that run it.

    Args:
        folder: Hugging Face folder; with servers its tokenizer is enough, and some need none.
        name: what responses say they come from, where no server names its model.

    Raises:
        UserError: there is no such model.
    """
    # imported here: torch is not needed to ask a server, nor an HTTP client to do without
    if settings.server is not None:
        from megatron_dasd.engines.server_engine import ServerEngine

        return ServerEngine(settings.server, folder)
    if folder is None:
        raise UserError("the engine in this process needs model, a Hugging Face folder")
    from megatron_dasd.engines.transformers_engine import TransformersEngine

    return TransformersEngine(folder, settings, name)
