"""Tables on disk: read with their columns checked, joined by their keys, written whole or not at all.

*Cells table*: one row a cell, in the original image's pixels: `Image,ImageID,CellID,ImageWidth,ImageHeight,
PredictionString,x1,y1,x2,y2,...`, where `Image` is `<ImageID>+<CellID>` and `PredictionString` the mask as text.
A row whose `keep` is 0 is a cell that was found but dropped (at the image's border): no stage is to see it, so
`read_table` leaves it out.
*Probabilities table*: `ImageID,CellID,<class names>`; CellID 0 stands for the image as a whole, cells count from 1.
CSV by default, Parquet when the path ends in .parquet.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from common.errors import UserError, first_line, some
from common.files import atomic, existing

KEY = ["ImageID", "CellID"]
BOX = ["x1", "y1", "x2", "y2"]
MASK_COLUMNS = {"ImageID": str, "CellID": int, "ImageWidth": int, "ImageHeight": int, "PredictionString": str}
CELL_COLUMNS = {
    "Image": str, "ImageID": str, "CellID": int, "ImageWidth": int, "ImageHeight": int, "PredictionString": str,
    "x1": int, "y1": int, "x2": int, "y2": int,
}  # fmt: skip


def read_header(path: str | Path, what: str) -> list[str]:
    """The columns of a table; UserError when there is none at `path`, or no table. what: the flag that names it."""
    try:
        if existing(path, what).suffix == ".parquet":
            return pa.parquet.read_schema(path).names
        return list(pd.read_csv(path, nrows=0).columns)
    except (ValueError, pa.ArrowException) as error:  # an empty file, or none of text
        raise UserError(f"{path} cannot be read as a table: {first_line(error)}") from error


def read_table(
    path: str | Path, columns: dict[str, type], key: Sequence[str] = (), dropped: bool = False,
    optional: dict[str, type] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Read a CSV or Parquet table that has at least `columns` (name -> str, int or float), unique in `key`.

    Text stays text ("NA" and "007" are ids like any other); other columns keep the type that pandas finds.
    dropped: keep the cells that were dropped at the border (`keep` 0). optional: columns that need not be there.
    UserError names the file and the missing column, the row and column without a value, or the doubled key.
    """
    path = existing(path, "table")
    kinds = {**columns, **(optional or {})}
    try:
        table = _read(path, kinds)
    except Exception as error:  # a damaged Parquet file can fail in any way
        raise UserError(f"{path} cannot be read as a table: {first_line(error)}") from error
    if not table.columns.is_unique:
        raise UserError(f"{path} has the column {some(table.columns[table.columns.duplicated()])} more than once")
    refuse_missing(table, columns, path)
    for name, kind in kinds.items():
        if name in table:
            table[name] = typed(table[name], kind, path)
    if key:
        check_unique(table, key, str(path))
    return table if dropped else _kept(table)


def refuse_missing(table: pd.DataFrame, columns: Iterable[str], path: str | Path) -> None:
    """UserError when the table of a file lacks one of the columns."""
    missing = [name for name in columns if name not in table]
    if missing:
        raise UserError(f"{path} lacks the column {some(missing)}; it has {some(table.columns, 8)}")


def _kept(table: pd.DataFrame) -> pd.DataFrame:
    if not {*KEY, "keep"} <= set(table):
        return table
    return table[table["keep"] != 0].reset_index(drop=True)


def _read(path: Path, columns: dict[str, type]) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pa.parquet.read_table(path, page_checksum_verification=True).to_pandas()
    # Arrow's reader refuses a row with too many or too few fields, where pandas shifts or pads it silently.
    text = {name: pa.string() for name, kind in columns.items() if kind is str}
    block = max(1 << 20, min(path.stat().st_size, 1 << 30))  # a row of a submission can hold megabytes
    table = pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(block_size=block),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(column_types=text, strings_can_be_null=False),
    )
    return table.to_pandas()


def typed(column: pd.Series, kind: type, path: str | Path) -> pd.Series:
    """A column of a file as str, int64 or float64; UserError with the row of a value that is not of the kind."""
    if kind is str:  # a Parquet file may hold anything
        texts = column.astype(object).where(column.notna(), "")
        wrong = next((row for row, value in enumerate(texts) if not isinstance(value, str)), None)
        if wrong is not None:
            value = texts.iloc[[wrong]].tolist()[0]
            raise UserError(f"{path} row {wrong + 2}, column {column.name}: {value!r} is a number; text is right")
        return texts
    numbers = pd.to_numeric(column, errors="coerce")
    bad = ~np.isfinite(numbers.to_numpy(float))
    if kind is int:
        bad |= numbers.to_numpy(float) != np.floor(numbers.to_numpy(float))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        right = "a whole number" if kind is int else "a finite number"
        value = column.iloc[[row]].tolist()[0]
        raise UserError(f"{path} row {row + 2}, column {column.name}: {value!r} is not {right}")
    return numbers.astype(np.int64 if kind is int else np.float64)


def check_unique(table: pd.DataFrame, key: Sequence[str], name: str) -> None:
    """UserError when two rows of the table `name` have the same key, with the first such key."""
    doubled = table.duplicated(list(key))
    if doubled.any():
        values = table.loc[doubled, list(key)].iloc[0].tolist()
        raise UserError(f"{name} has the key {', '.join(key)} = {', '.join(map(str, values))} more than once")


def read_cells(path: str | Path, dropped: bool = False) -> pd.DataFrame:
    """A cells table, unique in ImageID and CellID; `dropped` as in `read_table`.

    Boxes are whole numbers where all of the table's are, as those of masks; else they have fractions.
    """
    table = read_table(path, CELL_COLUMNS | dict.fromkeys(BOX, float), key=KEY, dropped=dropped)
    if (table[BOX] % 1 == 0).to_numpy().all():
        table[BOX] = table[BOX].astype(np.int64)
    return table


def read_probabilities(path: str | Path, classes: Sequence[str]) -> pd.DataFrame:
    """A probabilities table: ImageID, CellID and one finite number in 0..1 a class, unique in ImageID and CellID."""
    table = read_table(path, {"ImageID": str, "CellID": int, **dict.fromkeys(classes, float)}, key=KEY)
    values = table[list(classes)].to_numpy()
    bad = np.argwhere((values < 0) | (values > 1))
    if len(bad):
        row, column = bad[0]
        raise UserError(
            f"{path} row {row + 2}, column {classes[column]}: {values[row, column]} is not a probability in 0..1"
        )
    return table[[*KEY, *classes]]


def certain(cells: pd.DataFrame, classes: Sequence[str], name: str) -> np.ndarray:
    """Probabilities of 0 and 1, (cells, classes), of the column Label, class indices as text; all 1 with one class.
    name: the file.
    """
    labels = cells["Label"]
    if len(classes) == 1:
        return np.ones((len(labels), 1))
    wrong = np.flatnonzero(~labels.isin([str(index) for index in range(len(classes))]))
    if len(wrong):
        raise UserError(
            f"{name}: the Label {labels.iloc[wrong[0]]!r} of {cells['ImageID'].iloc[wrong[0]]}, cell "
            f"{cells['CellID'].iloc[wrong[0]]}, must be a class 0 to {len(classes) - 1}; "
            "without such labels give one class, such as --classes cell"
        )
    return np.eye(len(classes))[labels.astype(np.int64)]


def match_rows(keys: pd.DataFrame, table: pd.DataFrame, on: Sequence[str], name: str, exact: bool = True) -> np.ndarray:
    """For each row of `keys`, the position in `table` of the row with the same key: an int array, len(keys).

    UserError when a key of `keys` is not in `table` (called `name`), or, with `exact`, `table` has rows beyond `keys`.
    """
    on = list(on)
    positions = table[on].assign(_position=np.arange(len(table)))
    found = keys[on].merge(positions, on=on, how="left", validate="many_to_one")["_position"].to_numpy()
    lost = np.isnan(found.astype(float))
    if lost.any():
        first = keys[on][lost].iloc[0].tolist()
        raise UserError(f"{name} has no row for {', '.join(map(str, first))} ({int(lost.sum())} are missing)")
    found = found.astype(np.int64)
    if exact and len(table) != len(np.unique(found)):
        extra = table[on].drop(table.index[np.unique(found)]).iloc[0].tolist()
        raise UserError(f"{name} has a row for {', '.join(map(str, extra))}, which the cells table does not know")
    return found


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table atomically: Parquet when the path ends so, else CSV with quotes only where a field needs them."""
    # An empty chunk (of an empty table that pandas joined with others) would come out as garbage between the rows.
    arrow = pa.Table.from_pandas(table, preserve_index=False).combine_chunks()
    with atomic(path) as temporary:
        if Path(path).suffix == ".parquet":
            pa.parquet.write_table(arrow, temporary, write_page_checksum=True)
        else:
            quoted = _needs_quotes(table)  # else the header is written by hand, as Arrow quotes it whatever the style
            options = pa.csv.WriteOptions(include_header=quoted, quoting_style="needed" if quoted else "none")
            with temporary.open("wb") as file:
                if not quoted:
                    file.write((",".join(map(str, table.columns)) + "\n").encode())
                pa.csv.write_csv(arrow, file, options)


def _needs_quotes(table: pd.DataFrame) -> bool:
    texts = [pd.Series(table.columns.astype(str))]
    texts += [table[name] for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    return any(text.astype(str).str.contains('[",\r\n]', regex=True).any() for text in texts)
