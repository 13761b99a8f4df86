"""What is done to a stage of a road to make it lose something: kills, full disks, a second start."""

import argparse
import filecmp
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from benchmarks.disturbed import Ended, Moment, Stage, child, ended_by
from common.errors import UserError

UNFINISHED = ("last.pth", "best.pth", "log.csv", "curves.png", "_hashes.csv")  # final names whose content goes on
Files = dict[str, bytes]


class Bench:
    """A stage, the state before it and the state after an undisturbed run, and what is done to it."""

    def __init__(self, folder: Path, place: Path, stage: Stage, disturbed: bool):
        self.place, self.stage = place, stage
        self.before, self.after, self.room = (folder / name for name in ("before", "after", "room"))
        copy(place, self.before)
        if disturbed:
            self.warm()
        noted = folder / "operations.txt"
        started = time.monotonic()
        ended = self.start(noted=noted)
        self.seconds = time.monotonic() - started
        if ended.code:
            raise UserError(f"{stage.name} ends with {ended.code}: {ended.text}")
        self.operations = int(noted.read_text())
        copy(place, self.after)

    def warm(self) -> None:
        """Run the stage in this process, so that its forks find everything loaded and compiled."""
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            sys.modules[self.stage.script].main(self.stage.flags)
        self.restore(self.before)

    def start(
        self, moment: Moment | None = None, place: Path | None = None, wait: bool = True, noted: Path | None = None
    ) -> Ended:
        """Run the stage in `place`, disturbed at `moment`; not `wait`: come back when it stops itself. noted: the file
        for the number of its operations on files.
        """
        out = self.before.with_name("printed.txt")
        process = os.fork()
        if not process:
            child(self.stage, place or self.place, out, moment, noted)
        code = ended_by(process, moment, wait)
        return Ended(code, out.read_text(errors="replace"), process)

    def restore(self, state: Path) -> None:
        copy(state, self.place)

    def kill(self, generator, args: argparse.Namespace) -> str:
        kills, wrong, trials = 0, [], 0
        while kills < args.kills and trials < 4 * args.kills:
            self.restore(self.before)
            trials += 1
            for _ in range(min(1 + trials % 4, args.kills - kills)):
                ended = self.start(self.moment(generator, by_time=trials % 4 < 2))
                kills += ended.code < 0
                if ended.code >= 0:
                    break
            if ended.code < 0:
                ended = self.start()
            if ended.code or differences(self.place, self.after):
                wrong.append(ended.text[-300:] if ended.code else some_of(differences(self.place, self.after)))
        return f"{kills} kills" if not wrong else f"WRONG {len(wrong)} of {trials}: {wrong[0]}"

    def moment(self, generator, by_time: bool) -> Moment:
        if by_time:
            return Moment(seconds=float(generator.random() * self.seconds))
        return Moment(operation=1 + int(generator.integers(max(self.operations, 1))))

    def full(self, generator, args: argparse.Namespace) -> str:
        self.room.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(self.room)]
        if subprocess.run(mount, capture_output=True).returncode:
            return "no right to mount"
        try:
            return self.fill(generator, args.disks)
        finally:
            os.chdir(self.place)
            subprocess.run(["umount", "-l", str(self.room)], check=True)

    def fill(self, generator, disks: int) -> str:
        place = self.room / "work"
        copy(self.after, place)
        last, page = used(self.room), os.sysconf("SC_PAGE_SIZE")
        copy(self.before, place)
        first = used(self.room)
        pages = max((last - first) // page, 1)
        full, wrong = 0, []
        for share in generator.random(disks):
            resize(self.room, "256m")
            copy(self.before, place)
            room = max(used(self.room), first) + int(share * pages) * page
            resize(self.room, str(room or page))  # 0 would be without a limit
            ended = self.start(place=place)
            full += ended.code != 0
            fault = self.fault(ended, place) if ended.code else ""
            resize(self.room, "256m")
            again = self.start(place=place)
            if again.code or differences(place, self.after):
                fault = fault or f"and again: {again.text[-200:]} {some_of(differences(place, self.after))}"
            wrong += [fault] if fault else []
        return f"{full} full" if not wrong else f"WRONG {len(wrong)} of {disks}: {wrong[0]}"

    def fault(self, ended: Ended, place: Path) -> str:
        """What is wrong with how a stage ended on a full disk."""
        last = ended.text.strip().splitlines()[-1:] or [""]
        if ended.code != 2 or "Traceback" in ended.text or "error: the disk is full" not in last[0]:
            return f"exit code {ended.code}: {ended.text[-600:]}"
        old, new, now = (read(folder) for folder in (self.before, self.after, place))
        lost = [name for name in old if name in new and name not in now]
        half = [
            name for name, content in now.items()
            if content not in (old.get(name), new.get(name)) and not name.endswith(UNFINISHED) and "/.parts" not in name
        ]  # fmt: skip
        return f"lost {lost}" if lost else f"half-written {half}" if half else ""

    def second(self, generator, args: argparse.Namespace) -> str:
        self.restore(self.before)
        held = Moment(operation=-1 - int(generator.integers(3)), sign=signal.SIGSTOP)
        first = self.start(held, wait=False)
        if first.code is not None:
            return f"WRONG: it ends with {first.code} before it is stopped: {first.text[-300:]}"
        state = read(self.place)
        other = self.start()
        changed = read(self.place) != state
        os.kill(first.process, signal.SIGCONT)
        code = ended_by(first.process, None, True)
        last = other.text.strip().splitlines()[-1:] or [""]
        if other.code != 2 or "error: another process is writing to" not in last[0] or "Traceback" in other.text:
            return f"WRONG: the second ends with {other.code}: {other.text[-300:]}"
        if changed or code or differences(self.place, self.after):
            wrong = some_of(differences(self.place, self.after))
            return f"WRONG: changed {changed}, the first ends with {code}, {wrong}"
        return "refused"


def copy(source: Path, target: Path) -> None:
    """Make `target` as `source` is, with the same times; the folder itself stays, as someone may be in it."""
    target.mkdir(parents=True, exist_ok=True)
    for path in target.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)


def read(folder: Path) -> Files:
    """All files below a folder; those of zero bytes that lock it are none."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def differences(folder: Path, other: Path) -> list[str]:
    """The files that are not in both folders with the same content."""
    one, two = ({str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()} for top in (folder, other))
    return sorted(one ^ two) + filecmp.cmpfiles(folder, other, sorted(one & two), shallow=False)[1]


def some_of(names: list[str]) -> str:
    return ", ".join(names[:4])


def used(place: Path) -> int:
    state = os.statvfs(place)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def resize(place: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True, capture_output=True)
