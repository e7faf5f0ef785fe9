"""Settings of preprocessing: texts and responses to packed indexed data."""

from typing import Annotated, Literal

from pydantic import Field

from megatron_dasd.config.base import Input, OnMalformed, Positive, Settings


class PreprocessText(Settings):
    """Plain text to packed indexed data, loss on every token."""

    kind: Literal["preprocess_text"]
    model: Input
    """Hugging Face folder of the tokenizer."""
    packages: dict[str, str] = {}
    """Text files that Python packages carry: package -> path inside it."""
    files: list[Input] = []
    seq_length: Positive
    document_tokens: Positive = 256
    """Length that texts are cut into."""
    max_tokens: Positive | None = None


class PreprocessData(Settings):
    """Responses to packed indexed data: tokens and loss mask, aligned."""

    kind: Literal["preprocess_data"]
    model: Input
    responses: Input
    temperature: float | None = None
    """Only responses of this temperature; None: all."""
    split: Literal["train", "heldout", "all"] = "train"
    mix: Input | None = None
    """Responses mixed in (off-policy data beside mixed-policy data)."""
    mix_ratio: Annotated[float, Field(ge=0)] = 20.0 / 7.7
    """Responses of ``mix`` per response of ``responses`` (the report's ablation: 20K to 7.7K)."""
    system_prompt: str | None = None
    mask_student_prefix: bool = False
    """Leave the student's prefix out of the loss (the report found this worse)."""
    seq_length: Positive
    on_malformed: OnMalformed = "stop"
