"""A model's tokenizer and the size of its vocabulary."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from megatron_dasd.errors import UserError
from megatron_dasd.json_values import read_object
from megatron_dasd.text.encoding import load_tokenizer


def load_vocabulary(folder: Path) -> tuple[PreTrainedTokenizerBase, int]:
    """Load the tokenizer of a Hugging Face folder, and the size of the model's vocabulary.

    Raises:
        UserError: no tokenizer, or no ``vocab_size`` in ``config.json``.
    """
    return load_tokenizer(folder), read_vocab_size(folder)


def read_vocab_size(folder: Path) -> int:
    """The size of the vocabulary of a Hugging Face folder's model.

    This is the model's size, not the tokenizer's: models round it up, and a student may have
    written ids from the excess.

    Raises:
        UserError: ``config.json`` names none.
    """
    vocab_size = read_object(folder / "config.json").get("vocab_size")
    if not isinstance(vocab_size, int):
        raise UserError(f"{folder / 'config.json'}: names no vocab_size")
    return vocab_size
