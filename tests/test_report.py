"""The report: well-formed and alone, every text escaped, its numbers those of the files, what is missing said."""

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_results import IDS, make_box_results, make_hpa_results, make_run, score

import competitions
import report
from cells.crops import cut_box, cut_cell
from cells.store import Store, write_shard
from cells.table import read_cells, write_table
from common import times
from common.errors import UserError, run
from common.seeds import rng
from competitions import hpa
from pictures.marks import confidence
from reporting.ensembles import correlations
from reporting.folder import Results
from reporting.html import VOID, Html, join, number, tag
from reporting.pipeline import plural
from reporting.scores import call, read_scores
from reporting.svg import HEIGHT, WIDTH, Line, chart, label, ticks
from reporting.thumbs import Square, Thumbs, crop_place, outline
from reporting.times import Command, read_commands, run_time, span, spent

HIDDEN = {"style", "title"}  # elements whose text the page does not show


class Page(HTMLParser):
    """A page's elements with their attributes, its text, and the values of its `data` elements by their text."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.numbers: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len({key for key, _ in attributes}) == len(attributes), f"doubled attribute in {name}"
        self.tags.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open and self.open.pop() == name, f"</{name}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in HIDDEN and data.strip():
            self.words.append(data)
        if self.open and self.open[-1] == "data":
            self.numbers.append((data, self.tags[-1][1]["value"]))

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def of(self, name: str) -> list[dict]:
        return [attributes for own, attributes in self.tags if own == name]

    def classed(self, name: str) -> int:
        return sum(name in attributes.get("class", "").split() for _, attributes in self.tags)


@pytest.fixture(scope="module")
def hpa_results(tmp_path_factory) -> Path:
    return make_hpa_results(tmp_path_factory.mktemp("hpa results"))


@pytest.fixture(scope="module")
def hpa_page(hpa_results) -> Page:
    return read_page(hpa_results, "--truth", str(hpa_results / "truth.csv"))


def read_page(folder: Path, *flags: str, code: int | None = None) -> Page:
    out = folder.parent / f"{folder.name}.html"
    assert report.main([str(folder), "--out_path", str(out), *flags]) == code
    return Page(out.read_text(encoding="utf-8"))


# ---- the pieces


def test_texts_are_escaped_and_html_is_not():
    assert tag("p", "<b>&", tag("b", 1), None, title='"<') == '<p title="&quot;&lt;">&lt;b&gt;&amp;<b>1</b></p>'
    assert join(["<", Html("<br>")]) == "&lt;<br>" and isinstance(join([]), Html)
    assert tag("meta", http_equiv="x", class_=None) == '<meta http-equiv="x">'
    assert not isinstance(tag("p") + "x", Html)  # what is put together by hand is text again


@pytest.mark.parametrize(("value", "digits", "text"), [
    (0.12345, 3, "0.123"), (1234567, 3, "1,234,567"), (np.int64(12), 2, "12"), (np.float32(0.5), 1, "0.5"),
])  # fmt: skip
def test_numbers_have_all_their_digits(value, digits, text):
    page = Page(number(value, digits))
    assert page.numbers == [(text, repr(float(value) if "." in text else int(value)))]


def test_unknown_numbers_are_a_dash():
    assert number(float("nan")) == number(np.float64("inf")) == number(None) == "–"


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_scales_enclose_the_values(low, width):
    scale = ticks(low, low + width)
    slack = 1e-6 * max(abs(low), width, 1e-2)
    assert scale[0] <= low + slack and scale[-1] >= low + width - slack and 2 <= len(scale) <= 8
    assert len({label(value, scale) for value in scale}) == len(scale)


def test_scales_of_epochs_are_whole_numbers():
    assert ticks(1, 6, whole=True).tolist() == [1, 2, 3, 4, 5, 6] and ticks(1, 2, whole=True).tolist() == [1, 2]
    assert ticks(1, 100, whole=True).tolist() == [20, 40, 60, 80, 100]


@settings(max_examples=40, deadline=None)
@given(arrays(float, st.integers(1, 12), elements=st.floats(-1e3, 1e3) | st.just(np.nan)))
def test_curves_stay_in_the_chart_and_break_where_unknown(values):
    page = Page(chart([Line(np.arange(1, len(values) + 1), values, "a", "c0")], "title"))
    known = np.isfinite(values)
    assert len(page.of("polyline")) == (np.diff(np.append(False, known).astype(int)) == 1).sum()
    points = [tuple(map(float, point.split(","))) for line in page.of("polyline") for point in line["points"].split()]
    assert len(points) == known.sum()
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


def test_a_chart_by_hand():
    page = Page(chart([Line(np.array([1, 2, 3]), np.array([0.0, 0.5, 1.0]), "a", "c0", dot=2)], "t"))
    assert page.of("polyline")[0]["points"] == "40,164 185,88 330,12"
    assert (page.of("circle")[0]["cx"], page.of("circle")[0]["cy"]) == ("330.0", "12.0")


def test_plural():
    assert [plural(1, "table of probabilities", "tables"), plural(2, "x", "tables")] == \
        ["1 table of probabilities", "2 tables"]  # fmt: skip


# ---- times


def test_a_command_notes_its_time(tmp_path, monkeypatch):
    path = tmp_path / "out" / "times.jsonl"
    monkeypatch.setattr(sys, "argv", ["/some/where/train.py", "--out_dir", "a b"])
    monkeypatch.setattr(times, "process_age", lambda: 5.0)  # of which most went by before `main` began
    with pytest.raises(SystemExit):
        run(lambda: 0)
    assert not path.parent.exists()  # not asked for
    monkeypatch.setenv(times.VARIABLE, str(path))
    for code in (0, 1):
        with pytest.raises(SystemExit):
            run(lambda code=code: code)
    first, second = read_commands(path)
    assert first.words == ["train.py", "--out_dir", "a b"] and (first.code, second.code) == (0, 1)
    assert 5 <= first.seconds < 60 and first.began <= second.began
    monkeypatch.setenv("LOCAL_RANK", "1")
    times.note(0.0, 0)
    assert len(read_commands(path)) == 2


def test_a_time_that_cannot_be_noted_stops_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(times.VARIABLE, str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        run(lambda: None)
    assert stopped.value.code == 0 and "is not noted" in capsys.readouterr().err


@pytest.mark.parametrize("line", [
    "{", "[]", "null", '{"began": 1, "seconds": 2, "code": 0, "command": []}',
    '{"began": 1, "seconds": "x", "code": 0, "command": ["a"]}',
    '{"began": 1e30, "seconds": 2, "code": 0, "command": ["a"]}',
    '{"began": 1, "seconds": NaN, "code": 0, "command": ["a"]}',
    '{"began": 1, "seconds": 2, "code": 1e400, "command": ["a"]}',
])  # fmt: skip
def test_a_damaged_line_of_times_is_named(tmp_path, line):
    path = tmp_path / "times.jsonl"
    path.write_text(json.dumps({"began": 1, "seconds": 2, "code": 0, "command": ["a"]}) + f"\n{line}\n")
    with pytest.raises(UserError, match="line 2 is not a command"):
        read_commands(path)


def touch(paths: Sequence[Path], dates: Sequence[float]) -> Sequence[Path]:
    for path, when in zip(paths, dates, strict=True):
        path.write_bytes(b"")
        os.utime(path, (when, when))
    return paths


def test_times_guessed_from_dates(tmp_path):
    paths = touch([tmp_path / f"{number}.pth" for number in "123"], [100.0, 130.0, 160.0])
    assert span(paths) == 90.0  # two steps of 30 s, and one for the first file
    assert span(paths[:1]) is None and span(touch(paths, [5, 5, 5])) is None


def test_noted_times_go_before_guessed_ones(tmp_path):
    make_run(tmp_path / "models/A/fold0", "mAP", 3)
    folder = tmp_path / "models/A/fold0"
    touch([folder / f"00{number}.pth" for number in (1, 2, 3)], [0.0, 10.0, 20.0])
    results = Results(tmp_path)
    assert run_time(results.runs[0]) == spent(results, [], "train.py") == (30.0, True)
    commands = [Command(0, 5, 0, ["train.py"]), Command(9, 7, 2, ["train.py"]), Command(20, 1, 0, ["test.py"])]
    assert spent(results, commands, "train.py") == (12, False)
    assert spent(results, commands, "segment.py") is None


# ---- scores


def test_scores_of_a_folder(hpa_results):
    scores = read_scores(Results(hpa_results), (), ())
    assert scores.main.name == "submission" and scores.steps[-1] is scores.main and not scores.others
    assert sorted(score.name for score in scores.steps[:-1]) == ["steps/image", "steps/mean/x"]
    assert [score.mean for score in scores.steps[:-1]] == sorted(score.mean for score in scores.steps[:-1])


def test_scores_that_are_named(hpa_results):
    order = [str(hpa_results / name) for name in ("submission.csv", "steps/submission_image.csv")]
    scores = read_scores(Results(hpa_results), order, ["one", "two"])
    assert [score.name for score in scores.steps] == ["one", "two"] and scores.main.name == "two"
    assert [score.name for score in scores.others] == ["steps/mean/score_x.csv"]
    assert [score.name for score in read_scores(Results(hpa_results), order, ()).steps] == ["submission", "steps/image"]
    with pytest.raises(UserError, match="--names has 1 names for 2"):
        read_scores(Results(hpa_results), order, ["one"])
    with pytest.raises(UserError, match="the score of .*nothing.csv does not exist"):
        read_scores(Results(hpa_results), [str(hpa_results / "nothing.csv")], ())


def test_a_table_that_is_no_score(tmp_path):
    write_table(pd.DataFrame({"Class": ["a", "mean"], "AP": ["x", "y"]}), tmp_path / "score_a.csv")
    with pytest.raises(UserError, match="is no score table"):
        read_scores(Results(tmp_path), (), ())
    (tmp_path / "score_a.csv").unlink()
    assert read_scores(Results(tmp_path), (), ()) is None


def test_names_of_scores():
    assert call("steps/mean/score_submission_ensemble_x.csv") == "steps/mean/x" and call("score_boxes.csv") == "boxes"


# ---- ensemble


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99))
def test_correlations_are_pearsons(seed):
    values = [rng(seed, model).random((7, 3)) for model in range(3)]
    expected = np.mean([np.corrcoef([own[:, index] for own in values]) for index in range(3)], axis=0)
    assert np.allclose(correlations(values), expected)


def test_a_class_without_opinion_does_not_count():
    one, other = rng(1, 1).random((5, 2)), rng(1, 2).random((5, 2))
    alike = correlations([one, np.column_stack([np.full(5, 0.3), other[:, 1]]), np.zeros((5, 2))])
    assert np.isclose(alike[0, 1], np.corrcoef(one[:, 1], other[:, 1])[0, 1]) and np.isnan(alike[2]).all()


# ---- pictures


def as_cell(x1, y1, x2, y2, text=""):
    row = {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "PredictionString": text, "ImageHeight": 64, "ImageWidth": 64}
    return next(pd.DataFrame([row]).itertuples())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 31), min_size=4, max_size=4))
def test_crops_lie_where_they_were_cut(numbers):
    (x1, x2), (y1, y2) = sorted(numbers[:2]), sorted(numbers[2:])
    cell = as_cell(x1, y1, x2 + 1, y2 + 1)
    y, x = np.indices((64, 64))
    where = np.dstack([y, x, y, x]).astype(np.uint8) + 1  # each pixel says its place; 0 is padding
    labels = np.zeros((64, 64), np.int32)
    labels[y1 : y2 + 1, x1 : x2 + 1] = 1
    box = (cell.x1, cell.y1, cell.x2, cell.y2)
    for name, crop in (("hpa", cut_cell(where, labels, 1, box)), ("cytologia", cut_box(where, box, 16))):
        place = crop_place(cell, competitions.get(name))
        row, column = np.argwhere(crop[..., 0])[0]
        seen = Square(int(crop[row, column, 1]) - 1 - int(column), int(crop[row, column, 0]) - 1 - int(row), len(crop))
        assert place == seen


def test_the_outline_of_a_box():
    assert 'd="M25 25H75V75H25Z"' in outline(as_cell(10, 20, 20, 30), Square(5, 15, 20))
    assert 'd="M0.5 25H99.5V75H0.5Z"' in outline(as_cell(-90, 20, 200, 30), Square(5, 15, 20))


def test_the_outline_of_a_mask(hpa_results):
    cells = read_cells(hpa_results / "meta" / "sample_submission_cell.csv")
    cell = next(cells.itertuples())
    path = re.search('d="(.*?)"', outline(cell, crop_place(cell, hpa)))[1]
    corners = np.array(re.findall(r"([\d.]+) ([\d.]+)", path), float)
    half = 100 / 26 / 2  # the square cell is 22 x 26 in a crop of 26, two pixels from its left and right
    assert sorted(set(corners[:, 1].round(1))) == [round(half, 1), round(100 - half, 1)]
    assert sorted(set(corners[:, 0].round(1))) == [round(5 * half, 1), round(100 - 5 * half, 1)]


@pytest.mark.parametrize("most", [1000, 1500, 6000])
def test_pictures_are_as_small_as_they_must(hpa_results, most):
    cell = next(read_cells(hpa_results / "meta" / "sample_submission_cell.csv").itertuples())
    thumbs = Thumbs(competitions.get("hpa"), Store(hpa_results / "crops" / "test"), None, 160, most)
    data = Page(thumbs.found(cell)).of("img")[0]["src"].removeprefix("data:image/jpeg;base64,")
    assert len(data) * 3 / 4 <= most + 3 and not thumbs.failed


# ---- the page


def test_the_page_is_alone(hpa_page, hpa_results):
    """Nothing is fetched and nothing runs, whatever an image is called."""
    assert not {name for name, _ in hpa_page.tags} & {"script", "link", "iframe", "object", "base", "form"}
    for name, attributes in hpa_page.tags:
        assert not [key for key in attributes if key.startswith("on")], name
        assert attributes.get("src", "data:").startswith("data:image/jpeg;base64,") or "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
        assert "url(" not in attributes.get("style", "")
    raw = (hpa_results.parent / f"{hpa_results.name}.html").read_text()
    assert "http://" not in raw and "https://" not in raw and "@import" not in raw and "url(" not in raw
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in hpa_page.of("meta")
    policy = next(own["content"] for own in hpa_page.of("meta") if "http-equiv" in own)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_ids_are_shown_as_they_are(hpa_page):
    for image_id in IDS:
        assert f"cell 1, {image_id}" in hpa_page.words


def test_links_lead_to_the_parts(hpa_page):
    ids = [attributes["id"] for _, attributes in hpa_page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert [own["href"] for own in hpa_page.of("a")] == [f"#{name}" for name in ids]


def test_scores_are_those_of_the_files(hpa_page, hpa_results):
    shown = [(text, float(value)) for text, value in hpa_page.numbers]
    for name in ("score_submission.csv", "steps/score_submission_image.csv", "steps/mean/score_x.csv"):
        table = pd.read_csv(hpa_results / name)
        for value in table["AP"].dropna():
            assert (f"{value:.3f}", value) in shown
        assert (f"{table['AP'].iloc[-1]:.4f}", table["AP"].iloc[-1]) in shown
    assert ("19,000", 19000) in shown  # Truths of the mean
    main, others = score(hpa.CLASSES, 0)["AP"].iloc[-1], [score(hpa.CLASSES, step)["AP"].iloc[-1] for step in (1, 2)]
    assert f"{main - min(others):+.3f}".replace("-", "−") in hpa_page.words
    assert "1 classes have no truth" in hpa_page.text


def test_bars_are_as_long_as_the_scores(hpa_page, hpa_results):
    values = pd.read_csv(hpa_results / "score_submission.csv")["AP"].dropna()
    styles = [own["style"] for own in hpa_page.of("i") if "style" in own]
    assert all(f"width:{100 * value:.1f}%" in styles for value in values)


def test_curves_of_the_runs(hpa_page, hpa_results):
    log = pd.read_csv(hpa_results / "results/models/Cell/fold0/log.csv")
    assert hpa_page.classed("chart") == 2 and len(hpa_page.of("polyline")) == 2  # the runs of one epoch have none
    best = log["pr_auc"].idxmax()
    assert (f"{log['pr_auc'][best]:.3f}", repr(float(log["pr_auc"][best]))) in hpa_page.numbers
    assert f" in epoch {best + 1} of 4" in hpa_page.words
    assert "fold1: train loss " in hpa_page.words


def test_cells_of_each_class(hpa_page):
    assert sum(attributes.get("class") == "strip" for _, attributes in hpa_page.tags) == 19
    assert hpa_page.classed("mark") == len(hpa_page.of("img")) >= 19 * 6
    assert "1 of 6 true; 1 such cells in all" in hpa_page.words  # class 5


def test_cells_by_error(hpa_page, hpa_results):
    probs = pd.read_csv(hpa_results / "ensemble_mix.csv")[list(hpa.CLASSES)].to_numpy()
    labels = pd.read_csv(hpa_results / "truth.csv", dtype=str)["Label"].str.split("|")
    worst = max(probs[row, index] for row in range(6) for index in range(19) if str(index) not in labels[row])
    text = hpa_page.text
    after = text[text.index("Most confident in a class that the cell does not have") :]
    assert re.search(r"worst 6 of 6\. \S.*? (\.\d\d|1\.0|<\.01)", after)[1] == confidence(worst)
    assert "True, but overlooked" in text


def test_weights_and_correlations(hpa_page, hpa_results):
    assert {("0.75", "0.75"), ("0.25", "0.25")} <= set(hpa_page.numbers)
    one, other = (pd.read_csv(hpa_results / "tables" / f"probabilities_{name}.csv")[list(hpa.CLASSES)].to_numpy()
                  for name in ("Cell_6", "Image_25"))  # fmt: skip
    expected = float(correlations([one, other])[0, 1])
    shown = [float(value) for text, value in hpa_page.numbers if text == f"{expected:.2f}"]
    assert any(np.isclose(expected, value) for value in shown)


def test_what_it_is_made_of(hpa_page):
    assert "Cell/fold0" in hpa_page.words and "--img_path" in hpa_page.words
    assert len([word for word in hpa_page.words if re.fullmatch("[0-9a-f]{8}", word)]) == 3  # the weights' digests


def test_the_same_folder_gives_the_same_page(hpa_results):
    out = hpa_results.parent / "again.html"
    pages = []
    for _ in range(2):
        report.main([str(hpa_results), "--out_path", str(out), "--per_class", "1"])
        pages.append(out.read_bytes())
    assert pages[0] == pages[1]


def test_without_truth_nothing_is_judged(hpa_results):
    page = read_page(hpa_results, "--per_class", "1")
    assert not page.classed("right") and not page.classed("wrong")
    assert "Errors are not shown: nothing here tells the truth; --truth names it." in page.words


def test_the_size_is_kept(hpa_results):
    out = hpa_results.parent / "small.html"
    flags = ["--truth", str(hpa_results / "truth.csv"), "--size", "200", "--per_class", "2", "--limit", "6"]
    sizes = []
    for most in ("5", "0.3"):
        report.main([str(hpa_results), "--out_path", str(out), *flags, "--max_mb", most])
        sizes.append(out.stat().st_size)
    assert sizes[1] < 300_000 < sizes[0]


def test_an_empty_folder_says_what_is_missing(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="says which competition it is; give --competition"):
        report.main([str(tmp_path / "empty")])
    page = read_page(tmp_path / "empty", "--competition", "riva")
    assert page.classed("absent") == 5 and not page.of("img")
    missing = "No score table", "No log of train.py", "No cells table", "No ensemble CSV", "Nothing of segment.py"
    assert all(sentence in page.text for sentence in missing)


def test_runs_alone(tmp_path):
    make_run(tmp_path / "run/models/A/fold0", "mPQ", 3, competition="pannuke", img_path=None)
    page = read_page(tmp_path / "run")
    best = pd.read_csv(tmp_path / "run/models/A/fold0/log.csv")["mPQ"].max()
    assert "Nothing was scored here. In validation, at the best epoch:" in page.words
    assert (f"{best:.4f}", repr(float(best))) in page.numbers and "PanNuke" in page.words


def test_runs_of_two_competitions(tmp_path):
    for name in ("riva", "hpa"):
        make_run(tmp_path / f"run/models/{name}/fold0", "mAP", 2, competition=name)
    with pytest.raises(UserError, match="have --competition hpa, riva; give one of them"):
        report.main([str(tmp_path / "run")])
    assert "RIVA cervical cytology" in read_page(tmp_path / "run", "--competition", "riva").words


@pytest.mark.parametrize("flag", ["--truth", "--cell_meta_csv_path", "--probabilities", "--crop_dir", "--ensemble"])
def test_a_flag_for_a_file_that_is_not_there(hpa_results, flag):
    with pytest.raises(UserError, match=f"{flag} does not exist"):
        report.main([str(hpa_results), flag, "nowhere"])


def test_without_crops_there_are_no_pictures(tmp_path):
    out = make_hpa_results(tmp_path / "out")
    shutil.rmtree(out / "crops")
    page = read_page(out)
    assert not page.of("img") and f"cell 1, {IDS[0]}" in page.words
    assert "No crop store here has these cells; --crop_dir names one." in page.words
    with pytest.raises(UserError, match="--max_mb 0.0 must be a number above 0"):
        report.main([str(out), "--max_mb", "0"])


def test_the_store_with_the_cells_is_taken_of_several_with_the_images(tmp_path, capsys):
    out = make_hpa_results(tmp_path / "out")
    for shard in list((out / "crops").rglob("*.zip")):  # another finder's, which comes first
        other = out / "a" / shard.relative_to(out)
        other.parent.mkdir(parents=True, exist_ok=True)
        write_shard(other, {99: np.zeros((8, 8, 4), np.uint8)})
    page = read_page(out)
    assert page.of("img") and "not shown" not in capsys.readouterr().out


def test_a_part_that_fails_leaves_the_others(tmp_path, capsys):
    out = make_hpa_results(tmp_path / "out")
    (out / "tables" / "probabilities_Cell_6.csv").unlink()
    (out / "crops" / "test" / f"{IDS[1]}.zip").write_bytes(b"no zip")
    page = read_page(out, code=1)
    assert "names the table 'probabilities_Cell_6.csv', which is not there" in page.text
    assert "cannot be read" in page.words and len(page.of("img")) > 19
    assert "is damaged" in capsys.readouterr().out


def test_times_and_commands(tmp_path):
    out = make_hpa_results(tmp_path / "out")
    entries = [("train.py", 100, 3725.0), ("visualize.py", 5000, 61.0), ("segment.py", 40, 30.0)]
    lines = [{"began": began, "seconds": took, "code": 0, "command": [name, "<i>"]} for name, began, took in entries]
    (out / "times.jsonl").write_text("\n".join(map(json.dumps, lines)))
    page = read_page(out, "--per_class", "1")
    assert ("1h02m05s", "3725.0") in page.numbers and ("1h03m36s", "3816.0") in page.numbers
    assert ", with visualize.py 1m01s" in page.words and "3 commands" in page.words
    commands = [word.removesuffix(" <i>") for word in page.words if word.endswith(" <i>")]
    assert commands == ["segment.py", "train.py", "visualize.py"]


def test_the_time_of_submit_counts(tmp_path):
    out = make_hpa_results(tmp_path / "out")
    lines = [{"began": 1, "seconds": took, "code": 0, "command": [name]}
             for name, took in (("segment.py", 100.0), ("submit.py", 7200.0))]  # fmt: skip
    (out / "times.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert ("2h01m40s", "7300.0") in read_page(out, "--per_class", "1").numbers  # beside ensemble.py: one more command
    (out / "ensemble_mix.csv").unlink()
    page = read_page(out, "--per_class", "1", "--cell_meta_csv_path", str(out / "meta" / "sample_submission_cell.csv"))
    assert {("2h00m00s", "7200.0"), ("2h01m40s", "7300.0")} <= set(page.numbers)


def test_networks_and_splits_are_counted(tmp_path):
    out = make_hpa_results(tmp_path / "out")
    for epoch in ("006", "007"):
        (out / f"submissions/Cell/fold0/epoch_{epoch}/default_seed0").mkdir(parents=True)
        (out / f"submissions/Cell/fold0/epoch_{epoch}/default_seed0/prob_test.npz").write_bytes(b"")
    folds = pd.DataFrame({"ID": ["x", "y"], "Label": "0", "Fold": [0, 1]})
    write_table(folds, out / "other" / "folds3" / "images.csv")
    page = read_page(out, "--per_class", "1")
    assert "1 network, 1 view" in page.words and "5 folds" in page.words
    assert "cv_folds/folds3: 3 images" in page.words and "other/folds3: 2 images" in page.words


def test_the_ensemble_is_that_of_the_cells_shown(tmp_path):
    out = make_hpa_results(tmp_path / "out")
    write_table(pd.read_csv(out / "ensemble_mix.csv"), out / "ensemble_elsewhere.csv")
    page = read_page(out, "--per_class", "1")
    assert "The ensemble CSV is not in this folder; --ensemble names it." in page.words
    page = read_page(out, "--per_class", "1", "--probabilities", str(out / "ensemble_mix.csv"))
    assert any(word.startswith("What each model counts by mix.csv") for word in page.words)


def test_a_finders_mean_weights_are_listed(tmp_path):
    make_run(tmp_path / "run/models/A/fold0", "mPQ", 3, competition="pannuke")
    (tmp_path / "run/models/A/fold0/swa.pth").write_bytes(b"mean")
    assert "best.pth, swa.pth" in read_page(tmp_path / "run").words


def test_from_inside_a_run(tmp_path, monkeypatch):
    make_run(tmp_path / "run/models/A/fold0", "mPQ", 3, competition="pannuke")
    monkeypatch.chdir(tmp_path / "run/models/A/fold0")
    assert not report.main([".", "--out_path", str(tmp_path / "page.html")])
    assert "A/fold0" in Page((tmp_path / "page.html").read_text(encoding="utf-8")).words


def test_notes_that_are_no_scores(tmp_path):
    out = make_hpa_results(tmp_path / "out")
    (out / "score_notes.csv").write_text("what,why\na,b\n")
    assert "steps/image" in read_page(out, "--per_class", "1").words


@pytest.mark.parametrize(
    ("more", "message"),
    [(("--max_mb", "inf"), "--max_mb inf must be a number above 0"), (("--names", "a"), "--names goes with --submiss")],
)
def test_flags_that_make_no_sense(hpa_results, more, message):
    with pytest.raises(UserError, match=message):
        report.main([str(hpa_results), *more])
    with pytest.raises(UserError, match="submission.csv is a file; the folder of a run is right"):
        report.main([str(hpa_results / "submission.csv"), "--competition", "hpa"])


def test_a_page_that_stays_too_large_says_so(hpa_results, capsys):
    report.main([str(hpa_results), "--out_path", str(hpa_results.parent / "small.html"), "--max_mb", "0.01"])
    assert "MB, more than --max_mb 0.01: fewer cells make it smaller" in capsys.readouterr().out


def test_predictions_of_infer(tmp_path):
    """It does what test.py does, and more: its time is that of the predictions."""
    out = make_hpa_results(tmp_path / "out")
    (out / "submissions/Cell/fold0/epoch_006/default_seed1").mkdir(parents=True)
    (out / "submissions/Cell/fold0/epoch_006/default_seed1/prob_test.npz").write_bytes(b"")
    times = {"began": 1, "seconds": 100.5, "code": 0, "command": ["infer.py", "--views", "all"]}
    assert "test.py" in read_page(out, "--per_class", "1").words
    (out / "times.jsonl").write_text(json.dumps(times))
    page = read_page(out, "--per_class", "1")
    assert "test.py" not in page.words and "infer.py" in page.words and ("1m40s", "100.5") in page.numbers
    assert "Nothing of segment.py" not in page.text and "with infer.py" not in page.text


def test_what_was_left_out(tmp_path):
    make_run(tmp_path / "run/models/A/fold0", "pr_auc", 2)
    table = pd.DataFrame({"Stage": ["predict"], "Model": ["<A>"], "Reason": ["no time"]})
    write_table(table, tmp_path / "run" / "submission_left_out.csv")
    page = read_page(tmp_path / "run")
    assert "Left out" in page.words and "<A>" in page.words and "submission_left_out.csv" in page.words


DAMAGED = ("meta/sample_submission_cell.csv", "truth.csv", "tables/probabilities_Cell_6.csv", "mix.csv", "times.jsonl",
           "ensemble_mix.csv", "score_submission.csv", "cv_folds/folds3/images.csv",
           "results/models/Cell/fold0/log.csv", "results/models/Cell/fold0/settings.json",
           "submission_left_out.csv")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_an_error_or_shown(tmp_path, name):
    """Cut off or with a changed byte: a page, perhaps without a part, or one sentence; nothing else."""
    out = make_hpa_results(tmp_path / "out")
    (out / "times.jsonl").write_text(json.dumps({"began": 1, "seconds": 2, "code": 0, "command": ["train.py"]}) + "\n")
    write_table(pd.DataFrame({"Stage": ["predict"], "Reason": ["x"]}), out / "submission_left_out.csv")
    path, generator = out / name, rng(11, name)
    whole = path.read_bytes()
    for case in range(4):
        place, data = int(generator.integers(len(whole))), bytearray(whole)
        data[place] = int(generator.integers(256))
        path.write_bytes(data[:place] if case % 3 == 0 else data)
        with contextlib.suppress(UserError):
            flags = ["--truth", str(out / "truth.csv"), "--per_class", "1", "--limit", "1"]
            assert report.main([str(out), "--out_path", str(tmp_path / "page.html"), *flags]) in (None, 1)
            Page((tmp_path / "page.html").read_text(encoding="utf-8"))


# ---- boxes


def test_boxes_of_own_classes(tmp_path):
    out = make_box_results(tmp_path / "boxes")
    truth = ["--truth", str(out / "data" / "train.csv"), "--root_dir", str(out / "data" / "images")]
    page = read_page(out, *truth)
    assert "Cytologia (Trustii), classes Red, White, Blue" in page.words
    for title in ("Most confident in a class that the cell does not have", "Most confident where there is no true cell",
                  "True, but overlooked"):  # fmt: skip
        assert title in page.words
    assert "cell 77, 0.png" in page.words and page.text.count("not found: ") == 1
    assert page.classed("mark") == len(page.of("img"))
    unseen = read_page(out, *truth[:2])
    assert len(page.of("img")) - len(unseen.of("img")) == 1
    assert "1 were not found; --root_dir shows them." in unseen.text


def test_class_names_are_escaped(tmp_path):
    out = make_box_results(tmp_path / "boxes")
    names = "<img src=x onerror=alert(1)>,White,Blue"
    page = read_page(out, "--competition", "cytologia", "--classes", names)
    assert any(word.startswith("<img src=x") for word in page.words)
    assert all("onerror" not in attributes for attributes in page.of("img"))


def test_one_kind_of_cell(tmp_path):
    """A finder that tells no classes apart: the surest finds, and no errors without a truth."""
    out = make_box_results(tmp_path / "boxes")
    page = read_page(out, "--competition", "cytologia", "--classes", "cell", code=1)
    assert "names other classes" in page.text  # its Labels are of three classes
    cells = read_cells(out / "meta" / "test_cell.csv").assign(Label=0)
    write_table(cells, out / "meta" / "test_cell.csv")
    page = read_page(out, "--competition", "cytologia", "--classes", "cell", "--per_class", "2")
    assert f"The 8 of {len(cells)} cells that the finder is surest of." in page.words
    assert len(page.of("img")) == 8


def test_pictures_can_be_decoded(hpa_page):
    import base64

    for own in hpa_page.of("img")[:5]:
        data = base64.b64decode(own["src"].partition(",")[2])
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (160, 160, 3)
