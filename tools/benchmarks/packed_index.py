"""A large index of made-up documents, and what it costs to open it.

The values are holes in a sparse file: what matters is how many documents there are.
"""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from megatron_dasd.data.indexed import write_index
from megatron_dasd.data.meta import (
    LOSS_MASK,
    META,
    PACK_DOCUMENTS,
    PACK_OFFSETS,
    TOKENS,
    DataMeta,
    token_dtype,
)

DOCUMENT_TOKENS, DOCUMENTS_OF_A_PACK = 512, 8
VOCAB_SIZE = 151_936

_OPEN = """
import sys, time
from pathlib import Path
import torch
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.training.batches import ALONE, batches, training_packs

def resident():  # the process's own: pages of mapped files are the kernel's to drop
    line = Path("/proc/self/status").read_text().split("RssAnon:")[1]
    return int(line.split()[0]) / 1000

next(batches(PackedDataset(Path(sys.argv[1])), lambda _: 0, 0, ALONE))  # what is made once
before, started = resident(), time.perf_counter()
data = PackedDataset(Path(sys.argv[2]))
batch = next(batches(data, training_packs(len(data), len(data), 1), 0, ALONE))
print(time.perf_counter() - started, resident() - before)
"""


def write(folder: Path, num_documents: int) -> None:
    """Write packed data of so many equal documents; a multiple of those of a pack."""
    folder.mkdir()
    lengths = np.full(num_documents, DOCUMENT_TOKENS, np.int32)
    dtypes = {TOKENS: token_dtype(VOCAB_SIZE), LOSS_MASK: np.uint8}
    for name, dtype in dtypes.items():
        write_index(folder / f"{name}.idx", dtype, lengths)
        with (folder / f"{name}.bin").open("wb") as file:
            file.truncate(num_documents * DOCUMENT_TOKENS * dtype().itemsize)
    np.save(folder / PACK_DOCUMENTS, np.arange(num_documents))
    np.save(folder / PACK_OFFSETS, np.arange(0, num_documents + 1, DOCUMENTS_OF_A_PACK))
    meta = DataMeta(
        seq_length=DOCUMENT_TOKENS * DOCUMENTS_OF_A_PACK,
        pack_align=64,
        num_documents=num_documents,
        num_tokens=num_documents * DOCUMENT_TOKENS,
        num_loss_tokens=0,
        num_packs=num_documents // DOCUMENTS_OF_A_PACK,
        fill=1.0,
        vocab_size=VOCAB_SIZE,
        eod_id=0,
        companions=[],
        file_bytes={path.name: path.stat().st_size for path in folder.iterdir()},
    )
    (folder / META).write_text(json.dumps(asdict(meta)))


def measure_first_batch(folder: Path) -> tuple[float, float]:
    """(seconds, megabytes of memory) from opening the data to its first batch.

    In a process that has opened other data before, so that what is loaded once does not count.
    """
    other = folder.with_name("other")
    if not other.exists():
        write(other, DOCUMENTS_OF_A_PACK)
    command = [sys.executable, "-c", _OPEN, str(other), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    taken, grown = map(float, done.stdout.split())
    return taken, grown
