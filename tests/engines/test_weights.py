"""Servers that are given other weights: asked, told, looked at again; and those that do not."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.config.base import Server
from megatron_dasd.engines.base import Failure, Generation
from megatron_dasd.engines.server_engine import ServerEngine
from megatron_dasd.engines.weights import Weights
from megatron_dasd.errors import UserError
from tests.engines.test_server_engine import Seen, request, settings
from tests.stub_server import MODEL, StubServer

REQUESTS = [request(seed) for seed in range(4)]


def texts(server: Server, folder: Path | None) -> list[Generation | Failure]:
    ((_, answers),) = ServerEngine(server, folder).generate([(0, REQUESTS)], Seen())
    return answers


@pytest.mark.parametrize("by", ["vllm", "sglang"])
def test_a_server_loads_the_folder_of_the_stage_once(
    by: str, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = Weights.from_folder(model_dir)
    with StubServer(weights="default") as stub:
        assert all(
            isinstance(text, Generation) for text in texts(settings(stub.url, reload=by), model_dir)
        )
        assert stub.weights == weights.version
        assert stub.loaded == [str(model_dir)]
        told = f"{stub.url.removesuffix('/v1')} has the weights of {model_dir} (version"
        assert told in capsys.readouterr().out
        texts(settings(stub.url, reload=by), model_dir)
        assert stub.loaded == [str(model_dir)]  # it has them


def test_other_weights_are_another_version(model_dir: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model_dir, tmp_path / "other")
    (other / "further").write_text("x")
    with StubServer(weights="default") as stub:
        for folder in (model_dir, other, model_dir):
            texts(settings(stub.url, reload="vllm"), folder)
        assert stub.loaded == [str(folder) for folder in (model_dir, other, model_dir)]
    assert Weights.from_folder(other).version != Weights.from_folder(model_dir).version


def test_without_reload_a_server_keeps_what_it_has(model_dir: Path) -> None:
    with StubServer(weights="default") as stub:
        texts(settings(stub.url), model_dir)
        assert stub.loaded == []


def test_a_server_that_was_started_again_is_told_again(model_dir: Path) -> None:
    """It dies with requests under way, comes back with its first weights, and gets the others."""
    first = StubServer(weights="default", fault=lambda number, _: "hang" if number else None)
    first.__enter__()
    port = first.port
    second = StubServer(weights="default", port=port)

    def batches() -> Any:
        yield 0, REQUESTS[:1]
        yield 1, REQUESTS[1:]

    server = settings(first.url, reload="vllm", deadline_seconds=30, patience_seconds=30)
    answers = ServerEngine(server, model_dir).generate(batches(), Seen())
    try:
        next(answers)
        first.stop()
        second.__enter__()
        (_, rest) = next(answers)
        assert all(isinstance(text, Generation) for text in rest)
        assert second.loaded == [str(model_dir)]
        assert second.weights == Weights.from_folder(model_dir).version
    finally:
        answers.close()  # type: ignore[attr-defined]
        second.stop()


@pytest.mark.parametrize(
    ("stub", "why"),
    [
        (StubServer(), r"reports no version .* /weight_info: vLLM .* VLLM_SERVER_DEV_MODE=1"),
        (StubServer(weights="old", stubborn=True), r"reports version old, not [0-9a-f]{16}"),
    ],
)
def test_a_server_without_them_gets_no_request(stub: StubServer, why: str, model_dir: Path) -> None:
    with stub, pytest.raises(UserError, match=why):
        texts(settings(stub.url, reload="vllm", patience_seconds=0.5), model_dir)
    assert stub.bodies == []


def test_a_folder_that_the_server_does_not_see_is_told(model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_dir, tmp_path / "here")
    engine_settings = settings("http://127.0.0.1:1/v1", reload="vllm", patience_seconds=0.5)
    with StubServer(weights="old") as stub:
        server = engine_settings.model_copy(update={"urls": [stub.url]})
        engine = ServerEngine(server, folder)
        shutil.rmtree(folder)
        with pytest.raises(
            UserError, match=rf"does not load {folder}: /collective_rpc: status 500"
        ):
            list(engine.generate([(0, REQUESTS)], Seen()))


def test_reload_wants_a_folder(model_dir: Path) -> None:
    server = settings("http://127.0.0.1:1/v1", reload="vllm", api="chat")
    with pytest.raises(UserError, match="reload: vllm needs the folder of the weights, model"):
        ServerEngine(server, None)


def test_only_servers_of_a_service_are_started_again() -> None:
    with pytest.raises(ValueError, match="reload: restart needs servers of a service"):
        settings("http://127.0.0.1:1/v1", reload="restart")
    with pytest.raises(ValueError, match="without urls and model"):
        Server(service="student", reload="restart", model=MODEL)
