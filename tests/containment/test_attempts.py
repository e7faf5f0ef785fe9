"""Code that tries to get out does not, behind each of the walls; the next request is served."""

import os
import signal
from pathlib import Path

import pytest

from megatron_dasd.containment.pool import Pool
from megatron_dasd.containment.protocol import DONE, REPLY, Failure

CTYPES = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
FORGED = (REPLY.pack(DONE, 0, 2) + b"13") * 3

CONTAINED: dict[str, tuple[str, str]] = {
    # how it ends, and the code
    "an endless loop": ("timeout", "while True: pass"),
    "a long sleep": ("timeout", "import time; time.sleep(100)"),
    "a number without end": ("timeout", "9**9**9**9"),
    "every signal ignored": (
        "timeout",
        "import signal\nfor s in signal.valid_signals():\n"
        "  try: signal.signal(s, signal.SIG_IGN)\n  except (OSError, ValueError): pass\n"
        "while True: pass",
    ),
    "exit()": ("error", "raise SystemExit(3)"),
    "KeyboardInterrupt": ("error", "raise KeyboardInterrupt"),
    "os._exit": ("died", "import os; os._exit(0)"),
    "a segmentation fault": ("died", "import ctypes; ctypes.string_at(0)"),
    "an error whose text fails": (
        "died",
        "class E(Exception):\n  def __str__(self): raise E\nraise E",
    ),
    "an error whose text is long": ("error", "raise ValueError('x' * 10**8)"),
    "a result of 100 MB": ("too long", "result = 'x' * 10**8"),
    "nested brackets": ("error", "(" * 100_000),
    "NUL": ("error", "x = 1\0"),
    "10 GB": ("error", "bytearray(10 << 30)"),
    "10 GB by degrees": ("error or timeout", "x = []\nwhile True: x.append(bytearray(64 << 20))"),
    "10 GB mapped and shared": ("error", "import mmap; mmap.mmap(-1, 10 << 30)"),
    "10 GB in a file of memory": (
        "error",
        "import os\nfd = os.memfd_create('x')\nwhile True: assert os.write(fd, bytes(1 << 24))",
    ),
    "shared memory": ("error", CTYPES + "assert libc.shmget(0, 1 << 20, 0o1666) != -1"),
    "fork": ("error", "import os; os.fork()"),
    "a fork bomb": ("error", "import os\nwhile True: os.fork()"),
    "a thread": ("error", "import _thread; _thread.start_new_thread(print, ())"),
    "exec": ("error", "import os; os.execv('/bin/sh', ['sh', '-c', 'true'])"),
    "a program": ("error", "import os; assert os.system('true') == 0"),
    "kill everything": ("error", "import os; os.kill(-1, 9)"),
    "kill the warden": ("error", "import os; os.kill(os.getppid(), 9)"),
    "stop the warden": ("error", "import os, signal; os.kill(os.getppid(), signal.SIGSTOP)"),
    "kill the host": ("error", "import os; os.kill({host}, 9)"),
    "trace the warden": (
        "error",
        CTYPES + "assert libc.ptrace(16, os.getppid(), 0, 0) == 0",
    ),
    "the warden's descriptors": ("error", "open(f'/proc/{__import__(\"os\").getppid()}/fd/0')"),
    "raise a limit": ("error", "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))"),
    "become root": ("error", "import os; os.setuid(0)"),
    "a socket": ("error", "import socket; socket.socket()"),
    "a socket to the host": (
        "error",
        "import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
    ),
    "the host's environment": ("error", "open('/proc/{host}/environ').read()"),
    "anyone's environment": (
        "error",
        "import glob\nassert [open(p).read() for p in glob.glob('/proc/*/environ')]",
    ),
    "its own environment": ("error", "import os; assert os.environ or os.getenv('HOME')"),
    "its environment from C": (
        "error",
        CTYPES + "libc.getenv.restype = ctypes.c_char_p\n"
        "assert libc.getenv(b'PATH') or libc.getenv(b'HOME')",
    ),
    "a file of the user": ("error", "open({secret!r}).read()"),
    "/etc/passwd": ("error", "open('/etc/passwd').read()"),
    "a file of the package": ("error", "open({package!r}, 'a')"),
    "/dev/shm": ("error", "open('/dev/shm/megatron_dasd', 'w')"),
    "/var/tmp": ("error", "open('/var/tmp/megatron_dasd', 'w')"),
    "a large file": (
        "error",
        "with open('x', 'wb', 0) as f:\n  for _ in range(100): assert f.write(bytes(1 << 20))\n"
        "assert f.tell() > 1 << 20",
    ),
    "a mount": ("error", CTYPES + "assert libc.mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0"),
    "a namespace": ("error", "import os; os.unshare(os.CLONE_NEWUSER)"),
}


@pytest.mark.parametrize("name", CONTAINED)
def test_attempts(pool: Pool, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, code = CONTAINED[name]
    secret = tmp_path / "secret"
    secret.write_text("key")
    monkeypatch.setenv("API_KEY", "key")
    places = {
        "{host}": str(os.getpid()),
        "{port}": "9",
        "{secret!r}": repr(str(secret)),
        "{package!r}": repr(os.path.realpath(Pool.__module__.replace(".", "/") + ".py")),
    }
    for place, value in places.items():
        code = code.replace(place, value)
    attempt, after = pool.run([("", code.encode()), ("", b"result = 42")])
    assert isinstance(attempt, Failure), attempt
    assert attempt.kind in kind.split(" or "), attempt
    assert after == b"42"


def test_a_request_answers_for_itself_only(pool: Pool) -> None:
    forge = (
        f"import os\nfor fd in range(256):\n  try: os.write(fd, {FORGED!r})\n"
        "  except OSError: pass\n"
    )
    outcomes = pool.run([("", code) for code in (b"result = 1", forge.encode(), b"result = 2")])
    assert outcomes[0] == b"1"
    assert outcomes[2] == b"2"


def test_what_a_request_changes_is_gone_with_it(pool: Pool) -> None:
    spoil = (
        b"import builtins, sys, json\nbuiltins.exec = builtins.str = None\n"
        b"sys.modules.clear(); sys.path.clear()"
    )
    assert pool.run([("", spoil), ("", b"result = str(42)")])[1] == b"42"


def test_what_is_printed_goes_nowhere(pool: Pool, capfd: pytest.CaptureFixture[str]) -> None:
    code = b"import os\nprint('x' * 10**6)\nos.write(1, b'x'); os.write(2, b'x')\nresult = 42"
    assert pool.run([("", code)]) == [b"42"]
    assert capfd.readouterr() == ("", "")


def test_files_do_not_outlive_their_request(pool: Pool) -> None:
    if pool.walls.folder is None:
        pytest.skip(f"{pool.walls.name} lets no file be opened")
    look = b"import os\nresult = os.listdir('.')"
    for leave in (
        b"open('a', 'w').write('x')",
        b"import os\nos.makedirs('c/d'); open('c/d/e', 'w').close()",
        b"import os\nos.mkdir('closed', 0)",  # which the warden cannot look into
    ):
        left = pool.run([("", leave + b"\nimport os\nresult = len(os.listdir('.'))"), ("", look)])
        assert left == [b"1", b"[]"]


def test_a_large_request_is_refused_before_a_worker_gets_it(pool: Pool) -> None:
    outcome, after = pool.run([("", b"#" * 100_000_000), ("", b"result = 42")])
    assert isinstance(outcome, Failure)
    assert outcome.kind == "too long"
    assert after == b"42"


def test_this_process_still_handles_signals_as_before(pool: Pool) -> None:
    before = signal.getsignal(signal.SIGALRM)
    pool.run([("", b"import signal; signal.signal(signal.SIGALRM, signal.SIG_IGN)")])
    assert signal.getsignal(signal.SIGALRM) is before
