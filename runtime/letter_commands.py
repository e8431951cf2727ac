"""`newswire dlq`: list, show, redrive and discard dead letters."""

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from core.errors import CodecError, InputError
from runtime.options import DRY_RUN, REASON, reason_for
from runtime.output import Output
from runtime.settings import Settings

if TYPE_CHECKING:
    from runtime.letters import Answer, Choice, Letter, LetterBox

_FILTERS = (
    click.option("--topic", help="Only letters of this topic, without the prefix, such as deliveries.email.bulk."),
    click.option("--code", help="Only letters with this reason, such as truncated or refused."),
    click.option("--since", help="Only what failed at this time or later, such as 2026-11-22T09:00Z."),
    click.option("--until", help="Only what failed before this time."),
)
Command = Callable[..., Any]
SHOWN = 50
"""Most answers that people are shown one by one."""


def _filtered(command: Command) -> Command:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def _instant(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise InputError(f"{option} {text!r} is no time with a zone: write it as 2026-11-22T09:00Z.")
    return at


def _choice(filters: dict[str, Any], state: str | None = "open") -> "Choice":
    from runtime.letters import Choice

    since, until = _instant("--since", filters["since"]), _instant("--until", filters["until"])
    return Choice(filters["topic"], filters["code"], since, until, state)


@click.group("dlq")
def dlq() -> None:
    """Dead letters: what could not be handled, and what to do with it."""


@dlq.command("list", epilog="Example: newswire dlq list --topic subscribers --code wrong_type")
@_filtered
@click.option(
    "--state", type=click.Choice(["open", "redriven", "discarded", "all"]), default="open", show_default=True, help="Their state."
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Most letters shown, the newest.")
@click.pass_obj
def list_(output: Output, /, state: str, limit: int, **filters: Any) -> None:
    """List dead letters of the last 30 days: those that nobody has handled yet, unless --state says otherwise."""
    from runtime.letters import LetterBox

    with LetterBox(Settings.load()) as box:
        total, newest = 0, deque["Letter"](maxlen=limit)
        for letter in box.find(_choice(filters, None if state == "all" else state)):
            total += 1
            newest.append(letter)
    columns = ["id", "original", "refused_by", "reason", "attempts", "first_at", "last_at", "state", "detail"]
    rows = [
        (
            each.id, f"{each.topic}/{each.partition}@{each.offset}", each.process or None, each.reason, each.attempts,
            each.first_at, each.last_at, each.state, each.detail,
        )
        for each in sorted(newest, key=lambda letter: letter.last_at)
    ]  # fmt: skip
    output.table("Dead letters", columns, rows)
    if total > limit:
        output.say(f"These are {limit} of {total}: narrow the choice, or give a higher --limit.")


@dlq.command("show", epilog="Example: newswire dlq show deliveries.email.bulk/0/17 --bytes original.avro")
@click.argument("letter_id")
@click.option("--bytes", "file", help="Write the original value to this file, as it came.")
@click.pass_obj
def show(output: Output, letter_id: str, file: str | None) -> None:
    """Show one dead letter: the original record, why it is here, what it would be now, and what became of it."""
    from pathlib import Path

    from runtime.letters import LetterBox

    with LetterBox(Settings.load()) as box:
        (letter,) = box.get([letter_id])
        fields: dict[str, Any] = {
            "id": letter.id, "state": letter.state, "topic": letter.topic, "partition": letter.partition,
            "offset": letter.offset, "refused_by": letter.process or None, "reason": letter.reason,
            "detail": letter.detail, "attempts": letter.attempts,
            "first_at": letter.first_at, "last_at": letter.last_at, "encrypted": letter.sealed is not None,
        }  # fmt: skip
        if letter.mark is not None:
            fields |= {"handled_at": letter.mark.at, "handled_by": letter.mark.by, "handled_why": letter.mark.why}
        try:
            raw, event = box.read(letter)
        except InputError as error:
            output.item({**fields, "original": f"cannot be read: {error}"})
            return
    fields["key"] = _text(raw.key)
    fields["headers"] = {name: _text(data) for name, data in raw.headers}
    fields["bytes"] = None if raw.value is None else len(raw.value)
    fields["now"] = f"{event.code}: {event}" if isinstance(event, CodecError) else event.name
    fields["value"] = _text(raw.value) if isinstance(event, CodecError) else _without_bytes(event.value)
    if file is not None:
        Path(file).write_bytes(raw.value or b"")
    output.item(fields)


def _without_bytes(value: Any) -> Any:
    """Return an event's value with its encrypted fields left out."""
    if isinstance(value, dict):
        return {name: _without_bytes(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_bytes(each) for each in value]
    return "(encrypted)" if isinstance(value, bytes) else value


def _text(data: bytes | None, at_most: int = 400) -> str | None:
    """Return bytes for people: text as it is, other bytes in hex; cut at 400 bytes."""
    if data is None:
        return None
    shown, cut = data[:at_most], f"... {len(data)} bytes" if len(data) > at_most else ""
    try:
        text = shown.decode()
    except UnicodeDecodeError:
        text = ""
    return (text if text.isprintable() and text else shown.hex()) + cut


_IDS = click.argument("letter_ids", nargs=-1, metavar="[LETTER_ID]...")


@dlq.command(
    "redrive",
    epilog="""\b
Examples:
  newswire dlq redrive deliveries.email.bulk/0/17 --reason "The schema is registered now"
  newswire dlq redrive --topic publications --code unknown_schema --dry-run""",
)
@_IDS
@_filtered
@REASON
@DRY_RUN
@click.pass_obj
def redrive(output: Output, /, letter_ids: tuple[str, ...], reason: str | None, dry_run: bool, **filters: Any) -> None:
    """Send the originals of open letters to their topic again: those named, or all that the filters choose.
    They go the ordinary way: consent, suppression, expiry and recall are looked at anew, and what was sent is not sent again.
    A letter whose original would be refused at once stays open, and so does one of subscribers or controls after which the same
    subscriber, stop or resume has a later event, for that would be undone; then the exit code is 1.
    """
    settings, why = Settings.load(), reason_for(reason, dry_run)
    _act(
        output, settings, letter_ids, filters, "sent again", dry_run,
        lambda box, letters: box.redrive(letters, by=settings.actor, why=why, dry_run=dry_run),
    )  # fmt: skip


@dlq.command("discard", epilog='Example: newswire dlq discard engagements/0/3 --reason "Garbage of a load test"')
@_IDS
@_filtered
@REASON
@DRY_RUN
@click.pass_obj
def discard(output: Output, /, letter_ids: tuple[str, ...], reason: str | None, dry_run: bool, **filters: Any) -> None:
    """Close open letters without sending them again: those named, or all that the filters choose.

    The other letters of the same records, which other processes wrote, are closed with them. All stay on record with who
    did it and why.
    """
    settings, why = Settings.load(), reason_for(reason, dry_run)
    _act(
        output, settings, letter_ids, filters, "discarded", dry_run,
        lambda box, letters: box.discard(box.with_others(letters), by=settings.actor, why=why, dry_run=dry_run),
    )  # fmt: skip


def _act(
    output: Output, settings: Settings, letter_ids: tuple[str, ...], filters: dict[str, Any], word: str, dry_run: bool,
    action: "Callable[[LetterBox, Iterable[Letter]], Iterable[Answer]]",
) -> None:  # fmt: skip
    """Do something with letters and print an answer for each; ends with 1 when one was refused."""
    from runtime.letters import LetterBox

    if bool(letter_ids) == any(filters.values()):
        raise InputError(
            "Name letters by their ids, or choose them with --topic, --code, --since and --until; one of both. "
            "`newswire dlq list` shows them."
        )
    with LetterBox(settings) as box:
        letters: Iterable[Letter] = box.get(letter_ids) if letter_ids else box.find(_choice(filters))
        answers = [(answer.letter.id, answer.done, answer.detail) for answer in action(box, letters)]
    done = f"would be {word}" if dry_run else word
    rows = [(one, done if ok else "refused", detail) for one, ok, detail in answers]
    if output.json_mode or len(rows) <= SHOWN:
        output.table("", ["id", "answer", "detail"], rows)
    else:
        counts = Counter((answer, detail) for _, answer, detail in rows)
        output.table("", ["answer", "detail", "letters"], [(*what, count) for what, count in counts.most_common()])
    if not answers:
        output.say("No open dead letter was chosen.")
    if not all(ok for _, ok, _ in answers):
        sys.exit(1)
