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
    of_text = AutoModelForCausalLM._model_mapping
    of_images = AutoModelForImageTextToText._model_mapping
    if type(config) not in of_images:
        return AutoModelForCausalLM
    if type(config) not in of_text:
        return AutoModelForImageTextToText
    # A config of both kinds: the class that wrote the weights knows their names.
    text_class = of_text[type(config)].__name__
    is_of_text = (config.architectures or [None])[0] == text_class
    return AutoModelForCausalLM if is_of_text else AutoModelForImageTextToText
