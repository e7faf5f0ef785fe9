"""The jobs that run a pipeline: which script, how many nodes, after what.  No Slurm is asked.

One job a stage, after those whose results it reads; one a server, with the first stage that asks
it, ended by a job that waits for the last.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_dasd.config.base import Launch, Settings
from megatron_dasd.config.cluster import Cluster, Resources
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.engines.services import SERVICES
from megatron_dasd.errors import UserError

SCRIPTS = {
    "train": "train",
    "score_student": "score",
    "score_topk": "score",
    "score_teacher": "sample",
    "sample_teacher": "sample",
    "continue_teacher": "sample",
    "roll_out_student": "rollout",
    "preprocess_data": "preprocess",
    "import_hf": "export",
    "export_hf": "export",
    "verify_conversion": "export",
    "evaluate": "evaluate",
}
"""Script in ``slurm/`` by kind of stage; ``stage`` for all others."""
SERVE, END = "serve", "end_servers"
JOBS = "jobs"
"""In the run's folder: logs of jobs, their numbers, services."""
NUMBERS = "jobs.json"
"""There: by name the newest job's number."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job, as it is to be submitted."""

    name: str
    """A stage's, or of a server ``serve_<server>_<number>``."""
    script: str
    """In ``slurm/``, without ``.sbatch``."""
    arguments: tuple[str, ...]
    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int | None = None
    gpus_per_node: int = 0
    time: str = ""
    partition: str | None = None
    account: str | None = None
    options: tuple[str, ...] = ()
    """Further options of sbatch."""
    after_ok: tuple[str, ...] = ()
    """Jobs that have to have succeeded."""
    after_start: tuple[str, ...] = ()
    """Jobs that have to have started."""
    after_any: tuple[str, ...] = ()
    """Jobs that have to be over."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(
        self, ids: Mapping[str, str], scripts: Path, logs: Path, exclude: Collection[str] = ()
    ) -> list[str]:
        """The sbatch command line.

        Args:
            ids: numbers of the jobs submitted before; one that this job waits for and that is not
                among them has finished long since.
            scripts: the folder ``slurm/``.
            logs: where the job's output goes.
            exclude: nodes that are to be left out.
        """
        return [
            "sbatch",
            "--parsable",
            f"--job-name={self.name}",
            f"--nodes={self.nodes}",
            f"--ntasks-per-node={self.tasks_per_node}",
            *([f"--cpus-per-task={self.cpus_per_task}"] if self.cpus_per_task else []),
            *([f"--gpus-per-node={self.gpus_per_node}"] if self.gpus_per_node else []),
            f"--time={self.time}",
            *([f"--partition={self.partition}"] if self.partition else []),
            *([f"--account={self.account}"] if self.account else []),
            f"--output={logs / f'{self.name}-%j.log'}",
            *self._dependency(ids),
            *([f"--exclude={','.join(exclude)}"] if exclude else []),
            *self.options,
            str(scripts / f"{self.script}.sbatch"),
            *self.arguments,
        ]

    def _dependency(self, ids: Mapping[str, str]) -> list[str]:
        kinds = {"afterok": self.after_ok, "after": self.after_start, "afterany": self.after_any}
        asked = [
            ":".join([kind, *(ids[name] for name in names if name in ids)])
            for kind, names in kinds.items()
            if any(name in ids for name in names)
        ]
        return [f"--dependency={','.join(asked)}", "--kill-on-invalid-dep=yes"] if asked else []


def plan_jobs(pipeline: Pipeline, stages: Collection[str], more: Sequence[str] = ()) -> list[Job]:
    """Jobs of some stages and of the servers that they ask, each after those it depends on.

    Args:
        stages: in running order.
        more: options of the pipeline's command line for the jobs of stages and servers.

    Raises:
        UserError: a stage names a service that the file does not have, or ranks fill no nodes.
    """
    jobs: list[Job] = []
    clients: dict[str, list[str]] = {}
    servers: dict[str, list[str]] = {}
    for stage in stages:
        asked = services_of(pipeline.stages[stage])
        for service in asked:
            if service not in servers:
                started = _server_jobs(pipeline, stage, service, stages, more)
                servers[service] = [job.name for job in started]
                jobs += started
            clients.setdefault(service, []).append(stage)
        own = [name for service in asked for name in servers[service]]
        jobs.append(_stage_job(pipeline, stage, stages, own, more))
    ends = [_end_of_servers(pipeline, s, servers[s], clients[s]) for s in servers]
    return [*jobs, *ends]


def services_of(settings: Settings) -> list[str]:
    """The services that a stage asks, or stages within it; each once."""
    found = []
    for stage in (settings, *settings.inner_stages.values()):
        engine = getattr(stage, "engine", None)
        server = getattr(engine, "server", None) or getattr(stage, "server", None)
        found.append(getattr(server, "service", None))
    return [service for service in dict.fromkeys(found) if service]


def ranks_of(settings: Settings) -> int | None:
    """Ranks of a distributed stage; None: it is not one."""
    launch = getattr(settings, "launch", None)
    return launch.num_ranks if isinstance(launch, Launch) else None


def _stage_job(
    pipeline: Pipeline,
    stage: str,
    stages: Collection[str],
    servers: list[str],
    more: Sequence[str],
) -> Job:
    settings, cluster = pipeline.stages[stage], pipeline.cluster
    script = SCRIPTS.get(settings.kind, "stage")
    asked = _resources(cluster, stage, settings.kind)
    num_ranks = ranks_of(settings)
    per_node = cluster.gpus_per_node if _needs_gpus(settings) else 0
    if asked.gpus_per_node is not None and num_ranks:
        per_node = asked.gpus_per_node
    on_node = per_node or cluster.ranks_per_node
    nodes = asked.nodes or (math.ceil(num_ranks / on_node) if num_ranks else 1)
    tasks = asked.tasks_per_node or 1
    if num_ranks and num_ranks > 1:
        if num_ranks % nodes or num_ranks // nodes > on_node:
            raise UserError(
                f"{pipeline.path}: stages.{stage}: {num_ranks} ranks do not fill {nodes} nodes "
                f"of at most {on_node} each; change launch.num_ranks or cluster.stages.{stage}"
            )
        tasks = num_ranks // nodes
    upstream = tuple(name for name in _inputs(pipeline, stage) if name in stages)
    return Job(
        name=stage,
        script=script,
        arguments=(str(pipeline.path), stage, *more),
        nodes=nodes,
        tasks_per_node=tasks,
        gpus_per_node=min(per_node, tasks) if asked.gpus_per_node is None else asked.gpus_per_node,
        after_ok=upstream,
        after_start=tuple(servers),
        environment=_environment(pipeline),
        **_common(cluster, asked),
    )


def _inputs(pipeline: Pipeline, stage: str) -> list[str]:
    """Stages that a stage reads; one that tells of the run reads all that it rests on."""
    if pipeline.stages[stage].tells_of_run:
        return pipeline.ancestors(stage)
    return pipeline.upstream(stage)


def _server_jobs(
    pipeline: Pipeline, stage: str, service: str, stages: Collection[str], more: Sequence[str]
) -> list[Job]:
    cluster = pipeline.cluster
    if service not in cluster.servers:
        known = ", ".join(cluster.servers) or "none"
        raise UserError(
            f"{pipeline.path}: stages.{stage}: service {service} is not among cluster.servers "
            f"({known})"
        )
    server = cluster.servers[service]
    per_node = cluster.gpus_per_node if server.gpus_per_node is None else server.gpus_per_node
    # not before what its first client waits for: a server that nobody asks costs as much as one
    # that works
    waits = [*_inputs(pipeline, stage), *([server.model] if server.model else [])]
    return [
        Job(
            name=f"{SERVE}_{service}_{number}",
            script=SERVE,
            arguments=(str(pipeline.path), service, *more),
            nodes=server.nodes or 1,
            gpus_per_node=per_node,
            after_ok=tuple(dict.fromkeys(name for name in waits if name in stages)),
            environment=_environment(pipeline),
            **_common(cluster, server),
        )
        for number in range(1, server.count + 1)
    ]


def _end_of_servers(
    pipeline: Pipeline, service: str, servers: list[str], clients: list[str]
) -> Job:
    return Job(
        name=f"{END}_{service}",
        script=END,
        arguments=(str(pipeline.run_dir / JOBS / NUMBERS), *servers),
        after_any=tuple(clients),
        environment=_environment(pipeline),
        **_common(pipeline.cluster, Resources(time="5")),
    )


def _resources(cluster: Cluster, stage: str, kind: str) -> Resources:
    """What is asked for a stage: by its name, and where that says nothing by its kind."""
    of_kind = cluster.stages.get(kind, Resources()).model_dump(exclude_unset=True)
    of_stage = cluster.stages.get(stage, Resources()).model_dump(exclude_unset=True)
    return Resources(**(of_kind | of_stage))


def _common(cluster: Cluster, asked: Resources) -> dict[str, Any]:
    return {
        "cpus_per_task": asked.cpus_per_task or cluster.cpus_per_task,
        "time": asked.time or cluster.time,
        "partition": asked.partition or cluster.partition,
        "account": cluster.account,
        "options": (*cluster.sbatch, *asked.sbatch),
    }


def _needs_gpus(settings: Settings) -> bool:
    """Whether a stage computes with a model itself, and does not ask servers."""
    engine = getattr(settings, "engine", None)
    if engine is not None:
        return getattr(engine, "server", None) is None
    return settings.kind in ("train", "score_topk") or (
        settings.kind == "score_student" and getattr(settings, "server", None) is None
    )


def _environment(pipeline: Pipeline) -> dict[str, str]:
    return {SERVICES: str(pipeline.run_dir.absolute() / JOBS / "services")}
