"""A Hugging Face model in this process: it answers prompts, and reads what another one wrote."""

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Literal

from megatron_dasd.api.sentences import Reading
from megatron_dasd.config.base import Engine
from megatron_dasd.engines.base import GenerationRequest, ScoringRequest
from megatron_dasd.engines.transformers_engine import TransformersEngine
from megatron_dasd.manifests import model_folder
from megatron_dasd.records import Message
from megatron_dasd.seeds import derive_seed
from megatron_dasd.text.chat import render_prompt
from megatron_dasd.text.encoding import encode, load_tokenizer, token_num_bytes


class Model:
    """A Hugging Face folder with weights, a byte-level tokenizer and a chat template."""

    def __init__(
        self,
        folder: str | PathLike[str],
        dtype: Literal["bfloat16", "float32"] = "float32",
        system_prompt: str | None = None,
    ) -> None:
        """Load the model, onto the GPU where there is one.

        Args:
            folder: the Hugging Face folder, or that of a stage that made one.
            dtype: precision of the weights; float32 is the faster one on a CPU.
            system_prompt: precedes every prompt.

        Raises:
            UserError: the folder holds no such model or tokenizer.
        """
        place = model_folder(Path(folder))
        self._system_prompt = system_prompt
        self._tokenizer = load_tokenizer(place)
        self._engine = TransformersEngine(place, Engine(dtype=dtype), str(folder))

    def sample(
        self,
        prompt: str,
        num_responses: int = 2,
        *,
        temperature: float = 1.0,
        max_new_tokens: int = 256,
        seed: int = 1234,
    ) -> list[tuple[str, Reading]]:
        """Answer a prompt several times.

        Args:
            prompt: the user's turn.
            temperature: 0: greedy.
            max_new_tokens: longest answer, in tokens.

        Returns:
            The text of each answer, and how the model itself reads it.

        Raises:
            UserError: the prompt leaves no room in the model's context.
        """
        request = GenerationRequest(
            prompt=self._rendered(prompt),
            turns=(Message(role="user", content=prompt),),
            prefix="",
            max_new_tokens=max_new_tokens,
            seed=seed,
            temperature=temperature,
        )
        seeds = [derive_seed(seed, "sample", prompt, number) for number in range(num_responses)]
        requests = [replace(request, seed=one) for one in seeds]
        return [
            (written.text, Reading(written.tokens.num_bytes, written.tokens.logprobs))
            for written in self._engine.generate_batch(requests)
        ]

    def read(self, prompt: str, response: str) -> Reading:
        """Read a response that any model wrote: its tokens here, and their log-probs.

        Raises:
            UserError: the chat template refuses the prompt.
        """
        ids = encode(self._tokenizer, response, parse_special=False)
        asked = encode(self._tokenizer, self._rendered(prompt))
        scored = self._engine.score(ScoringRequest(asked, ids))
        return Reading(token_num_bytes(self._tokenizer, ids), scored.logprobs)

    def _rendered(self, prompt: str) -> str:
        turn = Message(role="user", content=prompt)
        return render_prompt(self._tokenizer, [turn], self._system_prompt)
