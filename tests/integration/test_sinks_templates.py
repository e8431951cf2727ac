"""What was decided is what is sent: subject and template of a mail, whatever the newsletter is by then; and what became of it."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.rendering.catalogue import ALERT, SHIPPED
from core.rendering.templating import MailTemplate
from runtime.templates import read_folder
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import Process, World, records_of, wait_for, world
from tests.unit.test_templates import MJML, files, folder_of

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox

FAILING = MJML.replace("[[ title ]]</a>", "[[ title ]]</a>[% if '(odd)' in title %][[ title.no.such ]][% endif %]")
"""Sound by all that can be told beforehand, and no message can be made from it for one publication."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Templates of one's own."""
    return folder_of(tmp_path_factory.mktemp("folder"), FAILING)


@pytest.fixture(scope="module")
def sinks(
    stack: Stack, sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> Iterator[World]:
    """Topics and databases, with consent running."""
    with world(
        stack, tmp_path_factory.mktemp("templates"), ses_endpoint_url=f"{sandbox_process.url}/ses",
        slack_base_url=f"{sandbox_process.url}/slack/api/", templates=str(folder), sweep_interval_s=0.3,
    ) as one:  # fmt: skip
        one.define_newsletter("tried", audience_languages=["de"])
        one.define_newsletter("older", template="gone-since")
        one.start("consent")
        yield one


@pytest.fixture(scope="module")
def ses(sinks: World) -> list[Process]:
    """The bulk mail sink, in a list, so that a test can put another in its place."""
    return [sinks.start("ses-bulk")]


def mails(sandbox: SandboxProcess, count: int) -> list[dict[str, Any]]:
    """The bodies of all mails, once there are so many."""

    def there() -> list[dict[str, Any]]:
        found = sandbox.ask("/inbox/messages?channel=email&limit=100")["messages"]
        return found if len(found) == count else []

    return [message["body"] for message in wait_for(there, f"{count} mails")]


def ledger(sinks: World, request: dict[str, Any], columns: str) -> tuple[Any, ...]:
    """Columns of a delivery's row; empty before there is one."""
    rows = sinks.ledger(f"SELECT {columns} FROM ledger.deliveries WHERE delivery_id = %s", request["delivery_id"][9:])
    return rows[0] if rows else ()


def settled(sinks: World, request: dict[str, Any], state: str) -> None:
    """Wait until a delivery is in a state, and that is reported."""
    wait_for(lambda: ledger(sinks, request, "state, reported_at IS NOT NULL") == (state, True), f"it to be {state}")


def test_subject_and_template_are_those_that_were_decided(sinks: World, ses: list[Process], sandbox: SandboxProcess) -> None:
    """Not those of the newest definition, whose sender counts; a call never mixes templates; one that is gone stops nothing."""
    item = sinks.publish()
    sinks.define_newsletter(
        "tried", revision=2, subject="Not decided", template="newsletter", audience_languages=["de"],
        from_name="Newest", reply_to="desk@newswire.example", postal_address="2 Other Street",
    )  # fmt: skip
    wanted: dict[str, tuple[dict[str, Any], str, str, str]] = {}
    for newsletter_id, decided, name, language, template, subject, words in (
        ("tried", "{title}", "newsletter", "en", "newsletter", "Result", "One pick for you"),
        ("tried", "In short: {title}", "digest", "en", "digest", "In short: Result", "One pick for you"),
        ("tried", "In short: {title}", "digest", "fr", "digest", "In short: Result", "Ein Beitrag für dich"),
        ("older", "{title}", "gone-since", "fr-CA", "newsletter", "Result", "One pick for you"),
    ):
        about = {"newsletter_id": newsletter_id, "subject": decided, "template": name, "language": language}
        for request in sinks.requests(10, items=[item], source_id=f"{newsletter_id}@2026-11-22T09:00Z", **about):
            wanted[request["delivery_id"]] = (request, template, subject, words)
    sinks.deliver([request for request, *_ in wanted.values()])

    for body in mails(sandbox, len(wanted)):
        request, template, subject, words = wanted[body["tags"]["delivery_id"]]
        assert body["tags"]["template"] == SHIPPED[template].id.replace("@", "_")
        assert body["subject"].startswith(subject)
        assert words in body["text"]
        assert ('class="bar"' in body["html"]) == (template == "newsletter"), "the layout is the template's too"
        assert ("Read it:" in body["text"] or "Lesen:" in body["text"]) == (template == "newsletter")
        assert ("2 Other Street" in body["text"], "Newest" in body["from"]) == ((request["newsletter_id"] == "tried",) * 2)
    settled(sinks, request, "sent")
    assert ledger(sinks, request, "template, error") == (SHIPPED[template].id, None)
    (status,) = (e.value for e in sinks.statuses() if e.value["delivery_id"] == request["delivery_id"])
    assert status["template"] == SHIPPED[template].id


def test_a_retry_in_another_process_sends_what_was_decided(sinks: World, ses: list[Process], sandbox: SandboxProcess) -> None:
    """Parked while its provider is out of order, redefined meanwhile, taken up by a new process: the old subject and template."""
    (request,) = sinks.requests(1, items=[sinks.publish()], newsletter_id="tried", source_id="tried@2026-11-22T10:00Z",
                                subject="Decided", template="digest")  # fmt: skip
    sandbox.fault("ses", "refuse", code="AccessDeniedException", status=403)
    sinks.deliver([request])
    wait_for(lambda: ledger(sinks, request, "state") == ("retry",), "it to be parked")
    ses.pop().stop()
    sinks.define_newsletter("tried", revision=3, subject="Not decided", template="newsletter")
    sandbox.ask("/control/faults", method="DELETE")
    sinks.ledger("UPDATE ledger.deliveries SET next_attempt_at = clock_timestamp() WHERE state = 'retry'")
    ses.append(sinks.start("ses-bulk"))
    (body,) = mails(sandbox, 1)
    assert (body["subject"], body["tags"]["template"]) == ("Decided", SHIPPED["digest"].id.replace("@", "_"))
    settled(sinks, request, "sent")
    (shown,) = sinks.command("delivery", "show", request["delivery_id"])
    assert shown["template"] == SHIPPED["digest"].id
    ends = [(s["what"], s.get("error"), s.get("template")) for s in shown["timeline"] if s["what"] in ("retry", "sent")]
    assert ends[0] == ("retry", "AccessDeniedException: Email contains invalid content.", SHIPPED["digest"].id)
    assert ends[-1] == ("sent", None, SHIPPED["digest"].id)


def test_a_template_that_fails_for_one_message_is_mended_while_the_sink_runs(
    sinks: World, ses: list[Process], sandbox: SandboxProcess, folder: Path
) -> None:
    """That message alone has failed, with the reason; a broken mend is refused, a sound one is taken, and a redrive sends it."""
    about = {"newsletter_id": "tried", "source_id": "tried@2026-11-22T11:00Z", "subject": "{title}", "template": "ours"}
    (odd,) = sinks.requests(1, items=[sinks.publish(title="An (odd) one")], **about)
    (plain,) = sinks.requests(1, items=[sinks.publish()], **about)
    failing, log = MailTemplate("ours", files(FAILING)), ses[-1].log
    sinks.deliver([odd, plain])
    settled(sinks, plain, "sent")
    settled(sinks, odd, "failed")
    assert sandbox.counts("delivery_id") == {plain["delivery_id"]: 1}
    state, reason, attempt, template, error = ledger(sinks, odd, "state, reason, attempt, template, error")
    assert (state, reason, attempt, template) == ("failed", "rendering", 0, failing.id)
    assert "has no attribute 'no'" in error
    (shown,) = sinks.command("delivery", "show", odd["delivery_id"])
    assert [step["error"] for step in shown["timeline"] if step["what"] == "failed"] == [error]

    folder_of(folder, FAILING.replace("[[ postal_address ]]", "[[ postal_adress ]]"))
    wait_for(lambda: "the templates stay as they were" in log.read_text(), "the broken folder to be refused")
    assert "postal_adress" in log.read_text()
    folder_of(folder, MJML)
    mended = MailTemplate("ours", {**files(), **read_folder(str(folder))})
    assert mended.id != failing.id
    wait_for(lambda: f"mail templates of the folder now: {mended.id}" in log.read_text(), "the folder to be read again")
    assert ses[-1].ended() is None
    whole = ["--source", about["source_id"], "--failed", "rendering", "--reason", "The template is mended"]
    (told,) = sinks.command("delivery", "retry", *whole)
    assert (told["answer"], told["deliveries"]) == ("given back", 1)
    settled(sinks, odd, "sent")
    assert ledger(sinks, odd, "template, error") == (mended.id, None)
    assert sandbox.counts("delivery_id") == {plain["delivery_id"]: 1, odd["delivery_id"]: 1}
    (shown,) = sinks.command("delivery", "show", odd["delivery_id"])
    ends = [(s["what"], s["template"]) for s in shown["timeline"] if s["what"] in ("failed", "sent")]
    assert ends == [("failed", failing.id), ("sent", mended.id)]


def test_what_a_provider_cannot_make_is_dead_and_told(sinks: World, ses: list[Process], sandbox: SandboxProcess) -> None:
    """SES's own rendering failure: one call, no loop; its words without the address, which stands nowhere in the ledger."""
    name = f"ada.{uuid.uuid4().hex[:6]}"
    (request,) = sinks.requests(1, [f"{name}@example.org"], items=[sinks.publish()], newsletter_id="tried")
    sandbox.fault("ses", "partial", code="FAILED", text=f"RenderingFailure: Attribute 'x' is missing for {name}@example.org")
    sinks.deliver([request])
    settled(sinks, request, "failed")
    assert ledger(sinks, request, "reason, attempt, error") == (
        "rendering", 1, "FAILED: RenderingFailure: Attribute 'x' is missing for [...]",
    )  # fmt: skip
    sandbox.ask("/control/faults", method="DELETE")
    whole = json.dumps(sinks.ledger("SELECT to_jsonb(d) FROM ledger.deliveries d"))
    assert name not in whole
    assert all(name.encode() not in (raw.value or b"") for raw in records_of(sinks.settings, sinks.topics.delivery_status))


def test_messages_of_other_channels_and_alerts_name_their_template_too(sinks: World, sandbox: SandboxProcess) -> None:
    """A chat has no layout of its own, but what it leaves out is the template's; alerts have one template."""
    (chat,) = sinks.requests(1, ["C0123456"], channel="slack", items=[sinks.publish()], newsletter_id="tried", template="digest")
    (urgent,) = sinks.requests(1, ["C0123456"], channel="slack", lane="urgent", **sinks.raise_alert())
    sinks.start("slack-bulk")
    sinks.start("slack-urgent")
    sinks.deliver([chat, urgent])
    settled(sinks, chat, "sent")
    settled(sinks, urgent, "sent")
    assert ledger(sinks, chat, "template") == (SHIPPED["digest"].id,)
    assert ledger(sinks, urgent, "template") == (ALERT.id,)
