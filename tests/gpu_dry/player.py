"""Plays ranks of H100s: a process that has Megatron imported, and forks for every case.

``python -m tests.gpu_dry.player engine|bare`` reads the files of cases from its input, a line each,
and answers each with a line once its result is written.  ``bare``: without Transformer Engine.
"""

import os
import sys
import traceback
from pathlib import Path

from tests.gpu_dry.case import Case, Result


def main(with_engine: bool) -> None:
    """Answer cases until there are no more."""
    # Fused functions would be compiled for the meta device.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    from tests.gpu_dry import engine, fla_kernels, h100, on_meta

    h100.install()
    on_meta.install()
    fla_kernels.install()
    if with_engine:
        engine.install()
    import megatron.training.training  # noqa: F401
    import transformers  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        place = Path(line.strip())
        process = os.fork()
        if process == 0:
            _play(place)
        os.waitpid(process, 0)
        print("done", flush=True)


def _play(place: Path) -> None:
    """As the child; does not return."""
    log = os.open(place / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    result = Result(error="")
    try:
        from tests.gpu_dry import programs

        programs.play(Case.read(place), place, result)
    except SystemExit as ended:
        result.error = f"SystemExit: {ended.code}" if ended.code else ""
    except BaseException as error:
        traceback.print_exc()
        result.error = f"{type(error).__name__}: {error}"
    result.write(place)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1] == "engine")
