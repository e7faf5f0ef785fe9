"""Every stage kind has its function, which takes the kind's own settings, and its tool."""

import inspect
from pathlib import Path
from typing import get_type_hints

import pytest

from megatron_dasd.config.base import Settings
from megatron_dasd.config.stages import stage_kinds
from megatron_dasd.pipeline.runner import WORKERS, stage_function

KINDS = stage_kinds()


@pytest.mark.filterwarnings("ignore::UserWarning:megatron")
@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_function_takes_its_kinds_settings(kind: str) -> None:
    function = stage_function(kind)
    worker = [*WORKERS] if KINDS[kind].stage.has_workers else []
    parameters = list(inspect.signature(function).parameters)
    assert parameters == ["settings", "inputs", "folder", *worker]
    settings = get_type_hints(function)["settings"]
    assert issubclass(settings, Settings)
    assert settings is KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_thin_tool(kind: str) -> None:
    tool = Path(__file__).parents[2] / "tools" / f"{kind}.py"
    text = tool.read_text()
    assert f'run_kind("{kind}")' in text
    assert len(text.splitlines()) < 50
