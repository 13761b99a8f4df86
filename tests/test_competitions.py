"""What the stages ask of a competition, every one has, but for what is asked of some alone."""

import re
from pathlib import Path

import pytest

import competitions
from common.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
ALL = {"name", "classes", "nuclei"}  # of Competition itself
SOME = {
    "BACKGROUND", "check_submission", "prepare_image",  # where there is one
    "read_masks", "image_sizes", "digest_labels",  # where labels are arrays beside the images
    "IMAGE_SIZE",  # beside BOX_SIZE
    "DEFAULT_FINDER",  # where cells are found without weights
    "ImageError", "IOU_THRESHOLD", "OLD_CLASSES", "read_truth",  # hpa
}  # fmt: skip


def asked() -> set[str]:
    """The attributes of `competition` that the source outside of tests and benchmarks names."""
    folders = [ROOT, *(path for path in ROOT.iterdir() if path.name not in ("tests", "benchmarks"))]
    files = [path for folder in folders if not folder.name.startswith(".") for path in folder.glob("*.py")]
    return {name for path in files for name in re.findall(r"\bcompetition\.(\w+)", path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", competitions.COMPETITIONS)
def test_every_competition_has_what_the_stages_ask(name):
    competition, wanted = competitions.get(name), asked() - ALL - SOME
    assert {"CLASSES", "SAMPLE", "ID_COLUMN", "read_metadata", "write_submission", "score"} <= wanted
    assert [attribute for attribute in sorted(wanted) if not hasattr(competition, attribute)] == []


def test_classes_from_a_file(tmp_path):
    """One name a line, with a byte-order mark too; a file that is not there is no class's name."""
    (tmp_path / "classes.txt").write_bytes("\ufeffred\r\nblue cell\r\n".encode())
    assert competitions.get("neurons", str(tmp_path / "classes.txt")).CLASSES == ("red", "blue cell")
    for name in ("misspelt.txt", f"{tmp_path}/classes"):
        with pytest.raises(UserError, match=f"--classes {name} is no file"):
            competitions.get("neurons", name)
    assert competitions.get("neurons", "cell").CLASSES == ("cell",)


def test_suffixes_in_capitals(tmp_path):
    (tmp_path / "a.b.PNG").touch()
    assert competitions.get("neurons", "cell").image_files(tmp_path, "a.b")[0].exists()


def test_classes_longer_than_a_files_name_may_be():
    names = tuple(f"a class with quite a long name {number}" for number in range(40))
    assert names == competitions.get("cytologia", ",".join(names)).CLASSES
