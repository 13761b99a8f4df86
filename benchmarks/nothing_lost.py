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
import gzip
import os
import shlex
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.disturbed import Stage
from benchmarks.losing import Bench
from benchmarks.roads import ROADS, before
from common.errors import choose, run

CHECKS = ("kill", "full", "second")
SCRIPTS = (
    "synthesize", "findduplicates", "segment", "makefolds", "train", "test", "convertpredictions", "ensemble", "submit",
    "evaluate", "pseudolabels", "visualize", "download", "clean", "infer",
)  # fmt: skip


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
            results[stage.name] = {check: getattr(bench, check)(generator, args) for check in args.checks.split(",")}
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
