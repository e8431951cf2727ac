"""The consent process on a real broker and PostgreSQL: the table is the fold of the logs, and says how current it is."""

import contextlib
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from core.errors import SetupError
from schemas.partition import partition_for
from schemas.records import Record
from sinks.applier import Applier
from sinks.consent import address_mark
from tests.fix_stack import Stack
from tests.sinks_kit import SHARDS, World, wait_for, world

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def sinks(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Topics and databases of this module's own."""
    with world(stack, tmp_path_factory.mktemp("consent")) as one:
        yield one


@pytest.fixture
def applier(sinks: World) -> Iterator[Applier]:
    """The consent process in a thread."""
    with running(sinks) as one:
        yield one


@contextlib.contextmanager
def running(sinks: World) -> Iterator[Applier]:
    """The consent process in a thread, from here on."""
    one = Applier(sinks.settings)
    thread = threading.Thread(target=one.run, daemon=True)
    thread.start()
    try:
        yield one
    finally:
        one.stop()
        thread.join(timeout=90)
    assert not thread.is_alive()


def barred(sinks: World, subscriber: str) -> dict[str, Any]:
    """What is barred of a subscriber: the subject without its beginning, and reason or list."""
    rows = sinks.ledger("SELECT subject, reason, except_for FROM ledger.barred WHERE subject LIKE %s", f"sub:{subscriber}%")
    return {subject.removeprefix(f"sub:{subscriber}"): reason if listed is None else listed for subject, reason, listed in rows}


def unsubscribe(sinks: World, subscriber: str, kind: str = "newsletter", newsletter_id: str | None = "daily") -> None:
    """Produce an unsubscribe."""
    fields = {
        "newsletter_id": newsletter_id,
        "kind": kind,
        "via": "page",
        "delivery_id": None,
        "unsubscribed_at": datetime.now(UTC),
    }
    sinks.change("SubscriberUnsubscribed", subscriber, **fields)


def test_keeps_the_table_as_the_logs_say(sinks: World, applier: Applier) -> None:
    """Bars, lists and lifts of one subscriber, in order; an erasure; a retraction; what is no event is passed over."""
    one, erased = str(uuid.uuid4()), str(uuid.uuid4())
    poison = Record(sinks.topics.subscribers, one.encode(), b"poison", (), partition_for(one.encode(), SHARDS))
    unsubscribe(sinks, one)
    sinks.produce_all([poison])
    sinks.change("ChannelUnlinked", one, channel="slack", reason="requested", unlinked_at=datetime.now(UTC))
    sinks.change("SubscriberErased", erased, requested_by="subscriber", erased_at=datetime.now(UTC))
    wait_for(lambda: barred(sinks, one) == {"/nl:daily": "unsubscribed", "/ch:slack": "unlinked"}, "the bars")
    wait_for(lambda: barred(sinks, erased) == {"": "erased"}, "the erasure")
    sinks.change("PreferencesChanged", one, newsletters=["daily", "weekly"], changed_at=datetime.now(UTC))
    wait_for(lambda: barred(sinks, one) == {"/nl": ["daily", "weekly"], "/ch:slack": "unlinked"}, "the list")
    unsubscribe(sinks, one, "all", None)
    wait_for(lambda: barred(sinks, one).get("/nl") == [], "the end of everything")
    assert barred(sinks, one) == {"/nl": [], "/alerts": "unsubscribed", "/ch:slack": "unlinked"}


@pytest.mark.parametrize("together", [True, False])
def test_spares_an_address_that_was_linked_again(sinks: World, together: bool) -> None:
    """The bar stays for what carries the old address, whether the two events come in one batch or not."""
    one = str(uuid.uuid4())
    sinks.keys.create([one])
    address = sinks.keys.encrypt(one, "address.slack", b"C0123456")
    sinks.change("ChannelUnlinked", one, channel="slack", reason="requested", unlinked_at=datetime.now(UTC))
    if not together:
        with running(sinks):
            wait_for(lambda: barred(sinks, one) == {"/ch:slack": "unlinked"}, "the unlinking")
    sinks.change("ChannelLinked", one, channel="slack", address=address, linked_at=datetime.now(UTC))
    with running(sinks):
        wait_for(lambda: barred(sinks, one) == {"/ch:slack": [address_mark(address)]}, "the new address")


def test_says_how_current_it_is(sinks: World, applier: Applier) -> None:
    """While it runs and nothing happens, every partition is known up to less than 2 s ago; stopped, it falls behind."""
    behind = "SELECT extract(epoch FROM clock_timestamp() - min(caught_up_at)) FROM ledger.consent_progress"
    wait_for(lambda: sinks.ledger(behind)[0][0] < 1.5, "consent to be current")
    partitions = sinks.ledger("SELECT count(*) FROM ledger.consent_progress")[0][0]
    assert partitions == sum(
        sinks.topics.spec(t).partitions
        for t in (sinks.topics.subscribers, sinks.topics.publications, sinks.topics.alerts, sinks.topics.controls)
    )
    applier.stop()
    wait_for(lambda: sinks.ledger(behind)[0][0] > 2, "consent to fall behind")


def test_lets_one_process_apply_at_a_time(sinks: World, applier: Applier) -> None:
    """A second one waits and takes over when the first ends."""
    with running(sinks):
        applier.stop()
        one = str(uuid.uuid4())
        unsubscribe(sinks, one)
        wait_for(lambda: barred(sinks, one) == {"/nl:daily": "unsubscribed"}, "the second to apply")


def test_loses_nothing_when_killed_before_a_commit(sinks: World) -> None:
    """Rows and offsets are one transaction: killed in it, the next process reads the same events again."""
    one = str(uuid.uuid4())
    dying = sinks.start("consent", NEWSWIRE_FAILPOINTS="consent.before_commit=kill")
    unsubscribe(sinks, one)
    assert wait_for(dying.ended, "the kill") == -9
    assert barred(sinks, one) == {}
    again = sinks.start("consent")
    wait_for(lambda: barred(sinks, one) == {"/nl:daily": "unsubscribed"}, "the unsubscribe to be applied")
    again.wait_running()
    assert again.stop() == 0


def test_says_what_to_do_without_a_schema(sinks: World) -> None:
    """A database that was not migrated is named in one sentence."""
    base = sinks.settings.ledger_database_url.rsplit("/", 1)[0]
    with pytest.raises(SetupError, match="newswire migrate"):
        Applier(replace(sinks.settings, ledger_database_url=f"{base}/postgres")).run()
