"""Lengths of the student's own answers compared with the teacher's (the report's figure 7).

Mixed-policy distillation uses the answers that their cap cuts off; how many there are depends on
the length of the teacher's response.
"""

from collections.abc import Sequence

import numpy as np

from megatron_dasd.json_values import Figures

NUM_BINS = 6


def length_figures(
    teacher_tokens: Sequence[int], rollout_tokens: Sequence[int], cut_off: Sequence[bool]
) -> Figures:
    """Lengths and the share that was cut off, overall and by the teacher's length.

    Args:
        teacher_tokens: [rollouts] tokens of the teacher's response, in the student's tokens.
        rollout_tokens: [rollouts] tokens of the student's.
        cut_off: [rollouts] whether its cap ended it.

    Returns:
        ``mean_teacher_tokens``, ``mean_rollout_tokens``, ``cut_off``; and ``by_length``, ranges of
        the teacher's length with about as many rollouts each: ``from`` and ``to`` (included),
        ``num_rollouts``, ``cut_off``, ``ratio`` (tokens of all rollouts to those of the teacher).
    """
    teacher, own, cut = np.asarray(teacher_tokens), np.asarray(rollout_tokens), np.asarray(cut_off)
    if not teacher.size:
        return {}
    order = np.argsort(teacher, kind="stable")
    ranges = [part for part in np.array_split(order, min(NUM_BINS, teacher.size)) if part.size]
    return {
        "mean_teacher_tokens": float(teacher.mean()),
        "mean_rollout_tokens": float(own.mean()),
        "cut_off": float(cut.mean()),
        "by_length": [
            {
                "from": int(teacher[part].min()),
                "to": int(teacher[part].max()),
                "num_rollouts": int(part.size),
                "cut_off": float(cut[part].mean()),
                "ratio": float(own[part].sum() / teacher[part].sum()),
            }
            for part in ranges
        ],
    }
