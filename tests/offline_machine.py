"""A stand-in for Kaggle's machine: what is installed here but for a few packages, no network, inputs read-only."""

import os
import shlex
import site
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

NO_CONNECTIONS = """
import sys


def refuse(event, arguments):
    local = event != "socket.getaddrinfo" and not isinstance(arguments[-1], tuple)  # pipes between processes
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto") and not local:
        raise OSError("Network is unreachable")


sys.addaudithook(refuse)
"""


class Cut(NamedTuple):
    """A way to cut the network off; `read_only`: inputs are mounted read-only as well."""

    how: str
    read_only: bool

    def wrap(self, command: list[str], inputs: Path) -> list[str]:
        """The command without network."""
        if self.how != "namespace":
            return command
        folder = shlex.quote(str(inputs))
        mount = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && " if self.read_only else ""
        return ["unshare", "-rmn", "sh", "-c", f'{mount}exec "$@"', "sh", *map(str, command)]


def find_cut(folder: Path) -> Cut:
    """The strongest way that this machine allows: a network namespace, with read-only mounts where they are allowed, or
    Python that refuses to connect.
    """
    for cut in (Cut("namespace", True), Cut("namespace", False)):
        if subprocess.run(cut.wrap(["true"], folder), capture_output=True).returncode == 0:
            return cut
    return Cut("python", False)


def fresh_environment(folder: Path, hidden: tuple[str, ...], cut: Cut) -> Path:
    """A new environment that sees the packages installed here but those of the `hidden` names; its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for installed in filter(os.path.isdir, site.getsitepackages()):
        for path in Path(installed).iterdir():
            if path.name.split("-")[0].lower() not in hidden and not (packages / path.name).exists():
                (packages / path.name).symlink_to(path)
    if cut.how == "python":
        (packages / "no_connections.py").write_text(NO_CONNECTIONS)
        (packages / "no_connections.pth").write_text("import no_connections\n")  # Debian has a sitecustomize of its own
    return folder / "bin" / Path(sys.executable).name


def run_offline(python: Path, script: str, inputs: Path, cut: Cut, **variables: Path) -> subprocess.CompletedProcess:
    """Run a script without network and with nothing of this process's environment but what a bare machine has."""
    home = inputs.parent / "home"
    home.mkdir(exist_ok=True)
    bare = {"PATH": os.defpath, "HOME": str(home), "PIP_CONFIG_FILE": os.devnull, "OMP_NUM_THREADS": "1"}
    given = {name: str(path) for name, path in variables.items()}
    command = cut.wrap([str(python), "-c", script], inputs)
    return subprocess.run(command, cwd=home, env=bare | given, capture_output=True, text=True, timeout=500)
