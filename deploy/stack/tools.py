"""`bin/kafka`: Kafka's own command-line tools, from the stack's jars, against the stack's brokers."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from core.errors import Unavailable
from deploy.stack import artifacts
from deploy.stack.artifacts import HERE, Artifacts
from deploy.stack.environment import KAFKA
from deploy.stack.errors import StackError
from deploy.stack.layout import CHECKOUT, Layout, read_env
from runtime.reach import require_kafka

TOOLS: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "topics": ("org.apache.kafka.tools.TopicCommand", ("--list",), "list, describe, create, delete topics"),
    "groups": (
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        ("--list",),
        "list, describe, reset, delete consumer groups",
    ),
    "offsets": ("org.apache.kafka.tools.GetOffsetShell", (), "end (or earliest) offsets of topics"),
    "dump": ("org.apache.kafka.tools.DumpLogSegments", (), "the records of a log segment, as they are on disk"),
    "configs": ("kafka.admin.ConfigCommand", ("--describe", "--entity-type", "topics"), "describe and alter configuration"),
    "consume": ("org.apache.kafka.tools.consumer.ConsoleConsumer", (), "print records of a topic (raw bytes: values are Avro)"),
    "produce": ("org.apache.kafka.tools.ConsoleProducer", (), "produce lines of text to a topic"),
    "acls": ("org.apache.kafka.tools.AclCommand", ("--list",), "list and change access rules"),
    "transactions": ("org.apache.kafka.tools.TransactionsCommand", ("list",), "list, describe, abort transactions"),
}
"""By name: Kafka's main class, its arguments when none are given, and what it is for."""

HELP = """usage: bin/kafka TOOL [ARGUMENTS OF KAFKA'S TOOL]

{tools}

`bin/kafka TOOL --help` shows the tool's own help. Brokers: KAFKA_BOOTSTRAP_SERVERS, else those of the stack in the
nearest .newswire (or NEWSWIRE_HOME). Examples:

  bin/kafka topics                                              list topics
  bin/kafka topics --describe --topic newswire.publications
  bin/kafka groups --describe --group newswire.approval         where a group is, and how far behind
  bin/kafka offsets --topic newswire.delivery-status            how many records a topic has had
  bin/kafka dump newswire.publications 3                        the records of partition 3, from the stack's disk

A group can be reset while none of its processes runs; running again is safe, nothing is sent twice:

  make stop P=projections
  bin/kafka groups --reset-offsets --to-earliest --all-topics --group newswire.projection.NAME --execute
  make start P=projections
"""


def command(arguments: Sequence[str], bootstrap_servers: str, home: Path | None, found: Artifacts) -> list[str]:
    """Return the command line of a tool; StackError when the tool is not one of TOOLS or its segment is not there."""
    name, rest = arguments[0], list(arguments[1:])
    if name not in TOOLS:
        raise StackError(f"there is no tool {name}: it is one of {', '.join(TOOLS)}; `bin/kafka --help` has examples.")
    main, default, _ = TOOLS[name]
    rest = rest or list(default)
    if name == "dump":
        rest = _segments(rest, home)
    elif "--help" not in rest and "--bootstrap-server" not in rest and "--bootstrap-controller" not in rest:
        rest = ["--bootstrap-server", bootstrap_servers, *rest]
    cache = found.class_cache("kafka")
    return [
        str(found.java),
        "-Xmx256m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xlog:disable",
        "-Xlog:all=error:stderr",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        *([f"-XX:AOTCache={cache}"] if cache.is_file() else []),
        f"-Dlog4j2.configurationFile={HERE / 'log4j2-tools.properties'}",
        "-cp",
        found.kafka_classpath,
        main,
        *rest,
    ]


def _segments(arguments: list[str], home: Path | None) -> list[str]:
    """Turn `TOPIC PARTITION` into the files of that partition; Kafka's own arguments stay as they are."""
    if not arguments:
        raise StackError(
            "dump needs a topic and a partition, such as `bin/kafka dump newswire.publications 0`, or Kafka's --files."
        )
    if arguments[0].startswith("--"):
        return arguments
    partition = arguments[1] if len(arguments) > 1 and not arguments[1].startswith("--") else "0"
    folder = (home or Path()) / "kafka" / f"{arguments[0]}-{partition}"
    files = sorted(folder.glob("*.log"))
    if home is None or not files:
        raise StackError(
            f"there is no {folder} with log segments: `bin/kafka topics` lists topics, and dump reads this machine's own stack."
        )
    rest = [word for word in arguments[1:] if word != partition]
    return ["--files", ",".join(str(file) for file in files), *(rest or ["--print-data-log"])]


def home_of(environ: Mapping[str, str]) -> Path | None:
    """Return the home of the stack that is meant: NEWSWIRE_HOME, else the nearest one, else this checkout's."""
    if environ.get("NEWSWIRE_HOME"):
        return Path(environ["NEWSWIRE_HOME"]).resolve()
    here = Path.cwd()
    return next(
        (folder / ".newswire" for folder in (here, *here.parents, CHECKOUT) if (folder / ".newswire" / "stack.env").is_file()),
        None,
    )


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Become Kafka's tool; returns an exit code only when that is not possible."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(tools="\n".join(f"  {name:<14} {tool[2]}" for name, tool in TOOLS.items())))
        return 0
    home = home_of(environ)
    brokers = environ.get(KAFKA) or (read_env(Layout(home).stack_env).get(KAFKA, "") if home else "")
    try:
        if not brokers and arguments[0] != "dump":
            raise StackError(f"no stack is up here: run `make up`, or set {KAFKA}.")
        words = command(arguments, brokers, home, artifacts.ensure(environ))
        if brokers in words:
            require_kafka(brokers)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except Unavailable as error:
        print(f"error: {error}. Is the stack up? Start it with `make up`.", file=sys.stderr)
        return 4
    return _become(words)


def _become(words: list[str]) -> NoReturn:
    os.execv(words[0], words)  # noqa: S606 - a fixed program, no shell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
