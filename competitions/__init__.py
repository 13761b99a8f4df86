"""One module a competition; each says everything that only this competition knows."""

from types import ModuleType

from common.errors import choose
from competitions import hpa

COMPETITIONS: dict[str, ModuleType] = {"hpa": hpa}


def get(name: str) -> ModuleType:
    """The module of a competition, by its name on the command line."""
    return choose(COMPETITIONS, name, "--competition")
