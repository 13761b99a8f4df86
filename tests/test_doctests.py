"""The examples in docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [path.relative_to(ROOT) for pattern in ("*.py", "[a-z]*/*.py") for path in sorted(ROOT.glob(pattern))]
WITH = [str(path) for path in FILES if path.parts[0] != "tests" and ">>> " in (ROOT / path).read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH)
def test_examples_are_true(path):
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    assert doctest.testmod(module).failed == 0


def test_examples_are_found():
    assert len(WITH) > 30
