"""Which of the classes of ``transformers`` loads a folder's model to write text."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText


def auto_class(folder: Path) -> Any:
    """The class with ``from_pretrained``: of models of text, or of text and images.

    Raises:
        Exception: of many kinds, by the library, where the config is no model's.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    is_of_text = type(config) in AutoModelForCausalLM._model_mapping
    return AutoModelForCausalLM if is_of_text else AutoModelForImageTextToText
