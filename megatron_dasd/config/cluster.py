"""How a pipeline runs as jobs of Slurm: what each job asks for, and the servers that stages ask.

None of it is part of a stage's identity.  A run on one machine ignores it.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from megatron_dasd.config.base import Name, Positive

TimeLimit = Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d\d){0,2}$")]
"""A time limit as Slurm takes it: minutes, ``hours:minutes:seconds``, ``days-hours:...``."""


class Resources(BaseModel):
    """What a job asks for; a setting left out is as in ``cluster`` itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nodes: Positive | None = None
    """None: as many as its ranks need, ``launch.num_ranks`` over ``gpus_per_node``; else 1."""
    tasks_per_node: Positive | None = None
    """Tasks of a stage whose work several share over MPI (docs/many_cores.md lists them), one of
    which hands out work; None: one, whose workers are processes of its own."""
    cpus_per_task: Positive | None = None
    """CPUs of each task."""
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    """None: one for each rank, or one where a model is loaded without ranks, else none."""
    time: TimeLimit | None = None
    """Time limit of the job."""
    partition: str | None = None
    """Slurm's partition."""
    sbatch: list[str] = []
    """Further options of sbatch, e.g. ``["--constraint=h100"]``."""


class ServerJob(Resources):
    """A server of one model, as a job of its own, in one or more replicas.

    Stages name it (``engine: {server: {service: NAME}}``).  It starts with the first stage that
    does, and is ended when the last has finished.
    """

    command: list[str] = Field(min_length=1)
    """Command to start, e.g. ``[vllm, serve, /models/gpt-oss-120b, --port, "{port}"]``; ``{port}``
    is a free port, ``{model}`` the folder of ``model``, ``{name}`` the service's name, or that of
    the weights that a stage gives it (``engine.server.reload: restart``)."""
    model: str | None = None
    """Stage or folder of its model; a stage has to finish first."""
    count: Positive = 1
    """Number of replicas; each is its own Slurm job."""
    health: str = "/health"
    """Path that answers with status 200 when the server is ready; then the server is announced."""
    start_seconds: Positive = 1800
    """Seconds to wait for the first healthy response."""


class Cluster(BaseModel):
    """The ``cluster`` part of a pipeline file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partition: str | None = None
    """Slurm's partition for every job; None: Slurm's default."""
    account: str | None = None
    """Slurm's account for every job; None: Slurm's default."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 8
    """0: no GPUs are asked for, and a node takes ``ranks_per_node``."""
    ranks_per_node: Positive = 8
    """Most processes of a distributed stage on a node without GPUs; with GPUs, one for each."""
    cpus_per_task: Positive | None = None
    """CPUs of each rank, and of the one process of any other stage; None: Slurm's default."""
    time: TimeLimit = "04:00:00"
    """Time limit of every job."""
    sbatch: list[str] = []
    """Further options of sbatch, for every job."""
    stages: dict[str, Resources] = {}
    """By stage, or by kind of stage."""
    servers: dict[Name, ServerJob] = {}
    """By the name that stages use as ``service``."""
    max_fruitless_starts: Positive = 3
    """Starts of a job in a row without any progress, after which the job fails."""

    def resources(self, stage: str, kind: str) -> Resources:
        """What the file asks for a stage: by its name, and where that is silent, by its kind."""
        of_kind = self.stages.get(kind, Resources()).model_dump(exclude_unset=True)
        of_stage = self.stages.get(stage, Resources()).model_dump(exclude_unset=True)
        return Resources(**(of_kind | of_stage))
