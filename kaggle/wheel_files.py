"""Wheels of what Kaggle's image lacks: a list of pinned packages, a file for each, for other Pythons than this one."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from common.errors import UserError
from common.files import existing

MANYLINUX = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}  # names that came before manylinux_2_<minor>
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)")


class Target(NamedTuple):
    """What the wheels are for: Pythons such as 3.11 and platforms such as manylinux2014_x86_64, with the older ones."""

    pythons: Sequence[str]
    platforms: Sequence[str]

    def tags(self, python: str) -> set[Tag]:
        """The tags of the wheels that this Python installs."""
        version, abi = tuple(map(int, python.split("."))), "cp" + python.replace(".", "")
        own = cpython_tags(version, [abi], self.platforms)
        return {*own, *compatible_tags(version, abi, self.platforms)}


def parse_target(pythons: str, platforms: str) -> Target:
    """--python and --platform, each joined by commas."""
    names = [older for platform in platforms.split(",") for older in older_platforms(platform)]
    target = Target(pythons.split(","), list(dict.fromkeys(names)))
    for python in target.pythons:
        if not re.fullmatch(r"3\.[0-9]+", python):
            raise UserError(f"--python {pythons}: {python!r} must be a version such as 3.11")
    return target


def older_platforms(platform: str) -> list[str]:
    """A platform with all whose wheels it takes, too: of a manylinux the older ones.

    >>> older_platforms("manylinux_2_6_x86_64")
    ['manylinux_2_6_x86_64', 'manylinux_2_5_x86_64', 'manylinux1_x86_64']
    """
    parts = re.fullmatch(rf"({'|'.join(MANYLINUX)}|manylinux_2_(\d+))_(\w+)", platform)
    if not parts:
        return [platform]
    newest = int(parts[2] or MANYLINUX[parts[1]])
    names = [f"manylinux_2_{minor}" for minor in range(newest, 4, -1)]
    return [f"{name}_{parts[3]}" for name in [*names, *(old for old, minor in MANYLINUX.items() if minor <= newest)]]


def read_pins(path: str | Path) -> list[str]:
    """The packages of a list, `name==version` a line; what follows a # is a comment."""
    try:
        lines = existing(path, "--wheel_list").read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"--wheel_list {path} is not a text file: {error}") from None
    pins = []
    for number, line in enumerate(lines, start=1):
        pin = line.partition("#")[0].strip()
        if pin and not (PIN.fullmatch(pin) and is_version(pin.partition("==")[2])):
            raise UserError(f"{path} line {number}: {pin!r} is not name==version")
        pins += [pin] if pin else []
    return pins


def is_version(text: str) -> bool:
    """Whether a text is a version by Python's rules."""
    try:
        return bool(Version(text))
    except InvalidVersion:
        return False


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
    taken = target.tags(python)
    for wheel in sorted(folder.glob("*.whl")):
        try:
            own, number, _, tags = parse_wheel_filename(wheel.name)
        except InvalidWheelFilename:
            continue
        if own == canonicalize_name(name) and number == Version(version) and tags & taken:
            return wheel
    return None


def fetch(pin: str, target: Target, python: str, folder: Path) -> None:
    """Download the wheel of `pin`; where there is only its source, build one, which must be of Python alone."""
    options = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", f"--dest={folder}"]
    reason = pip("download", *options, *(f"--platform={platform}" for platform in target.platforms), pin)
    if reason:
        pip("wheel", f"--wheel-dir={folder}", pin)
    if not find(pin, target, python, folder):
        reason = reason or "what pip downloads is for another Python or machine"
        raise UserError(f"{pin} cannot be had as a wheel for Python {python} on {target.platforms[0]}: {reason}")


def pip(*words: str) -> str:
    """Run pip without looking at dependencies: they are in the list. Empty, or why it failed."""
    command = [sys.executable, "-m", "pip", words[0], "--no-deps", "--disable-pip-version-check", "-q", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    return (errors or ["pip failed"])[-1] if done.returncode else ""
