"""What a projection is: a name, a version, its topics, its SQL and a pure `apply`.

To add a read model, write one module with a `Projection` (and its SQL in `projections/sql/`) and name it in
`projections/catalogue.py`. The engine does the rest: transactions, offsets, rebuilds, grants and verification.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from schemas.records import Event
from schemas.topics import Topics

SQL_FOLDER = Path(__file__).parent / "sql"


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement over arrays; table names are unqualified, the engine sets the search path to a generation."""

    sql: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Projection:
    """One read model, or a family of views over the same tables.

    `apply` is pure: the same events give the same statements, duplicate keys are folded inside the batch, and applying a
    batch again leaves the same rows. Events of one partition come in their order; partitions come in any order.
    """

    name: str
    version: int
    """Raised when `apply` changes its meaning; changed SQL counts by itself."""
    topics: Callable[[Topics], tuple[str, ...]]
    tables: tuple[str, ...]
    views: tuple[str, ...]
    """Names in schema `api`."""
    apply: Callable[[Sequence[Event]], list[Statement]]
    prefixes: Mapping[str, str] = field(default_factory=dict)
    """Event to the last of its fields that is read: for the hottest events only, see projections/decoding.py."""

    @property
    def tables_sql(self) -> str:
        """Return the statements that create the tables in the current schema."""
        return (SQL_FOLDER / f"{self.name}.tables.sql").read_text(encoding="utf-8")

    @property
    def views_sql(self) -> str:
        """Return the statements that create or replace the views over the tables of the current schema."""
        return (SQL_FOLDER / f"{self.name}.views.sql").read_text(encoding="utf-8")

    def fingerprint(self, topics: Topics) -> str:
        """Return a hash of everything that the rows depend on; another one means a new generation."""
        parts = (self.name, str(self.version), *self.topics(topics), self.tables_sql, self.views_sql)
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


_quoted: dict[str, str] = {}
_QUOTED_LENGTH = 64
"""Longest text that is worth remembering."""
_QUOTED_LIMIT = 20_000
"""Entries of the cache of quoted texts: channels, reasons and sources repeat, others must not fill the memory."""


def quoted(text: str) -> str:
    """Return a text as an element of an array literal; U+0000, which PostgreSQL cannot store, becomes U+FFFD."""
    found = _quoted.get(text)
    if found is None:
        escaped = text.replace("\x00", "\ufffd").replace("\\", "\\\\").replace('"', '\\"')
        found = f'"{escaped}"'
        if len(text) <= _QUOTED_LENGTH:
            if len(_quoted) >= _QUOTED_LIMIT:
                _quoted.clear()
            _quoted[text] = found
    return found


def texts(values: Iterable[str | None]) -> str:
    """Return an array literal of texts: several times faster to build than a list that the driver adapts."""
    return "{" + ",".join("NULL" if value is None else quoted(value) for value in values) + "}"


def unique(values: Iterable[str]) -> str:
    """Return an array literal of texts that hardly repeat, such as ids; the cache of quoted texts is left alone."""
    items = list(values)
    joined = '","'.join(items)
    if not items or "\\" in joined or "\x00" in joined or joined.count('"') != 2 * (len(items) - 1):
        return texts(items)
    return '{"' + joined + '"}'


def plain(values: Iterable[object]) -> str:
    """Return an array literal of values whose text needs no quotes: numbers, booleans, UUIDs, delivery ids."""
    return "{" + ",".join("NULL" if value is None else str(value) for value in values) + "}"


def times(values: Iterable[datetime | None]) -> str:
    """Return an array literal of instants."""
    return "{" + ",".join("NULL" if value is None else f'"{value.isoformat()}"' for value in values) + "}"
