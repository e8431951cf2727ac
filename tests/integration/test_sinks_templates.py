"""Which template, subject and language a mail is sent with, by the definition, its variant and the subscriber."""

from collections.abc import Iterator
from typing import Any

import pytest

from core.rendering.catalogue import SHIPPED
from tests import fix_sandbox
from tests.fix_sandbox import SandboxProcess
from tests.fix_stack import Stack
from tests.sinks_kit import World, wait_for, world

pytestmark = pytest.mark.stack
sandbox_process, sandbox = fix_sandbox.sandbox_process, fix_sandbox.sandbox

VARIANTS = [
    {"name": "control", "weight": 0.5, "subject": None, "template": None, "ranking": None, "local_minute": None},
    {"name": "short", "weight": 0.5, "subject": "In short: {title}", "template": "digest", "ranking": None, "local_minute": None},
]


@pytest.fixture(scope="module")
def sinks(stack: Stack, sandbox_process: SandboxProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Topics and databases, with consent and the bulk mail sink running."""
    with world(stack, tmp_path_factory.mktemp("templates"), ses_endpoint_url=f"{sandbox_process.url}/ses") as one:
        one.define_newsletter("tried", variants=VARIANTS, audience_languages=["de"])
        one.define_newsletter("older", template="gone-since")
        one.start("consent")
        one.start("ses-bulk")
        yield one


def test_template_subject_and_language_are_those_of_definition_variant_and_reader(sinks: World, sandbox: SandboxProcess) -> None:
    """One call never mixes templates; a template that is not there any more stops nothing; each mail names its version."""
    item = sinks.publish()
    wanted: dict[str, tuple[dict[str, Any], str, str, str]] = {}
    for fields, template, subject, words in (
        ({"newsletter_id": "tried", "variant": "control", "language": "en"}, "newsletter", "Result", "One pick for you"),
        ({"newsletter_id": "tried", "variant": "short", "language": "en"}, "digest", "In short: Result", "One pick for you"),
        ({"newsletter_id": "tried", "variant": "short", "language": "fr"}, "digest", "In short: Result", "Ein Beitrag für dich"),
        ({"newsletter_id": "older", "variant": None, "language": "fr-CA"}, "newsletter", "Result", "One pick for you"),
    ):
        for request in sinks.requests(10, items=[item], source_id=f"{fields['newsletter_id']}@2026-11-22T09:00Z", **fields):
            wanted[request["delivery_id"]] = (request, template, subject, words)
    sinks.deliver([request for request, *_ in wanted.values()])

    def messages() -> list[dict[str, Any]]:
        found = sandbox.ask("/inbox/messages?channel=email&limit=100")["messages"]
        return found if len(found) == len(wanted) else []

    for message in wait_for(messages, "every mail"):
        body = message["body"]
        _, template, subject, words = wanted[body["tags"]["delivery_id"]]
        assert body["tags"]["template"] == SHIPPED[template].id.replace("@", "_")
        assert body["subject"].startswith(subject)
        assert words in body["text"]
        assert ('class="bar"' in body["html"]) == (template == "newsletter"), "the layout is the template's too"
        assert ("Read it:" in body["text"] or "Lesen:" in body["text"]) == (template == "newsletter")
