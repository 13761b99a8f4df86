"""Errors that a user can act on, and the one place where a script turns them into an exit code."""

import errno
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from common.times import note


class UserError(Exception):
    """One clear sentence that names the file, row, column or flag at fault and what would be right."""


def choose(table: dict, name: str, what: str):
    """`table[name]`, or a UserError that lists the choices.

    >>> choose({"BCE": 1}, "Focal", "--loss")
    Traceback (most recent call last):
    common.errors.UserError: --loss Focal is not known; choose from: BCE
    """
    if name not in table:
        raise UserError(f"{what} {name} is not known; choose from: {', '.join(table)}")
    return table[name]


def at_least(args: Namespace, lowest: dict[str, float]) -> None:
    """UserError for a flag (its name without dashes) that is a number below the lowest one that makes sense."""
    for name, low in lowest.items():
        value = getattr(args, name)
        if value is not None and not value >= low:
            raise UserError(f"--{name} {value} must be at least {low}")


def some(names: Iterable, limit: int = 3) -> str:
    """The first few names as text, and how many more there are, for error messages.

    >>> some(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    names = [str(name) for name in names]
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call a script's `main` and exit: 0 done, 1 some inputs were skipped and named, 2 bad input, 130 interrupted."""
    began = time.time()
    try:
        code = main() or 0
    except UserError as error:
        code = fail(str(error))
    except KeyboardInterrupt:
        code = fail("interrupted; what is finished is kept, run the same command again to go on", 130)
    except OSError as error:
        if error.errno is None:
            raise
        code = fail(explain(error))
    try:
        note(began, code)
    except OSError as error:
        fail(f"the time that this took is not noted: {explain(error)}")  # which is no reason to stop a recipe
    sys.exit(code)


def explain(error: Exception) -> str:
    """An error as a sentence for the user; one of the operating system, such as a full disk, in our words."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    where = f" at {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}; free some space and run the same command again, what is finished is kept"
    return f"{error.strerror}{where}"


def fail(message: str, code: int = 2) -> int:
    """Print a script's error line to stderr and return its exit code."""
    print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)  # noqa: T201
    return code
