"""A stage of a road in a fork of this process, which is killed or stopped at a moment of its work."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError, run

LONGEST = 300  # seconds that a stage may take


class Stage(NamedTuple):
    """One command of a road."""

    name: str
    script: str
    flags: list[str]


class Ended(NamedTuple):
    """How a stage ended: its exit code, below zero when it was killed, None while it is stopped; what it printed."""

    code: int | None
    text: str
    process: int


@dataclass
class Moment:
    """When a stage is to be disturbed: after some seconds, or before an operation on files, counted from 1."""

    seconds: float | None = None
    operation: int | None = None
    sign: int = signal.SIGKILL


def child(stage: Stage, place: Path, out: Path, moment: Moment | None, noted: Path | None = None) -> None:
    """The forked process: never returns."""
    code = 70
    try:
        os.setsid()
        os.chdir(place)
        with out.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = [f"{stage.script}.py"]
        watch = Watch(place, moment)
        sys.addaudithook(watch)
        try:
            run(lambda: sys.modules[stage.script].main(stage.flags))
        except SystemExit as end:
            code = int(end.code or 0)
        watch.moment = None
        if noted:
            noted.write_text(str(watch.operations))
    except BaseException:  # noqa: BLE001
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Watch:
    """Counts a process's operations on files below `place`, and disturbs it before one of them.

    An operation below zero counts, backwards, from the first after the folder is held by this process.
    """

    NAMES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.symlink", "os.link")

    def __init__(self, place: Path, moment: Moment | None):
        self.place, self.moment = str(place), moment
        self.operations, self.locked = 0, 0
        self.process = os.getpid()

    def __call__(self, event: str, args: tuple) -> None:
        if event not in self.NAMES or os.getpid() != self.process or not self.is_here(event, args):
            return
        self.operations += 1
        self.locked += self.locked > 0 or (event == "open" and str(args[0]).endswith(".lock"))
        moment = self.moment
        if moment and moment.operation in (self.operations, 1 - self.locked):
            self.moment = None
            os.kill(0, moment.sign) if moment.sign == signal.SIGKILL else os.kill(os.getpid(), moment.sign)

    def is_here(self, event: str, args: tuple) -> bool:
        if event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return False
        if not isinstance(args[0], (str, bytes, Path)):
            return False
        path = os.fsdecode(args[0])
        return not path.startswith("/") or path.startswith(self.place)


def ended_by(process: int, moment: Moment | None, wait: bool) -> int | None:
    """Wait for a forked stage, and kill its group when its time has come; the exit code, None when it is stopped."""
    end = time.monotonic() + LONGEST
    at = time.monotonic() + moment.seconds if moment and moment.seconds is not None else end
    while True:
        found, status = os.waitpid(process, os.WNOHANG | (0 if wait else os.WUNTRACED))
        if found and os.WIFSTOPPED(status):
            return None
        if found:
            clear(process)
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > at:
            clear(process)
            if at == end:
                raise UserError(f"a stage did not end in {LONGEST} s")
            at = end
        time.sleep(0.001)


def clear(group: int) -> None:
    """Kill what is left of a process group."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
