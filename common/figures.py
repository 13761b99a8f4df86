"""Figures of matplotlib as files."""

from pathlib import Path

from matplotlib.figure import Figure

from common.files import atomic


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, atomically."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100)
