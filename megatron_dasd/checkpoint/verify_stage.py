"""Stage verify_conversion: a Hugging Face folder against a checkpoint of the same model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint.artifact import MegatronCheckpoint, open_checkpoint
from megatron_dasd.checkpoint.payloads import (
    ComparePayload,
    LogitComparison,
    LogitsPayload,
    TensorComparison,
)
from megatron_dasd.checkpoint.process import RESULT, run_rank
from megatron_dasd.config.training import VerifyConversion
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import LOGS, model_folder
from megatron_dasd.records import FilteredResponse
from megatron_dasd.records_io import read_records
from megatron_dasd.text.encoding import encode, load_tokenizer

SAMPLE = Path(__file__).with_name("sample.txt")
"""Some 600 tokens of prose, mathematics and code, for a comparison without a text of one's own."""


@dataclass(frozen=True)
class Verification:
    """A Hugging Face folder and a checkpoint, compared."""

    tensors: TensorComparison
    logits: LogitComparison

    def figures(self) -> dict[str, object]:
        """For a stage's manifest."""
        return {**self.tensors.model_dump(), **self.logits.model_dump()}


def run(
    settings: VerifyConversion, inputs: Mapping[str, Path], folder: StageFolder
) -> dict[str, object]:
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
    verification = verify(model, checkpoint, token_ids, folder.path / LOGS)
    check(model, verification, settings.tolerance)
    figures = {**verification.figures(), "tolerance": settings.tolerance}
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
) -> Verification:
    """Compare a model's folder with a checkpoint.

    Args:
        model: Hugging Face folder.
        checkpoint: of the same model.
        token_ids: text to compare the logits on.
        log_dir: where the programs' logs go.

    Raises:
        UserError: a tensor of either side has no counterpart, or more than one.
    """
    result = log_dir / RESULT
    tensors = run_rank(
        "megatron_dasd.checkpoint.compare_program",
        ComparePayload(
            model=model, result=result, checkpoint=checkpoint.weights, dtype=checkpoint.dtype
        ),
        TensorComparison,
        log_dir,
    )
    logits = run_rank(
        "megatron_dasd.checkpoint.verify_program",
        LogitsPayload(
            model=model, result=result, checkpoint=checkpoint.folder, token_ids=token_ids
        ),
        LogitComparison,
        log_dir,
    )
    return Verification(tensors, logits)


def check(model: Path, verification: Verification, tolerance: float) -> None:
    """Judge what :func:`verify` found.

    Raises:
        UserError: the logits' largest difference is over the tolerance, or a tensor differs.
    """
    difference = verification.logits.max_difference
    if not difference <= tolerance:  # also when it is NaN
        raise UserError(
            f"{model}: logits differ from the checkpoint's by up to "
            f"{difference:.2e}, over the tolerance {tolerance:.0e}"
        )
    if different := verification.tensors.different:
        raise UserError(
            f"{model}: {len(different)} of {verification.tensors.num_tensors} tensors differ from "
            f"the checkpoint's, the first of them {different[0]}"
        )
