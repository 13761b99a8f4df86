"""How long each command of a recipe took: a line a command in the file that the variable PODIUM_TIMES names.

    export PODIUM_TIMES=OUT/times.jsonl

Every script then adds `{"began": <seconds since 1970>, "seconds": ..., "code": <exit code>, "command": [...]}` at its
end. Without the variable nothing is written. `report.py` shows it.
"""

import json
import os
import sys
import time
from pathlib import Path

FILE = "times.jsonl"
VARIABLE = "PODIUM_TIMES"


def note(began: float, code: int) -> None:
    """Add this command, whose `main` began at the time `began`, if times are wanted; of several processes, the first.

    The seconds count from the start of the process, imports included, where the system tells it.
    """
    name = os.environ.get(VARIABLE)
    if not name or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    seconds = max(process_age(), time.time() - began)
    entry = {"began": round(time.time() - seconds, 3), "seconds": round(seconds, 3), "code": code, "command": command}
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:  # one write of one line: whole, whoever else adds one
        file.write(json.dumps(entry) + "\n")


def process_age() -> float:
    """Seconds since this process began, which a script spends on imports before its `main`; 0 where nobody says."""
    try:
        began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = float(Path("/proc/uptime").read_text().split()[0]) - began / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(age, 0.0)
