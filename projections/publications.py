"""Read model api.publications, from the topic publications (ordered by publication_id).

A revision that is submitted changes nothing until approval takes it up (PublicationRevised, PublicationScored or a
verdict): a refused duplicate or an invalid revision never hides what is valid. PublicationApproved carries the content
that was approved, so it has the last word about it. A retraction holds for all revisions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from projections.model import Projection, Statement, plain, texts, times
from schemas.records import Event

_UPSERT = """
insert into revisions as t (publication_id, revision, title, content_type, language, topics, submitted_at, content_partition,
                            content_offset, accepted, state, quality, reason, approved_at, applied_offset)
select n.publication_id, n.revision, n.title, n.content_type, n.language, n.topics::jsonb, n.submitted_at, n.content_partition,
       n.content_offset, n.accepted, coalesce(n.state, 'submitted'), n.quality, n.reason, n.approved_at, n.applied_offset
  from unnest(%(ids)s::uuid[], %(revisions)s::int[], %(titles)s::text[], %(content_types)s::text[], %(languages)s::text[],
              %(topics)s::text[], %(submitted)s::timestamptz[], %(partitions)s::int[], %(offsets)s::bigint[],
              %(accepted)s::bool[],
              %(states)s::text[], %(qualities)s::float8[], %(reasons)s::text[], %(approved)s::timestamptz[],
              %(applied)s::bigint[])
    as n(publication_id, revision, title, content_type, language, topics, submitted_at, content_partition, content_offset,
         accepted, state, quality, reason, approved_at, applied_offset)
on conflict (publication_id, revision) do update set
    title = case when excluded.approved_at is null then coalesce(t.title, excluded.title) else excluded.title end,
    content_type = case when excluded.approved_at is null then coalesce(t.content_type, excluded.content_type)
                        else excluded.content_type end,
    language = case when excluded.approved_at is null then coalesce(t.language, excluded.language) else excluded.language end,
    topics = case when excluded.approved_at is null then coalesce(t.topics, excluded.topics) else excluded.topics end,
    submitted_at = coalesce(t.submitted_at, excluded.submitted_at),
    content_partition = case when excluded.approved_at is null then coalesce(t.content_partition, excluded.content_partition)
                             else excluded.content_partition end,
    content_offset = case when excluded.approved_at is null then coalesce(t.content_offset, excluded.content_offset)
                          else excluded.content_offset end,
    accepted = t.accepted or excluded.accepted,
    state = case when excluded.state in ('approved', 'rejected') then excluded.state
                 when excluded.state = 'scored' and t.state = 'submitted' then 'scored' else t.state end,
    quality = coalesce(excluded.quality, t.quality),
    reason = case when excluded.state in ('approved', 'rejected') then excluded.reason else t.reason end,
    approved_at = coalesce(t.approved_at, excluded.approved_at),
    applied_offset = excluded.applied_offset
where t.applied_offset < excluded.applied_offset
"""

_RETRACT = """
insert into retractions (publication_id, reason, retracted_at)
select * from unnest(%(ids)s::uuid[], %(reasons)s::text[], %(at)s::timestamptz[])
on conflict (publication_id) do nothing
"""


@dataclass(slots=True)
class _Revision:
    """Fold of one revision's events inside a batch; None is unknown here."""

    title: str | None = None
    content_type: str | None = None
    language: str | None = None
    topics: str | None = None
    submitted_at: datetime | None = None
    content_partition: int | None = None
    content_offset: int | None = None
    accepted: bool = False
    state: str | None = None
    quality: float | None = None
    reason: str | None = None
    approved_at: datetime | None = None
    applied_offset: int = -1


def _submitted(row: _Revision, event: Event) -> None:
    if row.submitted_at is not None:
        return  # the first submission of a revision is the one that counts
    row.submitted_at = event.time
    if row.approved_at is None:
        value = event.value
        row.title, row.content_type, row.language = value["title"], value["content_type"], value["language"]
        row.topics = _weights(value["topics"])
        row.content_partition, row.content_offset = event.partition, event.offset


def _approved(row: _Revision, value: dict[str, Any]) -> None:
    row.title, row.content_type, row.language = value["title"], value["content_type"], value["language"]
    row.topics = _weights(value["topics"])
    row.content_partition, row.content_offset = value["content_partition"], value["content_offset"]
    row.quality, row.reason = value["quality"], None
    row.state, row.approved_at = "approved", row.approved_at or value["approved_at"]


def _weights(topics: list[dict[str, Any]]) -> str:
    return orjson.dumps({item["topic"]: item["weight"] for item in topics}).decode()


def _fold(row: _Revision, event: Event) -> None:
    value = event.value
    if event.name == "PublicationSubmitted":
        _submitted(row, event)
    else:
        row.accepted = True
        if event.name == "PublicationScored":
            row.quality = value["quality"]
            row.state = row.state or "scored"
        elif event.name == "PublicationApproved":
            _approved(row, value)
        elif event.name == "PublicationRejected":
            row.state, row.reason = "rejected", value["reason"]
            row.quality = value["quality"] if value["quality"] is not None else row.quality
    row.applied_offset = event.offset


def apply(events: Sequence[Event]) -> list[Statement]:
    """Return the statements for a batch of events of the topic publications."""
    rows: dict[tuple[str, int], _Revision] = {}
    retracted: dict[str, Event] = {}
    for event in events:
        publication_id = event.value["publication_id"]
        if event.name == "PublicationRetracted":
            retracted.setdefault(publication_id, event)
        else:
            _fold(rows.setdefault((publication_id, event.value["revision"]), _Revision()), event)
    statements = []
    if rows:
        statements.append(_upsert(rows))
    if retracted:
        first = list(retracted.values())
        params = {
            "ids": texts(retracted),
            "reasons": texts(e.value["reason"] for e in first),
            "at": times(e.value["retracted_at"] for e in first),
        }
        statements.append(Statement(_RETRACT, params))
    return statements


def _upsert(rows: dict[tuple[str, int], _Revision]) -> Statement:
    folded = list(rows.values())
    params = {
        "ids": texts(publication_id for publication_id, _ in rows),
        "revisions": plain(revision for _, revision in rows),
        "titles": texts(r.title for r in folded),
        "content_types": texts(r.content_type for r in folded),
        "languages": texts(r.language for r in folded),
        "topics": texts(r.topics for r in folded),
        "submitted": times(r.submitted_at for r in folded),
        "partitions": plain(r.content_partition for r in folded),
        "offsets": plain(r.content_offset for r in folded),
        "accepted": plain(r.accepted for r in folded),
        "states": texts(r.state for r in folded),
        "qualities": plain(r.quality for r in folded),
        "reasons": texts(r.reason for r in folded),
        "approved": times(r.approved_at for r in folded),
        "applied": plain(r.applied_offset for r in folded),
    }
    return Statement(_UPSERT, params)


PUBLICATIONS = Projection(
    name="publications",
    version=1,
    topics=lambda topics: (topics.publications,),
    tables=("revisions", "retractions"),
    views=("publications",),
    apply=apply,
)
