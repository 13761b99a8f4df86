"""Files that are either whole or not there, and folders that one process at a time may write."""

import fcntl
import glob
import hashlib
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from common.errors import UserError

# What zipfile raises at damaged files, depending on the byte.
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError, OSError)


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well, remove it when it fails.

    A reader therefore sees the old file or the new one, never a half-written one, even after kill -9 or a full disk.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; the name of a file is right")
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
    """Hold `folder` for this process; UserError when another process is writing to it. Freed even by kill -9.

    Removes what writers that were killed left there; a new folder goes again when nothing was written to it.
    """
    folder = Path(folder)
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("w") as lock:
        if not _holds(lock, path):
            raise UserError(f"another process is writing to {folder}; wait for it or choose another folder")
        try:
            remove_leftovers(folder)
            yield
        finally:
            remove_leftovers(folder)  # a killed run's worker may have written on for a moment after ours began
            path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                for path in new:
                    path.rmdir()


def _holds(lock: TextIO, path: Path) -> bool:
    """Lock the open file, if it is free and still the one at `path`: whoever held it removes it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def remove_leftovers(folder: Path, stem: str | None = None) -> None:
    """Remove the temporary files of killed writers from `folder`, all or those of files with this stem.

    Only for those that hold the folder, or alone write such files.
    """
    for path in folder.glob(f".{'*' if stem is None else glob.escape(stem)}.[0-9]*.tmp*"):
        path.unlink(missing_ok=True)


def existing(path: str | Path, what: str) -> Path:
    """`path` as a Path, or a UserError that says which file or folder (`what`: a flag or role) is missing."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{what} does not exist: {path}")
    return path


def safe_name(name: str, what: str) -> str:
    """`name` if it can be a file's name inside a folder of ours; ids come from data and must not leave that folder.

    Names that begin with a dot are those of temporary files.
    """
    if not name or name.startswith(".") or any(char in "/\\\x7f" or char < " " for char in name):
        wrong = "be empty, begin with a dot, or hold /, \\ or a control character"
        raise UserError(f"{what} {name!r} cannot be a file name: it must not {wrong}")
    return name


def check_archive(path: str | Path) -> None:
    """Raise BadZipFile when a member of the zip file at `path` is not what its checksum says; other files pass.

    torch reads the files of torch.save without looking at the checksums in them.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} in it is damaged")


def text_digest(text: str) -> str:
    """A short text that changes with `text`."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest(path: str | Path) -> str:
    """A text that is the same for files of the same content, whatever their name and age."""
    known = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            known.update(block)
    return known.hexdigest()
