"""What a rank of the dry run is to play, and what was seen of it; both are files."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Program = Literal["train", "score", "verify", "import", "export", "topk"]


@dataclass(frozen=True)
class Case:
    """A rank of a stage of a pipeline file."""

    pipeline: str
    """The file."""
    stage: str
    rank: int = 0
    settings: tuple[str, ...] = ()
    """``setting=value`` of the stage, in YAML; nested settings with dots."""
    num_layers: int = 2
    """In place of the model's own."""
    micro_batches: int = 1
    """Of a step, on this rank."""
    model: str = ""
    """A Hugging Face folder in place of the example's model with ``num_layers``."""
    save: bool = False
    """Whether the last step is saved, by keys; it takes most of the time of a case."""
    interim: bool = False
    """Whether there is a step more before the last, which is saved beside the training."""
    memory: bool = False
    """Whether live tensors are counted."""
    apex: bool = False
    """Whether apex's fused kernel for the weights' gradients is there."""

    def write(self, place: Path) -> None:
        """Into a folder."""
        (place / "case.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, place: Path) -> "Case":
        """From that folder."""
        given = json.loads((place / "case.json").read_text())
        return cls(**{**given, "settings": tuple(given["settings"])})


@dataclass
class Result:
    """What was seen."""

    error: str
    """Type and message of what ended the program; empty: it came to its end."""
    args: dict[str, object] = field(default_factory=dict)
    """Megatron's arguments after its own checks: numbers, texts and switches."""
    attention: list[dict[str, object]] = field(default_factory=list)
    """What reached the attention's kernel, see ``seen.Attention``."""
    backends: list[dict[str, object]] = field(default_factory=list)
    """Questions to Transformer Engine's choice of an attention kernel: an
    ``AttentionShape``'s fields, ``pad_between_seqs``, the names of what else is ``other`` than the
    doctor asks, the kernel chosen, and what would be left with a FlashAttention."""
    products: list[tuple[str, str, str, int]] = field(default_factory=list)
    """Matrix products: types of both sides and of the result, and how many."""
    calls: dict[str, int] = field(default_factory=dict)
    """Other kernels, by name."""
    without_gradient: list[str] = field(default_factory=list)
    """Parameters that the backward pass left without a gradient."""
    num_parameters: int = 0
    """On this rank."""
    host_reads: dict[str, int] = field(default_factory=dict)
    """Places that read a number on the host, each of which waits for the GPU."""
    collectives: list[tuple[str, int, int, int]] = field(default_factory=list)
    """Name, ranks of the group, bytes, and how many."""
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes of live tensors, by the plan's parts."""
    saved: list[str] = field(default_factory=list)
    """Keys of a checkpoint that was to be written."""
    loaded: list[str] = field(default_factory=list)
    """Keys that a checkpoint was asked for."""
    modules: dict[str, int] = field(default_factory=dict)
    """Classes of the model's modules, and how many."""

    def write(self, place: Path) -> None:
        """Into a folder."""
        (place / "result.json").write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, place: Path) -> "Result":
        """From that folder."""
        return cls(**json.loads((place / "result.json").read_text()))
