"""The check of an installation: what is there is named, what is missing or broken fails in one line."""

import re
import sys

import pytest
import torch

import check
from common.errors import UserError
from models import DETECTORS, MODELS, SEGMENTERS


def test_versions_of_python():
    assert check.python_version((3, 10, 0)) and check.python_version((3, 13, 9))
    for version in ((3, 9, 18), (3, 14, 0)):
        with pytest.raises(UserError, match=rf"3.10 to 3.13, this is 3\.{version[1]}"):
            check.python_version(version)


def test_requirements():
    assert check.installed("pytest>=1") == pytest.__version__
    with pytest.raises(UserError, match="is installed; pip install -r requirements.txt"):
        check.installed("pytest>=1,<1.1")
    with pytest.raises(UserError, match="is not installed"):
        check.installed("no-such-package-of-podium>=1")


def test_a_machine_without_any_package(monkeypatch):
    """Not even the one that compares versions."""
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    with pytest.raises(UserError, match="is not installed; pip install -r requirements.txt"):
        check.installed("no-such-package-of-podium>=1")


def test_everything_is_checked():
    names = [name for name, _ in check.checks()]
    assert len(set(names)) == len(names)
    assert {*MODELS, *DETECTORS, *SEGMENTERS, "Python", "device", "packaged weights", "hpacellseg"} <= set(names)
    assert sum(name.startswith(("torch>", "timm>")) for name in names) == 2


def broken():
    raise RuntimeError("first line\nsecond line")


def test_a_failure_is_one_line_and_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(check, "checks", lambda: iter([("good", lambda: "seen"), ("bad", broken)]))
    assert check.main([]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ok      good: seen", "FAILED  bad: RuntimeError: first line", "FAILED: bad",
    ]  # fmt: skip
    monkeypatch.setattr(check, "checks", lambda: iter([("good", lambda: "seen")]))
    assert check.main([]) is None
    assert "everything is here" in capsys.readouterr().out


def test_what_cannot_be_imported_fails_and_the_rest_goes_on(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "models", None)
    results = [check.report(*own) for own in check.kinds_of_models()]
    assert results == [False] and "FAILED  models: cannot be imported" in capsys.readouterr().out


def test_numbers_that_are_not_finite_fail():
    assert check.finite(torch.ones(2), "x").sum() == 2
    with pytest.raises(UserError, match="x gives numbers that are not finite"):
        check.finite(torch.tensor([1.0, torch.nan]), "x")


@pytest.mark.parametrize("form", [*MODELS, "yolox_<size>"])
def test_a_step_of_a_small_network(form):
    said = dict(check.kinds_of_models())[form]()
    stand_in = {"<timm>": "test_resnet", "<size>": "nano"}.get((re.findall("<.*>", form) or [""])[0], form)
    assert stand_in in said and ("loss" in said or "yolox" in form)


def test_losses_and_device():
    assert "CrossEntropy" in check.all_losses() and "DiceFocalBoundary" in check.all_losses()
    assert check.device_name()


@pytest.mark.slow
def test_the_whole_check_passes_here(capsys):
    assert check.main([]) is None
    assert "FAILED" not in capsys.readouterr().out
