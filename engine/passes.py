"""Which passes of the networks over the test set a submission is made of, in which order, and as many as time allows.

A pass is one network (a model's fold) looking at all cells or images with one seed, in one or more views.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from common.errors import UserError, explain
from engine.clock import MARGIN, NO_TIME, Clock
from engine.predict import Tally

FIRST_WRITING = 0.1  # of the time that is left at the start: kept for writing a submission until that is measured


class Model(NamedTuple):
    """A model of the ensemble CSV.

    sees: cell, image or nucleus, as test.py's --cellorimage; from_images: it reads whole images, not crops; weight: its
    share of its kind's opinion; smallest: one of those without which there is no submission; img_size: pixels a side at
    which it reads.
    """

    name: str
    epoch: str
    sees: str
    from_images: bool
    folds: tuple[int, ...]
    weight: float = 1.0
    smallest: bool = True
    img_size: int = 0

    @property
    def table(self) -> str:
        """The file name of its probabilities table."""
        return f"probabilities_{self.name}_{self.epoch}.csv"


class Pass(NamedTuple):
    """One network's look at all samples with one seed, in some views."""

    model: Model
    fold: int
    seed: int
    views: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.model.name} {self.model.epoch} fold {self.fold} seed {self.seed}"


def plan(models: Sequence[Model], views: Sequence[str], seeds: Sequence[int], limited: bool) -> list[Pass]:
    """The passes in the order of what they add.

    First one view of the smallest set of models that makes a submission, those of whole images before those of cells as
    they take least; then one view of the other models by weight: another model adds more than another view of the same.
    Then the other views of each, the heaviest model first, which are cheap since an image is decoded once for all of
    them; then further seeds; then further folds, each a whole network again. Without a limit nothing is gained by
    looking twice: all views of a seed are one pass. Cells within whole images have seed 0 only: crops would cut them.
    """
    passes = []
    for model in models:
        for place, fold in enumerate(model.folds):
            for turn, seed in enumerate([0] if model.from_images and model.sees == "cell" else seeds):
                first = limited and place == turn == 0
                for part, own in enumerate([views[:1], views[1:]] if first else [views]):
                    early = (not model.smallest, model.smallest and not model.from_images) if not part else ()
                    key = (place, turn, part, early if first else (), -model.weight)
                    passes += [(key, Pass(model, fold, seed, tuple(own)))] if own else []
    return [own for _, own in sorted(passes, key=lambda item: item[0])]


@dataclass
class Costs:
    """Seconds that things took so far, the most of all measurements, and what others will take by them.

    samples: how many a pass looks at, by whether it reads whole images.
    """

    samples: dict[bool, int]
    first_writing: float
    passes: dict[Model, tuple[float, float, float]] = field(default_factory=dict)  # starting, waiting, looking
    converting: float = 0.0  # a file of raw predictions
    combining: tuple[float, int] | None = None  # the last time, and of how many tables

    def learn(self, own: Pass, tally: Tally, seconds: float) -> None:
        """A pass took so long; one that was found done already tells nothing."""
        if tally.looked:
            steady = tally.waiting + len(own.views) * tally.looking
            new = (max(0.0, seconds - tally.looked * steady), tally.waiting, tally.looking)
            old = self.passes.get(own.model, new)
            self.passes[own.model] = tuple(map(max, old, new))

    def learn_writing(self, files: int, converting: float, tables: int, combining: float) -> None:
        """To convert so many files of a model and to combine so many tables took so long."""
        self.converting = max(self.converting, converting / files)
        self.combining = combining, tables

    def of(self, own: Pass) -> float:
        """Seconds of a pass, by its model's; else as the slowest model with samples of the same kind; else what it
        takes to start one, 0 if nothing is known yet.
        """
        known = [self.passes[own.model]] if own.model in self.passes else [
            cost for model, cost in self.passes.items() if model.from_images == own.model.from_images
        ]  # fmt: skip
        count = self.samples[own.model.from_images]
        times = (start + count * (waiting + len(own.views) * looking) for start, waiting, looking in known)
        return max(times, default=max((start for start, *_ in self.passes.values()), default=0.0))

    def of_writing(self, files: int, tables: int) -> float:
        """Seconds of converting so many files of a model and combining so many tables into a submission."""
        if self.combining is None:
            return self.first_writing
        seconds, before = self.combining
        return files * self.converting + seconds * max(1.0, tables / before)


def run_passes(
    passes: Sequence[Pass], clock: Clock, samples: dict[bool, int], look: Callable[[Pass, Clock, bool], Tally],
    convert: Callable[[Model, Sequence[Pass]], None], combine: Callable[[Sequence[Pass]], bool],
) -> tuple[list[Pass], list[tuple[Pass, str]]]:  # fmt: skip
    """Make as many of the passes as the clock allows, in order: those that are done, and the others with the reason.

    look(pass, its clock, whether to give up early) predicts; convert(model, passes done) makes its table;
    combine(passes done) makes the submission and says whether they suffice for one. With a limit they follow each pass,
    else they come once at the end. A pass begins only if it, in as many of its views as fit, will end in time together
    with what follows it. One that fails is left out, the others go on; so is, once there is a submission, one that
    cannot be brought into it, and with a limit one for which the disk is full.
    """
    costs = Costs(samples, FIRST_WRITING * clock.left() if clock.limited else 0.0)
    done, left, fresh = [], [], []  # fresh: done, and not in the submission yet
    written = False
    queue = deque(passes)
    while queue:
        wanted = queue.popleft()
        own = as_it_fits(wanted, done, fresh, clock, costs)
        if own is None:
            left.append((wanted, NO_TIME))
            continue
        began, reserve = clock.now(), MARGIN * costs.of_writing(*writing([*done, own], [*fresh, own]))
        try:
            tally = look(own, clock.minus(reserve), bool(done))
        except (UserError, RuntimeError, OSError) as error:
            if isinstance(error, OSError) and not clock.limited:
                raise
            left.append((wanted, explain(error)))
            continue
        costs.learn(own, tally, clock.now() - began)
        if tally.left:
            left.append((wanted, NO_TIME))
            continue
        done.append(own)
        fresh.append(own)
        if len(own.views) < len(wanted.views):
            queue.appendleft(wanted._replace(views=wanted.views[len(own.views) :]))
        if clock.limited and tally.looked:  # what an earlier run did may be in its submission already
            try:
                written |= write(done, fresh, clock, costs, convert, combine)
            except (UserError, RuntimeError, OSError) as error:
                if not written:
                    raise
                left += [(own, explain(error)) for own in fresh]
                done = [own for own in done if own not in fresh]
            fresh = []
    if fresh:
        write(done, fresh, clock, costs, convert, combine)
    return done, left


def as_it_fits(wanted: Pass, done: list[Pass], fresh: list[Pass], clock: Clock, costs: Costs) -> Pass | None:
    """The pass in as many of its views as there is time for, together with the submission after it; None for none."""
    for count in range(len(wanted.views), 0, -1):
        own = wanted._replace(views=wanted.views[:count])
        if clock.allows(MARGIN * (costs.of(own) + costs.of_writing(*writing([*done, own], [*fresh, own])))):
            return own
    return None


def writing(done: Sequence[Pass], fresh: Sequence[Pass]) -> tuple[int, int]:
    """How many files there are to convert for a submission of `done` when those of `fresh` are new, and how many tables
    to combine.
    """
    changed = {own.model for own in fresh}
    return sum(len(own.views) for own in done if own.model in changed), len({own.model for own in done})


def write(
    done: Sequence[Pass], fresh: Sequence[Pass], clock: Clock, costs: Costs, convert: Callable, combine: Callable
) -> bool:
    """Bring the submission up to date with all of `done`, of which `fresh` is new; False if they make none."""
    began = clock.now()
    for model in dict.fromkeys(own.model for own in fresh):
        convert(model, done)
    converted = clock.now()
    if not combine(done):
        return False
    files, tables = writing(done, fresh)
    costs.learn_writing(files, converted - began, tables, clock.now() - converted)
    return True
