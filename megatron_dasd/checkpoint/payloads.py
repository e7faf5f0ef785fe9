"""What the one-rank programs of conversion are given, and what they give back."""

from pathlib import Path

from megatron_dasd.device.payload import Payload


class ConversionPayload(Payload):
    """What every one of them is given."""

    model: Path
    """Hugging Face folder."""
    result: Path
    """File that the program writes its result to."""


class ImportPayload(ConversionPayload):
    """Hugging Face weights to a checkpoint."""

    save: Path
    """Empty folder of the checkpoint."""
    dtype: str
    """Type of the weights: ``bfloat16`` or ``float32``."""


class ExportPayload(ConversionPayload):
    """A checkpoint to Hugging Face weights; ``model`` has config and tokenizer."""

    checkpoint: Path
    """Folder of one iteration."""
    dtype: str
    """Type of the weights: ``bfloat16`` or ``float32``."""
    max_shard_bytes: int
    copy_mtp: bool = False
    """Whether heads that guess several tokens ahead are copied from ``model``."""
    out: Path
    """Folder that the weights are written into."""


class ComparePayload(ConversionPayload):
    """Tensors of both sides, bit for bit."""

    checkpoint: Path
    """Folder of one iteration."""
    dtype: str
    """Type of the checkpoint's weights."""


class LogitsPayload(ConversionPayload):
    """Logits of both sides, at every position of a text."""

    checkpoint: Path
    """What Megatron's ``--load`` takes."""
    token_ids: list[int]


class Converted(Payload):
    """Result of an import or export."""

    num_tensors: int
    """Hugging Face tensors."""
    peak_memory_bytes: int
    """Largest memory of the program."""


class TensorComparison(Payload):
    """Result of a comparison of tensors."""

    num_tensors: int
    different: list[str]
    """Names of the tensors that are not equal bit for bit."""


class LogitComparison(Payload):
    """Result of a comparison of logits ``[seq, vocab]``."""

    num_tokens: int
    """Positions compared."""
    max_difference: float
    """Largest absolute difference of a logit."""
    min_cosine: float
    """Smallest cosine over the positions."""
    top_token_agreement: float
    """Share of the positions where both have the same most probable token."""
