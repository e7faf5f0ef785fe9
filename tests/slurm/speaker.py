"""The stub server as a program: ``python -m tests.slurm.speaker PORT``."""

import sys
import threading

from tests.stub_server import StubServer

if __name__ == "__main__":
    with StubServer(port=int(sys.argv[1]), host="0.0.0.0"):
        threading.Event().wait()
