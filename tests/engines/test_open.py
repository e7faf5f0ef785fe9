"""Engines by name: each block of settings has one, and a name without one is refused."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from megatron_dasd.config.base import Engine, Server
from megatron_dasd.engines.open import ENGINES, open_engine
from megatron_dasd.engines.server_engine import ServerEngine
from megatron_dasd.errors import UserError

SERVER = Server(urls=["http://a/v1"], api="chat")


class Block(BaseModel):
    size: int = 1


class WithAnother(Engine):
    another: Block | None = None


def test_the_block_of_settings_names_the_engine() -> None:
    assert Engine().name == "transformers"
    assert Engine(server=SERVER).name == "server"
    assert set(ENGINES) == {"transformers", "server"}
    assert isinstance(open_engine(Engine(server=SERVER), None, "m"), ServerEngine)


def test_an_engine_in_this_process_needs_its_model() -> None:
    with pytest.raises(UserError, match="needs model, a Hugging Face folder"):
        open_engine(Engine(), None, "m")


def test_a_name_that_is_not_registered_is_refused(tmp_path: Path) -> None:
    settings = WithAnother(another=Block())
    assert settings.name == "another"
    with pytest.raises(UserError, match="engine another: unknown; engines are transformers, serv"):
        open_engine(settings, tmp_path, "m")
    with pytest.raises(ValidationError, match=r"another\n  Extra inputs are not permitted"):
        Engine.model_validate({"another": {"size": 1}})
