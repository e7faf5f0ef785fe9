"""A Slurm for all tests here, and a pipeline in a place of its own."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_dasd.config.pipeline import graph_text
from tests.slurm.cluster import SlurmCluster, wait_for, why_not

ROOT = Path(__file__).parents[2]
MICRO = ROOT / "examples" / "cpu_micro"
JOB_SECONDS = 300.0


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """Two nodes."""
    if reason := why_not():
        pytest.skip(f"no Slurm: {reason}")
    # not among pytest's folders, which are closed to all others: munge wants its socket to be seen
    place = Path(tempfile.mkdtemp(prefix="slurm-"))
    place.chmod(0o755)
    try:
        with SlurmCluster(place) as cluster:
            yield cluster
    finally:
        shutil.rmtree(place)


@dataclass
class Site:
    """A folder from which a pipeline is submitted."""

    slurm: SlurmCluster
    place: Path

    def write(self, pipeline: dict[str, Any], /, **cluster: Any) -> None:
        """Write the pipeline file."""
        content = {"name": "site", "run_dir": "run", "seed": 7, "stages": pipeline}
        given = {"gpus_per_node": 1, "time": "00:30:00"} | cluster
        text = yaml.safe_dump(content | {"cluster": given}, sort_keys=False)
        (self.place / "pipeline.yaml").write_text(text)

    def settings(self, **variables: str) -> None:
        """Write the settings of the cluster, with further variables."""
        given = {"DASD_ENVIRONMENT": "venv", "DASD_VENV": sys.prefix, "OMP_NUM_THREADS": "1"}
        lines = [f"export {name}='{value}'\n" for name, value in (given | variables).items()]
        (self.place / "env.sh").write_text("".join(lines))

    def call(self, *command: Any, **environment: str) -> Any:
        """Run a command there."""
        words = [str(word) for word in command]
        more = {"DASD_ENV": str(self.place / "env.sh")} | environment
        return self.slurm.call(words, cwd=self.place, environment=more)

    def submit(self, *options: str) -> str:
        """Run ``tools/submit.py``; returns what it says."""
        done = self.call(sys.executable, ROOT / "tools" / "submit.py", "pipeline.yaml", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    def state(self, name: str) -> str:
        """State of the newest job of a name."""
        listed = self.slurm.run("squeue", "-hat", "all", "--sort=-i", f"--name={name}", "-o", "%T")
        return listed.split()[0] if listed.split() else ""

    def wait(self, name: str, *states: str, seconds: float = JOB_SECONDS) -> None:
        """Wait until a job is in one of some states."""
        try:
            wait_for(lambda: self.state(name) in states, seconds)
        except TimeoutError:
            pytest.fail(f"{name}: {self.state(name)}, not {states}: {self.log(name)[-3000:]}")

    def number(self, name: str) -> str:
        """The newest job's number."""
        listed = self.slurm.run("squeue", "-hat", "all", "--sort=-i", f"--name={name}", "-o", "%i")
        return listed.split()[0]

    def log(self, name: str) -> str:
        """What all jobs of a name said."""
        logs = sorted((self.place / "run" / "jobs").glob(f"{name}-*.log"))
        return "".join(log.read_text() for log in logs)

    def assert_nothing_is_left(self) -> None:
        """No process of a job on any node."""
        nodes = self.slurm.nodes
        wait_for(lambda: not any(self.slurm.processes(node) for node in nodes), 30)
        assert not list(self.place.glob(".dasd-steps-*"))


@pytest.fixture
def site(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Site]:
    """A place of its own; jobs that are left are ended."""
    shutil.copy(MICRO / "text.txt", tmp_path)
    site = Site(slurm, tmp_path)
    site.settings()
    yield site
    slurm.run("scancel", "--user=root", check=False)
    wait_for(lambda: not slurm.run("squeue", "-h").strip(), 60)


def micro_stages() -> dict[str, Any]:
    """Stages of ``examples/cpu_micro``."""
    stages: dict[str, Any] = yaml.safe_load(graph_text(MICRO / "pipeline.yaml"))["stages"]
    return stages
