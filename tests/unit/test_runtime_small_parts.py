"""The runtime's parts that need no server: failpoints, backoff, batches, dead letters, logs."""

import asyncio
import io
import json
import logging
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.errors import EventRefused, TrailingBytes
from runtime import failpoints, logs
from runtime.batches import Batcher
from runtime.deadletters import letter_of, reason_of
from runtime.retry import CAP_S, backoff
from runtime.settings import Settings
from schemas.partition import partition_for
from schemas.records import Raw
from schemas.topics import Topics

AT = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _disarmed() -> object:
    yield
    failpoints.configure("")


def test_a_failpoint_acts_at_its_hit_and_in_its_process_only() -> None:
    """raise@2 acts at the second hit; an entry of another process does nothing; unnamed points do nothing."""
    failpoints.configure("here=raise@2, other:there=raise, mine:inner=raise", "mine")
    failpoints.hit("here")
    failpoints.hit("there")
    failpoints.hit("unnamed")
    with pytest.raises(failpoints.FailpointError):
        failpoints.hit("here")
    failpoints.hit("here")
    with pytest.raises(failpoints.FailpointError):
        failpoints.hit("inner")


def test_a_file_arms_a_running_process_and_is_disarmed_before_the_kill(tmp_path: Path) -> None:
    """The process reads the file again, dies once, and the one that comes after it passes."""
    armed = tmp_path / "points"
    arm = f"from runtime import failpoints as f; f.configure('@{armed}'); print('up', flush=True)"
    script = f"{arm}; input(); f.hit('x'); print('past')"
    armed.write_text("")
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    armed.write_text("x=kill\ny=raise")
    process.communicate(b"\n", timeout=90)
    assert process.returncode == -signal.SIGKILL
    assert armed.read_text() == "y=raise"
    again = subprocess.run([sys.executable, "-c", script], input=b"\n", capture_output=True, timeout=90, check=True)
    assert again.stdout == b"up\npast\n"


async def test_a_sleeping_failpoint_leaves_the_loop_free() -> None:
    """hit_async sleeps with the loop's sleep."""
    failpoints.configure("x=sleep:0.05")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.005)

    task = asyncio.create_task(tick())
    await failpoints.hit_async("x")
    task.cancel()
    assert ticks >= 2


def test_backoff_grows_to_its_cap_with_full_jitter() -> None:
    """The ceiling doubles from 0.1 s and stays at 5 s; the floor is 0."""
    highest = [backoff(attempt, uniform=lambda low, high: high) for attempt in range(1, 12)]
    assert highest[:4] == [0.1, 0.2, 0.4, 0.8]
    assert highest[-1] == CAP_S
    assert backoff(5, uniform=lambda low, high: low) == 0.0
    assert 0.0 <= backoff(10**6) <= CAP_S


async def test_batches_are_full_or_old_enough_and_in_order() -> None:
    """Five items with at most two a batch come as 2, 2 and, after the time, 1."""
    batches: list[list[int]] = []

    async def handle(items: list[int]) -> None:
        await asyncio.sleep(0)
        batches.append(items)

    batcher = Batcher(handle, 2, 0.02, lambda error: pytest.fail(str(error)))
    for item in range(5):
        await batcher.add(item)
    assert batches == [[0, 1], [2, 3]]
    while len(batches) < 3:
        await asyncio.sleep(0.005)
    assert batches[-1] == [4]


async def test_what_a_late_batch_raises_is_reported() -> None:
    """Nobody awaits a batch that time completes, so its error goes to the callback."""
    errors: list[BaseException] = []

    async def handle(items: list[int]) -> None:
        raise ZeroDivisionError

    await Batcher(handle, 2, 0.001, errors.append).add(1)
    while not errors:
        await asyncio.sleep(0.005)
    assert isinstance(errors[0], ZeroDivisionError)


def test_a_dead_letter_keeps_the_original_and_says_why() -> None:
    """Key, value and headers as they came; a tombstone is told apart from an empty value."""
    topics = Topics("t", 4)
    raw = Raw(topics.engagements, 3, 17, b"key", b"\x00bytes", (("a", b"1"),), 0)
    record = letter_of(topics, raw, *reason_of(TrailingBytes("2 bytes")), 1, AT, AT)
    assert (record.topic, record.key, record.value) == (f"{topics.engagements}.dlq", b"key", b"\x00bytes")
    assert record.partition == partition_for(b"key", topics.spec(record.topic).partitions)
    headers = dict(record.headers)
    assert record.headers[0] == ("a", b"1")
    assert headers["dlq.reason"] == b"trailing_bytes"
    assert (headers["dlq.topic"], headers["dlq.partition"], headers["dlq.offset"]) == (raw.topic.encode(), b"3", b"17")
    assert "dlq.tombstone" not in headers
    none = letter_of(topics, Raw(raw.topic, 3, 18, None, None, (), 0), *reason_of(EventRefused("E", "f", "no")), 2, AT, AT)
    assert (none.value, dict(none.headers)["dlq.tombstone"]) == (b"", b"true")
    assert dict(none.headers)["dlq.reason"] == b"refused"
    assert dict(none.headers)["dlq.detail"] == b"E.f: no"


def test_a_log_line_is_json_and_a_noisy_client_is_limited(capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line with a traceback where there is one; the same text of aiokafka comes once in 5 s."""
    before = logging.getLogger().handlers[:]
    stream = io.StringIO()
    try:
        logs.configure(Settings(), "worker", human=False)
        handler = logging.getLogger().handlers[0]
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(stream)
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            logging.getLogger("x").exception("it %s", "failed")
        for _ in range(5):
            logging.getLogger("aiokafka.client").error("broker %s is away", 1)
    finally:
        logging.getLogger().handlers[:] = before
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["it failed", "broker 1 is away"]
    assert lines[0]["process"] == "worker"
    assert "ZeroDivisionError" in lines[0]["traceback"]
