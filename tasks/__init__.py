"""Kinds of training: what the samples are, what the network is, how an epoch is judged. One file a kind;
`flags` says which of train.py's flags each heeds, `weak_labels` what is peculiar to some classifiers.

Each has `prepare(args, competition, starts, say) -> engine.train.Task`. `starts`: the run begins now, so the network
takes the weights that the flags name; `say` tells the user something.
"""

from collections.abc import Callable

from engine.train import Task
from tasks import classify, detect, segment

# The kind of an --arch (models.task_of) -> what prepares it.
TASKS: dict[str, Callable[..., Task]] = {
    "classify": classify.prepare,
    "detect": detect.prepare,
    "segment": segment.prepare,
}

__all__ = ["TASKS"]
