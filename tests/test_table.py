"""Tables on disk: what comes back, what is refused, and rows joined by key."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cells.table import CELL_COLUMNS, KEY, match_rows, read_cells, read_probabilities, read_table, write_table
from common.errors import UserError

CLASSES = ["0:Nucleoplasm", "1:Nuclear membrane"]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_a_table_comes_back(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame(
        {"ID": ["007", "NA", "", "a,b", 'say "x"', "two\nlines"], "N": range(6), "P": np.linspace(0, 1, 6), "more": 1}
    )
    write_table(table, tmp_path / name)
    back = read_table(tmp_path / name, {"ID": str, "N": int, "P": float}, key=["ID"])
    assert back["ID"].tolist() == table["ID"].tolist()
    assert back["N"].dtype == np.int64
    assert back["P"].tolist() == table["P"].tolist()
    assert back["more"].tolist() == [1] * 6
    assert [path.name for path in tmp_path.iterdir()] == [name]


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n", exclude_categories=("Cc", "Cs"))),
        min_size=1,
        unique=True,
    )
)
@settings(max_examples=40, deadline=None)
def test_text_stays_as_it_is(tmp_path_factory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("text") / "table.csv"
    write_table(pd.DataFrame({"ID": texts, "N": 1}), path)
    assert read_table(path, {"ID": str, "N": int}, key=["ID"])["ID"].tolist() == texts


def test_a_long_row_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", f"ID,Text\na,{'x' * 3_000_000}\nb,y\n")
    assert read_table(path, {"ID": str, "Text": str})["Text"].str.len().tolist() == [3_000_000, 1]


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "ID,N\n")
    assert read_table(path, {"ID": str, "N": int}, key=["ID"]).shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID\na\n", r"t\.csv lacks the column N; it has ID"),
        ("ID,N\na,1\na,2\n", r"t\.csv has the key ID = a more than once"),
        ("ID,N\na,1\nb,x\n", "row 3, column N: 'x' is not a whole number"),
        ("ID,N\na,1.5\n", "row 2, column N: .*1.5.* is not a whole number"),
        ("ID,N\na,\n", "row 2, column N: .* is not a whole number"),
        ("ID,N\na,inf\n", "row 2, column N: .* is not a whole number"),
        ("ID,N,N\na,1,2\n", "has the column N more than once|non-unique column"),
        ("ID,N\na,1,2\n", "cannot be read as a table"),
        ("ID,N\na\n", "cannot be read as a table"),
        ("", "cannot be read as a table"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_table(write(tmp_path / "t.csv", text), {"ID": str, "N": int}, key=["ID"])


def test_a_file_that_is_not_there_or_not_a_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_table(tmp_path / "t.csv", {})
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="cannot be read as a table"):
        read_table(tmp_path / "t.parquet", {})


def test_a_failed_write_leaves_the_old_table(tmp_path: Path) -> None:
    write_table(pd.DataFrame({"ID": ["old"]}), tmp_path / "t.csv")
    with pytest.raises(Exception, match="object"):
        write_table(pd.DataFrame({"ID": [object()]}), tmp_path / "t.csv")
    assert read_table(tmp_path / "t.csv", {"ID": str})["ID"].tolist() == ["old"]
    assert len(list(tmp_path.iterdir())) == 1


def test_cells_table_has_its_columns_and_keys(tmp_path: Path) -> None:
    row = {name: "a" if kind is str else 1 for name, kind in CELL_COLUMNS.items()}
    write_table(pd.DataFrame([row, row | {"CellID": 2}]), tmp_path / "cells.csv")
    assert read_cells(tmp_path / "cells.csv")["CellID"].tolist() == [1, 2]
    write_table(pd.DataFrame([row, row]), tmp_path / "cells.csv")
    with pytest.raises(UserError, match="ImageID, CellID = a, 1 more than once"):
        read_cells(tmp_path / "cells.csv")


@pytest.mark.parametrize("value", ["1.01", "-0.1", "nan", "inf", "", "x"])
def test_what_is_not_a_probability_is_refused(tmp_path: Path, value: str) -> None:
    header = ",".join([*KEY, *CLASSES])
    path = write(tmp_path / "p.csv", f"{header}\na,1,0.5,1\na,2,0,{value}\n")
    with pytest.raises(UserError, match=r"p\.csv row 3, column 1:Nuclear membrane"):
        read_probabilities(path, CLASSES)


def test_probabilities_come_in_the_order_of_the_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", f"extra,{CLASSES[1]},CellID,ImageID,{CLASSES[0]}\nz,0.25,1,a,1e-05\n")
    table = read_probabilities(path, CLASSES)
    assert table.columns.tolist() == [*KEY, *CLASSES]
    assert table.iloc[0].tolist() == ["a", 1, 1e-05, 0.25]


def keys(*pairs: tuple[str, int]) -> pd.DataFrame:
    return pd.DataFrame(list(pairs), columns=KEY)


def test_rows_are_matched_by_key() -> None:
    table = keys(("b", 1), ("a", 2), ("a", 1))
    assert match_rows(keys(("a", 1), ("a", 2), ("b", 1)), table, KEY, "p.csv").tolist() == [2, 1, 0]
    images = keys(("a", 1), ("b", 1), ("a", 2))
    assert match_rows(images, keys(("b", 0), ("a", 0)), ["ImageID"], "p.csv").tolist() == [1, 0, 1]


def test_lost_and_surplus_rows_are_named() -> None:
    table = keys(("a", 1), ("a", 2), ("c", 7))
    with pytest.raises(UserError, match=r"p\.csv has no row for b, 1 \(2 are missing\)"):
        match_rows(keys(("a", 1), ("b", 1), ("b", 2)), table, KEY, "p.csv")
    with pytest.raises(UserError, match=r"p\.csv has a row for c, 7"):
        match_rows(keys(("a", 1), ("a", 2)), table, KEY, "p.csv")
    assert match_rows(keys(("a", 1), ("a", 2)), table, KEY, "p.csv", exact=False).tolist() == [0, 1]


@given(st.permutations(range(12)), st.permutations(range(12)))
@settings(max_examples=20, deadline=None)
def test_matching_undoes_any_order(first: list[int], second: list[int]) -> None:
    table = keys(*((f"image{number // 3}", number % 3) for number in first))
    wanted = keys(*((f"image{number // 3}", number % 3) for number in second))
    rows = match_rows(wanted, table, KEY, "p.csv")
    pd.testing.assert_frame_equal(table.iloc[rows].reset_index(drop=True), wanted)


def test_an_empty_part_of_a_joined_table_leaves_no_trace(tmp_path):
    ids = (pd.array(names, "string[pyarrow]") for names in ([], ["a"]))
    parts = [pd.DataFrame({"ID": own, "x": np.arange(len(own))}) for own in ids]
    write_table(pd.concat(parts, ignore_index=True), tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == "ID,x\na,0\n"


def test_a_parquet_table_with_numbers_for_names_or_nulls(tmp_path):
    pd.DataFrame({"ID": [7, 8]}).to_parquet(tmp_path / "ids.parquet")
    with pytest.raises(UserError, match="ids.parquet row 2, column ID: 7 is a number; text is right"):
        read_table(tmp_path / "ids.parquet", {"ID": str})
    pd.DataFrame({"ID": ["a", "b"], "Label": ["0", None]}).to_parquet(tmp_path / "null.parquet")
    assert read_table(tmp_path / "null.parquet", {"ID": str, "Label": str})["Label"].tolist() == ["0", ""]
