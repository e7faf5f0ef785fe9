"""A real Slurm of two nodes on one machine, for the time of some tests.

One slurmctld, and a slurmd for each node in namespaces of its own: host name, processes, network (a
bridge between them).  GPUs are made up: device files that are null.  It wants root and the programs
that ``.ci/install-slurm`` installs.
"""

import os
import secrets
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CPUS, GPUS, MEMORY_MB = 16, 8, 100_000
NETWORK = "10.78.0"
PROGRAMS = ("slurmctld", "slurmd", "munged", "ip", "unshare", "setpriv", "shellcheck")
SYSTEM = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

_CONF = """
ClusterName=tests
SlurmctldHost=localhost({network}.254)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={place}/munge/socket,cred_expire=5
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool/%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmctldLogFile={place}/log/slurmctld.log
SlurmdLogFile={place}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
PriorityType=priority/basic
ReturnToService=2
JobRequeue=1
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=10
TCPTimeout=2
KillWait=5
UnkillableStepTimeout=15
MinJobAge=3600
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
GresTypes=gpu
"""
_FIRST_PROCESS = """
place=$1 node=$2 address=$3
hostname "$node"
mount --bind "$place/hosts" /etc/hosts
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip addr add "$address/24" dev eth0
ip link set eth0 up
slurmd -D -f "$SLURM_CONF" -N "$node" &
while :; do sleep 1 & wait $!; done  # what a dead slurmd leaves behind stays a part of the node
"""


def why_not() -> str:
    """What keeps a cluster from being made here; empty: nothing."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=SYSTEM) is None]
    if missing or os.geteuid():
        return f"{', '.join(missing) or 'not root'} (.ci/install-slurm)"
    # as a sandbox without these rights would answer
    for command in (
        ["unshare", "--uts", "--mount", "--pid", "--net", "--fork", "true"],
        ["ip", "link", "add", "slurmprobe", "type", "bridge"],
        ["ip", "link", "del", "slurmprobe"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{' '.join(command)}: {done.stderr.strip()}"
    return ""


class SlurmCluster:
    """The cluster; a context manager."""

    def __init__(self, place: Path, port: int = 17_800) -> None:
        self.place, self._port = place, port
        self.nodes = {f"node{i}": f"{NETWORK}.{i}" for i in (1, 2)}
        self.environment = {"SLURM_CONF": str(place / "slurm.conf"), "PATH": SYSTEM}
        self._bridge = f"slurm{port % 1000}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "SlurmCluster":
        self._write_files()
        socket, key = self.place / "munge" / "socket", self.place / "munge" / "key"
        self._start(
            "munged", "munged", "-F", f"--key-file={key}", f"--socket={socket}",
            *(f"--{name}-file={self.place / 'munge' / name}" for name in ("pid", "log", "seed")),
        )  # fmt: skip
        wait_for(socket.exists)
        _delete_link(self._bridge)
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{NETWORK}.254/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        self._start("slurmctld", "slurmctld", "-D", "-f", self.environment["SLURM_CONF"])
        for node in self.nodes:
            self.start_node(node)
        wait_for(lambda: self.run("sinfo", "-hNo", "%t").split() == ["idle"] * 2, 60)
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            self.kill_node(node)
        for name in ("slurmctld", "munged"):
            self._processes[name].terminate()
            self._processes[name].wait(20)
        _ip("link", "del", self._bridge)

    def start_node(self, node: str) -> None:
        """Boot a node."""
        space = ["--uts", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]
        script = str(self.place / "first_process.sh")
        process = self._start(
            node, "unshare", *space, "bash", script, str(self.place), node, self.nodes[node]
        )
        number = list(self.nodes).index(node) + 1
        outside, inside = f"{self._bridge}o{number}", f"{self._bridge}i{number}"
        # a fixed address: a node that comes back is known to the others' ARP tables
        more = ["type", "veth", "peer", "name", inside, "address", f"02:00:0a:4e:00:{number:02x}"]
        _delete_link(outside)  # the kernel removes that of a dead node only after a while
        _ip("link", "add", outside, *more)
        _ip("link", "set", outside, "master", self._bridge, "up")
        first = _first_child(process.pid)
        _ip("link", "set", inside, "netns", str(first), "name", "eth0")

    def kill_node(self, node: str) -> None:
        """Pull a node's plug: all its processes die at once."""
        process = self._processes[node]
        process.kill()
        process.wait(20)

    def processes(self, node: str) -> list[str]:
        """Command lines of the node's processes, but for Slurm's own."""
        own = str(_first_child(self._processes[node].pid))
        listed = subprocess.run(
            ["nsenter", "-t", own, "-p", "-m", "ps", "-eo", "args", "--no-headers"],
            capture_output=True,
            text=True,
            check=True,
        )
        ours = ("slurmd", "bash " + str(self.place), "ps -eo", "sleep 1", "nsenter")
        return [line for line in listed.stdout.splitlines() if not line.startswith(ours)]

    def run(self, *command: str, check: bool = True) -> str:
        """Run a program of Slurm's; returns what it prints."""
        done = self.call(command)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def call(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run any program with this cluster at hand."""
        environment = os.environ | self.environment | options.pop("environment", {})
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, **options
        )

    def _start(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        with (self.place / "log" / f"{name}.out").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                ("setpriv", "--pdeathsig", "KILL", *command),
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        return self._processes[name]

    def _write_files(self) -> None:
        for name in ("log", "state", "spool/node1", "spool/node2", "munge", "dev"):
            (self.place / name).mkdir(parents=True)
        key = self.place / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        hosts = "".join(f"{address} {node}\n" for node, address in self.nodes.items())
        (self.place / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
        for number in range(GPUS):
            path = self.place / "dev" / f"nvidia{number}"
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        gpus = self.place / "dev" / f"nvidia[0-{GPUS - 1}]"
        (self.place / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={gpus}\n")
        nodes = "".join(
            f"NodeName={node} NodeHostname={node} NodeAddr={address} Port={self._port + i} "
            f"CPUs={CPUS} RealMemory={MEMORY_MB} Gres=gpu:{GPUS} State=UNKNOWN\n"
            for i, (node, address) in enumerate(self.nodes.items(), start=1)
        )
        partition = "PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        conf = _CONF.format(network=NETWORK, port=self._port, place=self.place)
        (self.place / "slurm.conf").write_text(conf + nodes + partition)
        (self.place / "first_process.sh").write_text(_FIRST_PROCESS)


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.1)


def _first_child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_for(lambda: children.read_text().split())
    return int(children.read_text().split()[0])


def _delete_link(name: str) -> None:
    """Remove a link that may not exist."""
    subprocess.run(["ip", "link", "del", name], stderr=subprocess.DEVNULL, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
