"""Commands that stop and resume sending: everything, a channel or a source; and the list of what is stopped."""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final, LiteralString

import click

from core.errors import InputError, SetupError, Unavailable
from core.names import CHANNELS
from edge.newsletters import defined_newsletters
from edge.publishing import one_event
from runtime.output import Output, plain
from runtime.settings import Settings

if TYPE_CHECKING:
    from edge.writing import Log

Held = Iterable[tuple[str, str, int]]
"""Channel, source and number of deliveries that a stop holds."""

_HELD: Final[LiteralString] = """
SELECT channel, source_id, count(*) FROM ledger.deliveries
WHERE state = 'retry' AND reason IN ('stopped', 'canary') AND reason = 'stopped' GROUP BY channel, source_id
"""
"""The first condition on the reason is that of the index (sinks/sql/005_recall.sql)."""


def _control(action: str, scope: str, name: str | None, reason: str) -> dict[str, Any]:
    """Write a ControlChanged; return what was changed."""
    from edge.writing import Log

    if (scope == "all") != (name is None):
        raise InputError(f"scope: expected `{action} all`, `{action} channel NAME` or `{action} source ID`")
    if scope == "channel" and name not in CHANNELS:
        raise InputError(f"channel: {name!r} is none; expected one of {', '.join(CHANNELS)}")
    control_id = scope if name is None else f"{scope}/{name}"
    with Log(Settings.load()) as log:
        if scope == "source":
            _check_source(log, name or "")
        stopped = _stopped(log) if action == "resume" else {}
        if action == "resume" and control_id not in stopped:
            return {"control_id": control_id, "action": action, "was_stopped": False}
        held = _held(log.settings) if action == "resume" else None
        now, actor = log.clock.now(), log.settings.actor
        fields = {"control_id": control_id, "action": action, "reason": reason, "changed_by": actor, "changed_at": now}
        log.write_one(one_event("ControlChanged", "control_id", log.topics.controls, fields))
    answer = {"control_id": control_id, "action": action}
    return answer if held is None else answer | what_goes_on(held, control_id, stopped)


def _held(settings: Settings) -> Held | None:
    """Return what stops hold, by the ledger; None when it cannot be asked, because a resume does not depend on it."""
    import psycopg

    from runtime.postgres import connect

    if not settings.ledger_database_url:
        return None
    try:
        with connect(settings.ledger_database_url) as connection:
            return connection.execute(_HELD).fetchall()
    except (Unavailable, SetupError, psycopg.Error):
        return None


def what_goes_on(held: Held, control_id: str, stopped: Collection[str]) -> dict[str, Any]:
    """Return by channel how many deliveries the end of a stop lets go, and how many another one of these holds still. Pure."""
    goes_on, still_held = Counter[str](), 0
    for channel, source_id, count in held:
        holding = {"all", f"channel/{channel}", f"source/{source_id}", f"source/{source_id.partition('@')[0]}"} & set(stopped)
        if holding == {control_id}:
            goes_on[channel] += count
        elif control_id in holding:
            still_held += count
    return {"goes_on": dict(sorted(goes_on.items())), "still_held": still_held}


def _stopped(log: "Log") -> dict[str, dict[str, Any]]:
    """Return the newest ControlChanged of all that is stopped, by control_id."""
    last = {e.key: e.value for e in log.read_all(log.partitions(log.topics.controls)) if e.name == "ControlChanged"}
    return {key: value for key, value in sorted(last.items()) if value["action"] == "stop"}


def _check_source(log: "Log", name: str) -> None:
    """Refuse what is no alert_id and names no newsletter: a stop with a typing error would stop nothing and look well."""
    from core.checks import uuid as is_no_uuid

    if is_no_uuid(name) is None:
        return
    newsletters = [definition["newsletter_id"] for definition in defined_newsletters(log).all()]
    if name.partition("@")[0] not in newsletters:
        known = ", ".join(newsletters) or "none"
        raise InputError(f"source: {name!r} is no alert_id, and there is no such newsletter; known are: {known}")


_SCOPE = click.argument("scope", type=click.Choice(["all", "channel", "source"]))


@click.command(epilog='Example: newswire stop channel slack --reason "The workspace is being moved"')
@_SCOPE
@click.argument("name", required=False)
@click.option("--reason", required=True, help="Why, for people.")
@click.pass_obj
def stop(output: Output, scope: str, name: str | None, reason: str) -> None:
    """Stop sending: all, one channel, or one source (an alert_id, a newsletter_id, or newsletter_id@minute).

    No call begins later than 2 s after this command has ended. What waits is held until it is resumed, or not worth sending.
    """
    output.item(_control("stop", scope, name, reason))


@click.command(epilog="Example: newswire stops")
@click.pass_obj
def stops(output: Output) -> None:
    """List what is stopped now, since when, by whom and why."""
    from edge.writing import Log

    with Log(Settings.load()) as log:
        found = _stopped(log)
    columns = ["control_id", "changed_at", "changed_by", "reason"]
    output.table("Stopped", columns, [tuple(value[name] for name in columns) for value in found.values()])


@click.command(epilog='Example: newswire resume channel slack --reason "Moved"')
@_SCOPE
@click.argument("name", required=False)
@click.option("--reason", required=True, help="Why, for people.")
@click.pass_obj
def resume(output: Output, scope: str, name: str | None, reason: str) -> None:
    """Send what was stopped, as far as it is still worth sending, and go on."""
    answer = _control("resume", scope, name, reason)
    output.item(answer if output.json_mode else {name: answer[name] for name in ("control_id", "action")})
    if not answer.get("was_stopped", True):
        output.say("It was not stopped, so there is nothing to resume: `newswire stops` lists what is stopped.")
    elif "goes_on" in answer:
        output.say(_in_words(answer["goes_on"], answer["still_held"]))


def _in_words(goes_on: dict[str, int], still_held: int) -> str:
    total = sum(goes_on.values())
    by = ", ".join(f"{channel} {plain(count)}" for channel, count in goes_on.items())
    what = f"{plain(total)} held {'delivery goes' if total == 1 else 'deliveries go'} on within seconds ({by})" if total else ""
    still = f"{plain(still_held)} {'stays' if still_held == 1 else 'stay'} held by another stop (`newswire stops`)"
    said = "; ".join(part for part in (what, still if still_held else "") if part)
    return f"{said or 'It held nothing so far'}. What comes from now on is sent."
