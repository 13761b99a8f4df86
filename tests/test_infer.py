"""infer.py: the clock, the order of passes, what is begun and what is left, and the scripts' own numbers end to end."""

import errno
import itertools
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import competitions
import convertpredictions
import ensemble
import infer
import segment
import synthesize
import test as predict
from augment.views import VIEWS
from common.errors import UserError
from common.files import sole_writer
from common.seeds import rng
from common.times import process_age
from engine import clock as clocks
from engine.checkpoints import run_folder, save
from engine.clock import MARGIN, NO_TIME, Clock, in_time, parse_duration, show_duration, start_clock
from engine.passes import FIRST_WRITING, Costs, Model, Pass, plan, run_passes
from engine.predict import Tally
from engine.road import Road
from losses import build_loss
from models import Classifier, build

# Durations and clocks.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("8h30m", 30600), ("90m", 5400), ("45s", 45), ("1h2m3s", 3723), ("90", 90), ("2h", 7200), ("1h30s", 3630),
     ("0h5m", 300), ("007", 7)],
)  # fmt: skip
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0h0m", "-5", "1.5h", "8h30", "30m8h", "h", "5 m", "8H", "٣", "1d", "1e3"])
def test_bad_durations_are_refused(text):
    with pytest.raises(UserError, match=f"--time_limit {re.escape(repr(text))} must be a time above zero such as"):
        parse_duration(text)


@given(seconds=st.integers(1, 10**6))
@settings(max_examples=30, deadline=None)
def test_shown_durations_are_read_again(seconds):
    assert parse_duration(show_duration(seconds)) == seconds


def test_a_clock_ends_before_the_limit(monkeypatch):
    monkeypatch.setattr(clocks.time, "monotonic", lambda: 1000.0)
    assert start_clock("100s", used=20).end == 1000 + 100 - 20 - 5
    assert start_clock("10h").end == 1000 + 36000 - 360
    assert not start_clock(None).limited and start_clock(None).left() == math.inf
    clock = Clock(50, now=lambda: 20.0)
    assert clock.limited and clock.left() == 30 and clock.minus(10).left() == 20
    assert clock.allows(30) and not clock.allows(31)


def test_a_process_has_an_age():
    first, second = process_age(), process_age()
    assert 0 <= first <= second


class FakeClock:
    """Seconds that pass only when somebody says so."""

    def __init__(self):
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.mark.parametrize(("end", "taken"), [(math.inf, 10), (57, 3), (58, 4), (67, 4), (68, 5), (81, 6), (0, 2)])
def test_no_item_begins_that_cannot_end(end, taken):
    """Two are under way, 10 s each: the third begins at 10 s, unmeasured; the fourth at 20 s needs 3 x 12.5 s."""
    now, begun = FakeClock(), []
    for item in in_time(range(10), Clock(end, now), ahead=2):
        begun.append(item)
        now.time += 10 if len(begun) >= 2 else 0
    assert len(begun) == taken
    assert now.time <= max(end, 10)


# The order of the passes.

CELL = Model("cell", "6", "cell", False, (0, 1), 0.6, True)
LIGHT = Model("light", "1", "cell", False, (0,), 0.4, False)
IMAGE = Model("image", "best", "image", True, (0,), 1.0, True)
INSIDE = Model("inside", "3", "cell", True, (0,), 0.1, False)


def test_the_order_of_what_passes_add():
    order = [(own.model.name, own.fold, own.seed, len(own.views)) for own in
             plan([CELL, LIGHT, IMAGE, INSIDE], ["default", "flipud", "fliplr"], [1, 2], limited=True)]  # fmt: skip
    assert order == [
        ("image", 0, 1, 1), ("cell", 0, 1, 1),  # the smallest set
        ("light", 0, 1, 1), ("inside", 0, 0, 1),  # the other models by weight; cells in whole images have seed 0 alone
        ("image", 0, 1, 2), ("cell", 0, 1, 2), ("light", 0, 1, 2), ("inside", 0, 0, 2),  # the other views
        ("image", 0, 2, 3), ("cell", 0, 2, 3), ("light", 0, 2, 3),  # seeds
        ("cell", 1, 1, 3), ("cell", 1, 2, 3),  # folds
    ]  # fmt: skip


def test_one_view_is_one_pass_and_without_a_limit_all_views_are():
    assert len(plan([CELL], ["default"], [0], limited=True)) == 2
    passes = plan([IMAGE, CELL], list(VIEWS), [1, 2], limited=False)
    assert [len(own.views) for own in passes] == [8] * 6
    assert len({(own.model, own.fold, own.seed) for own in passes}) == 6


# What passes cost.


def test_costs_by_hand():
    costs = Costs({False: 100, True: 10}, first_writing=7.0)
    one, three = Pass(CELL, 0, 1, ("default",)), Pass(CELL, 1, 1, ("a", "b", "c"))
    assert costs.of(one) == 0 and costs.of_writing(5, 2) == 7
    costs.learn(one, Tally(50, 50, 0.1, 0.2), 17.0)  # 2 s to start, then 50 x .3 s
    assert costs.of(one) == pytest.approx(2 + 100 * 0.3)
    assert costs.of(three) == pytest.approx(2 + 100 * (0.1 + 3 * 0.2))
    assert costs.of(Pass(LIGHT, 0, 1, ("a",))) == pytest.approx(32)  # as the model that is known
    assert costs.of(Pass(IMAGE, 0, 1, ("a",))) == pytest.approx(2)  # images are another matter, but begin alike
    costs.learn(one, Tally(), 1.0)
    costs.learn(one, Tally(100, 0, 0.05, 0.3), 36.0)
    assert costs.of(one) == pytest.approx(2 + 100 * 0.4)  # the most of each
    costs.learn_writing(2, 1.0, 1, 3.0)
    assert costs.of_writing(8, 1) == pytest.approx(8 * 0.5 + 3) and costs.of_writing(8, 2) == pytest.approx(4 + 6)


class World:
    """Networks, converting and combining that take the seconds that are drawn, on a clock that only they move."""

    def __init__(self, models, samples, noise, combining, fails=()):
        self.now, self.models, self.samples, self.combining, self.fails = FakeClock(), models, samples, combining, fails
        self.noise, self.log, self.written = itertools.cycle(noise), [], []

    def look(self, own: Pass, clock: Clock, whole: bool) -> Tally:
        """As predict_views: ten parts; none begins that will not end in time, by the pace of those before."""
        if own.model.name in self.fails:
            raise UserError(f"{own.model.name} is broken")
        start, waiting, looking = self.models[own.model]
        factor, count = next(self.noise), self.samples[own.model.from_images]
        self.now.time += start * factor
        pace = (waiting + len(own.views) * looking) * factor
        for part in range(10):
            if not clock.allows(pace * count / 10 * (10 - part if whole else 1)):
                self.log.append((own, False))
                return Tally(part * count // 10, count - part * count // 10, waiting * factor, looking * factor)
            self.now.time += pace * count / 10
        self.log.append((own, True))
        return Tally(count, 0, waiting * factor, looking * factor)

    def convert(self, model: Model, done: list[Pass]) -> None:
        self.now.time += 0.01 * sum(len(own.views) for own in done if own.model == model) * next(self.noise)

    def combine(self, done: list[Pass]) -> bool:
        self.now.time += self.combining * next(self.noise)
        self.written.append(list(done))
        return True


def each_view(passes) -> list[tuple]:
    return sorted((own.model.name, own.fold, own.seed, view) for own in passes for view in own.views)


@st.composite
def worlds(draw):
    names = "abcd"[: draw(st.integers(1, 4))]
    models = {}
    for place, name in enumerate(names):
        images = draw(st.booleans())
        model = Model(name, "1", "image" if images else "cell", images, tuple(range(draw(st.integers(1, 2)))),
                      draw(st.floats(0.1, 1)), place == 0 or draw(st.booleans()))  # fmt: skip
        seconds = st.floats(0.001, 2)
        models[model] = draw(seconds), draw(seconds), draw(seconds)
    samples = {False: draw(st.integers(10, 500)), True: draw(st.integers(10, 50))}
    noise = draw(st.lists(st.floats(1 / MARGIN, 1), min_size=1, max_size=7))
    return World(models, samples, noise, draw(st.floats(0.1, 2)))


@given(world=worlds(), share=st.floats(0.01, 2), seeds=st.integers(1, 2))
@settings(max_examples=150, deadline=None)
def test_never_past_the_limit(world, share, seeds):
    """What takes no longer than the margin times the longest so far never makes the run late, whatever the times."""
    passes = plan(list(world.models), ["default", "flipud", "fliplr"], list(range(seeds)), limited=True)
    most = sum(
        sum(world.models[own.model][:1]) + world.samples[own.model.from_images]
        * (world.models[own.model][1] + len(own.views) * world.models[own.model][2]) for own in passes
    )  # fmt: skip
    writing = world.combining + 0.01 * len(passes) * 6
    end = max(share * (most + len(passes) * writing), (writing + 3) / FIRST_WRITING)  # the first writing fits its share
    clock = Clock(end, world.now)
    done, left = run_passes(passes, clock, world.samples, world.look, world.convert, world.combine)
    assert world.now.time <= end + 2  # an unmeasured start, of up to two seconds, is what nobody can foresee
    assert each_view([*done, *(own for own, _ in left)]) == each_view(passes)  # each view is done or left, once
    assert all(reason == NO_TIME for _, reason in left)
    assert [len(own) for own in world.written] == list(range(1, len(done) + 1))  # a submission after every pass
    assert [own for own, whole in world.log if whole] == done
    if share > 1.7:  # MARGIN x everything, estimates beyond it, and the first writing's share
        assert not left
    world.log.clear()


def test_as_many_views_as_fit():
    """1 s a view and sample group: 10 samples x 1 s; after 10 + 1 s the other seven views would need 7 x 12.5 s."""
    world = World({CELL: (0.0, 0.0, 1.0)}, {False: 10, True: 0}, [1.0], 1.0)
    model = CELL._replace(folds=(0,))
    world.models = {model: (0.0, 0.0, 1.0)}
    passes = plan([model], list(VIEWS), [0], limited=True)
    done, left = run_passes(passes, Clock(60, world.now), world.samples, world.look, world.convert, world.combine)
    # left 48.99 s: three views (37.5 s and the writing); then 17.9 s: one more; then nothing.
    assert [len(own.views) for own in done] == [1, 3, 1]
    assert [(own.views, reason) for own, reason in left] == [(tuple(VIEWS)[5:], NO_TIME)]


def test_a_dearer_pass_gives_way_to_a_cheaper_one():
    one = CELL._replace(folds=(0,))
    world = World({one: (0, 0, 1.0), IMAGE: (0, 0, 1.0)}, {False: 40, True: 1}, [1.0], 0.1)
    passes = plan([one, IMAGE], ["default", "flipud"], [0], limited=True)
    done, left = run_passes(passes, Clock(60, world.now), world.samples, world.look, world.convert, world.combine)
    assert each_view(done) == each_view([Pass(one, 0, 0, ("default",)), Pass(IMAGE, 0, 0, ("default", "flipud"))])
    assert [own for own, _ in left] == [Pass(one, 0, 0, ("flipud",))]


@pytest.mark.parametrize("end", [math.inf, 1000])
def test_a_pass_that_fails_is_left_out_and_named(end):
    world = World({CELL: (0, 0, 0.1), IMAGE: (0, 0, 0.1)}, {False: 10, True: 10}, [1.0], 0.1, fails=["image"])
    passes = plan([CELL, IMAGE], ["default"], [0], limited=end < math.inf)
    done, left = run_passes(passes, Clock(end, world.now), world.samples, world.look, world.convert, world.combine)
    assert [own.model for own in done] == [CELL, CELL]
    assert [reason for _, reason in left] == ["image is broken"]
    assert world.written[-1] == done and (end < math.inf) == (len(world.written) == 2)


@pytest.mark.parametrize("broken", ["look", "combine"])
def test_a_full_disk_leaves_the_submission_that_is_there(broken):
    """The third pass cannot be saved, or not be brought into the submission: the first two stay in it, others go on."""
    world = World({CELL: (0, 0, 0.1), LIGHT: (0, 0, 0.1), IMAGE: (0, 0, 0.1)}, {False: 10, True: 10}, [1.0], 0.1)
    passes = plan([CELL, LIGHT, IMAGE], ["default"], [0], limited=True)
    third, plain = passes[2], getattr(world, broken)

    def failing(*args):
        if third in ([args[0]] if broken == "look" else args[0]):
            raise OSError(errno.ENOSPC, "No space left on device", "disk/part.npz")
        return plain(*args)

    setattr(world, broken, failing)
    done, left = run_passes(passes, Clock(1000, world.now), world.samples, world.look, world.convert, world.combine)
    assert [own for own, _ in left] == [third] and "the disk is full at disk/part.npz" in left[0][1]
    assert done == world.written[-1] == [own for own in passes if own != third] and len(done) == 3
    if broken == "look":  # nothing is there that could be kept
        with pytest.raises(OSError, match="No space"):
            run_passes(passes, Clock(math.inf, world.now), world.samples, failing, world.convert, world.combine)


def test_a_submission_that_can_never_be_made_ends_the_run():
    def failing(done):
        raise UserError("row 2 of the table is broken")

    world = World({CELL: (0, 0, 0.1)}, {False: 10, True: 10}, [1.0], 0.1)
    passes = plan([CELL], ["default"], [0], limited=True)
    with pytest.raises(UserError, match="row 2"):
        run_passes(passes, Clock(1000, world.now), world.samples, world.look, world.convert, failing)
    assert len(world.log) == 1


def test_no_time_at_all():
    world = World({CELL: (0, 0, 1.0)}, {False: 10, True: 10}, [1.0], 0.1)
    passes = plan([CELL], ["default"], [0], limited=True)
    done, left = run_passes(passes, Clock(-1, world.now), world.samples, world.look, world.convert, world.combine)
    assert not done and [own for own, _ in left] == passes and not world.log


# End to end, on made-up images and networks that nobody trained.

# what a submission is made from, the folder of the images, the truth, and synthesize.py's flags
MADE = {
    "hpa": ("sample_submission.csv", "test", "truth.csv", "--train 1 --test 3 --size 256x224 --cells 3-5"),
    "riva": ("sample_submission.csv", "images/test", "annotations/test.csv",
             "--train 1 --val 0 --test 2 --size 256 --cells 2-4"),
    "cytologia": ("test.csv", "test", "test_truth.csv", "--train 1 --test 2 --size 128"),
    "pannuke": ("fold1", "fold1", "fold1", "--train 6 --size 128"),
    "neurons": ("sample_submission.csv", "test", "test_truth.csv", "--train 1 --test 2 --size 128"),
}  # fmt: skip


def make_images(name: str, folder: Path) -> None:
    flags = [*MADE[name][3].split(), "--seed", "3", "--jobs", "1"]
    synthesize.main(["--competition", name, "--out_dir", str(folder), *flags])


def make_network(
    results: Path, name: str, file: str, fold: int, cell: str, competition: str, seed: int, img_size: int = 40
) -> Path:
    """A checkpoint as train.py writes it, of a small network with drawn weights."""
    own = competitions.get(competition)
    sizes = {"num_classes": len(own.CLASSES), "in_channels": len(own.CHANNELS), "img_size": img_size, "crop_size": 32}
    net = build("test_resnet", sizes["num_classes"], sizes["in_channels"], 32)
    model = Classifier(net, build_loss("BCE", np.ones(sizes["num_classes"])), own.MEAN, own.STD)
    for number, values in enumerate(model.parameters()):
        drawn = rng(seed, number).normal(0, 0.2, values.shape)
        values.data = torch.from_numpy(np.asarray(drawn, np.float32))
    flags = {**sizes, "arch": "test_resnet", "split_name": "none", "cell": cell, "loss": "BCE", "puzzle": 0}
    path = run_folder(results, name, fold) / file
    epoch = 4 if file == "best.pth" else int(file[:3])
    save({"model": model.state_dict(), "settings": flags, "epoch": epoch, "scores": {}}, path)
    return path


def make_ensemble(path: Path, competition: str, rows: dict[str, tuple[str, float]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    classes = competitions.get(competition).CLASSES
    lines = [",".join([name, kind, *[str(weight)] * len(classes)]) for name, (kind, weight) in rows.items()]
    path.write_text("\n".join([",".join(["Predictions", "Type", *classes]), *lines]) + "\n")
    return path


ROWS = {
    "probabilities_Cell_A_2.csv": ("cell", 0.7), "probabilities_Cell_B_1.csv": ("cell", 0.3),
    "probabilities_Image_best.csv": ("image", 1),
}  # fmt: skip
NETWORKS = [("Cell_A", "002.pth", 0), ("Cell_A", "002.pth", 1), ("Cell_B", "001.pth", 0), ("Image", "best.pth", 0)]
VIEW_FLAGS = ["--views", "default,fliplr", "--seeds", "1,2", "--decay", "11=0.5"]
EVERY = {
    (model, str(fold), seed, view)
    for model, _, fold in NETWORKS for seed in "12" for view in ("default", "fliplr")
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with images, checkpoints and an ensemble CSV."""
    folder = tmp_path_factory.mktemp("infer")
    make_images("hpa", folder / "data")
    for seed, (model, file, fold) in enumerate(NETWORKS):
        make_network(folder / "results", model, file, fold, model.split("_")[0].lower(), "hpa", seed)
    make_ensemble(folder / "both.csv", "hpa", ROWS)
    return folder


def infer_flags(home: Path, work: Path, *more: str, name: str = "hpa") -> list[str]:
    metadata, root, *_ = MADE[name]
    return [
        "--competition", name, "--ensemble", str(home / "both.csv"), "--metadata", str(home / "data" / metadata),
        "--root_dir", str(home / "data" / root), "--base_dir", str(home / "results"), "--work_dir", str(work),
        "--out_path", str(work / "submission.csv"), "--workers", "0", "--gpu_id", "cpu", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def full(home, tmp_path_factory) -> Path:
    """The folder of a run without a limit."""
    work = tmp_path_factory.mktemp("full")
    before = snapshot(home)
    assert infer.main(infer_flags(home, work, *VIEW_FLAGS)) is None
    assert snapshot(home) == before  # nothing is written but below work
    assert not (work / "submission_left_out.csv").exists()
    return work


def snapshot(folder: Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_the_same_as_the_scripts_one_by_one(home, full, tmp_path):
    data, names = home / "data", ["meta", "crops", "images", "cache"]
    folders = [word for flag, name in zip(["meta", "crop", "img", "cache"], names, strict=True)
               for word in (f"--{flag}_dir", str(tmp_path / name))]  # fmt: skip
    sample = str(data / "sample_submission.csv")
    segment.main(["--metadata", sample, "--root_dir", str(data / "test"), *folders, "--img_size=40", "--workers=0"])
    cells = str(tmp_path / "meta" / "sample_submission_cell.csv")
    raw = str(tmp_path / "raw")
    for model, file, fold in NETWORKS:
        kind = model.split("_")[0].lower()
        epoch = file[:3] if file[:3].isdecimal() else "best"
        store = str(tmp_path / ("images" if kind == "image" else "crops"))
        predict.main(["--base_dir", str(home / "results"), "--out_dir", model, "--fold", str(fold), "--predict_epoch",
                      epoch, "--augment", "default,fliplr", "--seeds", "1,2", "--img_dir", store, "--gpu_id", "cpu",
                      "--predictions_path", raw])  # fmt: skip
    for name, (kind, _) in ROWS.items():
        model, epoch = re.fullmatch("probabilities_(.+)_(.+).csv", name).groups()
        convertpredictions.main(["--model", model, "--epoch", epoch, "--cellorimage", kind, "--seeds", "1,2",
                                 "--augment", "default,fliplr", "--predictions_path", raw, "--meta_csv_path", sample,
                                 "--cell_meta_csv_path", cells, "--out_path", str(tmp_path / "tables")])  # fmt: skip
    ensemble.main([str(home / "both.csv"), "--submission", "1", "--meta_csv", sample, "--cell_meta_csv_path", cells,
                   "--tables_path", str(tmp_path / "tables"), "--out_path", str(tmp_path), "--decay", "11=0.5",
                   ])  # fmt: skip
    for name in ROWS:
        assert (tmp_path / "tables" / name).read_bytes() == (full / "tables" / name).read_bytes()
    for own, theirs in (("submission.csv", "submission_both.csv"), ("ensemble_both.csv", "ensemble_both.csv")):
        assert (full / own).read_bytes() == (tmp_path / theirs).read_bytes()


def predicted(work: Path) -> set[tuple]:
    """What is predicted below `work`: (model, fold, seed, view)."""
    found = set()
    for path in (work / "submissions").rglob("prob_test.npz"):
        view, _, seed = path.parent.name.rpartition("_seed")
        found.add((path.parts[-5], path.parts[-4].removeprefix("fold"), seed, view))
    return found


def limited(monkeypatch, end: float) -> None:
    """Let the clock of the next run end after so many looks at it."""
    ticks = itertools.count()
    monkeypatch.setattr(infer, "start_clock", lambda *args: Clock(end, lambda: float(next(ticks))))


@pytest.mark.slow
@pytest.mark.parametrize("end", [30, 90])
def test_a_limited_run_is_valid_and_lists_what_it_left_out(home, full, tmp_path, monkeypatch, capsys, end):
    with monkeypatch.context() as patch:
        limited(patch, end)
        code = infer.main(infer_flags(home, tmp_path, *VIEW_FLAGS))
    own = competitions.get("hpa")
    assert 0 <= own.score(tmp_path / "submission.csv", home / "data" / "truth.csv").iloc[-1, 1] <= 1
    ids, expected = (pd.read_csv(folder / "submission.csv")["ID"].tolist() for folder in (tmp_path, full))
    assert ids == expected
    left = pd.read_csv(tmp_path / "submission_left_out.csv", dtype=str, keep_default_na=False)
    passes = left[left["Stage"] == "predict"]
    assert set(passes["Reason"]) == {NO_TIME}
    listed = set(passes[["Model", "Fold", "Seed", "View"]].itertuples(index=False, name=None))
    assert listed == EVERY - predicted(tmp_path) and len(passes) == len(listed)
    complete = (left["Stage"] == "predict").all() and len(listed) < len(EVERY)
    assert (code is None) == complete
    assert "left out: " in capsys.readouterr().out
    assert infer.main(infer_flags(home, tmp_path, *VIEW_FLAGS)) is None  # the next run makes the rest
    assert (tmp_path / "submission.csv").read_bytes() == (full / "submission.csv").read_bytes()
    assert not (tmp_path / "submission_left_out.csv").exists()


def test_no_time_to_find_cells(home, full, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        limited(patch, 3)
        assert infer.main(infer_flags(home, tmp_path, *VIEW_FLAGS)) == 1
    submission = pd.read_csv(tmp_path / "submission.csv", dtype=str)
    assert submission.equals(pd.read_csv(home / "data" / "sample_submission.csv", dtype=str))
    left = pd.read_csv(tmp_path / "submission_left_out.csv", keep_default_na=False)
    assert set(left.loc[left["Stage"] == "segment", "Image"]) <= set(submission["ID"])
    assert (left["Stage"] == "predict").sum() == len(EVERY)
    assert "submitted without cells" in capsys.readouterr().out


def test_fewer_images_than_before(home, full, tmp_path, monkeypatch):
    """Of images that are no longer asked for nothing is predicted, and no old submission stays for other images."""
    work = tmp_path / "work"
    shutil.copytree(full, work)
    sample = pd.read_csv(home / "data" / "sample_submission.csv", dtype=str).iloc[:2]
    sample.to_csv(tmp_path / "sample_submission.csv", index=False)
    flags = [*infer_flags(home, work), *VIEW_FLAGS, "--metadata", str(tmp_path / "sample_submission.csv")]
    with monkeypatch.context() as patch:
        limited(patch, 3)
        assert infer.main(flags) == 1
    assert pd.read_csv(work / "submission.csv", dtype=str).equals(sample)
    assert infer.main(flags) is None
    whole = pd.read_csv(full / "submission.csv", dtype=str)
    assert pd.read_csv(work / "submission.csv", dtype=str).equals(whole.iloc[:2])


def test_an_image_that_breaks_between_two_runs(home, tmp_path, capsys):
    shutil.copytree(home / "data", tmp_path / "data")
    flags = [*infer_flags(home, tmp_path / "work"), "--views", "default", "--root_dir", str(tmp_path / "data" / "test")]
    assert infer.main(flags) is None
    sample = pd.read_csv(home / "data" / "sample_submission.csv", dtype=str)
    broken = sample["ID"][1]
    (tmp_path / "data" / "test" / f"{broken}_red.png").write_bytes(b"nothing")
    assert infer.main(flags) == 1
    submission = pd.read_csv(tmp_path / "work" / "submission.csv", dtype=str)
    same = submission["PredictionString"] == sample["PredictionString"]
    assert submission["ID"].equals(sample["ID"]) and same.tolist() == [False, True, False]
    left = pd.read_csv(tmp_path / "work" / "submission_left_out.csv")
    assert left[["Stage", "Image"]].to_numpy().tolist() == [["segment", broken]]
    assert f"skipped {broken}: " in capsys.readouterr().err


def test_a_network_that_fails_is_named_and_the_others_go_on(home, tmp_path, capsys):
    path = make_network(tmp_path / "results", "Cell_B", "001.pth", 0, "cell", "hpa", 9)
    content = torch.load(path, weights_only=True)
    save({**content, "model": {name: value * math.nan for name, value in content["model"].items()}}, path)
    (tmp_path / "results" / "models" / "Image").symlink_to(home / "results" / "models" / "Image")
    config = make_ensemble(tmp_path / "both.csv", "hpa", {name: ROWS[name] for name in list(ROWS)[1:]})
    flags = infer_flags(home, tmp_path / "work", "--base_dir", str(tmp_path / "results"), "--ensemble", str(config))
    assert infer.main([*flags, "--views", "default"]) == 1
    assert "left out: Cell_B 1 fold 0 seed 0, default: the network's prediction for" in capsys.readouterr().out
    assert (tmp_path / "work" / "submission.csv").exists()


@pytest.mark.parametrize("name", ["riva", "cytologia"])
def test_other_competitions(name, tmp_path):
    make_images(name, tmp_path / "data")
    for fold in range(2):
        make_network(tmp_path / "results", "cells", "best.pth", fold, "cell", name, fold)
    make_ensemble(tmp_path / "both.csv", name, {"probabilities_cells_best.csv": ("cell", 1)})
    flags = ["--finder", "otsu", "--views", "default", "--time_limit", "2h"]
    assert infer.main(infer_flags(tmp_path, tmp_path / "work", *flags, name=name)) is None
    truth = tmp_path / "data" / MADE[name][2]
    assert 0 <= competitions.get(name).score(tmp_path / "work" / "submission.csv", truth).iloc[-1, 1] <= 1
    assert {fold for _, fold, *_ in predicted(tmp_path / "work")} == {"0", "1"}


@pytest.mark.parametrize("name", list(MADE))
def test_a_submission_without_cells_is_valid(name, tmp_path):
    from engine.road import write_blank

    make_images(name, tmp_path / "data")
    metadata, _, truth, _ = (tmp_path / "data" / part if isinstance(part, str) else part for part in MADE[name])
    own = competitions.get(name)
    write_blank(tmp_path / "blank.csv", own.read_metadata(metadata), own)
    assert len(own.score(tmp_path / "blank.csv", truth))  # whose reader refuses what is not of the right form


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ({"other.csv": ("cell", 1)}, [],
         "both.csv row 2, column Predictions: other.csv must be called probabilities_<model>_<epoch>.csv"),
        ({"probabilities_.._7.csv": ("cell", 1)}, [], "row 2, column Predictions: '..' cannot be a file name"),
        (ROWS, ["--gpu_id", "one"], "--gpu_id one must be GPU numbers joined by commas"),
        (ROWS, ["--time_limit", "soon"], "--time_limit 'soon' must be a time above zero"),
        (ROWS, ["--views", "rot90"], "rot90 is not known"),
        (ROWS, ["--combine", "foo"], "--combine foo is not known"),
        (ROWS, ["--decay", "99=1"], "--decay: '99=1' must be CLASS=VALUE"),
        (ROWS, ["--cell_weight", "3"], "--cell_weight 3.0 must lie in 0..1"),
        (ROWS, ["--batch_size", "0"], "--batch_size 0 must be at least 1"),
        (ROWS, ["--finder", "nope"], "--finder nope is not known"),
        (ROWS, ["--metadata", "DATA/train.csv"], "a submission is made from sample_submission.csv, and"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_done(home, tmp_path, rows, more, message):
    config = make_ensemble(tmp_path / "both.csv", "hpa", rows)
    more = [word.replace("DATA", str(home / "data")) for word in more]
    with pytest.raises(UserError, match=re.escape(message)):
        infer.main([*infer_flags(home, tmp_path / "work"), "--ensemble", str(config), *more])
    assert not (tmp_path / "work" / "cache").exists()


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        # An epoch that no fold has, one that not all have, one that not all that --folds names have.
        ("Cell_A_7", [], "Cell_A/fold0/007.pth, which is missing; folds with 007.pth: none, without it: 0, 1; "
         "train these, give --folds only those that have it, or name an epoch that all have: 2"),
        ("Cell_A_10", [], "Cell_A/fold1/010.pth, which is missing; folds with 010.pth: 0, without it: 1; "),
        ("Cell_A_2", ["--folds", "0,1,3"], "Cell_A/fold3/002.pth, which is missing; folds with 002.pth: 0, 1, without "
         "it: 3; train these, give --folds only those that have it, or name an epoch that all have: none"),
        # A fold whose training has only begun.
        ("Image_3", [], "Image/fold4/003.pth, which is missing; folds with 003.pth: 0, 2, without it: 4; "),
        # A model of which there is nothing.
        ("Absent_best", [], "Absent/fold<k>/best.pth, and there is no fold; RESULTS/models has Cell_A, Cell_B, Image; "
         "is --base_dir right?"),
        ("Absent_best", ["--base_dir", "RESULTS/absent"], "Absent/fold<k>/best.pth, and there is no fold; "
         "RESULTS/absent/models has no model; is --base_dir right?"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_missing(gaps, home, tmp_path, name, more, message):
    """It is the CSV's second row, which an editor shows as line 3, though models are looked for in another order."""
    table, results = f"probabilities_{name}.csv", str(gaps / "results")
    config = make_ensemble(tmp_path / "own.csv", "hpa", {"probabilities_Cell_B_1.csv": ("cell", 1), table: ("cell", 1)})
    flags = ["--ensemble", str(config), "--base_dir", "RESULTS", *more]
    start = re.escape(f"{config} row 3, column Predictions: {table} needs ")
    with pytest.raises(UserError, match=f"^{start}.*{re.escape(message.replace('RESULTS', results))}"):
        infer.main(infer_flags(home, tmp_path / "work", *(word.replace("RESULTS", results) for word in flags)))
    assert not (tmp_path / "work").exists()


@pytest.fixture(scope="module")
def gaps(home, tmp_path_factory) -> Path:
    """Checkpoints of which some folds lack some."""
    folder = tmp_path_factory.mktemp("gaps")
    shutil.copytree(home / "results", folder / "results")
    make_network(folder / "results", "Cell_A", "010.pth", 0, "cell", "hpa", 1, img_size=64)
    make_network(folder / "results", "Image", "003.pth", 0, "image", "hpa", 2, img_size=44)
    make_network(folder / "results", "Image", "003.pth", 2, "image", "hpa", 3, img_size=56)
    (folder / "results" / "models" / "Image" / "fold4").mkdir()
    return folder


def road_of(gaps: Path, home: Path, names: str, *more: str) -> Road:
    rows = {f"probabilities_{name}.csv": (name.split("_")[0].lower(), 1) for name in names.split(",")}
    config = make_ensemble(gaps / "own.csv", "hpa", rows)
    flags = ["--base_dir", str(gaps / "results"), "--ensemble", str(config), *more]
    return Road(infer.get_args_parser().parse_args(infer_flags(home, gaps / "work", *flags)), Clock())


def test_folds_that_are_named_are_those_that_are_used(gaps, home):
    assert [own.folds for own in road_of(gaps, home, "Cell_A_10,Image_3", "--folds", "0").models] == [(0,), (0,)]
    assert [own.folds for own in road_of(gaps, home, "Cell_A_2,Cell_B_1").models] == [(0, 1), (0,)]


@pytest.mark.parametrize(
    ("names", "more", "size", "warned"),
    [
        ("Cell_A_10,Image_3", ["--folds", "0"], 44, []),  # cells are read from crops, whatever their img_size
        ("Image_3", ["--folds", "0,2"], 56, []),  # the largest of the folds
        ("Cell_A_10", ["--folds", "0"], 64, []),  # nobody reads whole images
        ("Cell_A_10,Image_3", ["--folds", "0", "--img_size", "44"], 44, []),
        ("Image_best,Image_3", ["--folds", "0", "--img_size", "43"], 43,
         ["--img_size 43 is less than the 44 pixels at which Image was trained"]),
    ],
)  # fmt: skip
def test_images_are_stored_as_large_as_networks_read_them(gaps, home, capsys, names, more, size, warned):
    assert road_of(gaps, home, names, *more).img_size == size
    told = capsys.readouterr().err.splitlines()
    assert told == [f"warning: {text}; its images are made smaller, then larger again" for text in warned]


def test_the_second_of_two_runs_refuses(home, tmp_path):
    with sole_writer(tmp_path), pytest.raises(UserError, match="another process is writing to"):
        infer.main(infer_flags(home, tmp_path))


# test.py --time_limit


def test_predictions_stop_before_the_limit_and_go_on(home, full, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("engine.predict.PART_BATCHES", 2)
    flags = ["--base_dir", str(home / "results"), "--out_dir", "Cell_A", "--predict_epoch", "2", "--seeds", "1,2",
             "--img_dir", str(full / "crops"), "--predictions_path", str(tmp_path), "--batch_size", "1",
             "--gpu_id", "cpu"]  # fmt: skip
    ticks = itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr(predict, "start_clock", lambda *args: Clock(22, lambda: float(next(ticks))))
        assert predict.main([*flags, "--time_limit", "1h"]) == 1
    shown = capsys.readouterr().out
    left = int(re.search(r"before --time_limit: seed 1 lacks (\d+) samples, and seeds 2 are not begun", shown)[1])
    parts = [path for path in tmp_path.rglob("*.npz") if path.parent.name.startswith(".parts")]
    cells = len(pd.read_csv(full / "meta" / "sample_submission_cell.csv").query("keep == 1"))
    assert parts and left == cells - 2 * len(parts)
    looks = []
    forward = predict.predict_views.__globals__["_probs"]
    with monkeypatch.context() as patch:
        patch.setattr("engine.predict._probs", lambda *args: looks.append(1) or forward(*args))
        assert predict.main([*flags, "--seeds", "1", "--time_limit", "1h"]) is None
    assert len(looks) == left
    own = np.load(next(tmp_path.rglob("default_seed1/prob_test.npz")))
    whole = np.load(full / "submissions" / "Cell_A" / "fold0" / "epoch_002" / "default_seed1" / "prob_test.npz")
    assert own["ids"].tolist() == whole["ids"].tolist()
    np.testing.assert_allclose(own["probs"], whole["probs"], atol=1e-5)
