"""Read model api.channel_health, from the breakers' events in the topic controls, whose one partition orders them."""

from collections.abc import Sequence

from projections.model import Projection, Statement, plain, texts, times
from schemas.records import Event

_UPSERT = """
insert into breakers as t (control_id, channel, destination_hash, state, reason, changed_at, applied_offset)
select * from unnest(%(ids)s::text[], %(channels)s::text[], %(hashes)s::bytea[], %(states)s::text[], %(reasons)s::text[],
                     %(changed)s::timestamptz[], %(applied)s::bigint[])
on conflict (control_id) do update set
    state = excluded.state, reason = excluded.reason, changed_at = excluded.changed_at, applied_offset = excluded.applied_offset
where t.applied_offset < excluded.applied_offset
"""


def apply(events: Sequence[Event]) -> list[Statement]:
    """Return the statements for a batch of events of the topic controls: the last event of each breaker counts."""
    last = {e.value["control_id"]: e for e in events if e.name == "ChannelStateChanged"}
    if not last:
        return []
    values = [e.value for e in last.values()]
    params = {
        "ids": texts(last),
        "channels": texts(v["channel"] for v in values),
        "hashes": [v["destination_hash"] for v in values],
        "states": texts(v["state"] for v in values),
        "reasons": texts(v["reason"] for v in values),
        "changed": times(v["changed_at"] for v in values),
        "applied": plain(e.offset for e in last.values()),
    }
    return [Statement(_UPSERT, params)]


CHANNELS = Projection(
    name="channels",
    version=1,
    topics=lambda topics: (topics.controls,),
    tables=("breakers",),
    views=("channel_health",),
    apply=apply,
)
