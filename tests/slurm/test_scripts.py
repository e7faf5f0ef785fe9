"""Every script of ``slurm/``: its form, what Slurm says of it, what it says of what lacks."""

import subprocess
from pathlib import Path

import pytest

from tests.slurm.conftest import ROOT, Site

SCRIPTS = sorted(path for path in (ROOT / "slurm").glob("*.sbatch") if not path.is_symlink())
LINKS = sorted(path for path in (ROOT / "slurm").glob("*.sbatch") if path.is_symlink())
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_slurm_would_take_it(script: Path, site: Site) -> None:
    asked = ["--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--time=01:00:00"]
    done = site.call("sbatch", "--test-only", *asked, script, "pipeline.yaml", "stage")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_shellcheck_finds_nothing(script: Path) -> None:
    files = [str(script), str(ROOT / "slurm" / "common.sh")]
    done = subprocess.run(
        ["shellcheck", "--external-sources", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_without_arguments_it_tells_its_usage(script: Path, site: Site) -> None:
    done = site.call("bash", script, SLURM_SUBMIT_DIR=str(ROOT))
    assert done.returncode == 2
    header = script.read_text().splitlines()[1].removeprefix("# ")
    assert done.stderr.startswith(header)
    assert "sbatch " in done.stderr


@pytest.mark.parametrize("link", LINKS, ids=lambda path: path.stem)
def test_slurm_would_take_a_link_to_it(link: Path, site: Site) -> None:
    done = site.call("sbatch", "--test-only", "--time=01:00:00", link, "pipeline.yaml", "stage")
    assert done.returncode == 0, done.stderr


STAGE_SCRIPTS = [path for path in SCRIPTS if path.stem != "end_servers"]


@pytest.mark.parametrize("script", STAGE_SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("", "error: DASD_ENVIRONMENT is not set: venv, pyxis or apptainer"),
        (
            "DASD_ENVIRONMENT=conda",
            "error: DASD_ENVIRONMENT=conda: expected venv, pyxis or apptainer",
        ),
        ("DASD_ENVIRONMENT=venv", "error: DASD_VENV is not set"),
        ("DASD_ENVIRONMENT=venv DASD_VENV=/nowhere", "error: no virtual environment at /nowhere"),
        ("DASD_ENVIRONMENT=pyxis", "error: DASD_IMAGE is not set: the container image"),
        ("DASD_ENVIRONMENT=apptainer", "error: DASD_IMAGE is not set: the container image"),
    ],
)
def test_a_setting_that_lacks_is_named(script: Path, settings: str, told: str, site: Site) -> None:
    (site.place / "env.sh").write_text(f"export {settings}\n" if settings else "")
    done = site.call("bash", script, "pipeline.yaml", "stage", SLURM_SUBMIT_DIR=str(ROOT))
    assert done.returncode == 2
    assert done.stderr.startswith(told)


def test_no_settings_at_all(site: Site) -> None:
    (site.place / "env.sh").unlink()
    script = ROOT / "slurm" / "train.sbatch"
    done = site.call("bash", script, "pipeline.yaml", "stage", SLURM_SUBMIT_DIR=str(ROOT))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {site.place}/env.sh is missing; copy slurm/env.example")


def test_a_service_without_a_place(site: Site) -> None:
    script = ROOT / "slurm" / "serve.sbatch"
    done = site.call("bash", script, "pipeline.yaml", "teacher", SLURM_SUBMIT_DIR=str(ROOT))
    assert done.stderr.startswith("error: DASD_SERVICES is not set: the folder of services")
