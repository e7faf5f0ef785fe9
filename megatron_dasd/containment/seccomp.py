"""The system calls that a worker's child may make, as a compiled seccomp filter."""

import errno
import tempfile
from functools import cache

COMPUTE = """
read readv write writev close fstat lseek dup dup2 dup3 pipe2 fcntl
ppoll poll select pselect6
brk mmap munmap mremap mprotect madvise
futex get_robust_list set_robust_list rseq membarrier
rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack setitimer getitimer restart_syscall
clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage
getrandom getpid gettid getppid getuid geteuid getgid getegid getcwd uname sysinfo
sched_yield sched_getaffinity exit exit_group
"""
"""Work on memory and on what is open already: no file, process, signal to another or network."""
FILES = """
open openat stat lstat newfstatat statx access faccessat faccessat2 getdents64 readlink
readlinkat ioctl pread64 pwrite64 ftruncate mkdir mkdirat unlink unlinkat rename renameat
renameat2 rmdir chdir statfs fstatfs
"""
"""Files; for where the walls have already taken away those that matter."""


class SeccompMissingError(Exception):
    """There is no libseccomp, or no pyseccomp to call it with."""


@cache
def compiled(files: bool) -> bytes:
    """The filter's BPF program; whatever is not allowed fails with EPERM.

    Args:
        files: allow files to be opened.

    Raises:
        SeccompMissingError: the message says what to install.
    """
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError):
        raise SeccompMissingError(
            "pip install 'megatron_dasd[eval]' and Debian's libseccomp2"
        ) from None
    program = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in (COMPUTE + FILES if files else COMPUTE).split():
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        if number >= 0:  # aarch64 lacks the older ones
            program.add_rule(pyseccomp.ALLOW, number)
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()
