"""The client against a server over HTTP that fails in every way it can."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.config.base import Server
from megatron_dasd.engines.base import Failure, Generation, GenerationRequest, ScoringRequest
from megatron_dasd.engines.server_engine import ServerEngine
from megatron_dasd.errors import UserError
from megatron_dasd.records import Message
from tests.stub_server import MODEL, StubServer, logprob_of, spelled, written_ids
from tests.vllm_server import free_port

KEY = "sk-the-very-secret-key"


@dataclass
class Seen:
    """A meter that keeps what it is told."""

    num_ended: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def ended(self, num_tokens: int) -> None:
        self.num_ended += 1

    def fault(self, kind: str) -> None:
        self.faults[kind] += 1


def request(seed: int, **fields: Any) -> GenerationRequest:
    given: dict[str, Any] = {
        "prompt": "<|im_start|>ab",
        "turns": (Message(role="user", content="ab"),),
        "max_new_tokens": 12,
        "seed": seed,
    }
    return GenerationRequest(**given | fields)


def settings(*urls: str, **fields: Any) -> Server:
    given: dict[str, Any] = {
        "urls": list(urls),
        "probe": False,
        "concurrency": 16,
        "deadline_seconds": 0.5,
        "patience_seconds": 5,
        "max_attempts": 3,
    }
    return Server(**given | fields)


def generate(
    server: Server,
    folder: Path | None,
    batches: Sequence[Sequence[GenerationRequest]],
    meter: Seen | None = None,
) -> dict[int, list[Generation | Failure]]:
    engine = ServerEngine(server, folder)
    return dict(engine.generate(enumerate(batches), meter or Seen()))


def expected(asked: GenerationRequest) -> str:
    return spelled(written_ids({"seed": asked.seed, "max_tokens": asked.max_new_tokens}))


def test_what_the_server_wrote_with_every_tokens_share(model_dir: Path) -> None:
    asked = request(16)  # "c" + 7 more letters and the end of turn
    with StubServer() as stub:
        engine = ServerEngine(settings(stub.url), model_dir)
        ((_, (written,)),) = engine.generate([(7, [asked])], Seen())
    assert (engine.name, engine.version) == (MODEL, "stub 1.2.3")
    assert isinstance(written, Generation)
    ids = written_ids({"seed": 16, "max_tokens": 12})
    assert written.text == "chmrwbgl"
    assert written.tokens.token_ids == ids
    assert written.tokens.num_bytes == [1] * 8 + [0]
    assert written.tokens.logprobs == [logprob_of(i) for i in ids]
    assert written.finish_reason == "stop"
    assert written.usage is not None
    assert (written.usage.prompt_tokens, written.usage.completion_tokens) == (3, 9)
    (body,) = stub.bodies
    assert body["prompt"] == [1, 3, 4]
    assert body["temperature"] == 1.0
    assert body["seed"] == 16


@pytest.mark.parametrize("with_tokenizer", [True, False])
@pytest.mark.parametrize("with_ids", [True, False])
def test_chat_with_and_without_token_ids(
    model_dir: Path, with_tokenizer: bool, with_ids: bool
) -> None:
    extra = {} if with_ids else {"return_token_ids": None}
    asked = request(16, prefix="xy")
    with StubServer() as stub:
        server = settings(stub.url, api="chat", extra_body=extra)
        (written,) = generate(server, model_dir if with_tokenizer else None, [[asked]])[0]
    assert isinstance(written, Generation)
    assert written.text == "chmrwbgl"
    assert written.tokens.num_bytes == [1] * 8 + [0]
    ids = written_ids({"seed": 16, "max_tokens": 12})
    assert written.tokens.token_ids == (ids if with_ids else [-1] * 9)
    (body,) = stub.bodies
    assert body["messages"] == [
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "xy"},
    ]
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False


def test_the_text_ends_before_a_stop_and_the_tokens_with_it(model_dir: Path) -> None:
    with StubServer() as stub:
        stub.fault = lambda number, body: None
        asked = request(16, stop=("rw",))

        # a server leaves the stop out of its text, and its tokens in
        def cut(body: dict[str, Any], chat: bool, fault: str | None) -> dict[str, Any]:
            answer = StubServer._good(stub, body, chat, fault)
            answer["choices"][0]["text"] = "chm"
            return answer

        stub._good = cut  # type: ignore[method-assign]
        (written,) = generate(settings(stub.url), model_dir, [[asked]])[0]
    assert isinstance(written, Generation)
    assert written.text == "chm"
    assert written.tokens.num_bytes == [1, 1, 1]
    assert len(written.tokens.logprobs) == len(written.tokens.token_ids) == 3


def test_hundreds_in_flight_and_never_more_than_allowed(model_dir: Path) -> None:
    batches = [[request(10 * b + i) for i in range(10)] for b in range(60)]
    with StubServer(fault=lambda number, body: "slow") as stub:
        server = settings(stub.url, concurrency=200, deadline_seconds=30)
        found = generate(server, model_dir, batches)
    assert 100 < stub.most_in_flight <= 200
    assert found.keys() == set(range(60))
    for number, answers in found.items():
        texts = [answer.text for answer in answers if isinstance(answer, Generation)]
        assert texts == [expected(asked) for asked in batches[number]]


FAULTS = {
    "reset": "connection lost",
    "hang": "time-out",
    "429 0.1": "http 429",
    "503": "http 503",
    "500": "http 500",
    "malformed": "malformed JSON",
    "wrong type": "malformed answer",
    "truncated": "truncated answer",
    "no choices": "no choices",
    "no log-probs": "no log-probs",
    "null log-probs": "no log-probs",
    "positive log-probs": "no log-probs",
    "short log-probs": "log-probs of another length",
    "other text": "log-probs of another text",
    "no finish reason": "no finish reason",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_counted_and_the_request_made_again(model_dir: Path, fault: str) -> None:
    meter = Seen()
    with StubServer(fault=lambda number, body: fault if number == 1 else None) as stub:
        found = generate(
            settings(stub.url, concurrency=1), model_dir, [[request(i) for i in range(3)]], meter
        )
    assert [answer.text for answer in found[0] if isinstance(answer, Generation)] == [
        expected(request(i)) for i in range(3)
    ]
    assert meter.faults == {FAULTS[fault]: 1}
    assert meter.num_ended == 3
    assert len(stub.bodies) == 4


@pytest.mark.parametrize("fault", ["malformed", "503", "reset", "hang", "no log-probs"])
def test_a_request_that_is_never_answered_well_is_set_aside(model_dir: Path, fault: str) -> None:
    def only_one(number: int, body: dict[str, Any]) -> str | None:
        return fault if body["seed"] == 1 else None

    meter = Seen()
    with StubServer(fault=only_one) as stub:
        found = generate(settings(stub.url), model_dir, [[request(i) for i in range(3)]], meter)
    first, failed, last = found[0]
    assert isinstance(failed, Failure)
    assert failed.kind == FAULTS[fault]
    assert isinstance(first, Generation)
    assert isinstance(last, Generation)
    assert meter.faults == {FAULTS[fault]: 3}
    assert sum(body["seed"] == 1 for body in stub.bodies) == 3


def test_retry_after_is_honoured(model_dir: Path) -> None:
    times: list[float] = []

    def later(number: int, body: dict[str, Any]) -> str | None:
        times.append(time.monotonic())
        return "429 1.2" if number == 0 else None

    with StubServer(fault=later) as stub:
        found = generate(settings(stub.url), model_dir, [[request(1)]])
    assert isinstance(found[0][0], Generation)
    assert times[1] - times[0] >= 1.2


def test_a_refused_request_is_not_made_again(model_dir: Path) -> None:
    with StubServer(fault=lambda n, body: "400" if body["seed"] == 1 else None) as stub:
        found = generate(settings(stub.url), model_dir, [[request(0), request(1)]])
    assert isinstance(found[0][0], Generation)
    assert found[0][1] == Failure(kind="refused", detail='status 400: {"error": "as told"}')
    assert len(stub.bodies) == 2


def test_one_lost_server_of_several_does_not_end_the_run(model_dir: Path) -> None:
    with StubServer() as first, StubServer() as second:

        def dies(number: int, body: dict[str, Any]) -> str | None:
            if number == 20:
                first._loop.call_soon(lambda: first._loop.create_task(first._end()))
            return "slow" if number > 20 else None

        first.fault = dies
        batches = [[request(10 * b + i) for i in range(10)] for b in range(10)]
        server = settings(first.url, second.url, max_attempts=6, deadline_seconds=5)
        found = generate(server, model_dir, batches)
    assert all(isinstance(answer, Generation) for answers in found.values() for answer in answers)
    assert len(second.bodies) > 40
    assert first.answered.total() + second.answered.total() >= 100


def test_what_a_frozen_server_holds_is_given_to_others(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megatron_dasd.engines.identity._HEALTH_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr("megatron_dasd.engines.endpoints._HEALTH_SECONDS", 0.2)
    with StubServer() as first, StubServer() as second:

        def freezes(number: int, body: dict[str, Any]) -> None:
            first.frozen = number >= 10

        first.fault = freezes
        batches = [[request(10 * b + i) for i in range(10)] for b in range(6)]
        meter = Seen()
        server = settings(first.url, second.url, deadline_seconds=50)
        found = generate(server, model_dir, batches, meter)
    assert all(isinstance(answer, Generation) for answers in found.values() for answer in answers)
    assert set(meter.faults) == {"connection lost"}


def test_requests_go_to_the_server_with_the_fewest(model_dir: Path) -> None:
    def slow(number: int, body: dict[str, Any]) -> str:
        return "slow"  # so that requests are in flight together, however busy the machine is

    with StubServer(fault=slow) as first, StubServer(fault=slow) as second:
        batches = [[request(10 * b + i) for i in range(10)] for b in range(10)]
        generate(settings(first.url, second.url, deadline_seconds=60), model_dir, batches)
    assert abs(len(first.bodies) - len(second.bodies)) < 20


def test_a_server_that_comes_later_is_waited_for(
    model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub = StubServer(port=free_port())
    import threading

    late = threading.Timer(4.0, stub.__enter__)
    late.start()
    try:
        found = generate(settings(stub.url, patience_seconds=20), model_dir, [[request(1)]])
    finally:
        late.join()
        stub.stop()
    assert isinstance(found[0][0], Generation)
    assert f"waiting up to 20 s for a server at {stub.url}" in capsys.readouterr().out


def test_all_servers_lost_is_told_after_a_bounded_wait(model_dir: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(UserError, match=rf"no server answers, for 1 s now: {url} \(connect"):
        generate(settings(url, patience_seconds=1), model_dir, [[request(1)]])


def test_servers_that_fail_at_everything_end_the_run(model_dir: Path) -> None:
    with StubServer(fault=lambda number, body: "400") as stub:
        batches = [[request(i)] for i in range(100)]
        with pytest.raises(UserError, match="32 requests in a row were not answered well"):
            generate(settings(stub.url), model_dir, batches)
    assert len(stub.bodies) < 100


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"model": "another"}, r"does not serve another in the settings \(it serves: stub-model\)"),
        ({"api_key_env": "NOT_SET_ANYWHERE"}, r"variable NOT_SET_ANYWHERE .* is not set"),
    ],
)
def test_what_no_request_could_mend_is_told_at_once(
    model_dir: Path, change: dict[str, Any], line: str
) -> None:
    with StubServer() as stub, pytest.raises(UserError, match=line):
        generate(settings(stub.url, **change), model_dir, [[request(1)]])


def test_the_key_is_sent_and_never_told(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with StubServer(key=KEY) as stub:
        server = settings(stub.url, api_key_env="TEACHER_KEY")
        assert isinstance(generate(server, model_dir, [[request(1)]])[0][0], Generation)
        monkeypatch.setenv("TEACHER_KEY", KEY + "-wrong")
        with pytest.raises(UserError, match="TEACHER_KEY is not accepted") as error:
            generate(settings(stub.url, api_key_env="TEACHER_KEY"), model_dir, [[request(1)]])
    assert KEY not in str(error.value)
    assert KEY not in "".join(capfd.readouterr())


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_the_probe_lets_untempered_logprobs_pass(model_dir: Path, api: str) -> None:
    with StubServer() as stub:
        server = settings(stub.url, probe=True, api=api)
        found = generate(server, model_dir, [[request(i, temperature=0.6) for i in range(3)]])
    assert all(isinstance(answer, Generation) for answer in found[0])


@pytest.mark.parametrize("rescore_by", ["prompt_logprobs", "echo"])
def test_the_probe_refuses_tempered_logprobs(model_dir: Path, rescore_by: str) -> None:
    def temper(logprob: float, temperature: float) -> float:
        return logprob * temperature

    with StubServer(temper=temper) as stub:
        server = settings(stub.url, probe=True, rescore_by=rescore_by)
        with pytest.raises(UserError, match="--logprobs-mode raw_logprobs"):
            generate(server, model_dir, [[request(i, temperature=0.6) for i in range(3)]])
        assert generate(server, model_dir, [[request(i) for i in range(3)]])[0]


def test_one_request_that_is_refused_does_not_fail_the_probe(model_dir: Path) -> None:
    asked = [request(i, temperature=0.6) for i in range(3)]
    with StubServer(fault=lambda n, body: "400" if body.get("seed") == 0 else None) as stub:
        found = generate(settings(stub.url, probe=True), model_dir, [asked])
    assert [type(answer) for answer in found[0]] == [Failure, Generation, Generation]
    refused = "the first requests failed: refused: status 400"
    with StubServer(fault=lambda n, body: "400") as stub, pytest.raises(UserError, match=refused):
        generate(settings(stub.url, probe=True), model_dir, [asked])


def test_a_server_that_cannot_be_probed(model_dir: Path) -> None:
    server = {"probe": True, "extra_body": {"return_token_ids": None}}
    line = r"gives no token ids.* probe: false; the server tells neither the ids nor the bytes of"
    with StubServer() as stub, pytest.raises(UserError, match=line):
        generate(settings(stub.url, **server), model_dir, [[request(1)]])


def test_a_server_that_loses_bytes_is_told_at_its_first_answer(
    model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(**server: Any) -> list[str]:
        with StubServer() as stub:
            generate(settings(stub.url, **server), model_dir, [[request(i) for i in range(5)]])
        return capsys.readouterr().out.splitlines()

    without_ids = {"extra_body": {"return_token_ids": None}}
    (line,) = said(**without_ids)
    assert line.startswith("warning: the server tells neither the ids nor the bytes of its tokens")
    assert "start a server that knows return_token_ids (vLLM)" in line
    assert said() == []
    assert said(**without_ids, api="chat") == []


def test_given_texts_are_scored_in_order(model_dir: Path) -> None:
    texts = [ScoringRequest([1, 3 + i], [4 + i, 5, 2]) for i in range(8)]
    for rescore_by in ("prompt_logprobs", "echo"):
        with StubServer(fault=lambda number, body: "503" if number == 2 else None) as stub:
            engine = ServerEngine(settings(stub.url, rescore_by=rescore_by), model_dir)
            found = dict(engine.score([(0, texts[:5]), (1, texts[5:])], Seen()))
        scores = [scored.logprobs for number in (0, 1) for scored in found[number]]  # type: ignore[union-attr]
        assert scores == [[logprob_of(i) for i in text.response_ids] for text in texts]
