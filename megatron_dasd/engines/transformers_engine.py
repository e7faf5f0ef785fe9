"""The embedded engine: ``transformers`` in this process, batched, on the CPU or one GPU.

What the prompts of a call have in common (the system prompt and the few-shot turns) is run through
the model once and its attention cache is shared out; the rest is padded on the left to one length::

    cache   [ shared prefix | padding, own part of the prompt | generated ]
    mask      1 ... 1         0 ...    1 ... 1                  1 ...

A model with linear attention gets prompts of one length in a batch, and no padding: its layers
keep a state, which padding behind the prefix would change.

Sequences that have ended leave the batch once they are many enough to pay for copying the cache.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import batched, groupby
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import StaticCache
from transformers.utils import logging as transformers_logging

from megatron_dasd.checkpoint.hf_folder import check_weights
from megatron_dasd.config.base import Engine as EngineSettings
from megatron_dasd.engines.auto_class import auto_class
from megatron_dasd.engines.base import (
    Failure,
    Generation,
    GenerationRequest,
    Meter,
    Scored,
    ScoringRequest,
)
from megatron_dasd.engines.decoding import cut_num_bytes, decode_pieces, first_stop
from megatron_dasd.engines.draws import draw_tokens, token_logprobs
from megatron_dasd.errors import UserError
from megatron_dasd.models.linear_attention import LINEAR
from megatron_dasd.records import FinishReason, TokenLogprobs
from megatron_dasd.text.encoding import encode, load_tokenizer
from megatron_dasd.text.harmony import text_bytes
from megatron_dasd.text.layout import end_of_turn_id

_ALIVE_SHARE = 0.75
"""The batch shrinks when at most this share of it still writes."""


@dataclass
class _Sequence:
    """One request that is being generated."""

    request: GenerationRequest
    prompt_ids: list[int]
    max_tokens: int
    luck: np.random.Generator
    """Gives one uniform number for each token."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class TransformersEngine:
    """A Hugging Face model in this process."""

    def __init__(self, folder: Path, settings: EngineSettings, name: str) -> None:
        """Load the model.

        Args:
            folder: the Hugging Face folder.
            name: what responses say they come from.

        Raises:
            UserError: the folder holds no such model.
        """
        self.name = name
        self.version = f"transformers {transformers.__version__}"
        self._batch_size = settings.batch_size
        self._tokenizer = load_tokenizer(folder)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        transformers_logging.disable_progress_bar()
        check_weights(folder)
        try:
            model = auto_class(folder).from_pretrained(
                folder,
                dtype=getattr(torch, settings.dtype),
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
        except Exception as error:  # the library raises many kinds on a damaged config
            raise UserError(f"{folder}: no causal language model ({_first_line(error)})") from None
        self._model = model.to(self._device).eval()
        self._end_ids = self._find_end_ids()
        kinds = getattr(self._model.config.get_text_config(), "layer_types", None) or []
        self._keeps_states = LINEAR in kinds

    def generate(
        self, batches: Iterable[tuple[int, Sequence[GenerationRequest]]], meter: Meter
    ) -> Iterator[tuple[int, list[Generation | Failure]]]:
        """Generate for one batch after the other; see :class:`engines.base.Engine`."""
        for number, requests in batches:
            written = self.generate_batch(requests)
            for generation in written:
                meter.ended(len(generation.tokens.token_ids))
            yield number, list(written)

    def generate_batch(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Generate for every request, in order; a function of the requests alone.

        Raises:
            UserError: a prompt leaves no room for a token in the model's context.
        """
        sequences = [self._prepare(request) for request in requests]
        with torch.inference_mode():
            for batch in self._batches(sequences):
                self._generate_batch(batch)
        return [self._finished(sequence) for sequence in sequences]

    @torch.inference_mode()
    def score(self, request: ScoringRequest) -> Scored:
        """Compute the log-probs of a given response, untempered.

        Raises:
            UserError: the prompt is empty: its last token predicts the response's first.
        """
        if not request.prompt_ids:
            raise UserError(f"{self.name}: a response can only be scored after a prompt")
        ids = self._tensor([[*request.prompt_ids, *request.response_ids]])
        logits_TV = self._model(input_ids=ids).logits[0, len(request.prompt_ids) - 1 : -1].float()
        logprobs_T = token_logprobs(logits_TV, self._tensor(request.response_ids))
        return Scored(logprobs=logprobs_T.tolist())

    def _find_end_ids(self) -> set[int]:
        """Tokens that end a text: the tokenizer's end of turn and those that the model names."""
        named = self._model.generation_config.eos_token_id
        named = [] if named is None else named if isinstance(named, list) else [named]
        return {end_of_turn_id(self._tokenizer), *named}

    def _prepare(self, request: GenerationRequest) -> _Sequence:
        prompt_ids = encode(self._tokenizer, request.prompt)
        context = self._model.config.get_text_config().max_position_embeddings
        if len(prompt_ids) >= context:
            raise UserError(
                f"{self.name}: a prompt of {len(prompt_ids)} tokens fills its context of {context}"
            )
        return _Sequence(
            request,
            prompt_ids,
            max_tokens=min(request.max_new_tokens, context - len(prompt_ids)),
            luck=np.random.default_rng(request.seed),
        )

    def _batches(self, sequences: list[_Sequence]) -> Iterator[list[_Sequence]]:
        """Those alike in length side by side: less padding, and batches that end together.

        No padding at all where layers keep a state: padding behind a prefix would change it.
        """
        if not self._keeps_states:
            order = sorted(sequences, key=lambda s: (s.max_tokens, len(s.prompt_ids)))
            yield from map(list, batched(order, self._batch_size))
            return
        order = sorted(sequences, key=lambda s: (len(s.prompt_ids), s.max_tokens))
        for _, alike in groupby(order, key=lambda s: len(s.prompt_ids)):
            yield from map(list, batched(alike, self._batch_size))

    def _generate_batch(self, sequences: list[_Sequence]) -> None:
        """Write the sequences' tokens to their ends."""
        prefix = common_prefix([sequence.prompt_ids for sequence in sequences])
        own = [sequence.prompt_ids[len(prefix) :] for sequence in sequences]
        width = max(map(len, own))
        longest = max(sequence.max_tokens for sequence in sequences)
        cache = self._prefill(prefix, len(sequences), len(prefix) + width + longest)
        input_ids = self._tensor([[0] * (width - len(ids)) + ids for ids in own])
        mask = self._tensor(
            [[1] * len(prefix) + [0] * (width - len(ids)) + [1] * len(ids) for ids in own]
        )
        for _ in range(longest):
            logits_BV = self._forward(input_ids, mask, cache)
            tokens_B = self._draw(sequences, logits_BV)
            alive = [i for i, sequence in enumerate(sequences) if sequence.finish_reason is None]
            if not alive:
                return
            if len(alive) <= _ALIVE_SHARE * len(sequences):
                kept = self._tensor(alive)
                tokens_B, mask = tokens_B[kept], mask[kept]
                cache.reorder_cache(kept)
                sequences = [sequences[i] for i in alive]
            input_ids = tokens_B[:, None]
            mask = torch.cat([mask, torch.ones_like(input_ids)], dim=1)

    def _prefill(self, prefix: list[int], batch_size: int, capacity: int) -> StaticCache:
        """The attention cache of a shared prefix, for every sequence of a batch.

        Allocated once for ``capacity`` tokens: one that grows is copied whole for every token.
        """
        cache = StaticCache(config=self._model.config, max_cache_len=capacity)
        if prefix:
            input_ids = self._tensor([prefix])
            self._forward(input_ids, torch.ones_like(input_ids), cache)
            cache.reorder_cache(self._tensor([0] * batch_size))
        return cache

    def _forward(self, input_ids: Tensor, mask: Tensor, cache: StaticCache) -> Tensor:
        """Logits after the last token, float32 ``[batch, vocabulary]``; the cache grows.

        Args:
            input_ids: the new tokens, ``[batch, new]``.
            mask: 1 for tokens, 0 for padding, ``[batch, cached + new]``.
        """
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        output = self._model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()  # type: ignore[no-any-return]

    def _draw(self, sequences: list[_Sequence], logits_BV: Tensor) -> Tensor:
        """Draw each sequence's next token, ``[batch]``, and see which sequences end with it."""
        tokens_B = draw_tokens(
            logits_BV,
            self._tensor([s.request.temperature for s in sequences], torch.float32),
            self._tensor([s.request.top_p for s in sequences], torch.float32),
            self._tensor([s.luck.random() for s in sequences], torch.float64),
        )
        logprobs_B = token_logprobs(logits_BV, tokens_B)
        drawn = zip(sequences, tokens_B.tolist(), logprobs_B.tolist(), strict=True)
        for sequence, token, logprob in drawn:
            if sequence.finish_reason is not None:
                continue  # it only keeps its place in the batch
            sequence.token_ids.append(token)
            sequence.logprobs.append(logprob)
            sequence.finish_reason = self._finish_reason(sequence)
        return tokens_B

    def _finish_reason(self, sequence: _Sequence) -> FinishReason | None:
        request = sequence.request
        if sequence.token_ids[-1] in self._end_ids:
            return "stop"
        if request.stop:
            text, _ = decode_pieces(text_bytes(self._tokenizer, sequence.token_ids))
            if first_stop(text, request.stop) is not None:
                return "stop"
        return "length" if len(sequence.token_ids) == sequence.max_tokens else None

    def _finished(self, sequence: _Sequence) -> Generation:
        """The text of a sequence that has ended."""
        assert sequence.finish_reason is not None
        text, num_bytes = decode_pieces(text_bytes(self._tokenizer, sequence.token_ids))
        end = first_stop(text, sequence.request.stop)
        if end is not None:
            text = text[:end]
            num_bytes = cut_num_bytes(num_bytes, len(text.encode()))
        kept = len(num_bytes)
        tokens = TokenLogprobs(
            token_ids=sequence.token_ids[:kept],
            num_bytes=num_bytes,
            logprobs=sequence.logprobs[:kept],
        )
        return Generation(text=text, tokens=tokens, finish_reason=sequence.finish_reason)

    def _tensor(self, values: object, dtype: torch.dtype | None = None) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self._device)


def common_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """The longest beginning that all prompts share and that leaves each at least one token."""
    longest = min(map(len, prompts)) - 1
    first, last = min(prompts), max(prompts)  # in dictionary order: what these share, all share
    shared = 0
    while shared < longest and first[shared] == last[shared]:
        shared += 1
    return first[:shared]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
