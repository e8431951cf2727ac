"""Commands that stop and resume sending: everything, a channel or a source; and the list of what is stopped."""

from typing import TYPE_CHECKING, Any

import click

from core.errors import InputError
from core.names import CHANNELS
from edge.newsletters import defined_newsletters
from edge.publishing import one_event
from runtime.output import Output
from runtime.settings import Settings

if TYPE_CHECKING:
    from edge.writing import Log


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
        if action == "resume" and control_id not in _stopped(log):
            return {"control_id": control_id, "action": action, "was_stopped": False}
        now, actor = log.clock.now(), log.settings.actor
        fields = {"control_id": control_id, "action": action, "reason": reason, "changed_by": actor, "changed_at": now}
        log.write_one(one_event("ControlChanged", "control_id", log.topics.controls, fields))
    return {"control_id": control_id, "action": action}


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
    output.item(answer)
    if not answer.get("was_stopped", True):
        output.say("It was not stopped, so there is nothing to resume: `newswire stops` lists what is stopped.")
