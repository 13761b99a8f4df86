"""What scripts tell the user."""

import sys
from typing import TextIO


def say(text: str, where: TextIO | None = None) -> None:
    """Print a line at once; where: another stream than the standard output."""
    print(text, file=where or sys.stdout, flush=True)
