"""Stage verify_conversion: a Hugging Face folder against a checkpoint of the same model."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint.artifact import MegatronCheckpoint, open_checkpoint
from megatron_dasd.checkpoint.process import run_rank
from megatron_dasd.config.training import VerifyConversion
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import LOGS, model_folder
from megatron_dasd.records import FilteredResponse
from megatron_dasd.records_io import read_records
from megatron_dasd.text.encoding import encode, load_tokenizer

SAMPLE = Path(__file__).with_name("sample.txt")
"""Some 600 tokens of prose, mathematics and code, for a comparison without a text of one's own."""


def run(
    settings: VerifyConversion, inputs: Mapping[str, Path], folder: StageFolder
) -> dict[str, Any]:
    """Compare every tensor, and the logits at every position of real text in fp32.

    Raises:
        UserError: a tensor differs, or the logits do by more than the tolerance.
    """
    model = model_folder(inputs[settings.model])
    responses = inputs[settings.responses]
    texts = (record.output for record in read_records(responses, FilteredResponse))
    token_ids = text_tokens(model, texts, settings.num_tokens)
    if not token_ids:
        raise UserError(f"{responses}: no text to compare the models on")
    checkpoint = open_checkpoint(inputs[settings.checkpoint])
    figures = verify(model, checkpoint, token_ids, folder.path / LOGS)
    check(model, figures, settings.tolerance)
    figures |= {"tolerance": settings.tolerance}
    folder.write_json("comparison.json", figures)
    return figures


def text_tokens(model: Path, texts: Iterable[str], num_tokens: int) -> list[int]:
    """The first tokens of texts, one after the other; fewer if the texts hold fewer."""
    tokenizer = load_tokenizer(model)
    token_ids: list[int] = []
    for text in texts:
        token_ids += encode(tokenizer, text)
        if len(token_ids) >= num_tokens:
            break
    return token_ids[:num_tokens]


def verify(
    model: Path, checkpoint: MegatronCheckpoint, token_ids: list[int], log_dir: Path
) -> dict[str, Any]:
    """Compare a model's folder with a checkpoint.

    Returns:
        ``num_tensors``, ``different`` (names of tensors that are not equal bit for bit),
        ``num_tokens``, and of the logits ``max_difference``, ``min_cosine`` and
        ``top_token_agreement``.

    Raises:
        UserError: a tensor of either side has no counterpart, or more than one.
    """
    common = {"model": str(model)}
    tensors = run_rank(
        "megatron_dasd.checkpoint.compare_program",
        common | {"checkpoint": str(checkpoint.weights), "dtype": checkpoint.dtype},
        log_dir,
    )
    logits = run_rank(
        "megatron_dasd.checkpoint.verify_program",
        common | {"checkpoint": str(checkpoint.folder), "token_ids": token_ids},
        log_dir,
    )
    figures = tensors | logits
    figures.pop("peak_memory_bytes")
    return figures


def check(model: Path, figures: Mapping[str, Any], tolerance: float) -> None:
    """Judge what :func:`verify` found.

    Raises:
        UserError: the logits' largest difference is over the tolerance, or a tensor differs.
    """
    if not figures["max_difference"] <= tolerance:  # also when it is no number
        raise UserError(
            f"{model}: logits differ from the checkpoint's by up to "
            f"{figures['max_difference']:.2e}, over the tolerance {tolerance:.0e}"
        )
    if different := figures["different"]:
        raise UserError(
            f"{model}: {len(different)} of {figures['num_tensors']} tensors differ from the "
            f"checkpoint's, the first of them {different[0]}"
        )
