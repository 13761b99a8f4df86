"""The public images: their table, and the downloader against a server that misbehaves in every known way."""

import gzip
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import common.fetch
import download
from common.errors import UserError
from common.fetch import Fetcher, FetchError, Pace, gunzip, retry_after
from common.seeds import rng
from competitions import get, hpa
from competitions.hpa_external import read_external
from engine.external import add_external

HEADER = "Image,Label,Cellline,in_trainset,Label_idx\n"
ATLAS = "https://images.example.org"


def write(folder: Path, *rows: str) -> Path:
    path = folder / "kaggle_2021.tsv"
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return path


def test_rows_become_images_with_labels(tmp_path: Path) -> None:
    """By hand: a merged name, an image of the training set, no class, two rows of one image, Negative with another."""
    path = write(
        tmp_path,
        f'{ATLAS}/10005/921_B9_1,"Golgi apparatus,Vesicles",A-431,False,7|17',
        f"{ATLAS}/10005/921_B9_2,Cytosol,A-431,True,16",
        f"{ATLAS}/10005/921_B9_3,Midbody,A-431,False,",
        f'{ATLAS}/10006/1_A1_1,"Focal adhesion sites,Cytosol",U-2 OS,False,16',
        f"{ATLAS}/10006/1_A1_2,Nucleoplasm,U-2 OS,False,0",
        f'{ATLAS}/10006/1_A1_2,"Centriolar satellite",U-2 OS,False,12',
        f'{ATLAS}/10007/1_A1_1,"No staining,Nucleoli rim,Nucleoli",HeLa,FALSE,2|18',
        f"{ATLAS}/10007/1_A1_2,No staining,HeLa,0,18",
        f"{ATLAS}/10008/1_A1_1,Cytosol,HeLa,False,16",
        f"{ATLAS}/10008/1_A1_1,Cytosol,HeLa,True,16",
    )
    table = read_external(path)
    assert table[["ID", "Label"]].to_numpy().tolist() == [
        ["10005_921_B9_1", "7|17"], ["10006_1_A1_1", "9|16"], ["10006_1_A1_2", "0|12"], ["10007_1_A1_1", "2"],
        ["10007_1_A1_2", "18"],
    ]  # fmt: skip
    assert table["Image"][0] == f"{ATLAS}/10005/921_B9_1"


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("Focal adhesion sites", 9), ("Centriolar satellite", 12), ("Cell Junctions", 13), ("Peroxisomes", 17),
        ("Endosomes", 17), ("Lysosomes", 17), ("Lipid droplets", 17), ("Cytoplasmic bodies", 17), ("Vesicles", 17),
        ("Nucleoli fibrillar center", 3), ("Mitotic spindle", 11), ("Negative", 18),
    ],
)  # fmt: skip
def test_names_are_merged(tmp_path: Path, name: str, index: int) -> None:
    path = write(tmp_path, f'{ATLAS}/1/1_A1_1,"Aggresome,{name}",HeLa,False,15')
    assert set(read_external(path)["Label"][0].split("|")) == {"15", str(index)} - ({"18"} if index == 18 else set())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"{ATLAS}/1/a,Cytosol,HeLa,maybe,16", "row 2: in_trainset is 'maybe'; True or False are right"),
        (f"{ATLAS}/1/a,Cytosol,HeLa,False,19", "row 2: Label_idx 19 must be class indices 0 to 18"),
        (f"{ATLAS}/1/a,Cytosol,HeLa,False,16;2", "row 2: Label_idx 16;2 must be"),
        (f"{ATLAS}/../a,Cytosol,HeLa,False,16", "row 2: Image '.*' is not an address"),
        ("https://x,Cytosol,HeLa,False,16", "row 2: Image 'https://x' is not an address"),
        (f"{ATLAS}/1/a b,Cytosol,HeLa,False,16", "row 2: Image '.*' is not an address"),
        (f"{ATLAS}/1/a,Cytosol,HeLa,False,16\n{ATLAS}/2/1/a,Cytosol,HeLa,False,16", "would both be the image 1_a"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_external(write(tmp_path, row))


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("Image\tLabel\na\tb\n")
    with pytest.raises(UserError, match="lacks the column Image"):
        read_external(tmp_path / "t.tsv")


def pixels(image: str, channel: str) -> np.ndarray:
    return rng(1, image, channel).integers(0, 256, (40, 48), dtype=np.uint8)


def tif_gz(values: np.ndarray) -> bytes:
    return gzip.compress(cv2.imencode(".tif", values)[1].tobytes())


class Atlas(ThreadingHTTPServer):
    """Serves `/<antibody>/<view>_<channel>.tif.gz`; `rules`: part of a path -> what to do instead, by the try."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.rules, self.asked, self.times = {}, [], []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        attempt = server.asked.count(self.path)
        server.asked.append(self.path)
        server.times.append(time.monotonic())
        name, _, channel = self.path.removesuffix(".tif.gz").strip("/").replace("/", "_").rpartition("_")
        body = tif_gz(pixels(name, channel))
        rule = next((rule for part, rule in server.rules.items() if part in self.path), None)
        if rule is None:
            self.answer(200, body)
        else:
            rule(self, body, attempt)

    def answer(self, code: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def atlas() -> Iterator[Atlas]:
    server = Atlas()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


VIEWS = ("1_A1_1", "1_A1_2", "1_A1_3")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path, *(f"{ATLAS}/77/{view},Midbody,HeLa,False,{n}" for n, view in enumerate(VIEWS)))


def flags(table: Path, atlas: Atlas, *more: str) -> list[str]:
    folder = table.parent
    return [
        "--metadata", str(table), "--root_dir", str(folder / "external"), "--out", str(folder / "external.csv"),
        "--host", atlas.address, "--parallel", "3", "--per_second", "1000", "--wait", "0.01", "--timeout", "5",
        "--retries", "2", *more,
    ]  # fmt: skip


def files(table: Path) -> list[str]:
    return sorted(path.name for path in (table.parent / "external").iterdir() if path.name != ".lock")


def names(*views: str) -> list[str]:
    return sorted([f"77_{view}_{channel}.png" for view in views for channel in hpa.CHANNELS] + ["failed.csv"])


def failures(table: Path) -> pd.DataFrame:
    return pd.read_csv(table.parent / "external" / "failed.csv").set_index("ID")["Reason"]


def test_images_arrive_as_they_are(table: Path, atlas: Atlas, capsys) -> None:
    assert download.main(flags(table, atlas)) is None
    assert files(table) == names(*VIEWS)
    image = hpa.read_image(table.parent / "external", "77_1_A1_2")
    expected = np.dstack([pixels("77_1_A1_2", channel) for channel in hpa.CHANNELS])
    assert np.array_equal(image, expected)
    assert hpa.read_metadata(table.parent / "external.csv").to_numpy().tolist() == [
        ["77_1_A1_1", "0"], ["77_1_A1_2", "1"], ["77_1_A1_3", "2"],
    ]  # fmt: skip
    assert len(failures(table)) == 0
    assert "external.csv: 3 images, 3 of them new" in capsys.readouterr().out


def test_what_is_there_is_not_asked_for_again(table: Path, atlas: Atlas, capsys) -> None:
    download.main(flags(table, atlas))
    (table.parent / "external" / "77_1_A1_3_blue.png").unlink()
    atlas.asked.clear()
    download.main(flags(table, atlas))
    assert sorted(atlas.asked) == [f"/77/1_A1_3_{channel}.tif.gz" for channel in sorted(hpa.CHANNELS)]
    assert "3 images, 1 of them new" in capsys.readouterr().out


def html(handler: Handler, body: bytes, attempt: int) -> None:
    handler.answer(200, b"<html>please log in</html>")


def not_an_image(handler: Handler, body: bytes, attempt: int) -> None:
    handler.answer(200, gzip.compress(b"text"))


def cut_gzip(handler: Handler, body: bytes, attempt: int) -> None:
    handler.answer(200, body[:-20])


def cut_off(handler: Handler, body: bytes, attempt: int) -> None:
    handler.answer(200, body[:-20], length=len(body))
    handler.close_connection = True


def flipped_bit(handler: Handler, body: bytes, attempt: int) -> None:
    handler.answer(200, body[:-6] + bytes([body[-6] ^ 1]) + body[-5:])


def other_size(handler: Handler, body: bytes, attempt: int) -> None:
    handler.answer(200, tif_gz(np.zeros((40, 47), np.uint8)))


def nowhere(handler: Handler, body: bytes, attempt: int) -> None:
    handler.answer(302, Location="file:///etc/passwd")


def by_ftp(handler: Handler, body: bytes, attempt: int) -> None:
    handler.answer(302, Location="ftp://127.0.0.1/x")


def odd_host(handler: Handler, body: bytes, attempt: int) -> None:
    handler.answer(302, Location="http://images..org/x")


def odd_address(handler: Handler, body: bytes, attempt: int) -> None:
    handler.answer(302, Location="http://[::1/x")


def other_depth(handler: Handler, body: bytes, attempt: int) -> None:
    handler.answer(200, tif_gz(np.zeros((40, 48), np.uint16)))


def missing(handler: Handler, body: bytes, attempt: int) -> None:
    handler.answer(404)


@pytest.mark.parametrize(
    ("rule", "reason", "asked"),
    [
        (missing, "404 Not Found", 1),
        (html, "not a whole gzip file", 1),
        (not_an_image, "is not a readable image", 1),
        (cut_gzip, "a gzip file that is cut off", 1),
        (cut_off, "cut off after", 3),
        (flipped_bit, "not a whole gzip file", 1),
        (other_size, r"its channels differ in size: \[\(47, 40\), \(48, 40\)\]", 1),
        (other_depth, "its channels differ in depth: uint16, uint8", 1),
        (odd_host, "no address to ask: .*label", 1),
        (odd_address, "no address to ask: Invalid IPv6 URL", 1),
        (nowhere, "302", 1),
        (by_ftp, "unknown url type: ftp", 3),
    ],
)
def test_a_bad_answer_costs_its_image_only(table: Path, atlas: Atlas, capsys, rule, reason: str, asked: int) -> None:
    atlas.rules["1_A1_2_green"] = rule
    assert download.main(flags(table, atlas)) == 1
    assert files(table) == names("1_A1_1", "1_A1_3")
    assert failures(table).index.tolist() == ["77_1_A1_2"]
    assert pd.Series(failures(table)["77_1_A1_2"]).str.contains(reason).all(), failures(table)["77_1_A1_2"]
    assert atlas.asked.count("/77/1_A1_2_green.tif.gz") == asked
    assert pd.read_csv(table.parent / "external.csv")["ID"].tolist() == ["77_1_A1_1", "77_1_A1_3"]
    assert "1 images failed" in capsys.readouterr().err
    atlas.rules.clear()  # the server has recovered: the same command ends well
    assert download.main(flags(table, atlas)) is None
    assert files(table) == names(*VIEWS)
    assert len(failures(table)) == 0


def busy_once(handler: Handler, body: bytes, attempt: int) -> None:
    if attempt == 0:
        handler.answer(503, Retry_After="1")
    else:
        handler.answer(200, body)


def test_a_busy_server_is_left_alone_for_as_long_as_it_says(table: Path, atlas: Atlas) -> None:
    atlas.rules["1_A1_1_red"] = busy_once
    assert download.main(flags(table, atlas, "--parallel", "1")) is None
    assert atlas.asked[:2] == ["/77/1_A1_1_red.tif.gz"] * 2
    assert atlas.times[1] - atlas.times[0] >= 0.99


def test_a_busy_server_pauses_every_thread() -> None:
    fetcher = Fetcher(1000, 5, 0, 0.01, "test")
    fetcher.pace.pause(0.3)
    began = time.monotonic()
    fetcher.pace.wait()
    assert time.monotonic() - began >= 0.29


def test_a_pause_takes_the_turns_of_threads_that_wait() -> None:
    pace, starts = Pace(20), []

    def ask() -> None:
        pace.wait()
        starts.append(time.monotonic())

    pace.wait()
    threads = [threading.Thread(target=ask) for _ in range(3)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    pace.pause(0.5)  # their turns would be within .15 s
    for thread in threads:
        thread.join()
    assert min(starts) - began >= 0.49
    assert max(starts) - began >= 0.58  # and one after another, 1/20 s apart


def test_requests_keep_their_distance(table: Path, atlas: Atlas) -> None:
    download.main(flags(table, atlas, "--per_second", "40"))
    assert len(atlas.times) == 12
    assert max(atlas.times) - min(atlas.times) >= 11 / 40 - 0.02


def slow(handler: Handler, body: bytes, attempt: int) -> None:
    handler.send_response(200)
    handler.end_headers()
    for byte in body[:30]:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.05)


def test_a_slow_answer_is_given_up(table: Path, atlas: Atlas) -> None:
    atlas.rules["1_A1_3_yellow"] = slow
    assert download.main(flags(table, atlas, "--timeout", "0.3", "--retries", "0")) == 1
    assert "not whole after 0.3 s" in failures(table)["77_1_A1_3"]
    assert files(table) == names("1_A1_1", "1_A1_2")


def test_a_bomb_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(common.fetch, "LARGEST", 1000)
    assert gunzip(gzip.compress(bytes(1000))) == bytes(1000)
    with pytest.raises(FetchError, match="unpacks to more than 1000 bytes"):
        gunzip(gzip.compress(bytes(1001)))


def test_a_long_answer_is_refused(atlas: Atlas, monkeypatch) -> None:
    monkeypatch.setattr(common.fetch, "LARGEST", 1000)
    with pytest.raises(FetchError, match="longer than 1000 bytes"):
        Fetcher(1000, 5, 3, 0.01, "test").get(f"{atlas.address}/77/1_A1_1_red.tif.gz")
    assert len(atlas.asked) == 1


def test_no_server_at_all(table: Path, atlas: Atlas) -> None:
    at = flags(table, atlas).index("--host") + 1
    given = flags(table, atlas, "--retries", "0")
    given[at] = "http://127.0.0.1:1"
    assert download.main(given) == 1
    assert failures(table).index.tolist() == [f"77_{view}" for view in VIEWS]
    assert files(table) == ["failed.csv"]


def test_three_equal_planes_are_one_channel(table: Path, atlas: Atlas) -> None:
    grey = pixels("77_1_A1_1", "red")
    colour = np.dstack([np.zeros_like(grey), np.zeros_like(grey), grey])
    atlas.rules["1_A1_1_red"] = lambda handler, body, attempt: handler.answer(200, tif_gz(colour))
    assert download.main(flags(table, atlas)) is None
    assert np.array_equal(hpa.read_image(table.parent / "external", "77_1_A1_1")[..., 0], grey)


def test_a_full_disk_ends_the_run(table: Path, atlas: Atlas, monkeypatch) -> None:
    def full(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(download, "atomic", full)
    with pytest.raises(OSError, match="No space left"):
        download.main(flags(table, atlas))
    assert not (table.parent / "external.csv").exists()


def test_retry_after_may_be_a_date() -> None:
    assert retry_after("7") == 7
    assert retry_after("") == 0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("Wed, 21 Oct 2150 07:28:00 GMT") > 1e9


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--parallel", "0"], "--parallel 0 must be 1 or more"),
        (["--per_second", "0"], "--per_second 0.0 must be a number above 0"),
        (["--timeout", "nan"], "--timeout nan must be"),
        (["--timeout", "1e12"], "--timeout 1000000000000.0 must be a number above 0 and below 86400"),
        (["--host", "https://[::1"], "--host: https://.* is not an address: Invalid IPv6 URL"),
        (["--retries", "-1"], "--retries -1 must be 0 or more"),
        (["--host", "ftp://x"], "--host: ftp://x/77/1_A1_1 is not an address that begins with http"),
        (["--host", "file:///etc"], "--host: file:///etc/77/1_A1_1 is not an address"),
    ],
)
def test_bad_flags_are_refused(table: Path, atlas: Atlas, more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        download.main(flags(table, atlas, *more))
    assert atlas.asked == []


@pytest.fixture
def split(tmp_path: Path) -> tuple[pd.DataFrame, list[str], str]:
    (tmp_path / "external.csv").write_text("ID,Label\nx,3\ny,18\nz,0|1\n")
    train = pd.DataFrame({"ID": ["a", "b"], "Label": ["0", "1"]})
    return train, ["v", "w"], str(tmp_path / "external.csv")


def test_external_images_join_the_training_side(split) -> None:
    table = add_external(*split, get("hpa"))
    assert table.to_numpy().tolist() == [["a", "0"], ["b", "1"], ["x", "3"], ["y", "18"], ["z", "0|1"]]


def test_external_copies_of_validation_images_are_left_out(split, tmp_path: Path) -> None:
    """x is like the training image a, y like the validation image w."""
    groups = tmp_path / "duplicates.csv"
    groups.write_text("ID,Cluster\na,0\nb,1\nv,2\nw,3\nx,0\ny,3\nz,4\n")
    assert add_external(*split, get("hpa"), str(groups))["ID"].tolist() == ["a", "b", "x", "z"]
    groups.write_text("ID,Cluster\na,0\nb,1\nv,2\nw,3\nx,0\ny,3\n")
    with pytest.raises(UserError, match=r"duplicates\.csv has no row for z"):
        add_external(*split, get("hpa"), str(groups))


def test_external_images_of_the_split_are_refused(split) -> None:
    train, _, path = split
    with pytest.raises(UserError, match=r"external\.csv has y in common with the split"):
        add_external(train, ["y"], path, get("hpa"))
    with pytest.raises(UserError, match=r"external\.csv has x in common with the split"):
        add_external(train.assign(ID=["a", "x"]), [], path, get("hpa"))
