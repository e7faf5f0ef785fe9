"""Ports for processes that other processes connect to."""

import contextlib
import random
import socket

from megatron_dasd.errors import UserError

_PORTS = range(20_000, 32_000)
"""Below those that systems give to outgoing connections: such a port could be taken before the
process that is to listen on it does."""


def free_port(address: str = "") -> int:
    """A port that nothing listens on now.

    Args:
        address: of this machine; empty: on all its addresses.

    Raises:
        UserError: a hundred ports are all taken.
    """
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((address, port))
            return port
    raise UserError(f"no free port among {_PORTS.start} to {_PORTS.stop - 1}")
