"""Settings of preprocessing: texts and responses to packed indexed data."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from megatron_dasd.config.base import (
    Input,
    NumWorkers,
    OnMalformed,
    Positive,
    Settings,
    Stage,
    TemplateVariables,
)


class Packed(Settings):
    """Settings of packing."""

    seq_length: Positive
    """Tokens of a packed row."""
    pack_align: Positive = 64
    """Every document of a row is padded to a multiple of this many positions, so that one packing
    serves every layout: 2 x the context-parallel size must divide it, and so must the multiple that
    FP8 needs.  1 pads nothing; it is right where neither is used."""

    @model_validator(mode="after")
    def _divides(self) -> "Packed":
        if self.seq_length % self.pack_align:
            raise ValueError(
                f"seq_length {self.seq_length} is no multiple of pack_align {self.pack_align}"
            )
        return self


class PreprocessText(Packed):
    """Plain text to packed indexed data, loss on every token."""

    kind: Literal["preprocess_text"]
    stage: ClassVar[Stage] = Stage(module="megatron_dasd.data.preprocess_text")
    model: Input
    """Hugging Face folder of the tokenizer."""
    packages: dict[str, str] = {}
    """Text files that Python packages carry: package -> path inside it."""
    files: list[Input] = []
    """Plain texts; or JSON lines, Parquet, Arrow and folders of them, with a text a row."""
    text_field: str = "text"
    """Column of the text, in files of rows."""
    document_tokens: Positive = 256
    """Tokens of each document that the texts are cut into."""
    max_tokens: Positive | None = None
    """Tokens in all; the rest of the texts is left out.  None: all there are."""


class PreprocessData(Packed):
    """Responses to packed indexed data: tokens, loss mask and companions, aligned."""

    kind: Literal["preprocess_data"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.data.preprocess_data", over_mpi=True, in_rounds=True
    )
    model: Input
    """Hugging Face folder of the tokenizer, the student's."""
    responses: Input
    """Filtered or selected responses."""
    temperature: float | None = None
    """Only responses sampled at this temperature; None: all."""
    split: Literal["train", "heldout", "all"] = "train"
    """Which prompts' responses are packed."""
    mix: Input | None = None
    """Responses mixed in (off-policy data beside mixed-policy data)."""
    mix_ratio: Annotated[float, Field(ge=0)] = 20.0 / 7.7
    """Responses of ``mix`` per response of ``responses`` (the report's ablation: 20K to 7.7K)."""
    system_prompt: str | None = None
    """System turn before every prompt; None: none."""
    chat_template_kwargs: TemplateVariables = {}
    """Variables of the model's chat template."""
    train_turns: Literal["last", "all"] = "last"
    """``all``: every assistant turn of a conversation is an example of its own, laid behind the
    turns before it as the model meets them there (templates leave earlier thinking out).  Of a
    prompt's candidates the first one's are taken."""
    mask_student_prefix: bool = False
    """Leave the student's prefix out of the loss (the report found this worse)."""
    reweight_tau: Annotated[float, Field(gt=0)] | None = None
    """tau, in nats a token.  The loss of each of a prompt's n responses is weighted by n x softmax
    over them of (mean teacher log-prob / tau), which is 1 on average.  None: all weights are 1."""
    num_workers: NumWorkers = None
    """Processes that tokenise; None: one a core.  Ignored under MPI, where its ranks tokenise."""
    on_malformed: OnMalformed = "stop"
    """``stop``: the first malformed record ends the stage; ``set_aside``: such records are kept
    beside the result with the reason, and counted."""
