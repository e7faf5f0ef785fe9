from dataclasses import dataclass
from pathlib import Path

import pytest

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.base import Engine as EngineSettings
from megatron_dasd.engines.base import Engine, Generation, GenerationRequest
from megatron_dasd.engines.parts import GenerationJob, generate_parts
from megatron_dasd.manifests import Manifest, model_folder
from megatron_dasd.records_io import SetAside, read_records


@dataclass(frozen=True)
class Written:
    number: int
    text: str


@dataclass(frozen=True)
class Asked:
    number: int


def job(number: int, max_new_tokens: int = 8) -> GenerationJob[Written]:
    def record(generation: Generation, engine: Engine) -> Written:
        return Written(number, generation.text)

    request = GenerationRequest(
        prompt=f"<|im_start|>{'ab' * number}", max_new_tokens=max_new_tokens, seed=number
    )
    return GenerationJob(request=request, record=record, about=Asked(number))


def generate(
    path: Path, model: Path, jobs: list[GenerationJob[Written]], aside: SetAside | None = None
) -> Manifest:
    with StageFolder(path, "stage", "test", {}, {}) as folder:
        generate_parts(
            [lambda one=one: one for one in jobs],  # type: ignore[misc]
            Written,
            num_jobs=len(jobs),
            folder=folder,
            model=model,
            model_name="m",
            settings=EngineSettings(batch_size=4, dtype="float32"),
            aside=aside or SetAside(),
            what="testing",
        )
        return folder.finish()


def test_every_job_ends_as_a_record_or_set_aside(tmp_path: Path, random_model_dir: Path) -> None:
    # one token each: an end of turn leaves no text
    jobs = [job(number, max_new_tokens=1) for number in range(60)]
    manifest = generate(tmp_path / "s", model_folder(random_model_dir), jobs)
    kept = [written.number for written in read_records(tmp_path / "s", Written)]
    assert manifest.counts["generated"] == len(kept)
    assert manifest.counts["generated"] + manifest.counts["dropped: empty"] == 60
    assert manifest.counts["dropped: empty"] > 0
    assert manifest.counts["generated tokens"] == 60
    assert kept == sorted(kept)


def test_what_is_left_after_a_kill_is_made_the_same(tmp_path: Path, random_model_dir: Path) -> None:
    jobs, model = [job(number) for number in range(10)], model_folder(random_model_dir)
    whole = generate(tmp_path / "whole", model, jobs)
    generate(tmp_path / "killed", model, jobs)
    for name in ("part-00000.parquet", "part-00002.parquet", "manifest.json"):
        (tmp_path / "killed" / name).unlink()
    again = generate(tmp_path / "killed", model, jobs)
    assert again.files == whole.files
    assert again.counts == whole.counts
    assert len([name for name in whole.files if name.startswith("part-")]) == 3


def test_a_finished_folder_needs_no_model(tmp_path: Path, random_model_dir: Path) -> None:
    jobs = [job(number) for number in range(4)]
    first = generate(tmp_path / "s", model_folder(random_model_dir), jobs)
    assert generate(tmp_path / "s", tmp_path / "gone", jobs).digest == first.digest


def test_what_was_set_aside_before_goes_with_the_first_part(
    tmp_path: Path, random_model_dir: Path
) -> None:
    aside = SetAside()
    aside.drop("too short", Asked(7))
    model = model_folder(random_model_dir)
    manifest = generate(tmp_path / "s", model, [job(n) for n in range(5)], aside)
    assert manifest.counts["dropped: too short"] == 1
    assert (tmp_path / "s" / "set_aside-00000.parquet").exists()


@pytest.mark.parametrize("dropped", [0, 1])
def test_no_jobs_give_one_empty_part(tmp_path: Path, dropped: int) -> None:
    aside = SetAside()
    for number in range(dropped):
        aside.drop("too short", Asked(number))
    manifest = generate(tmp_path / "s", tmp_path / "no model", [], aside)
    assert manifest.counts.get("dropped: too short", 0) == dropped
    assert list(read_records(tmp_path / "s", Written)) == []
