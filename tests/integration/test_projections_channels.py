"""The view api.channel_health on PostgreSQL: what a person who asks SQL about the channels is told."""

from datetime import timedelta

import pytest

from projections.channels import CHANNELS
from tests.projections_kit import AT, TOPICS, Scratch, database, event

pytestmark = pytest.mark.stack


@pytest.fixture
def scratch(stack):
    with database(stack.postgres_url) as url:
        made = Scratch(url, CHANNELS)
        yield made
        made.close()


def changed(offset, channel, state, destination=None):
    """Return the event of a breaker that changed so many minutes after nine."""
    value = {
        "control_id": f"breaker/{channel}" + (f"/{destination.hex()}" if destination else ""), "channel": channel,
        "destination_hash": destination, "state": state, "reason": f"reason {offset}",
        "changed_at": AT + timedelta(minutes=offset),
    }  # fmt: skip
    return event("ChannelStateChanged", value, TOPICS.controls, offset)


def health(scratch):
    """Return state, reason and open destinations of each channel."""
    return {r["channel"]: (r["state"], r["reason"], r["destinations_open"]) for r in scratch.view("channel_health")}


def test_every_channel_is_closed_until_it_is_said_to_be_open(scratch):
    """A row for each channel from the beginning."""
    assert health(scratch) == dict.fromkeys(("email", "slack", "discord", "webhook"), ("closed", None, 0))


def test_the_last_state_counts_however_the_events_are_cut_and_repeated(scratch):
    """A provider that opened, looked and closed; two destinations of which one is open still; other events are none of it."""
    stop = event("ControlChanged", {"control_id": "all", "action": "stop"}, TOPICS.controls, 0)
    events = [
        stop, changed(1, "slack", "open"), changed(2, "webhook", "open", b"one"), changed(3, "slack", "half_open"),
        changed(4, "webhook", "open", b"two"), changed(5, "slack", "closed"), changed(6, "webhook", "closed", b"one"),
        changed(7, "email", "open"),
    ]  # fmt: skip
    expected = {
        "email": ("open", "reason 7", 0), "slack": ("closed", "reason 5", 0), "discord": ("closed", None, 0),
        "webhook": ("closed", None, 1),
    }  # fmt: skip
    for batches in ([events], [[one] for one in events], [events[:5], events[2:], events[:3]]):
        scratch.empty()
        for batch in batches:
            scratch.apply(batch)
        assert health(scratch) == expected
    (row,) = [r for r in scratch.view("channel_health") if r["channel"] == "webhook"]
    assert row["destinations_since"] == AT + timedelta(minutes=4)
