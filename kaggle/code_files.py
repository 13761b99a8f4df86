"""Which of the repository's modules a script needs: its imports, followed through their sources without running any."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path


def needed_modules(root: Path, scripts: Sequence[str]) -> list[str]:
    """The files below `root` that `scripts` (paths in it) import, directly or not, in functions too; with themselves.

    Imports are absolute, as everywhere in this repository. What is only named by a text (importlib) must be among the
    scripts.
    """
    found: set[str] = set()
    todo = [root / script for script in scripts]
    while todo:
        path = todo.pop()
        name = path.relative_to(root).as_posix()
        if name not in found:
            found.add(name)
            todo += [file for module in imported(path) for file in files_of(root, module)]
    return sorted(found)


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a source file imports; of `from a import b` both a and a.b, as b may be a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def files_of(root: Path, module: str) -> list[Path]:
    """The files below `root` that run when `module` is imported: its packages' and its own; none for other packages."""
    parts = module.split(".")
    places = [root.joinpath(*parts[:end]) for end in range(1, len(parts) + 1)]
    candidates = [file for place in places for file in (place / "__init__.py", place.with_suffix(".py"))]
    return [file for file in candidates if file.is_file()]
