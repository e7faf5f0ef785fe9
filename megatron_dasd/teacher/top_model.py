"""A teacher's likeliest tokens through ``transformers``, in this process."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from megatron_dasd.arrays import Ints
from megatron_dasd.data.teacher_top import unknown_top
from megatron_dasd.engines.auto_class import auto_class
from megatron_dasd.errors import UserError

_LOGIT_TOKENS = 256
"""Positions whose logits exist at a time."""


def load_teacher(folder: Path, dtype: str) -> PreTrainedModel:
    """Load a model, onto the GPU where there is one.

    Raises:
        UserError: there is no such model.
    """
    try:
        model = auto_class(folder).from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no model to load ({error})") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval()


@torch.no_grad()
def top_of_document(
    model: PreTrainedModel, tokens: npt.NDArray[np.number], top_k: int, vocab_size: int
) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Ids and log-probs ``[tokens, k]`` of the distribution that each token was drawn from.

    Those of the first token are unknown.  Logits beyond the vocabulary are padding and left out.
    """
    ids, logprobs = unknown_top(len(tokens), top_k)
    given = torch.from_numpy(tokens.astype(np.int64)).unsqueeze(0).to(model.device)
    hidden: Tensor = model.base_model(input_ids=given, use_cache=False).last_hidden_state[0]
    head = model.get_output_embeddings()
    for start in range(0, len(tokens) - 1, _LOGIT_TOKENS):
        end = min(start + _LOGIT_TOKENS, len(tokens) - 1)
        logits = head(hidden[start:end])[:, :vocab_size].float()
        best = logits.log_softmax(-1).topk(top_k)
        ids[start + 1 : end + 1] = best.indices.cpu().numpy()
        logprobs[start + 1 : end + 1] = best.values.cpu().numpy()
    return ids, logprobs
