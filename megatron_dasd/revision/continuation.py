"""Stage continue_teacher: rollouts cut beyond half, continued by the teacher.

METHOD: mixed-policy distillation, steps 2 to 4.  The prefix, in the normalised form that the
student learnt, is written in the teacher's own delimiters after the teacher's own prompt.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.config.teacher import ContinueTeacher
from megatron_dasd.engines.responses import Candidate, Prefix, generate_responses
from megatron_dasd.json_values import Figures
from megatron_dasd.records import Rollout
from megatron_dasd.records_io import SetAside, read_records
from megatron_dasd.revision.cuts import choose_cut
from megatron_dasd.seeds import derive_seed
from megatron_dasd.text.thinking import NORMALISED, to_teacher_form


def run(settings: ContinueTeacher, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write parts of :class:`Response`, each with its student prefix."""
    aside = SetAside(settings.on_malformed)
    rollouts = read_records(inputs[settings.rollouts], Rollout, aside.malformed)
    prefixes = list(cut_rollouts(rollouts, settings, aside))
    generate_responses(
        ((_candidate(prefix, settings), prefix) for prefix in prefixes),
        settings,
        inputs,
        num_asked=len(prefixes),
        folder=folder,
        aside=aside,
        what="teacher continuations",
    )
    return {"num_prefixes": len(prefixes)}


def _candidate(prefix: Prefix, settings: ContinueTeacher) -> Candidate:
    prompt_id = prefix.prompt.prompt_id
    return Candidate(
        prompt=prefix.prompt,
        temperature=settings.temperature,
        candidate=prefix.candidate,
        seed=derive_seed(settings.seed, "continue", prompt_id, prefix.candidate),
    )


def cut_rollouts(
    rollouts: Iterator[Rollout], settings: ContinueTeacher, aside: SetAside
) -> Iterator[Prefix]:
    """Cut the rollouts that their cap ended, and set the others aside under a named reason."""
    for rollout in rollouts:
        if rollout.finish_reason != "length":
            aside.drop("ended before the cap", rollout)
        elif prefix := cut_rollout(rollout, settings.cut_from, settings.thinking, settings.seed):
            yield prefix
        else:
            aside.drop("no place to cut", rollout)


def cut_rollout(
    rollout: Rollout, cut_from: float, delimiters: ThinkingFormat, seed: int | None
) -> Prefix | None:
    """Cut one rollout at random; None when it is too short or not in the normalised form."""

    def can_continue(prefix: str) -> bool:
        return to_teacher_form(prefix, delimiters) is not None

    if not rollout.text.startswith(NORMALISED.open.strip()):
        return None
    draw = derive_seed(seed, "cut", rollout.prompt.prompt_id, rollout.candidate)
    kept = choose_cut(rollout.text, rollout.num_bytes, cut_from, draw, can_continue)
    if kept is None:
        return None
    text = rollout.text.encode()[: sum(rollout.num_bytes[:kept])].decode()
    teacher_form = to_teacher_form(text, delimiters)
    assert teacher_form is not None
    return Prefix(
        prompt=rollout.prompt,
        candidate=rollout.candidate,
        student_prefix=text,
        student_prefix_ids=rollout.token_ids[:kept],
        teacher_form=teacher_form,
    )
