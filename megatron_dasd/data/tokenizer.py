"""A model's tokenizer and the size of its vocabulary."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from megatron_dasd.errors import UserError
from megatron_dasd.text.encoding import load_tokenizer


def load_vocabulary(folder: Path) -> tuple[PreTrainedTokenizerBase, int]:
    """Load the tokenizer of a Hugging Face folder, and the size of the model's vocabulary.

    The size is the model's, not the tokenizer's: models round theirs up, and a student can have
    written ids from the excess.

    Raises:
        UserError: no tokenizer, or no ``vocab_size`` in ``config.json``.
    """
    tokenizer = load_tokenizer(folder)
    vocab_size = json.loads((folder / "config.json").read_text()).get("vocab_size")
    if not isinstance(vocab_size, int):
        raise UserError(f"{folder / 'config.json'}: names no vocab_size")
    return tokenizer, vocab_size
