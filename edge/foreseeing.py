"""What one subscriber would be given of a newsletter now: the ranking that decides, asked for one person. Reads the log only.

As a test send has it: audience, schedule and what they were given before do not count.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from core.subscribers import SubscriberTable
    from edge.writing import Log


class Foreseen(NamedTuple):
    """Positions and reasons of the items, and the variant; or why there are none."""

    items: list[tuple[tuple[int, int], str]]
    variant: str | None
    obstacle: str


def foreseen(log: "Log", definition: Mapping[str, Any], subscriber_id: str) -> Foreseen:
    """Return the issue that a subscriber would be given now."""
    from core.campaigns import obstacle_to_test
    from core.deciding import work_out_issues
    from core.space import Space
    from core.verdicts import registered_row
    from edge.campaigns import active_model, shard_of, slot_of

    state, now = shard_of(log, subscriber_id), log.clock.now()
    obstacle = obstacle_to_test(state.table, definition, subscriber_id, now)
    if obstacle is not None:
        return Foreseen([], None, f"the subscriber {obstacle}")
    model = active_model(log)
    slot = slot_of(log, definition, now, model, forced=True, subscriber_id=subscriber_id)
    rows = registered_row(state.table, subscriber_id)
    issues = work_out_issues(state, slot, rows, now, Space(None if model is None else model[1]))
    items = []
    for candidate, code in zip(issues.picked.candidate.flat, issues.picked.reason.flat, strict=True):
        if candidate >= 0:
            content = state.content.items[issues.candidates.index[candidate]]
            items.append(((content.partition, content.offset), issues.picked.texts[code]))
    variant = int(issues.variant[0])
    name = definition["variants"][variant]["name"] if variant >= 0 else None
    return Foreseen(items, name, "" if items else "nothing that is new enough and good enough for it is known")


def channels_of(table: "SubscriberTable", subscriber_id: str) -> list[str]:
    """Return the channels on which a subscriber has a verified address, most wanted first."""
    from core.names import CHANNELS
    from core.verdicts import registered_row

    rows = registered_row(table, subscriber_id)
    order = [column for row in rows.tolist() for column in table.column("order")[row].tolist() if column >= 0]
    return [CHANNELS[column] for column in order if table.column("verified")[rows[0]][column]]
