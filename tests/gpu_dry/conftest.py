"""Two players, started once, and the folder that their cases read from."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Literal

import pytest

from tests.gpu_dry import engine, inputs
from tests.gpu_dry.case import Case, Result

Kind = Literal["engine", "bare"]
Play = Callable[..., Result]
_ROOT = Path(__file__).parents[2]


class _Player:
    def __init__(self, kind: Kind, log: Path) -> None:
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.gpu_dry.player", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=_ROOT,
        )
        self._expect("ready")

    def play(self, case: Case, place: Path) -> Result:
        case.write(place)
        assert self._process.stdin is not None
        print(place, file=self._process.stdin, flush=True)
        self._expect("done")
        return Result.read(place)

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        assert said == word, f"{said or 'nothing'}: {Path(self._log.name).read_text()[-3000:]}"

    def close(self) -> None:
        # Not by the end of its input: a process forked by another test may hold that pipe open.
        with self._process:
            self._process.kill()
        self._log.close()


@pytest.fixture(scope="session")
def dry_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, responses, a tiny model and its checkpoint; every case gets a folder beside them."""
    place = tmp_path_factory.mktemp("dry")
    inputs.write_rows(place / "data")
    inputs.write_responses(place / "responses")
    inputs.tiny_model(place / "tiny")
    inputs.write_rows(place / "tiny_data", num_rows=1, lengths=(600, 300), vocab_size=24)
    (place / "topk.yaml").write_text(inputs.TOPK)
    inputs.import_model(place / "tiny", place / "checkpoint")
    inputs.tiny_delta_nets(place / "tiny_delta_nets")
    inputs.tiny_model(place / "tiny_experts", experts=True)
    inputs.import_model(place / "tiny_experts", place / "checkpoint_experts")
    return place


@pytest.fixture(scope="session")
def play(dry_place: Path) -> Iterator[Play]:
    """Play a case: ``play(pipeline, stage, kind="engine", **fields of the case)``.

    The same case is played once, however many tests look at its result.
    """
    engine.fetch()
    players: dict[Kind, _Player] = {}
    results: dict[tuple[Kind, Case], Result] = {}
    numbers = count()
    with ExitStack() as running:

        def played(
            pipeline: str,
            stage: str,
            *,
            kind: Kind = "engine",
            fails: bool = False,
            **fields: object,
        ) -> Result:
            case = Case(str(_ROOT / "examples" / pipeline), stage, **fields)
            if (kind, case) in results:
                return results[kind, case]
            if kind not in players:
                players[kind] = _Player(kind, dry_place / f"{kind}.log")
                running.callback(players[kind].close)
            place = dry_place / f"case-{next(numbers)}"
            place.mkdir()
            result = players[kind].play(case, place)
            if result.error and not fails:
                tail = (place / "log").read_text().splitlines()[-30:]
                pytest.fail("\n".join([*tail, f"{case}: {result.error}"]))
            results[kind, case] = result
            return result

        yield played
