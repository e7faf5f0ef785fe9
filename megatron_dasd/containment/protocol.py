"""What the host and a worker's warden exchange: settings at the start, then frames of bytes."""

import struct

import msgspec

REQUEST = struct.Struct("!cHI")
"""Kind (:data:`PREPARE` or :data:`RUN`), bytes of the key, bytes of the body."""
REPLY = struct.Struct("!cBI")
"""Status (:data:`DONE` or :data:`FAILED`), whether the worker is to be replaced, bytes of the
payload."""

PREPARE, RUN = b"P", b"R"
DONE, FAILED = b"+", b"-"


class Limits(msgspec.Struct, frozen=True):
    """What one request may use."""

    seconds: float = 5.0
    """Wall time from the moment a worker gets the request until the host has the answer."""
    memory_bytes: int = 2 << 30
    """Address space, the task's own modules included."""
    file_bytes: int = 1 << 20
    """Size of any one file."""
    folder_bytes: int = 16 << 20
    """Size of the worker's folder, the one place it can write to."""
    open_files: int = 32
    request_bytes: int = 4 << 20
    reply_bytes: int = 1 << 16
    prepare_seconds: float = 120.0
    """Wall time for a worker to start, and for it to import what a key needs."""


class Orders(msgspec.Struct, frozen=True):
    """What a warden is started with."""

    task: str
    """``module:function``; see :func:`megatron_dasd.containment.pool.Pool`."""
    limits: Limits
    system_calls: bytes
    """The compiled seccomp filter of children; empty: none."""
    folder: str | None
    """The one folder in which children may write; None: none."""
    drop_user: bool
    """Whether children run as the user ``nobody``; needs root."""


class Failure(msgspec.Struct, frozen=True):
    """Why a request has no result."""

    kind: str
    """``timeout``, ``died`` (a signal, a limit, ``os._exit``), ``error`` (an exception), or
    ``too long`` (the request or the reply)."""
    detail: str
