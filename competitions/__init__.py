"""One module a competition; each says everything that only this competition knows."""

import argparse
import importlib
import inspect
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import UserError, choose

COMPETITIONS = {name: f"competitions.{name}" for name in ("hpa", "riva", "cytologia", "pannuke", "neurons")}


@dataclass(frozen=True)
class Competition:
    """A competition's module; with `classes`, the same rules for a user's own cells.

    What the module says of its own classes is then left aside: no class excludes the others, all weigh the same, and
    its functions get the class list as their keyword `classes`. With `nuclei` the module's NUCLEI says what is
    different for networks that see nuclei alone.
    """

    name: str
    classes: tuple[str, ...] | None = None
    nuclei: bool = False

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        module = importlib.import_module(COMPETITIONS[self.name])
        if self.nuclei and attribute in module.NUCLEI:
            return module.NUCLEI[attribute]
        value = getattr(module, attribute)
        if self.classes is None:
            return value
        own = {
            "CLASSES": self.classes, "SHORT_NAMES": self.classes, "NEGATIVE": None, "CLASS_WEIGHTS": None,
        }  # fmt: skip
        if attribute in own:
            return own[attribute]
        if inspect.isfunction(value) and "classes" in inspect.signature(value).parameters:
            return partial(value, classes=self.classes)
        return value


def get(name: str, classes: str | None = None, nuclei: bool = False) -> Competition:
    """A competition by its name on the command line; classes: the flag --classes, see `parse_classes`.

    nuclei: for networks that see nuclei alone.
    """
    choose(COMPETITIONS, name, "--competition")
    if nuclei and name != "hpa":
        raise UserError(f"--competition {name} has no classes of nuclei; hpa has")
    if classes and name == "hpa":
        raise UserError("--classes: the classes of hpa are fixed; riva, cytologia, pannuke and neurons take others")
    path = Path(classes or "")
    if classes and "," not in classes and (path.suffix or path.name != classes) and not is_file(classes):
        raise UserError(f"--classes {classes} is no file; a class alone must not look like one")
    return Competition(name, parse_classes(classes) if classes else None, nuclei)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags --competition and --classes, which every script of the road has."""
    parser.add_argument("--competition", default="hpa", help=f"one of {', '.join(COMPETITIONS)}")
    parser.add_argument("--classes", help="your own classes: names joined by commas, or a file with one name a line")


def parse_classes(text: str) -> tuple[str, ...]:
    """Class names joined by commas, or a file with one name a line.

    >>> parse_classes("RBC,WBC,Platelets")
    ('RBC', 'WBC', 'Platelets')
    """
    try:
        names = Path(text).read_text(encoding="utf-8-sig").splitlines() if is_file(text) else text.split(",")
    except UnicodeDecodeError as error:
        raise UserError(f"--classes {text} is not a text file: {error}") from None
    names = [name.strip() for name in names if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UserError(f"--classes {text} must be different names joined by commas, or a file with one name a line")
    return tuple(names)


def is_file(text: str) -> bool:
    """Whether --classes names a file; a list may be longer than a file's name can be."""
    try:
        return Path(text).is_file()
    except OSError:
        return False


__all__ = ["COMPETITIONS", "Competition", "add_flags", "get", "is_file", "parse_classes"]
