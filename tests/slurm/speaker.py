"""The stub server as a program: ``python -m tests.slurm.speaker PORT [NAME]``."""

import sys
import threading

from tests.stub_server import MODEL, StubServer

if __name__ == "__main__":
    port, *name = sys.argv[1:]
    with StubServer(port=int(port), host="0.0.0.0", model=name[0] if name else MODEL):
        threading.Event().wait()
