"""How long the stages took: as noted by the commands themselves, else guessed from the dates of what they wrote."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError
from reporting.folder import Results, Run

LATEST = 2**33  # seconds since 1970, the year 2242


class Command(NamedTuple):
    """A command of the recipe: when it began (seconds since 1970), how long it took, its exit code, its words."""

    began: float
    seconds: float
    code: int
    words: list[str]


class Spent(NamedTuple):
    """Seconds that a stage took, and whether that is a guess."""

    seconds: float
    guessed: bool


def read_commands(path: Path) -> list[Command]:
    """What `common.times.note` wrote, in the order in which the commands began; UserError names a line that is else."""
    commands = []
    for row, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            entry = json.loads(line)
            first, *others = map(str, entry["command"])
            numbers = float(entry["began"]), float(entry["seconds"]), int(entry["code"])
            if not (0 <= numbers[0] < LATEST and 0 <= numbers[1] < LATEST):
                raise ValueError
            commands.append(Command(*numbers, [first, *others]))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(f"{path} line {row} is not a command with its time; remove the line") from error
    return sorted(commands, key=lambda command: command.began)


def spent(results: Results, commands: Iterable[Command], script: str) -> Spent | None:
    """The time of a script, all its commands together; None where nothing tells it."""
    noted = [command.seconds for command in commands if command.words[:1] == [script]]
    if noted:
        return Spent(sum(noted), guessed=False)
    if script == "train.py":
        own = [run_time(run) for run in results.runs]
        known = [part for part in own if part]
        return Spent(sum(part.seconds for part in known), any(part.guessed for part in known)) if known else None
    if script == "segment.py":
        groups = [[folder / name for name in names] for folder, names in results.stores.items()]
        guesses = [guess for guess in map(span, groups) if guess is not None]
        return Spent(sum(guesses), guessed=True) if guesses else None
    return None  # the others write all they write at their end


def run_time(run: Run) -> Spent | None:
    """The time of a training run, guessed from its checkpoints."""
    guess = span(run.path.glob("[0-9][0-9][0-9].pth"))
    return None if guess is None else Spent(guess, guessed=True)


def span(paths: Iterable[Path]) -> float | None:
    """Seconds from the first file's date to the last one's, and the mean step once more, for the first file itself.

    None for fewer than two files, or where all have the same date, as a copy of a folder may have.
    """
    dates = sorted(path.stat().st_mtime for path in paths)
    if len(dates) < 2 or dates[0] == dates[-1]:
        return None
    return (dates[-1] - dates[0]) * len(dates) / (len(dates) - 1)
