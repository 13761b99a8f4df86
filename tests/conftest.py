"""Fixtures that every test file may use."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the networks of the tests are too small for more


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real images beside the repository; tests that use it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real images are not here")
    return folder
