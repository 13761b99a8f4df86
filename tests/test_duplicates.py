"""Near duplicates: hashes of changed pictures, clusters against a slow oracle, findduplicates.py end to end."""

from pathlib import Path

import cv2
import imagehash
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import findduplicates
from cells.duplicates import (
    choose_kept,
    find_clusters,
    format_hash,
    hash_image,
    parse_hashes,
)
from cells.groups import check_folds, read_groups
from common.errors import UserError
from common.seeds import rng
from competitions import hpa


def picture(*keys: int | str, size: int = 96) -> np.ndarray:
    """A smooth picture of blobs, (size, size, 4) uint8."""
    coarse = rng(3, *keys).integers(0, 256, (6, 6, 4), dtype=np.uint8)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def bits_apart(a: np.ndarray, b: np.ndarray) -> list[int]:
    return [bin(int(x) ^ int(y)).count("1") for x, y in zip(a, b, strict=True)]


def test_a_hash_is_imagehashs_phash_of_each_channel() -> None:
    image = picture("a")
    expected = [str(imagehash.phash(Image.fromarray(image[..., channel]))) for channel in range(4)]
    assert format_hash(hash_image(image)) == "-".join(expected)
    grey = image[..., :3]
    assert format_hash(hash_image(grey)) == str(imagehash.phash(Image.fromarray(grey)))
    assert hash_image(image[..., :1]).tolist() == hash_image(image)[:1].tolist()


def test_depth_size_and_brightness_hardly_change_a_hash() -> None:
    image = picture("a", size=256)
    own = hash_image(image)
    assert hash_image(image.astype(np.uint16) * 257).tolist() == own.tolist()
    for changed in (cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA), (image * 0.8 + 20).astype(np.uint8)):
        assert max(bits_apart(own, hash_image(changed))) <= 4
    assert min(bits_apart(own, hash_image(picture("b", size=256)))) > 10


def test_hashes_survive_their_text() -> None:
    values = rng(0, "hashes").integers(0, 2**64, (7, 4), dtype=np.uint64)
    assert np.array_equal(parse_hashes([format_hash(row) for row in values]), values)
    assert parse_hashes([]).shape == (0, 0)


def test_clusters_by_hand() -> None:
    """Of distance 2: 0b0, 0b11 and 0b1111 are a chain; the fourth differs in the second channel."""
    hashes = np.array([[2**63, 0], [0, 0], [3, 0], [15, 0], [15, 7], [2**63, 1]], np.uint64)
    assert find_clusters(hashes, 2).tolist() == [0, 0, 0, 0, 1, 0]
    assert find_clusters(hashes, 1).tolist() == [0, 0, 1, 2, 3, 0]
    assert find_clusters(hashes, 0).tolist() == [0, 1, 2, 3, 4, 5]
    assert find_clusters(hashes[:0], 3).tolist() == []
    assert find_clusters(hashes[[1, 4, 1, 1]], 0).tolist() == [0, 1, 0, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(1, 4), st.integers(0, 63), st.integers(0, 10_000))
def test_clusters_are_what_the_slow_way_finds(count: int, channels: int, distance: int, seed: int) -> None:
    generator = rng(seed, "clusters")
    flips = generator.random((count, channels, 64)) < generator.uniform(0, 0.2)  # about one centre: chains arise
    hashes = np.packbits(flips, axis=2).view(">u8")[..., 0].astype(np.uint64)
    found = find_clusters(hashes, distance)
    clusters = list(range(count))
    for i in range(count):
        for j in range(i):
            if max(bits_apart(hashes[i], hashes[j])) <= distance:
                clusters = [clusters[j] if value == clusters[i] else value for value in clusters]
    assert found.tolist() == pd.factorize(np.array(clusters, np.int64))[0].tolist()


def test_the_kept_one_has_the_most_labels_or_comes_first() -> None:
    clusters = np.array([0, 1, 0, 2, 1, 0])
    assert choose_kept(clusters, np.array([1, 2, 3, 0, 2, 3])).tolist() == [False, True, True, True, False, False]


def test_leaking_folds_are_refused() -> None:
    table = pd.DataFrame({"Cluster": ["a", "a", "b", "c", "c"], "Fold": [1, 1, 0, 2, 0]})
    check_folds(table[:4], "Cluster", "images.csv")
    message = r"images.csv leaks: Cluster c is in the folds 0, 2, and 1 in all"
    with pytest.raises(UserError, match=message):
        check_folds(table, "Cluster", "images.csv")


def write_hpa(folder: Path, image: str, pixels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    for path, plane in zip(hpa.image_files(folder, image), np.moveaxis(pixels, 2, 0), strict=True):
        cv2.imwrite(str(path), plane)


def flags(folder: Path, *more: str) -> list[str]:
    return [
        "--metadata", str(folder / "train.csv"), "--root_dir", str(folder / "train"),
        "--out", str(folder / "duplicates.csv"), "--workers", "0", *more,
    ]  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """a, its smaller copy b with more labels, c, and d: a with another green channel."""
    other = picture("a", size=128)
    other[..., 1] = picture("c", size=128)[..., 1]
    small = cv2.resize(picture("a", size=128), (64, 64), interpolation=cv2.INTER_AREA)
    for name, pixels in {"a": picture("a", size=128), "b": small, "c": picture("c"), "d": other}.items():
        write_hpa(tmp_path / "train", name, pixels)
    (tmp_path / "train.csv").write_text("ID,Label\na,0\nb,0|5\nc,16\nd,0\n")
    return tmp_path


def read(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "duplicates.csv", dtype={"ID": str})


def test_the_script_finds_copies_and_keeps_the_one_with_more_labels(images: Path, capsys) -> None:
    assert findduplicates.main(flags(images)) is None
    table = read(images)
    assert table.columns.tolist() == ["ID", "Cluster", "Keep", "Hash"]
    assert table[["ID", "Cluster", "Keep"]].to_numpy().tolist() == [["a", 0, 0], ["b", 0, 1], ["c", 1, 1], ["d", 2, 1]]
    assert table["Hash"][2] == format_hash(hash_image(hpa.read_image(images / "train", "c")))
    out = capsys.readouterr().out
    assert "4 images, 1 clusters of near duplicates, 1 spare; the largest has 2, 1 have unlike labels" in out
    findduplicates.main(flags(images, "--distance", "63"))
    assert read(images)["Cluster"].tolist() == [0, 0, 0, 0]
    assert read_groups(str(images / "duplicates.csv"), keep=True)["Cluster"].tolist() == ["0"] * 4


def test_only_what_is_new_or_changed_is_hashed_again(images: Path, monkeypatch) -> None:
    findduplicates.main(flags(images))
    with (images / "duplicates_hashes.csv").open("a") as log:
        log.write('\n"c",12:')  # a write that was cut off
    hashed = []
    own = findduplicates.hash_image
    monkeypatch.setattr(findduplicates, "hash_image", lambda image: hashed.append(image.shape) or own(image))
    findduplicates.main(flags(images))
    assert hashed == []
    write_hpa(images / "train", "c", picture("a", size=160))
    findduplicates.main(flags(images))
    assert hashed == [(160, 160, 4)]
    assert read(images)["Cluster"].tolist() == [0, 0, 0, 1]


def test_an_image_that_cannot_be_read_is_alone_and_named(images: Path, capsys) -> None:
    (images / "train" / "a_blue.png").unlink()
    for path in hpa.image_files(images / "train", "c"):
        path.unlink()
    assert findduplicates.main(flags(images)) == 1
    error = capsys.readouterr().err
    assert "not hashed: a: " in error
    assert "a_blue.png is missing" in error
    assert "not hashed: c: " in error
    table = read(images)
    assert table[["Cluster", "Keep"]].to_numpy().tolist() == [[2, 1], [0, 1], [3, 1], [1, 1]]
    assert table["Hash"].isna().tolist() == [True, False, True, False]


def test_several_tables_are_compared_with_each_other(images: Path) -> None:
    write_hpa(images / "external", "x", picture("c"))
    (images / "external.csv").write_text("ID,Label\nx,3\n")
    both = ["--metadata", str(images / "train.csv"), str(images / "external.csv")]
    both += ["--root_dir", str(images / "train"), str(images / "external")]
    findduplicates.main([*flags(images)[4:], *both])
    assert read(images).set_index("ID").loc[["c", "x"], ["Cluster", "Keep"]].to_numpy().tolist() == [[1, 1], [1, 0]]
    with pytest.raises(UserError, match="--root_dir names 1 folders for 2 --metadata tables"):
        findduplicates.main([*flags(images), "--metadata", "one", "two"])
    both[1] = str(images / "external.csv")
    with pytest.raises(UserError, match="ID = x more than once"):
        findduplicates.main([*flags(images)[4:], *both])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--distance", "64"], "--distance 64 must be 0 to 63 bits"),
        (["--distance", "-1"], "--distance -1 must be"),
        (["--workers", "-1"], "--workers -1 must be"),
        (["--root_dir", "nowhere"], "--root_dir does not exist: nowhere"),
    ],
)
def test_bad_flags_are_refused(images: Path, more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        findduplicates.main(flags(images, *more))
    assert not (images / "duplicates.csv").exists()


def test_tables_of_images_are_not_written_over(images: Path) -> None:
    before = (images / "train.csv").read_bytes()
    with pytest.raises(UserError, match="--out .*train.csv is a --metadata table, which would be written over"):
        findduplicates.main([*flags(images), "--out", str(images / "train.csv")])
    assert (images / "train.csv").read_bytes() == before
    with pytest.raises(UserError, match="--out .* is a folder; the name of a table is right"):
        findduplicates.main([*flags(images), "--out", str(images)])


def test_groups_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    for text, message in {
        "ID,Keep\na,1\n": "lacks the column Cluster",
        "ID,Cluster,Keep\na,1,1\na,2,1\n": "ID = a more than once",
        "ID,Cluster,Keep\na,1,2\n": r"row 2: Keep is 2; 0 or 1 are right",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_groups(str(path), keep=True)


@pytest.mark.slow
def test_worker_processes_give_the_same(images: Path) -> None:
    findduplicates.main(flags(images))
    alone = read(images)
    (images / "duplicates_hashes.csv").unlink()
    findduplicates.main(flags(images, "--workers", "2"))
    assert read(images).equals(alone)


def test_real_images_have_no_copies_but_their_own(real_data: Path, tmp_path: Path) -> None:
    findduplicates.main([
        "--metadata", str(real_data / "hpa" / "train.csv"), "--root_dir", str(real_data / "hpa" / "train"),
        "--out", str(tmp_path / "duplicates.csv"), "--workers", "0",
    ])  # fmt: skip
    assert read(tmp_path)["Keep"].tolist() == [1, 1, 1]
    image = hpa.read_image(real_data / "hpa" / "train", read(tmp_path)["ID"][0])
    jpeg = [cv2.imdecode(cv2.imencode(".jpg", plane, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 0) for plane in image.T]
    copy = cv2.resize(np.dstack(jpeg).transpose(1, 0, 2), (700, 700), interpolation=cv2.INTER_AREA)
    own = parse_hashes(read(tmp_path)["Hash"][:1])[0]
    assert max(bits_apart(own, hash_image(copy))) <= 4


def test_a_copy_among_real_smears_is_found(real_data: Path, tmp_path: Path) -> None:
    """Of 220 blood smears no two are near; one stored again, smaller and coarser, is found among them."""
    folder = real_data / "bccd" / "images"
    (tmp_path / "copies.csv").write_text("NAME,x1,y1,x2,y2,class\ncopy.jpg,1,1,9,9,RBC\n")
    (tmp_path / "copies").mkdir()
    small = cv2.resize(cv2.imread(str(folder / "BloodImage_00005.jpg")), (320, 240), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "copies" / "copy.jpg"), small, [cv2.IMWRITE_JPEG_QUALITY, 70])
    findduplicates.main([
        "--competition", "cytologia", "--classes", "RBC,WBC,Platelets", "--root_dir", str(folder),
        str(tmp_path / "copies"), "--metadata", str(real_data / "bccd" / "train.csv"), str(tmp_path / "copies.csv"),
        "--out", str(tmp_path / "duplicates.csv"), "--workers", "0",
    ])  # fmt: skip
    found = read(tmp_path)
    assert found.loc[found["Keep"] == 0, "ID"].tolist() == ["copy.jpg"]
    own = found.set_index("ID")["Cluster"]
    assert own["copy.jpg"] == own["BloodImage_00005.jpg"]
