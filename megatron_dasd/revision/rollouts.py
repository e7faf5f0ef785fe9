"""Stage roll_out_student: the trained student answers training prompts by itself.

METHOD: mixed-policy distillation, step 1.  Its answers are capped at a multiple of the length of
the teacher's response, in student tokens; of several selected responses the longest counts.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.teacher import RollOutStudent
from megatron_dasd.engines.base import Engine, Generation, GenerationRequest
from megatron_dasd.engines.parts import GenerationJob, generate_parts
from megatron_dasd.json_values import Figures
from megatron_dasd.manifests import model_folder
from megatron_dasd.records import FilteredResponse, Prompt, Rollout, Split
from megatron_dasd.records_io import SetAside, read_records
from megatron_dasd.revision.lengths import length_figures
from megatron_dasd.seeds import derive_seed
from megatron_dasd.text.chat import all_turns, render_or_refuse
from megatron_dasd.text.encoding import encode, load_tokenizer


def run(settings: RollOutStudent, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write parts of :class:`Rollout`, ``num_rollouts`` records a prompt."""
    aside = SetAside(settings.on_malformed)
    tokenizer = load_tokenizer(model_folder(inputs[settings.model]))
    responses = read_records(inputs[settings.responses], FilteredResponse, aside.malformed)
    caps = prompt_caps(responses, tokenizer, settings.cap_ratio, settings.split)
    chosen = choose_prompts(caps, settings.max_prompts, settings.seed, settings.skip_prompts)
    generate_parts(
        (partial(_job, one, tokenizer, settings) for one in _wanted(caps, chosen, settings)),
        Rollout,
        num_jobs=len(chosen) * settings.num_rollouts,
        folder=folder,
        model=model_folder(inputs[settings.model]),
        model_name=settings.model,
        settings=settings.engine,
        aside=aside,
        what="student rollouts",
    )
    return {
        "num_prompts": len(chosen),
        "num_training_prompts": len(caps),
        **_length_figures(read_records(folder.path, Rollout), settings.cap_ratio),
    }


def _length_figures(rollouts: Iterator[Rollout], cap_ratio: float) -> Figures:
    """Lengths of teacher and student; the teacher's are computed back from the caps."""
    teacher, own, cut_off = [], [], []
    for rollout in rollouts:
        teacher.append(math.ceil(rollout.max_tokens / cap_ratio))
        own.append(len(rollout.token_ids))
        cut_off.append(rollout.finish_reason == "length")
    return length_figures(teacher, own, cut_off)


Caps = dict[str, tuple[Prompt, int]]
"""Prompt and most new tokens of its rollouts, by prompt id, in the order of the responses."""


def prompt_caps(
    responses: Iterator[FilteredResponse],
    tokenizer: PreTrainedTokenizerBase,
    cap_ratio: float,
    split: Split = "train",
) -> Caps:
    """The prompts of a split, each with its cap: ratio x longest response, rounded down.

    A response's length does not count its end-of-turn token.
    """
    caps: Caps = {}
    for response in responses:
        if response.prompt.split == split:
            num_tokens = len(encode(tokenizer, response.output, parse_special=False))
            cap = max(1, math.floor(cap_ratio * num_tokens))
            _, longest = caps.get(response.prompt.prompt_id, (None, 0))
            caps[response.prompt.prompt_id] = (response.prompt, max(cap, longest))
    return caps


def choose_prompts(
    caps: Caps, max_prompts: int | None, seed: int | None, skip_prompts: int = 0
) -> dict[str, int]:
    """The first ``max_prompts`` of a random order that depends on the seed and the ids alone.

    Args:
        max_prompts: None: all.
        skip_prompts: number of prompts to skip; the order repeats where it ends.

    Returns:
        By prompt id how often the order had repeated before it, in the order of ``caps``.
    """
    ranked = sorted(caps, key=lambda prompt_id: derive_seed(seed, "rollout prompts", prompt_id))
    wanted = len(ranked) if max_prompts is None else min(max_prompts, len(ranked))
    places = (divmod(skip_prompts + i, len(ranked)) for i in range(wanted))
    around = {ranked[place]: times for times, place in places}
    return {prompt_id: around[prompt_id] for prompt_id in caps if prompt_id in around}


@dataclass(frozen=True)
class _Rollout:
    """One rollout to generate."""

    prompt: Prompt
    candidate: int
    temperature: float
    max_tokens: int
    seed: int

    def record(self, generation: Generation, engine: Engine) -> Rollout:
        tokens = generation.tokens
        ended = generation.finish_reason == "stop"  # by its end-of-turn token, the last
        return Rollout(
            **vars(self),
            token_ids=tokens.token_ids[:-1] if ended else tokens.token_ids,
            num_bytes=tokens.num_bytes[:-1] if ended else tokens.num_bytes,
            text=generation.text,
            finish_reason=generation.finish_reason,
        )


def _wanted(caps: Caps, chosen: Mapping[str, int], settings: RollOutStudent) -> Iterator[_Rollout]:
    for prompt_id, times in chosen.items():
        prompt, cap = caps[prompt_id]
        # a prompt that comes around again gets candidates that it has not had
        first = times * settings.num_rollouts
        for number in range(first, first + settings.num_rollouts):
            seed = derive_seed(settings.seed, "rollout", prompt_id, number)
            yield _Rollout(prompt, number, settings.temperature, cap, seed)


def _job(
    wanted: _Rollout, tokenizer: PreTrainedTokenizerBase, settings: RollOutStudent
) -> GenerationJob[Rollout]:
    prompt = wanted.prompt
    turns = all_turns(prompt.messages, settings.system_prompt)
    variables = settings.chat_template_kwargs
    text, refused = render_or_refuse(tokenizer, turns, prompt.tools, variables)
    request = GenerationRequest(
        prompt=text,
        turns=turns,
        tools=prompt.tools,
        max_new_tokens=wanted.max_tokens,
        seed=wanted.seed,
        temperature=settings.temperature,
        top_p=settings.top_p,
    )
    return GenerationJob(request=request, record=wanted.record, about=wanted, refused=refused)
