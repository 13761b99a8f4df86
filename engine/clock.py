"""Time limits: durations as people write them, and the time that is left."""

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count

from common.errors import UserError

MARGIN = 1.25  # what is to begin gets so many times the time that it should take by what was measured
NO_TIME = "no time was left"


def parse_duration(text: str) -> int:
    """Seconds of a duration: hours, minutes and seconds, or plain seconds.

    >>> parse_duration("8h30m"), parse_duration("1h2m3s"), parse_duration("90")
    (30600, 3723, 90)
    """
    match = re.fullmatch(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?|([0-9]+)", text)
    hours, minutes, seconds, plain = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds + plain
    if not total:
        raise UserError(f"--time_limit {text!r} must be a time above zero such as 8h30m, 90m, 1h2m3s, 45 (seconds)")
    return total


def show_duration(seconds: float) -> str:
    """Seconds as people read them.

    >>> show_duration(30600), show_duration(63.4), show_duration(7)
    ('8h30m00s', '1m03s', '7s')
    """
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m{seconds:02d}s"
    return f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


@dataclass(frozen=True)
class Clock:
    """A time to be ready by: `end`, in seconds of the clock `now`."""

    end: float = math.inf
    now: Callable[[], float] = time.monotonic

    @property
    def limited(self) -> bool:
        """Whether there is an end."""
        return self.end < math.inf

    def left(self) -> float:
        """Seconds until the end; below zero after it."""
        return self.end - self.now()

    def allows(self, seconds: float) -> bool:
        """Whether what takes so long would end in time."""
        return seconds <= self.left()

    def minus(self, seconds: float) -> "Clock":
        """The clock that ends so much earlier, for what something else must follow."""
        return replace(self, end=self.end - seconds)


def start_clock(limit: str | None, used: float = 0.0) -> Clock:
    """The clock of a run with --time_limit `limit` (None: without end), of which `used` seconds are gone.

    It ends a little earlier, 1 % and at least five seconds, as a process takes time to leave.
    """
    if limit is None:
        return Clock()
    seconds = parse_duration(limit)
    return Clock(time.monotonic() + seconds - used - max(5.0, seconds / 100))


def in_time(items: Iterable, clock: Clock, ahead: int) -> Iterator:
    """The items as long as there is time for one more and for those that are still under way.

    ahead: how many are taken before the first of them is done. The pace is measured from then on, so that what starting
    costs does not count.
    """
    items, first = iter(items), 0.0
    for taken in count():
        if taken == ahead:
            first = clock.now()
        pace = (clock.now() - first) / (taken - ahead) if taken > ahead else 0.0
        if not clock.allows(MARGIN * (ahead + 1) * pace):
            return
        try:
            item = next(items)
        except StopIteration:
            return
        yield item
