"""How a pipeline is run as jobs of Slurm: what each asks for, and the servers that stages talk to.

No part of a stage's identity: the same file runs on one machine too, where all of this is left out
of account.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from megatron_dasd.config.base import Name, Positive

Minutes = Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d\d){0,2}$")]
"""A time limit as Slurm takes it: minutes, ``hours:minutes:seconds``, ``days-hours:...``."""


class Resources(BaseModel):
    """What a job asks for; what is left out is as in ``cluster`` itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    nodes: Positive | None = None
    """None: as many as its ranks need, ``launch.num_ranks`` over ``gpus_per_node``; else 1."""
    tasks_per_node: Positive | None = None
    """Of ``preprocess_data``, over MPI; None: one, whose workers are processes of its own."""
    cpus_per_task: Positive | None = None
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    """None: one for each rank, or one where a model is loaded without ranks, else none."""
    time: Minutes | None = None
    partition: str | None = None
    sbatch: list[str] = []
    """Further options of sbatch, e.g. ``["--constraint=h100"]``."""


class ServerJob(Resources):
    """A server of one model, as a job of its own, several times where one is not enough.

    Stages name it (``engine: {server: {service: NAME}}``).  It starts with the first stage that
    does, and is ended when the last has finished.
    """

    command: list[str] = Field(min_length=1)
    """What to start, e.g. ``[vllm, serve, /models/gpt-oss-120b, --port, "{port}"]``; ``{port}`` is
    a free port, ``{model}`` the folder behind ``model``, ``{name}`` the service's name, or that of
    the weights that a stage gives it (``engine.server.reload: restart``)."""
    model: str | None = None
    """Stage or folder of its model; a stage has to finish first."""
    count: Positive = 1
    """So many of them, a job each."""
    health: str = "/health"
    """Asked until it answers; then the server is announced."""
    start_seconds: Positive = 1800
    """Until which it must have."""


class Cluster(BaseModel):
    """The ``cluster`` part of a pipeline file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    partition: str | None = None
    account: str | None = None
    gpus_per_node: Annotated[int, Field(ge=0)] = 8
    """0: no GPUs are asked for, and ``ranks_per_node`` is what a node takes."""
    ranks_per_node: Positive = 8
    """Processes of a distributed stage on a node, at most; with GPUs one each."""
    cpus_per_task: Positive | None = None
    """Of every rank, and of every other stage's process; None: as Slurm has it."""
    time: Minutes = "04:00:00"
    sbatch: list[str] = []
    stages: dict[str, Resources] = {}
    """By stage, or by kind of stage."""
    servers: dict[Name, ServerJob] = {}
    max_fruitless_starts: Positive = 3
    """A job that starts so often without any progress in between is a fault."""
