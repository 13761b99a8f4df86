"""The table of benchmarks/weak_labels.sh: what it takes from the scores of its seeds."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import weak_labels
from common.errors import UserError


def write_scores(seed, **scores):
    (seed / "scores").mkdir(parents=True)
    (seed / "seconds").mkdir()
    for name, value in scores.items():
        table = pd.DataFrame({"Class": ["0:Nucleoplasm", "mean"], "AP": [0.9, value]})
        table.to_csv(seed / "scores" / f"score_submission_{name}.csv", index=False)


def test_ideas_beside_the_recipe_of_the_same_seeds(tmp_path):
    write_scores(tmp_path / "seed1", recipe=0.3, bag=0.36, ema=0.34, baseline=0.1)
    write_scores(tmp_path / "seed2", recipe=0.4, bag=0.42, ema=0.39)
    (tmp_path / "seed1" / "seconds" / "bag").write_text("100 20\n50 10\n")  # user and system, a line a step
    (tmp_path / "seed2" / "seconds" / "bag").write_text("240 0\n")
    (tmp_path / "seed2" / "seconds" / "together").touch()  # an idea without a step of its own
    table = weak_labels.collect(tmp_path)
    assert list(table.index) == ["baseline", "recipe", "bag", "ema"]  # as in NAMES, whatever the files' order
    assert table["gain"].to_dict() == pytest.approx({"baseline": -0.2, "recipe": 0, "bag": 0.04, "ema": 0.015})
    assert table["helps"].tolist() == [False, False, True, False]  # ema lost in one of the seeds
    assert table.loc["bag", "minutes"] == pytest.approx(3.5)
    assert np.isnan(table.loc["ema", "minutes"])
    lines = weak_labels.as_markdown(table).splitlines()
    assert lines[0] == "| idea | seed 1 | seed 2 | mean | to the recipe | helps | CPU-minutes |"
    assert lines[2].endswith("| .100 | - | .100 | -0.200 | no |  |")
    assert lines[4].endswith("| .360 | .420 | .390 | +0.040 | yes | 4 |")


def test_no_recipe_no_table(tmp_path):
    write_scores(tmp_path / "seed1", bag=0.36)
    with pytest.raises(UserError, match="no score of the recipe"):
        weak_labels.collect(tmp_path)


def test_cells_that_another_rule_drops_go(tmp_path):
    cells = pd.DataFrame({"ImageID": ["007", "007", "b"], "CellID": [1, 2, 1], "keep": [1, 0, 1]})
    probs = pd.DataFrame({"ImageID": ["007", "007", "b", "b"], "CellID": [1, 2, 1, 0], "p": [0.1, 0.2, 0.3, 0.4]})
    for name, table in (("cells", cells), ("probs", probs)):
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    paths = {name: str(tmp_path / f"{name}.csv") for name in ("cells", "probs", "kept")}
    weak_labels.main(["keep", "--table", paths["probs"], "--cells", paths["cells"], "--out", paths["kept"]])
    assert pd.read_csv(paths["kept"], dtype={"ImageID": str})["p"].tolist() == [0.1, 0.3, 0.4]  # an image's row stays
