"""Files that are either whole or not there, and folders that one process at a time may write."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well, remove it when it fails.

    A reader therefore sees the old file or the new one, never a half-written one, even after kill -9 or a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def sole_writer(folder: str | Path) -> Iterator[None]:
    """Hold `folder` for this process; UserError when another process is writing to it. Freed even by kill -9."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing to {folder}; wait for it or choose another folder") from None
        yield


def existing(path: str | Path, what: str) -> Path:
    """`path` as a Path, or a UserError that says which file or folder (`what`: a flag or role) is missing."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{what} does not exist: {path}")
    return path


def safe_name(name: str, what: str) -> str:
    """`name` if it can be a file's name inside a folder of ours; ids come from data and must not leave that folder."""
    if not name or name in {".", ".."} or any(char in name for char in "/\\\0"):
        raise UserError(f"{what} {name!r} cannot be a file name: it must not be empty, '.', '..' or hold / or \\")
    return name


def digest(path: str | Path) -> str:
    """A text that is the same for files of the same content, whatever their name and age."""
    known = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            known.update(block)
    return known.hexdigest()
