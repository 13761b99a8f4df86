"""Several processes learn as one does from batches as large as theirs together, and predict what it does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("small_processes.py")


def trained(count: int, folder: Path) -> list[dict]:
    """What each process has to say."""
    folder.mkdir()
    subprocess.run([sys.executable, str(SCRIPT), str(count), str(folder)], check=True, capture_output=True, timeout=300)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(count)]


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path):
    one, two = trained(1, tmp_path / "one"), trained(2, tmp_path / "two")
    assert one[0]["weight"] < 0.9
    for process in two:
        assert process["weight"] == pytest.approx(one[0]["weight"], rel=1e-5)
        assert process["seen"] == [[0, 1, 2, 3, 4]] * 2  # each hears what both found
    assert two[0]["without"] == two[1]["without"]  # weights do not part
    assert [process["shared"] for process in one + two] == [[1, 0, 0], [1.5, 0, 0.5], [1.5, 0, 0.5]]
    shares = [set(process["read"]) for process in two]
    assert sorted(two[0]["read"] + two[1]["read"]) == sorted(one[0]["read"]) and len(shares[0]) < 12
    assert (tmp_path / "two" / "last.pth").exists()
    for folder in ("one", "two"):
        with np.load(tmp_path / folder / "prob_test.npz") as saved:
            np.testing.assert_allclose(saved["probs"].ravel(), [1, 2, 3], rtol=1e-4)
