"""Hugging Face folders: safetensors in, safetensors out.  Nothing is unpickled."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from megatron_dasd.errors import UserError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""Files that go with the weights from folder to folder."""


class HfWeights:
    """The tensors of a folder by name, read one at a time.

    Raises:
        UserError: no safetensors there, an index that leaves the folder, a damaged file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_of: dict[str, Path] = {}
        for path in self._files():
            try:
                with safe_open(path, framework="pt") as file:
                    self._file_of |= dict.fromkeys(file.keys(), path)
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path}: not a readable safetensors file ({error})") from None

    def names(self) -> set[str]:
        """All tensors' names."""
        return set(self._file_of)

    def read(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            UserError: no tensor of that name.
        """
        if name not in self._file_of:
            raise UserError(f"{self.folder}: tensor {name} is missing")
        with safe_open(self._file_of[name], framework="pt") as file:
            return file.get_tensor(name)  # type: ignore[no-any-return]

    def _files(self) -> list[Path]:
        index = self.folder / _INDEX
        if index.exists():
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        else:
            names = [_SINGLE]
        for name in names:
            if Path(name).name != name:
                raise UserError(f"{index}: {name} leaves the folder")
            if not (self.folder / name).is_file():
                raise UserError(f"{self.folder / name}: no such file; wanted safetensors weights")
        return [self.folder / name for name in names]


def write_hf_folder(folder: Path, tensors: dict[str, Tensor], source: Path) -> None:
    """Write weights beside the companions (config, tokenizer, template) of another folder."""
    # contiguous: safetensors refuses views
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / _SINGLE, metadata={"format": "pt"})
    for name in COMPANIONS:
        if (source / name).exists():
            (folder / name).write_bytes((source / name).read_bytes())


def weights_dtype(folder: Path) -> str:
    """Type of a folder's weights by its config: ``bfloat16`` or ``float32``.

    Raises:
        UserError: another type.
    """
    config = json.loads((folder / "config.json").read_text())
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    if dtype not in ("bfloat16", "float32"):
        raise UserError(
            f"{folder / 'config.json'}: field dtype: {dtype} is neither bfloat16 nor float32"
        )
    return str(dtype)
