"""What a worker is kept behind: bubblewrap, else seccomp, else nothing but limits.

:mod:`probe` tries which of them hold on this machine.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import megatron_dasd
from megatron_dasd.containment.seccomp import SeccompMissingError, compiled

SCRATCH_FOLDER = "/.scratch"
"""The empty folder of a worker behind bubblewrap."""
CANNOT_CONTAIN = "nothing here contains code that a model wrote, and what evaluates it refuses"
INSTALL = (
    "install bubblewrap (Debian: apt-get install bubblewrap), or libseccomp2 and "
    "pip install 'megatron_dasd[eval]'"
)
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
# the kernel takes a worker before anything else when memory ends
_KILLED_FIRST = 'echo 1000 >/proc/self/oom_score_adj; exec "$@"'


@dataclass(frozen=True)
class Walls:
    """One way of keeping a worker in."""

    name: str
    contains: bool
    """Whether code that may be hostile can run behind them."""
    prefix: tuple[str, ...]
    """The command before the worker's own."""
    system_calls: bytes
    """The filter of a request's child; empty: none."""
    folder: str | None
    """The one place that a child can write to."""
    drop_user: bool
    """Whether a child becomes the user ``nobody``."""

    def command(self, code: str, *arguments: str) -> list[str]:
        """The command line that runs Python code behind these walls."""
        python = [os.path.realpath(sys.executable), "-I", "-S", "-c", code, *arguments]
        return ["/bin/sh", "-c", _KILLED_FIRST, "sh", *self.prefix, *python]


def bubblewrap() -> Walls | None:
    """Own mounts, processes, network and, for a user other than root, user; None: not installed."""
    program = shutil.which("bwrap")
    if program is None:
        return None
    root = os.geteuid() == 0
    try:
        system_calls = compiled(files=True)
    except SeccompMissingError:  # a second wall, which the first can stand without
        system_calls = b""
    return Walls(
        "bubblewrap",
        True,
        (program, *_bubblewrap_options(root)),
        system_calls,
        SCRATCH_FOLDER,
        root,
    )


def _bubblewrap_options(root: bool) -> Iterator[str]:
    yield from ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts")
    yield from ("--unshare-cgroup-try", "--die-with-parent", "--new-session", "--clearenv")
    if root:  # root can give each child a user of its own; in a namespace it would stay root
        yield from ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
        yield from ("--cap-add", "CAP_KILL")
    else:
        yield from ("--unshare-user", "--uid", "65534", "--gid", "65534")
    for path in [*_SYSTEM, *_python_paths()]:
        yield from ("--ro-bind-try", path, path)
    for path in _DEVICES:  # no /dev/shm, and no /proc either
        yield from ("--dev-bind", path, path)
    yield from ("--size", str(16 << 20), "--perms", "1777", "--tmpfs", SCRATCH_FOLDER)
    yield from ("--remount-ro", "/", "--chdir", SCRATCH_FOLDER)


def _python_paths() -> list[str]:
    """The interpreter, its libraries, and this package without what lies beside it."""
    libraries = [path for path in search_path() if path != _package_root()]
    executable = os.path.realpath(sys.executable)
    return [executable, f"{sys.base_prefix}/lib", *libraries, str(Path(megatron_dasd.__path__[0]))]


def search_path() -> list[str]:
    """``sys.path`` of a worker: the standard library, installed packages and this package."""
    inside = tuple(f"{place}/" for place in {sys.prefix, sys.base_prefix})
    libraries = (
        path
        for path in sys.path
        if path.startswith(inside) or path.endswith(("site-packages", "dist-packages"))
    )
    return list(dict.fromkeys([*libraries, _package_root()]))


def _package_root() -> str:
    return str(Path(megatron_dasd.__path__[0]).parent)


def seccomp() -> Walls | None:
    """A filter of system calls: no file is opened, nothing started or reached; None: missing."""
    try:
        system_calls = compiled(files=False)
    except SeccompMissingError:
        return None
    return Walls("seccomp", True, (), system_calls, None, os.geteuid() == 0)


def limits_only() -> Walls:
    """A process of its own with limits, for work that evaluates no code."""
    return Walls("limits only", False, (), b"", None, os.geteuid() == 0)
