"""Wheels of what Kaggle's image lacks: a list of pinned packages, a file for each, for other Pythons than this one."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from common.errors import UserError
from common.files import existing

PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)")


class Target(NamedTuple):
    """What the wheels are for: Pythons such as 3.11 and platforms such as manylinux2014_x86_64."""

    pythons: Sequence[str]
    platforms: Sequence[str]

    def takes(self, tag: Tag, python: str) -> bool:
        """Whether that Python installs a wheel of this tag."""
        own = "cp" + python.replace(".", "")
        older = {f"cp3{minor}" for minor in range(2, int(python.partition(".")[2]))} if tag.abi == "abi3" else set()
        return tag.interpreter in {"py3", own} | older and tag.platform in ("any", *self.platforms)


def parse_target(pythons: str, platforms: str) -> Target:
    """--python and --platform, each joined by commas."""
    target = Target(pythons.split(","), platforms.split(","))
    for python in target.pythons:
        if not re.fullmatch(r"3\.[0-9]+", python):
            raise UserError(f"--python {pythons}: {python!r} must be a version such as 3.11")
    return target


def read_pins(path: str | Path) -> list[str]:
    """The packages of a list, `name==version` a line; what follows a # is a comment."""
    pins = []
    for number, line in enumerate(existing(path, "--wheel_list").read_text(encoding="utf-8").splitlines(), start=1):
        pin = line.partition("#")[0].strip()
        if pin and not PIN.fullmatch(pin):
            raise UserError(f"{path} line {number}: {pin!r} is not name==version")
        pins += [pin] if pin else []
    return pins


def gather(pins: Sequence[str], target: Target, ready: Path | None, folder: Path, download: bool) -> None:
    """Put a wheel of each of `pins` for each Python into `folder`: from the folder `ready` where it is, else from the
    package index with `download`. UserError names the package that cannot be had.
    """
    folder.mkdir()
    for pin in pins:
        for python in target.pythons:
            if find(pin, target, python, folder):
                continue
            if ready and (wheel := find(pin, target, python, ready)):
                shutil.copyfile(wheel, folder / wheel.name)
            elif download:
                fetch(pin, target, python, folder)
            else:
                raise UserError(f"--wheels {ready} has no wheel of {pin} for Python {python}")


def find(pin: str, target: Target, python: str, folder: Path) -> Path | None:
    """The wheel of `pin` in `folder` that fits."""
    name, version = PIN.fullmatch(pin).groups()
    for wheel in sorted(folder.glob("*.whl")):
        try:
            own, number, _, tags = parse_wheel_filename(wheel.name)
        except InvalidWheelFilename:
            continue
        fits = any(target.takes(tag, python) for tag in tags)
        if (own, str(number)) == (canonicalize_name(name), version) and fits:
            return wheel
    return None


def fetch(pin: str, target: Target, python: str, folder: Path) -> None:
    """Download the wheel of `pin`; where there is only its source, build one, which must be of Python alone."""
    options = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", f"--dest={folder}"]
    reason = pip("download", *options, *(f"--platform={platform}" for platform in target.platforms), pin)
    if reason:
        pip("wheel", f"--wheel-dir={folder}", pin)
    if not find(pin, target, python, folder):
        platforms = " or ".join(target.platforms)
        raise UserError(f"{pin} cannot be had as a wheel for Python {python} on {platforms}: {reason}")


def pip(*words: str) -> str:
    """Run pip without looking at dependencies: they are in the list. Empty, or why it failed."""
    command = [sys.executable, "-m", "pip", words[0], "--no-deps", "--disable-pip-version-check", "-q", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    return (errors or ["pip failed"])[-1] if done.returncode else ""
