"""Breakers, rates and retries on a real broker, registry, PostgreSQL and sandbox: what happens while a provider fails."""

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from core.outcomes import RETRY_STATE
from sinks.loop import BATCH, WINDOW
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import SHARDS, Process, World, metric, records_of, wait_for, world
from tests.sinks_samples import free_port

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox

LEASE_S = 8.0
SECRET = "whsec_bmV3c3dpcmUtZGVtby1zZWNyZXQtb2YtMzItYnl0ZXM="


@pytest.fixture(scope="module")
def sinks(stack: Stack, sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Topics and databases, with consent running; each test starts the sinks that it needs, and nobody waits for a session."""
    url = sandbox_process.url
    with world(
        stack,
        tmp_path_factory.mktemp("flow"),
        ses_endpoint_url=f"{url}/ses",
        slack_base_url=f"{url}/slack/api/",
        discord_base_url=f"{url}/discord/api/v10",
        webhook_allow_http_loopback=True,
        provider_timeout_s=4.0,
        lease_s=LEASE_S,
        sweep_interval_s=0.3,
        instance_id="only",
    ) as one:
        one.define_newsletter()
        one.start("consent")
        yield one


@pytest.fixture
def start(sinks: World) -> Iterator[Any]:
    """Start processes that end with the test."""
    mine: list[Process] = []

    def begin(process: str, **environment: str) -> Process:
        one = sinks.start(process, **environment)
        mine.append(one)
        return one

    yield begin
    for one in mine:
        one.kill()
        sinks.processes.remove(one)


def slack(sinks: World, count: int, *, channels: int | None = None, lane: str = "bulk") -> list[dict[str, Any]]:
    """Requests to so many Slack channels, one each when it is not said."""
    mark = f"{time.monotonic_ns() % 10**9:09d}"
    addresses = [f"C{mark}{number % (channels or count):05d}" for number in range(count)]
    return sinks.requests(count, addresses, channel="slack", lane=lane, items=[sinks.publish()])


def hooks(sinks: World, sandbox: SandboxProcess, name: str, count: int) -> list[dict[str, Any]]:
    """Requests to one webhook."""
    address = f'{{"url": "{sandbox.url}/hooks/{name}", "secret": "{SECRET}"}}'
    return sinks.requests(count, [address] * count, channel="webhook", items=[sinks.publish()])


def controls(sinks: World, channel: str) -> list[tuple[bool, str]]:
    """Return whether it is a destination's, and the state, of each change of a channel's breakers."""
    events = [sinks.codec.decode(raw) for raw in records_of(sinks.settings, sinks.topics.controls)]
    return [
        (e.value["destination_hash"] is not None, e.value["state"])
        for e in events
        if e.name == "ChannelStateChanged" and e.value["channel"] == channel
    ]


def states(sinks: World, channel: str) -> Counter[str]:
    """Return how many deliveries of a channel are in which state."""
    rows = sinks.ledger("SELECT state, count(*) FROM ledger.deliveries WHERE channel = %s GROUP BY 1", channel)
    return Counter(dict(rows))


def held_now(sinks: World, channel: str) -> set[str]:
    """Return the deliveries of a channel that a process has in hand."""
    rows = sinks.ledger("SELECT delivery_id::text FROM ledger.deliveries WHERE channel = %s AND state = 'claimed'", channel)
    return {row[0] for row in rows}


def settled(sinks: World, requests: list[dict[str, Any]]) -> bool:
    """Return whether all of these were sent."""
    ids = [r["delivery_id"][9:] for r in requests]
    (row,) = sinks.ledger("SELECT count(*) FROM ledger.deliveries WHERE delivery_id = ANY(%s::uuid[]) AND state = 'sent'", ids)
    return bool(row[0] == len(requests))


def arrivals(lines: list[dict[str, Any]], requests: list[dict[str, Any]], outcome: str | None = None) -> list[datetime]:
    """Return when calls for these deliveries came to the provider, in order, from the lines of its journal."""
    ids = {r["delivery_id"] for r in requests}
    return sorted(
        datetime.fromisoformat(line["at"])
        for line in lines
        if line["delivery_id"] in ids and (outcome is None or line["outcome"] == outcome)
    )


def test_an_outage_burns_nothing_and_ends_by_itself(sinks: World, start: Any, sandbox: SandboxProcess) -> None:
    """While Slack fails its breaker opens, its partitions pause and few calls look; mail goes on; then all is sent, once."""
    port = free_port()
    sandbox.fault("slack", "error")
    start("slack-bulk", NEWSWIRE_METRICS_PORT=str(port)).wait_running()
    start("ses-bulk").wait_running()
    requests = slack(sinks, 1200)
    sinks.deliver(requests)
    wait_for(lambda: (False, "open") in controls(sinks, "slack"), "the breaker to open")
    wait_for(lambda: metric(port, "newswire_partitions_paused") == 1, "the partitions to pause")
    began = time.monotonic()
    calls_before = len(sandbox.lines())
    mail = sinks.requests(300, items=[sinks.publish()])
    sinks.deliver(mail)
    wait_for(lambda: settled(sinks, mail), "mail to be sent all the same")
    mail_s = time.monotonic() - began
    left = [r for r in requests if r["delivery_id"][9:] in held_now(sinks, "slack")][-5:]
    for one in left:
        sinks.change("PreferencesChanged", one["subscriber_id"], newsletters=["weekly"], changed_at=datetime.now(UTC))
    wait_for(
        lambda: (
            {found[0][:2] for found in sinks.states(left).values() if found} == {("DeliverySuppressed", "unsubscribed")}
            and all(sinks.states(left).values())
        ),
        "who leaves to be let go although nothing can be sent",
    )
    requests = [r for r in requests if r not in left]
    time.sleep(max(0.0, LEASE_S + 1.0 - (time.monotonic() - began)))
    slack_calls = [line for line in sandbox.lines()[calls_before:] if line["provider"] == "slack"]
    assert len(slack_calls) <= 8 + (time.monotonic() - began), "an open breaker lets single calls through, a second apart"
    # unknown: a claim whose lease ended before its call was seen to begin, as on a busy machine
    assert set(states(sinks, "slack")) <= {"claimed", RETRY_STATE, "suppressed", "unknown"}
    assert records_of(sinks.settings, f"{sinks.topics.deliveries('slack', 'bulk')}.dlq") == []
    # the committed offset is the lowest that is neither settled nor parked
    held = held_now(sinks, "slack")
    assert held
    lowest: dict[int, int] = {}
    for raw in records_of(sinks.settings, sinks.topics.deliveries("slack", "bulk")):
        if sinks.codec.decode(raw).value["delivery_id"][9:] in held:
            lowest.setdefault(raw.partition, raw.offset)
    committed = sinks.committed("slack", "bulk")
    assert all(committed[partition] <= offset for partition, offset in lowest.items())

    sandbox.ask("/control/faults", method="DELETE")
    cleared = time.monotonic()
    wait_for(lambda: settled(sinks, requests), "all to be sent")
    print(f"mail during the outage: {mail_s:.1f} s; 1200 Slack messages {time.monotonic() - cleared:.1f} s after its end")
    assert set(sandbox.counts("delivery_id", provider="slack").values()) == {1}
    changes = [state for destination, state in controls(sinks, "slack") if not destination]
    assert changes[0] == "open"
    assert changes[-1] == "closed"
    assert "half_open" in changes
    assert sinks.ledger("SELECT state FROM ledger.breakers WHERE channel = 'slack' AND destination = ''") == [("closed",)]
    reports = {(name, reason) for found in sinks.states(requests).values() for name, reason, _ in found}
    assert reports <= {("DeliverySent", None)}
    wait_for(lambda: sum(sinks.committed("slack", "bulk").values()) == 1200, "all offsets to be committed")


def test_a_restart_in_an_outage_loses_nothing_and_begins_with_a_look(sinks: World, start: Any, sandbox: SandboxProcess) -> None:
    """SIGTERM with everything in hand ends in time, nothing is unknown; the next process knows that the breaker was open."""
    sandbox.fault("discord", "error")
    first = start("discord-bulk")
    first.wait_running()
    requests = sinks.requests(400, [f"1{n:017d}" for n in range(400)], channel="discord", items=[sinks.publish()])
    sinks.deliver(requests)
    opened = "SELECT count(*) FROM ledger.breakers WHERE channel = 'discord' AND state <> 'closed'"
    wait_for(lambda: sinks.ledger(opened) == [(1,)], "the breaker to open")
    wait_for(lambda: states(sinks, "discord")["claimed"] > 100, "deliveries to be in hand")
    assert first.stop() == 0
    assert set(states(sinks, "discord")) == {RETRY_STATE}
    calls, began = len(sandbox.lines()), time.monotonic()
    start("discord-bulk").wait_running()
    time.sleep(1.5)
    looks = len(sandbox.lines()) - calls
    assert looks <= 2 + (time.monotonic() - began), "a breaker that was open begins with single calls, a second apart"
    sandbox.ask("/control/faults", method="DELETE")
    wait_for(lambda: settled(sinks, requests), "all to be sent")
    assert set(sandbox.counts(provider="discord").values()) == {400}


def test_a_breaker_is_said_to_be_open_no_longer_than_its_process_lives(sinks: World, start: Any, sandbox: SandboxProcess) -> None:
    """The urgent sink's is open when it is killed; the bulk sink sends, and after a while the channel is said to be closed."""
    alert = sinks.raise_alert()
    urgent, bulk = start("slack-urgent"), start("slack-bulk")
    urgent.wait_running()
    bulk.wait_running()
    before = len(controls(sinks, "slack"))
    sandbox.fault("slack", "error")
    addresses = [f"C{time.monotonic_ns() % 10**9:09d}{number}" for number in range(8)]
    sinks.deliver(sinks.requests(8, addresses, channel="slack", lane="urgent", **alert))
    wait_for(lambda: (False, "open") in controls(sinks, "slack")[before:], "the breaker to open")
    urgent.kill()
    sandbox.ask("/control/faults", method="DELETE")
    requests = slack(sinks, 40)
    sinks.deliver(requests)
    wait_for(lambda: settled(sinks, requests), "the bulk sink to send")
    state = "SELECT state FROM ledger.breakers WHERE channel = 'slack' AND destination = ''"
    wait_for(lambda: sinks.ledger(state) == [("closed",)], "the breaker to be closed")
    assert controls(sinks, "slack")[-1] == (False, "closed")


def test_a_chat_channel_gets_its_rate_from_both_lanes_together(sinks: World, start: Any, sandbox: SandboxProcess) -> None:
    """26 messages to one Slack channel: five at once and one a second, whoever sends them. A slow machine takes longer only."""
    alert = sinks.raise_alert()
    for lane in ("urgent", "bulk"):
        start(f"slack-{lane}", NEWSWIRE_RATES="on").wait_running()
    address = f"C{time.monotonic_ns() % 10**9:09d}"
    urgent = sinks.requests(10, [address] * 10, channel="slack", lane="urgent", **alert)
    bulk = sinks.requests(16, [address] * 16, channel="slack", items=[sinks.publish()])
    sinks.deliver([*urgent, *bulk])
    wait_for(lambda: settled(sinks, urgent), "the alerts to be sent")
    wait_for(lambda: settled(sinks, bulk), "the newsletters to be sent")
    came = arrivals(sandbox.lines(), [*urgent, *bulk], "accepted")
    assert len(came) == 26
    took_s = (came[-1] - came[0]).total_seconds()
    print(f"26 messages of two lanes to one channel in {took_s:.1f} s")
    assert took_s >= 17.0, "one lane alone needs 11 s"


def test_a_failing_endpoint_parks_only_its_own(sinks: World, start: Any, sandbox: SandboxProcess) -> None:
    """A webhook that fails: its deliveries are parked and burn no attempts, others go at once, and it recovers."""
    sandbox.fault("webhook", "error", only="down")
    start("webhook-bulk").wait_running()
    down, well = hooks(sinks, sandbox, "down", 40), hooks(sinks, sandbox, "well", 40)
    sinks.deliver(down[:4])
    wait_for(lambda: (True, "open") in controls(sinks, "webhook"), "its breaker to open")
    sinks.deliver([one for pair in zip(down[4:], well[4:], strict=True) for one in pair] + well[:4])
    wait_for(lambda: settled(sinks, well), "the others to be sent")
    parked = "SELECT count(*) FROM ledger.deliveries WHERE channel = 'webhook' AND state = 'retry'"
    wait_for(lambda: sinks.ledger(parked) == [(40,)], "its own to be parked")
    assert (False, "open") not in controls(sinks, "webhook")
    reasons = dict(
        sinks.ledger("SELECT reason, count(*) FROM ledger.deliveries WHERE state = 'retry' AND channel = 'webhook' GROUP BY 1")
    )
    assert reasons["destination_open"] >= 10
    (most,) = sinks.ledger("SELECT max(attempt) FROM ledger.deliveries WHERE reason = 'destination_open'")[0]
    assert most <= 3
    assert len(arrivals(sandbox.lines(), down)) <= 60
    wait_for(lambda: sum(sinks.committed("webhook", "bulk").values()) == 80, "what is parked to hold up no offset")
    sandbox.ask("/control/faults", method="DELETE")
    sinks.ledger("UPDATE ledger.deliveries SET next_attempt_at = next_attempt_at - interval '6 minutes' WHERE state = 'retry'")
    wait_for(lambda: settled(sinks, down), "its own to be sent in the end")
    assert (True, "closed") in controls(sinks, "webhook")
    assert set(sandbox.counts("delivery_id", provider="webhook").values()) == {1}
    assert sinks.ledger("SELECT count(*) FROM ledger.breakers WHERE channel = 'webhook'") == [(0,)]


def test_honours_retry_after(sinks: World, start: Any, sandbox: SandboxProcess) -> None:
    """An endpoint that asks for 4 s gets them, and what is parked for it survives a kill."""
    sandbox.fault("webhook", "throttle", retry_after_s=4, only="busy", count=1)
    dying = start("webhook-bulk")
    requests = hooks(sinks, sandbox, "busy", 1)
    sinks.deliver(requests)
    ids = requests[0]["delivery_id"][9:]
    wait_for(
        lambda: sinks.ledger("SELECT state FROM ledger.deliveries WHERE delivery_id = %s::uuid", ids) == [(RETRY_STATE,)],
        "it to be parked",
    )
    dying.kill()
    start("webhook-bulk")
    wait_for(lambda: settled(sinks, requests), "it to be sent")
    first, second = arrivals(sandbox.lines(), requests)
    assert (second - first).total_seconds() >= 4.0


def test_a_channel_gets_one_message_a_second(sinks: World, start: Any, sandbox: SandboxProcess) -> None:
    """With rates on: a Slack channel's burst, then one a second, the rest parked for their turn; other channels do not wait."""
    start("slack-bulk", NEWSWIRE_RATES="on").wait_running()
    busy, others = slack(sinks, 16, channels=1), slack(sinks, 20)
    sinks.deliver(busy + others)
    parked = "SELECT count(*) FROM ledger.deliveries WHERE reason = 'rate' AND attempt = 0"
    wait_for(lambda: sinks.ledger(parked)[0][0] >= 4, "some to be parked")
    wait_for(lambda: settled(sinks, others), "the other channels")
    wait_for(lambda: settled(sinks, busy), "the busy channel")
    times = arrivals(sandbox.lines(), busy)
    assert len(times) == 16
    for earlier, later in zip(times, times[10:], strict=False):
        assert (later - earlier).total_seconds() > 3.0, "a burst of five and one a second need 6 s for eleven"
    assert (times[-1] - times[0]).total_seconds() >= 9.0
    assert arrivals(sandbox.lines(), others)[-1] < times[-1], "the other channels did not wait"


def test_a_throttled_answer_slows_the_bucket_down_and_it_comes_back(sinks: World, start: Any, sandbox: SandboxProcess) -> None:
    """SES's rate is that of GetAccount; a throttled call halves it for every process, and it grows back by itself."""
    sandbox.ask("/control/limits", {"provider": "ses", "per_second": 200, "on": False})
    port = free_port()
    start("ses-bulk", NEWSWIRE_RATES="on", NEWSWIRE_METRICS_PORT=str(port)).wait_running()
    sandbox.fault("ses", "throttle", count=1)
    requests = sinks.requests(600, [f"reader{n}@gmail.com" for n in range(600)], items=[sinks.publish()])
    sinks.deliver(requests)
    bucket = "SELECT per_s, slowed_to FROM ledger.buckets WHERE channel = 'email'"
    (per_s, slowed_to), *_ = wait_for(
        lambda: [row for row in sinks.ledger(bucket) if row[1] is not None], "the bucket to be slowed down"
    )
    assert per_s == 200.0
    assert 50.0 <= slowed_to <= 160.0
    wait_for(lambda: settled(sinks, requests), "all to be sent")
    speed = metric(port, "newswire_rate_per_second")
    assert speed < 200.0
    times = arrivals(sandbox.lines(), requests, "accepted")
    assert len(times) == 600
    assert (times[-1] - times[0]).total_seconds() > 1.5
    more = sinks.requests(300, [f"reader{n}@gmail.com" for n in range(300)], items=[sinks.publish()])
    sinks.deliver(more)
    wait_for(lambda: settled(sinks, more), "some more")
    assert metric(port, "newswire_rate_per_second") > speed


def test_sigterm_drains_while_thousands_wait_for_their_rate(sinks: World, start: Any, sandbox: SandboxProcess) -> None:
    """With a window full of mails that wait for 20 a second: ends in time with code 0, no unknown, nothing sent twice."""
    sandbox.ask("/control/limits", {"provider": "ses", "per_second": 20, "on": False})
    one = start("ses-bulk", NEWSWIRE_RATES="on")
    one.wait_running()
    requests = sinks.requests(1_500, [f"slow{n}@gmail.com" for n in range(1_500)], items=[sinks.publish()])
    sinks.deliver(requests)
    wait_for(lambda: sandbox.counts().get("ses", 0) > 20, "the sending to begin")
    time.sleep(LEASE_S + 1.0)  # what waits keeps its claim
    assert one.stop() == 0
    ids = [r["delivery_id"][9:] for r in requests]
    query = "SELECT DISTINCT state FROM ledger.deliveries WHERE delivery_id = ANY(%s::uuid[])"
    assert {row[0] for row in sinks.ledger(query, ids)} == {"sent", RETRY_STATE}
    assert set(sandbox.counts("delivery_id").values()) <= {1}
    assert len(sinks.committed()) == SHARDS


def test_urgent_goes_first_while_20000_bulk_wait(sinks: World, start: Any, sandbox: SandboxProcess) -> None:
    """Both lanes share the account's 200 a second; an alert takes the tokens that bulk leaves, and bulk goes on."""
    sandbox.ask("/control/limits", {"provider": "ses", "per_second": 200, "on": True})
    bulk = sinks.requests(20_000, [f"reader{n}@gmail.com" for n in range(20_000)], items=[sinks.publish()])
    sinks.deliver(bulk)
    start("ses-bulk", NEWSWIRE_RATES="on").wait_running()
    start("ses-urgent", NEWSWIRE_RATES="on").wait_running()
    fields = sinks.raise_alert()
    wait_for(lambda: sandbox.counts().get("ses", 0) > 400, "bulk to run")
    for _ in range(10):
        alerts = sinks.requests(10, [f"urgent{n}@gmail.com" for n in range(10)], lane="urgent", **fields)
        sinks.deliver(alerts)
        wait_for(lambda alerts=alerts: settled(sinks, alerts), "the alerts")
        if sandbox.counts()["ses"] > 8_000:
            break  # so slow is this machine
    assert sandbox.counts()["ses"] < 15_000, "the alerts did not wait for the bulk before them"
    before = sandbox.counts()["ses"]
    wait_for(lambda: sandbox.counts()["ses"] - before > 100, "bulk to go on")
    throttled = [line for line in sandbox.lines() if line["outcome"] == "throttled"]
    assert len(throttled) < 200, "the rate is kept, so the provider hardly ever refuses"
    remaining = states(sinks, "email")
    assert remaining["claimed"] <= WINDOW["bulk"] + 3 * BATCH["bulk"], "memory is bounded, whatever waits"
    assert remaining["unknown"] == 0
