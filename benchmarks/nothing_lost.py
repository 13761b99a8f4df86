"""Nothing is lost: every stage of every competition is killed, gets a full disk, is started twice, and ends the same.

    python benchmarks/nothing_lost.py                                       all of it, for an hour or two
    python benchmarks/nothing_lost.py --competitions hpa --stages segment,train --kills 3 --checks kill

Each stage runs once undisturbed on tiny made-up data (CPU, fixed seeds, one thread). Then, from the same state before:

kill    kill -9 of its whole process group and the same command again, up to four times in a row, until it ends.
        Every file must then have the bytes of the undisturbed run's, and no other file may be there. Half of the
        moments are random times, the others are the moments before a random one of its operations on files: opening
        for writing, renaming, removing, making a folder.
full    on a tmpfs that becomes full at a random one of the stage's bytes (needs the right to mount): it must end with
        exit code 2 and one line that says so, what was there before must be as it was, and what is there under a final
        name whole. With room again, the same command must end in the undisturbed run's files.
second  it is stopped at a random operation on files while the same command is started again, which must refuse with
        exit code 2 and one line, and change nothing; the first one, let go, must end in the undisturbed run's files.

Stages run in forks of this process, which has imported everything, so that the moments fall into the work and not into
the imports. No file holds times, so none is excepted; what is printed is not compared.
"""

import argparse
import filecmp
import gzip
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.roads import ROADS, before
from common.errors import UserError, choose, run

CHECKS = ("kill", "full", "second")
SCRIPTS = (
    "synthesize", "findduplicates", "segment", "makefolds", "train", "test", "convertpredictions", "ensemble", "submit",
    "evaluate", "pseudolabels", "visualize", "download", "clean", "infer",
)  # fmt: skip
UNFINISHED = ("last.pth", "best.pth", "log.csv", "curves.png", "_hashes.csv")  # final names whose content goes on
LONGEST = 300  # seconds that a stage may take
Files = dict[str, bytes]


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


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--competitions", default=",".join(ROADS))
    parser.add_argument("--stages", help="names joined by commas; default: all")
    parser.add_argument("--checks", default=",".join(CHECKS))
    parser.add_argument("--kills", type=int, default=20, help="of each stage")
    parser.add_argument("--disks", type=int, default=5, help="full disks of each stage")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", help="folder to work in; default: a temporary one")
    return parser


def main(argv: list[str] | None = None) -> int | None:
    args = get_args_parser().parse_args(argv)
    for name, known, flag in (
        *((name, ROADS, "--competitions") for name in args.competitions.split(",")),
        *((name, CHECKS, "--checks") for name in args.checks.split(",")),
    ):
        choose(dict.fromkeys(known), name, flag)
    import_all()
    results: dict[str, dict[str, dict[str, str]]] = {}
    with tempfile.TemporaryDirectory(dir=args.work) as work, serve() as address:
        for competition in args.competitions.split(","):
            results[competition] = go(Path(work) / competition, competition, address, args)
    return show(results, args.checks.split(","))


def import_all() -> None:
    """What the stages import, here, so that their forks begin with their work; one thread each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import importlib

    import cv2
    import torch

    others = "matplotlib.figure", "matplotlib.backends.backend_agg", "iterstrat.ml_stratifiers", "PIL.Image"
    for name in (*SCRIPTS, *others):
        importlib.import_module(name)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def go(folder: Path, competition: str, address: str, args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """One competition's stages, one after the other; stage -> check -> what came out."""
    from common.seeds import rng

    folder.mkdir(parents=True)
    place = folder / "work"
    place.mkdir()
    os.chdir(place)
    results: dict[str, dict[str, str]] = {}
    stages = road(competition, address)
    names = [stage.name for stage in stages] if args.stages is None else args.stages.split(",")
    for stage in stages:
        if set(names) <= results.keys():
            break
        before(competition, stage.name)
        wanted = stage.name in names
        bench = Bench(folder, place, stage, wanted)
        if wanted:
            generator = rng(args.seed, competition, stage.name)
            results[stage.name] = {
                check: getattr(bench, check)(generator, args) for check in args.checks.split(",")
            }
            print(f"{competition:10} {stage.name:22} {bench.seconds:5.1f} s  {results[stage.name]}", flush=True)
        bench.restore(bench.after)
    os.chdir("/")
    return results


def road(competition: str, address: str) -> list[Stage]:
    stages = []
    for line in ROADS[competition].strip().splitlines():
        name, _, command = line.partition(":")
        script, *flags = shlex.split(command.replace("ADDRESS", address))
        stages.append(Stage(name.strip(), script, flags))
    return stages


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
            resize(self.room, str(max(used(self.room), first) + int(share * pages) * page))
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


class Atlas(BaseHTTPRequestHandler):
    """Gives a made-up channel for every address."""

    def do_GET(self) -> None:
        import cv2

        from common.seeds import rng

        pixels = rng(1, self.path).integers(0, 255, (48, 48)).astype("uint8")
        body = gzip.compress(cv2.imencode(".tif", pixels)[1].tobytes(), mtime=0)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        return


class serve:
    """A web server of this machine, as a context; its address."""

    def __enter__(self) -> str:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Atlas)
        self.server.handle_error = lambda *args: None  # the other side was killed
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *error) -> None:
        self.server.shutdown()


def show(results: dict, checks: list[str]) -> int | None:
    """A table a check: a row a stage, a column a competition; the exit code, 1 when anything was wrong."""
    stages = list(dict.fromkeys(stage for own in results.values() for stage in own))
    wrong = 0
    for check in checks:
        print(f"\n{check:22}" + "".join(f"{name:>14}" for name in results))
        for stage in stages:
            texts = [own.get(stage, {}).get(check, "-") for own in results.values()]
            wrong += sum(text.startswith("WRONG") for text in texts)
            print(f"{stage:22}" + "".join(f"{text.split(':')[0]:>14}" for text in texts))
    return 1 if wrong else None


if __name__ == "__main__":
    run(main)
