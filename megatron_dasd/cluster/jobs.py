"""The Slurm jobs that run a pipeline: nodes, tasks, dependencies.  Slurm itself is not asked.

One job runs a stage, after the jobs of the stages that it reads.  One job runs each server, with
the first stage that asks it; a last job ends the servers when all stages that ask them are over.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from megatron_dasd.config.cluster import Resources
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.engines.services import SERVICES
from megatron_dasd.errors import UserError

STAGE, SERVE, END = "stage", "serve", "end_servers"
"""The job scripts in ``slurm/``, without ``.sbatch``."""
JOBS = "jobs"
"""Folder in the run's folder: logs of jobs, their numbers, services."""
NUMBERS = "jobs.json"
"""File in that folder: the newest job's number by name."""


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """One job, as it is to be submitted."""

    name: str
    """The stage's name; for a server, ``serve_<service>_<number>``."""
    script: str
    """Job script in ``slurm/``, without ``.sbatch``."""
    arguments: tuple[str, ...]
    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int | None = None
    gpus_per_node: int = 0
    time: str = ""
    warning_seconds: int | None = None
    """Seconds before the time limit at which it gets SIGUSR1; None: as its script says."""
    partition: str | None = None
    account: str | None = None
    options: tuple[str, ...] = ()
    """Further options of sbatch."""
    after_ok: tuple[str, ...] = ()
    """Jobs that must have succeeded before it starts."""
    after_start: tuple[str, ...] = ()
    """Jobs that must have started."""
    after_any: tuple[str, ...] = ()
    """Jobs that must be over, whether they succeeded or not."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(
        self, ids: Mapping[str, str], scripts: Path, logs: Path, exclude: Collection[str] = ()
    ) -> list[str]:
        """The sbatch command line.

        Args:
            ids: numbers of earlier jobs by name.  A dependency without a number has finished
                already.
            scripts: the folder ``slurm/``.
            logs: folder of the job's log.
            exclude: nodes that the job must not run on.
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
            *([f"--signal=B:USR1@{self.warning_seconds}"] if self.warning_seconds else []),
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
        clauses = [
            ":".join([kind, *(ids[name] for name in names if name in ids)])
            for kind, names in kinds.items()
            if any(name in ids for name in names)
        ]
        return [f"--dependency={','.join(clauses)}", "--kill-on-invalid-dep=yes"] if clauses else []


def plan_jobs(
    pipeline: Pipeline, stages: Collection[str], more: Sequence[str] = ()
) -> list[SlurmJob]:
    """Jobs of some stages and of the servers that they ask, each after the jobs it depends on.

    Args:
        stages: in running order.
        more: options of the pipeline's command line for the jobs of stages and servers.

    Raises:
        UserError: a stage names a service that the file does not define, its ranks do not fill
            its nodes, or one that works as one task is given several.
    """
    jobs: list[SlurmJob] = []
    clients: dict[str, list[str]] = {}
    servers: dict[str, list[str]] = {}
    for stage in stages:
        services = pipeline.stages[stage].services
        for service in services:
            if service not in servers:
                started = _server_jobs(pipeline, stage, service, stages, more)
                servers[service] = [job.name for job in started]
                jobs += started
            clients.setdefault(service, []).append(stage)
        own = [name for service in services for name in servers[service]]
        jobs.append(_stage_job(pipeline, stage, stages, own, more))
    ends = [_end_of_servers(pipeline, s, servers[s], clients[s]) for s in servers]
    return [*jobs, *ends]


def _stage_job(
    pipeline: Pipeline,
    stage: str,
    stages: Collection[str],
    servers: list[str],
    more: Sequence[str],
) -> SlurmJob:
    settings, cluster = pipeline.stages[stage], pipeline.cluster
    asked = cluster.resources(stage, settings.kind)
    num_ranks = settings.num_ranks
    per_node = cluster.gpus_per_node if settings.needs_gpus else 0
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
    elif nodes * tasks > 1 and not settings.works_over_mpi:
        raise UserError(
            f"{pipeline.path}: cluster.stages: {nodes} nodes with {tasks} tasks each for stage "
            f"{stage}, which works as one task; leave nodes and tasks_per_node out"
        )
    return replace(
        _job(pipeline, asked, stage, STAGE, (str(pipeline.path), stage, *more)),
        nodes=nodes,
        tasks_per_node=tasks,
        gpus_per_node=min(per_node, tasks) if asked.gpus_per_node is None else asked.gpus_per_node,
        warning_seconds=settings.stage.warning_seconds,
        after_ok=tuple(name for name in _inputs(pipeline, stage) if name in stages),
        after_start=tuple(servers),
    )


def _inputs(pipeline: Pipeline, stage: str) -> list[str]:
    """Stages that a stage reads; one that describes the run reads all that it depends on."""
    if pipeline.stages[stage].stage.describes_run:
        return pipeline.ancestors(stage)
    return pipeline.upstream(stage)


def _server_jobs(
    pipeline: Pipeline, stage: str, service: str, stages: Collection[str], more: Sequence[str]
) -> list[SlurmJob]:
    cluster = pipeline.cluster
    if service not in cluster.servers:
        known = ", ".join(cluster.servers) or "none"
        raise UserError(
            f"{pipeline.path}: stages.{stage}: service {service} is not among cluster.servers "
            f"({known})"
        )
    server = cluster.servers[service]
    per_node = cluster.gpus_per_node if server.gpus_per_node is None else server.gpus_per_node
    # A server waits for what its first client waits for: idle, it would cost as much as at work.
    waits = [*_inputs(pipeline, stage), *([server.model] if server.model else [])]
    arguments = (str(pipeline.path), service, *more)
    return [
        replace(
            _job(pipeline, server, f"{SERVE}_{service}_{number}", SERVE, arguments),
            nodes=server.nodes or 1,
            gpus_per_node=per_node,
            after_ok=tuple(dict.fromkeys(name for name in waits if name in stages)),
        )
        for number in range(1, server.count + 1)
    ]


def _end_of_servers(
    pipeline: Pipeline, service: str, servers: list[str], clients: list[str]
) -> SlurmJob:
    arguments = (str(pipeline.run_dir / JOBS / NUMBERS), *servers)
    job = _job(pipeline, Resources(time="5"), f"{END}_{service}", END, arguments)
    return replace(job, after_any=tuple(clients))


def _job(
    pipeline: Pipeline, asked: Resources, name: str, script: str, arguments: tuple[str, ...]
) -> SlurmJob:
    """A job of one task on one node; what ``asked`` leaves out is as in ``cluster`` itself."""
    cluster = pipeline.cluster
    return SlurmJob(
        name=name,
        script=script,
        arguments=arguments,
        cpus_per_task=asked.cpus_per_task or cluster.cpus_per_task,
        time=asked.time or cluster.time,
        partition=asked.partition or cluster.partition,
        account=cluster.account,
        options=(*cluster.sbatch, *asked.sbatch),
        environment={SERVICES: str(pipeline.run_dir.absolute() / JOBS / "services")},
    )
