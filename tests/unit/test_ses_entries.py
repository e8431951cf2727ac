"""What SES makes of a bulk call is the mail that was rendered, whether its items go as values of a frame or as a whole."""

import re
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings

from core.rendering.catalogue import SHIPPED
from core.rendering.email import EmailLayout, filled, newsletter_email, newsletter_layout
from core.rendering.framing import MOST_ITEMS, Frame
from core.rendering.model import Issue, IssueItem
from core.rendering.templating import MailTemplate
from sinks.registry import PROVIDERS
from sinks.ses_entries import forms_of
from tests.rendering_samples import content, issue, issues
from tests.sinks_samples import Answers, http, opened, prepared, provider_settings


async def called(*group: Issue) -> tuple[str, list[EmailLayout]]:
    """Return the HTML of the layout of one call for these issues, and the mails that SES makes of it."""
    async with Answers(http(200)) as server, opened("email", server.url) as provider:
        await provider.call([prepared(provider, "ada@example.org", one) for one in group])
        (request,) = server.requests
    body: dict[str, Any] = orjson.loads(request.partition(b"\r\n\r\n")[2])
    parts = body["DefaultContent"]["Template"]["TemplateContent"]
    layout = EmailLayout(parts["Subject"], parts["Html"], parts["Text"])
    data = [e["ReplacementEmailContent"]["ReplacementTemplate"]["ReplacementTemplateData"] for e in body["BulkEmailEntries"]]
    return layout.html, [filled(layout, orjson.loads(one)) for one in data]


def frames_in(html: str) -> int:
    """Return how many items a layout has the markup of."""
    assert html.count("{{items_html}}") == 1
    return len(re.findall(r"\{\{title_[a-z]\}\}", html))


def with_items(*items: IssueItem, **fields: object) -> Issue:
    """Return an issue of these items."""
    return issue(items=items, **fields)


FRAMED = with_items(IssueItem(content(1), "topic:hep-ph"), IssueItem(content(60, language="de"), "read:a \"b\" \\ 'c' <d>"))
OTHER = with_items(IssueItem(content(3, title="100 % {{date}}"), "popular"), IssueItem(content(4), "topic:hep-ph"))


@pytest.mark.parametrize("template", SHIPPED.values(), ids=lambda one: one.name)
@pytest.mark.parametrize("language", ["en", "de", "de-AT"])
async def test_items_that_fit_go_as_values(template: MailTemplate, language: str) -> None:
    """The markup stands in the layout, once for the call, and the mails are the same bytes as ever."""
    group = [replace(one, template=template, language=language) for one in (FRAMED, OTHER)]
    html, mails = await called(*group)
    assert frames_in(html) == 2
    assert mails == [newsletter_email(one) for one in group]


@pytest.mark.parametrize(
    ("odd", "framed"),
    [
        (with_items(IssueItem(content(5, summary=""), "popular"), IssueItem(content(6), "popular")), 0),
        (with_items(IssueItem(content(5), "popular"), IssueItem(content(6), "")), 1),
        (with_items(IssueItem(content(5), "popular"), IssueItem(content(6, url="javascript:x"), "popular")), 1),
        (with_items(IssueItem(content(5), "popular")), 1),
        (issue(count=MOST_ITEMS + 1), 2),
    ],
    ids=["no summary", "no reason", "no address", "fewer items", "many items"],
)
async def test_one_that_does_not_fit_goes_as_a_whole(odd: Issue, framed: int) -> None:
    """One layout serves the whole call, also when an item was retracted after its group had been put together."""
    html, mails = await called(FRAMED, odd)
    assert frames_in(html) == framed
    assert mails == [newsletter_email(one) for one in (FRAMED, odd)]


async def test_more_items_than_there_are_names_for() -> None:
    """The others go as a whole."""
    html, mails = await called(issue(count=MOST_ITEMS + 2))
    assert frames_in(html) == MOST_ITEMS
    assert mails == [newsletter_email(issue(count=MOST_ITEMS + 2))]


async def test_a_template_whose_markup_could_be_taken_for_a_placeholder_has_no_frame() -> None:
    """What a template says beside its values never becomes a part of a placeholder."""
    files = {"odd.mjml": "", "odd.txt": "{{items_text}}[% block item %][[ title ]][% endblock %]{{unsubscribe_text}}"}
    template = MailTemplate("odd", files, lambda _: "<p>[% block item %]{[[ title ]]}[% endblock %]</p>")
    html, mails = await called(replace(FRAMED, template=template))
    assert frames_in(html) == 0
    assert mails[0].html == "<p>{Paper 1 on things}{Paper 60 on things}</p>"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(issues)
def test_any_issue_is_the_same_mail_in_both_forms(one: Issue) -> None:
    """Whatever is in it, and whether it fits or not."""
    body = prepared(PROVIDERS["email"](provider_settings("http://127.0.0.1:9")), "ada@example.org", one).body
    for framed in {0, body.framed}:
        data = orjson.loads(orjson.loads(body.text(forms_of(one, framed))))
        assert filled(newsletter_layout(one, framed), data) == newsletter_email(one)


def test_a_frame_tells_values_apart_or_does_not_fit() -> None:
    """A value that stands twice must be the same; what is between the markup may be anything."""
    frame = Frame.of("<a \x00url\x00><b>\x00title\x00</b>\x00url\x00</a>")
    assert frame is not None
    assert frame.fields("<a x><b>y</b>x</a>") == ("x", "y")
    assert frame.fields("<a x><b></b></b>x</a>") is None
    assert frame.fields("<a x><b>y</b>z</a>") is None
    assert frame.fields("<a x></a>") is None
    assert frame.placed(2) == "<a {{url_c}}><b>{{title_c}}</b>{{url_c}}</a>"
    assert Frame.of("no mark") is None
