"""What commands print: tables and sentences for people, one JSON value a line for programs (`--json`).

Results go to standard output; progress bars go to standard error, so that a pipe gets results only.
"""

import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any, Final, Literal

import orjson

PIPED_WIDTH: Final = 120
"""Columns of a table that goes to no terminal, unless COLUMNS says otherwise."""
FOLDED_WIDTH: Final = 10
"""Text is folded to this width at the least; numbers and ids are not folded at all, though there be no room for them."""
BETWEEN: Final = 2
"""Columns between two of a table."""
_ID: Final = re.compile(r"^\S*([0-9a-f]{8}-[0-9a-f]{4}-|@\d{4}-|/\d+/\d+)\S*$")
"""What people copy, beside the columns that are named as ids."""


def plain(value: Any) -> str:
    """Return a value as people read it: yes and no, a dash for nothing, UTC times to the second and with a Z."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple, set)):
        return ", ".join(plain(v) for v in value)
    return str(value)


def _jsonable(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (date, datetime)):
        return value.isoformat().replace("+00:00", "Z")
    return str(value)


def _shapes(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[tuple[int, bool, bool]]:
    """Return for each column its least width, whether it is not folded, and whether it has numbers."""
    found = list[tuple[int, bool, bool]]()
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows]
        numbers = bool(rows) and all(isinstance(cell, (int, float)) and not isinstance(cell, bool) for cell in cells)
        ids = column.endswith("_id") or any(isinstance(cell, str) and _ID.search(cell) for cell in cells)
        longest = max((len(plain(cell)) for cell in cells), default=0)
        whole = numbers or ids
        heading = max(map(len, column.replace("_", " ").split()), default=0)
        least = max(longest if whole else min(longest, FOLDED_WIDTH), min(heading, FOLDED_WIDTH))
        found.append((least, whole, numbers))
    return found


class Output:
    """Prints results in the form that was asked for."""

    def __init__(self, json_mode: bool = False) -> None:
        self.json_mode = json_mode

    def _json(self, value: Any) -> None:
        sys.stdout.write(
            orjson.dumps(value, default=_jsonable, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z).decode() + "\n"
        )
        sys.stdout.flush()

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print rows; as JSON one object a row, with the columns' names as keys."""
        if self.json_mode:
            for row in rows:
                self._json(dict(zip(columns, row, strict=True)))
            return
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        width, _ = shutil.get_terminal_size((PIPED_WIDTH, 0))  # COLUMNS, else the terminal's
        table = Table(
            title=title or None, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
        )
        shapes = _shapes(columns, rows)
        for column, (least, whole, numbers) in zip(columns, shapes, strict=True):
            justify: Literal["right", "left"] = "right" if numbers else "left"
            heading = column.replace("_", " ")
            table.add_column(heading, justify=justify, overflow="fold", no_wrap=whole and not numbers, min_width=least)
        for row in rows:
            table.add_row(*(Text(plain(value)) for value in row))
        console = Console(width=max(width, 1 + sum(least + BETWEEN for least, *_ in shapes)))
        with console.capture() as captured:
            console.print(table, crop=False)
        sys.stdout.write("\n".join(line.rstrip() for line in captured.get().split("\n")))
        sys.stdout.flush()

    def item(self, fields: Mapping[str, Any]) -> None:
        """Print one thing: its fields line by line, or one JSON object."""
        if self.json_mode:
            self._json(fields)
            return
        width = max((len(name) for name in fields), default=0)
        for name, value in fields.items():
            sys.stdout.write(f"{name:<{width}}  {plain(value)}\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Print a sentence for people; nothing with --json."""
        if not self.json_mode:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    @contextmanager
    def progress(self, total: int, title: str) -> Iterator[Callable[[int], None]]:
        """Show a progress bar while the block runs; the block is given a function that is told of steps done."""
        if self.json_mode or not sys.stderr.isatty():
            yield lambda steps: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=total)
            yield lambda steps: bar.advance(task, steps)
