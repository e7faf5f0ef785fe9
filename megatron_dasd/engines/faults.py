"""Faults of a request under short names to count, and when it is retried.

A fault is retried.  A refusal is not, since the same request would be refused again.  An error of
the whole run (no such model, a key that is not accepted) is a ``UserError``.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tenacity import RetryCallState, wait_random_exponential

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 60.0
_MOST_OF_CONTENT = 2
"""Attempts that end in a fault of the content: one more, in case a server was at fault."""
_BACKOFF = wait_random_exponential(multiplier=_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS)


class Fault(Exception):
    """A failed attempt that may be retried."""

    def __init__(
        self,
        kind: str,
        detail: str = "",
        *,
        counts: bool = True,
        retry_after: float | None = None,
        of_content: bool = False,
    ) -> None:
        """A fault.

        Args:
            kind: short name to count under.
            detail: what happened.
            counts: whether it counts as one of the request's attempts.
            retry_after: seconds that the server asks to wait.
            of_content: whether it lies in what was drawn: the same seed draws it again.
        """
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail
        self.counts = counts
        self.retry_after = retry_after
        self.of_content = of_content


class Refusal(Exception):
    """The server refuses this request."""


@dataclass
class Attempts:
    """The attempts at one request: when to stop and how long to pause, for ``tenacity``."""

    max_attempts: int
    patience_seconds: float
    seeded: bool = False
    """Whether the request carries a seed, so that a fault of the content comes back."""
    counted: int = 0
    waited_seconds: float = 0.0
    """Time waited after faults that do not count, and because servers asked for it."""
    _impatient: bool = False
    _of_content: int = 0

    def exhausted(self, state: RetryCallState) -> bool:
        """Whether the attempt that has just failed was the last."""
        fault = _fault_of(state)
        if fault.counts:
            self.counted += 1
            if fault.of_content and self.seeded:
                self._of_content += 1
                if self._of_content >= _MOST_OF_CONTENT:
                    return True
            return self.counted >= self.max_attempts
        return self._impatient

    def pause_seconds(self, state: RetryCallState) -> float:
        """Exponential with full jitter, and not shorter than the server asks for within patience.

        ``tenacity`` calls it before :meth:`exhausted`.
        """
        fault = _fault_of(state)
        left = self.patience_seconds - self.waited_seconds
        pause = _BACKOFF(state)
        if fault.retry_after is not None and left > 0:
            # with jitter: requests that got the same value should not all come back at once
            pause = min(fault.retry_after, left) + random.uniform(0, _FIRST_PAUSE_SECONDS)
        elif fault.counts:
            return pause
        elif left > 0:
            pause = min(pause, left)
        self._impatient = left <= 0
        self.waited_seconds += pause
        return pause


def _fault_of(state: RetryCallState) -> Fault:
    assert state.outcome is not None
    fault = state.outcome.exception()
    assert isinstance(fault, Fault)
    return fault


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, given as seconds or as a date; None without a sound one.

    The caller bounds it: a server may ask for any time, endless too.
    """
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
