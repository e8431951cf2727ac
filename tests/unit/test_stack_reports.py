"""What the local stack says: failures with their cause, counted endings, Kafka's tools, and leftovers."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from deploy.stack import artifacts, orphans, tools
from deploy.stack.control import say_untaken
from deploy.stack.errors import StackError
from deploy.stack.layout import Layout
from deploy.stack.report import Report, died, tail
from deploy.stack.status import state_text
from deploy.stack.supervision import Endings, State


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A home with its folders."""
    made = Layout.at(tmp_path / "home")
    made.make_folders()
    return made


@pytest.mark.parametrize(
    ("log", "advice"),
    [
        ("java.io.IOException: No space left on device", "the disk is full"),
        ("FATAL: could not bind: Address already in use", "its port was taken"),
        ("java.lang.OutOfMemoryError: Java heap space", "too little memory"),
        ("ImportError: no module named x", "mend what its log says"),
    ],
)
def test_dying_program_is_named_with_its_log_and_what_to_do(layout: Layout, log: str, advice: str) -> None:
    """The error names the program, how it ended, what helps, and shows the end of its log."""
    layout.log("kafka").write_text(f"first line\n{log}\n")
    text = str(died(layout, "kafka", "keeps ending (exit status 1)"))
    assert text.startswith("kafka keeps ending (exit status 1); ")
    assert advice in text
    assert log in text


def test_tail_is_short(layout: Layout) -> None:
    """Only the last lines of a long log are shown."""
    layout.log("edge").write_text("".join(f"{number}\n" for number in range(10_000)))
    assert tail(layout.log("edge"), 2) == ["9998", "9999"]
    assert tail(layout.log("nothing")) == []


def test_endings_are_counted_from_when_waiting_began(layout: Layout) -> None:
    """What ended before is not held against a program, what follows is, with the reason."""
    log = layout.supervisor_log
    log.write_text("INFO supervisord started with pid 1\nWARN exited: kafka (exit status 1; not expected)\n")
    endings = Endings(log)
    endings.read()
    assert endings.counts["kafka"] == 0
    with log.open("a") as file:
        file.write("WARN exited: kafka (terminated by SIGKILL; not expected)\nINFO stopped: edge (exit status 0)\n")
    endings.read()
    assert (endings.counts["kafka"], endings.last["kafka"], endings.counts["edge"]) == (1, "terminated by SIGKILL", 0)


def test_restarts_are_those_of_this_supervisor(layout: Layout) -> None:
    """Counting from the start of the log forgets earlier runs."""
    lines = (
        "WARN exited: kafka (exit status 1; x)",
        "INFO supervisord started with pid 1",
        "INFO exited: edge (exit status 0; x)",
    )
    layout.supervisor_log.write_text("\n".join(lines) + "\n")
    endings = Endings(layout.supervisor_log, from_start=True)
    endings.read()
    assert dict(endings.counts) == {"edge": 1}


STEADY = "INFO success: edge entered RUNNING state, process has stayed up for > than 5 seconds (startsecs)\n"
ENDED = "WARN exited: edge (terminated by SIGKILL; not expected)\n"
BY_HAND = "WARN stopped: edge (terminated by SIGTERM)\n"


@pytest.mark.parametrize(
    ("log", "state", "said"),
    [
        ("", "STARTING", "starting"),
        (STEADY + ENDED, "STARTING", "restarting"),
        (STEADY + ENDED, "EXITED", "restarting"),
        (STEADY + ENDED + STEADY + BY_HAND, "STARTING", "restarting"),
        (STEADY + ENDED + ENDED, "STARTING", "failing"),
        (ENDED, "BACKOFF", "failing"),
        (ENDED, "STARTING", "failing"),
        (ENDED + BY_HAND, "STARTING", "restarting"),
        (STEADY + ENDED + STEADY, "RUNNING", "running"),
        (STEADY + BY_HAND, "STOPPED", "stopped"),
    ],
)
def test_failing_is_what_ends_before_it_has_started(layout: Layout, log: str, state: str, said: str) -> None:
    """One that ended once and is started again is restarting, and so is one that somebody starts."""
    layout.supervisor_log.write_text(log)
    endings = Endings(layout.supervisor_log, from_start=True)
    endings.read()
    assert state_text(State("edge", "newswire", state, 1, 0, 0, ""), endings) == said


def test_settings_of_the_shell_that_a_start_does_not_take_are_named(layout: Layout) -> None:
    """One process shares them with all, so only `make up` takes them."""
    layout.process_env.write_text("NEWSWIRE_TEMPLATES=/kept\nNEWSWIRE_SHARDS=2\n")
    said = io.StringIO()
    given = {"NEWSWIRE_TEMPLATES": "/other", "NEWSWIRE_SHARDS": "2", "NEWSWIRE_LEDGER_DATABASE_URL": "x"}
    say_untaken(layout, given, Report(Console(file=said, width=200)))
    assert "NEWSWIRE_TEMPLATES of this shell not taken: `make up`" in said.getvalue()
    assert "SHARDS" not in said.getvalue()


@pytest.fixture
def found(tmp_path: Path) -> artifacts.Artifacts:
    """A folder with one jar."""
    (tmp_path / "jars" / "kafka").mkdir(parents=True)
    (tmp_path / "jars" / "kafka" / "kafka.jar").touch()
    return artifacts.Artifacts(tmp_path / "jars", tmp_path / "bin" / "java")


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        (["topics"], ["org.apache.kafka.tools.TopicCommand", "--bootstrap-server", "b:1", "--list"]),
        (["groups", "--describe", "--group", "g"], ["--bootstrap-server", "b:1", "--describe", "--group", "g"]),
        (["topics", "--help"], ["org.apache.kafka.tools.TopicCommand", "--help"]),
        (
            ["offsets", "--bootstrap-server", "c:2", "--topic", "t"],
            ["org.apache.kafka.tools.GetOffsetShell", "--bootstrap-server", "c:2", "--topic", "t"],
        ),
    ],
)
def test_kafka_tool_gets_the_stacks_brokers(found: artifacts.Artifacts, words: list[str], ends: list[str]) -> None:
    """Brokers are added unless they are given or help is asked for; without arguments a tool lists."""
    assert tools.command(words, "b:1", None, found)[-len(ends) :] == ends


def test_dump_of_a_topic_finds_its_segments(found: artifacts.Artifacts, tmp_path: Path) -> None:
    """TOPIC PARTITION stands for the files on this machine's disk."""
    segment = tmp_path / "kafka" / "newswire.publications-3" / "00.log"
    segment.parent.mkdir(parents=True)
    segment.touch()
    words = tools.command(["dump", "newswire.publications", "3"], "", tmp_path, found)
    assert words[-3:] == ["--files", str(segment), "--print-data-log"]
    with pytest.raises(StackError, match=r"there is no .*publications-4"):
        tools.command(["dump", "newswire.publications", "4"], "", tmp_path, found)


def test_unknown_kafka_tool_is_refused(found: artifacts.Artifacts) -> None:
    """The message lists those that there are."""
    with pytest.raises(StackError, match="there is no tool top: it is one of topics, groups"):
        tools.command(["top"], "b:1", None, found)


def test_leftovers_are_found_by_their_environment_and_stopped(layout: Layout) -> None:
    """A process that supervisord had started is stopped; a shell that merely knows the home is not touched."""
    program = [sys.executable, "-c", "print(flush=True); import time; time.sleep(60)"]
    home = {"NEWSWIRE_HOME": str(layout.home)}
    left = subprocess.Popen(program, env={**home, "SUPERVISOR_PROCESS_NAME": "alerts"}, stdout=subprocess.PIPE)
    shell = subprocess.Popen(program, env=home, stdout=subprocess.PIPE)
    try:
        for process in (left, shell):
            assert process.stdout is not None
            process.stdout.readline()
        assert orphans.find(layout) == {left.pid: "alerts"}
        assert orphans.stop(layout) == ["alerts"]
        assert left.wait(5) == -signal.SIGTERM
        assert shell.poll() is None
    finally:
        for process in (left, shell):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def test_memory_of_this_process_is_measured() -> None:
    """A Python process has some megabytes; one that is gone has none."""
    assert orphans.memory_bytes(os.getpid()) > 5_000_000
    assert orphans.memory_bytes(2**22 + 1) == 0
