"""HTML in which text is escaped unless it says that it is HTML, and the page that holds it all."""

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

VOID = {"img", "input", "meta", "br"}
# The page runs no script and fetches nothing, whatever an id or a path in it says.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. Children that are not Html are escaped; attributes of None are left out, `class_` is `class`.

    >>> tag("p", "1 < 2", class_="a")
    '<p class="a">1 &lt; 2</p>'
    """
    known = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    start = name + "".join(f' {key}="{html.escape(str(value))}"' for key, value in known)
    return Html(f"<{start}>" if name in VOID else f"<{start}>{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Html:
    """Elements and texts one after another; None is left out."""
    return Html(
        "".join(
            child if isinstance(child, Html) else html.escape(str(child)) for child in children if child is not None
        )
    )


def number(value: float, digits: int = 3) -> Html:
    """A number as it reads best, with all its digits for machines; `–` where it is not known."""
    if value is None or not np.isfinite(value):
        return Html("–")
    text = f"{value:,}" if isinstance(value, (int, np.integer)) else f"{value:.{digits}f}"
    return tag("data", text, value=repr(value.item() if isinstance(value, np.generic) else value))


def section(title: str, note: Any, *children: Any) -> Html:
    """A part of the page, with a sentence that says what it shows; `anchor(title)` is its id."""
    note = tag("p", note, class_="note") if note else None
    return tag("section", tag("h2", title), note, *children, id=anchor(title))


def anchor(title: str) -> str:
    """A section's id."""
    return "".join(char if char.isalnum() else "-" for char in title.lower())


def absent(title: str, reason: str) -> Html:
    """A part for which the folder has nothing, with the reason."""
    return tag("section", tag("h2", title), tag("p", reason, class_="absent"), id=anchor(title))


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]], class_: str | None = None) -> Html:
    """A table that scrolls sideways where it is too wide; the first cell of each row names the row.

    A cell that is a `td` or `th` element already is taken as it is.
    """
    lines = [tag("tr", *(_cell(cell, "td" if place else "th", "row") for place, cell in enumerate(row)))
             for row in rows]  # fmt: skip
    top = tag("thead", tag("tr", *(_cell(cell, "th", "col") for cell in head)))
    return tag("div", tag("table", top, tag("tbody", *lines), class_=class_), class_="wide", tabindex=0)


def _cell(cell: Any, name: str, scope: str) -> Html:
    if isinstance(cell, Html) and cell.startswith(("<td", "<th ", "<th>")):
        return cell
    return tag(name, cell, scope=scope if name == "th" else None)


def folded(summary: Any, *children: Any) -> Html:
    """What is shown after a click on its summary."""
    return tag("details", tag("summary", summary), *children)


def page(title: str, *children: Any) -> bytes:
    """The whole page, UTF-8, with its style inside."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(style)),
    )
    text = f"<!doctype html>\n{tag('html', head, tag('body', *children), lang='en')}\n"
    return text.encode("utf-8", "replace")
