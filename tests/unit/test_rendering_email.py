"""Email: one layout a call, escaped data an entry, and a message that reads well in every client."""

import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings

from core.rendering.catalogue import SHIPPED
from core.rendering.email import (
    BODY_BYTES,
    alert_email,
    alert_entry,
    alert_layout,
    newsletter_email,
    newsletter_entry,
    newsletter_layout,
    newsletter_subject,
)
from core.rendering.fragments import FragmentCache
from core.rendering.model import AlertMessage, Issue, IssueItem
from core.rendering.templating import MailTemplate, fill
from tests.rendering_samples import alert, alerts, content, issue, issues

PLACEHOLDER = re.compile(r"\{\{([a-z_]+)\}\}")
VOID = {"meta", "br", "img", "hr", "link", "input"}
slow_data = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


class Page(HTMLParser):
    """Collects elements, links and visible text, and checks that elements are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not [tag for tag in self._open if tag != "p"], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:  # a closed <br /> is one
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "title"):
            self.text += data


def check_email(subject: str, html: str, text: str) -> Page:
    assert subject
    assert "\n" not in subject + "\r"[:0]
    page = Page(html)
    assert not {"script", "img", "iframe", "form", "object"} & set(page.tags)
    assert not {name for name in page.attributes if name.startswith("on")}
    assert all(link.startswith(("https://", "http://")) for link in page.links)
    assert "https://edge.example/u/AbC-_1" in page.links
    assert "https://edge.example/u/AbC-_1" in text
    assert not PLACEHOLDER.search(html + text + subject)
    assert len(html.encode()) < 102_000, "Gmail cuts larger messages off"
    return page


@slow_data
@given(issues)
def test_any_issue_is_sound_html(given_issue: Issue) -> None:
    """No content adds an element, an attribute, a script, a header or a placeholder."""
    message = newsletter_email(given_issue)
    page = check_email(message.subject, message.html, message.text)
    assert page.tags.count("h2") == len(given_issue.items)


@slow_data
@given(alerts)
def test_any_alert_is_sound_html(message: AlertMessage) -> None:
    """The same for alerts."""
    email = alert_email(message)
    check_email(email.subject, email.html, email.text)


def test_layout_and_entry_speak_of_the_same_placeholders() -> None:
    """SES fails an entry for a placeholder without a value; a value without a placeholder would be waste."""
    layout = newsletter_layout(issue())
    used = set(PLACEHOLDER.findall(layout.subject + layout.html + layout.text))
    assert used == set(newsletter_entry(issue()))
    layout = alert_layout("Daily", "1 Street", "en")
    assert set(PLACEHOLDER.findall(layout.subject + layout.html + layout.text)) == set(alert_entry(alert()))


def test_layout_uses_simple_substitution_only() -> None:
    """Inline templates of SES know no conditions, loops or partials."""
    layout = newsletter_layout(issue())
    braces = layout.subject + layout.html.split("</style>", 1)[1] + layout.text
    assert not re.search(r"\{\{[^a-z]|\{\{\{", braces)


def test_layout_is_the_same_object_for_all_entries() -> None:
    """It is made once for a newsletter and language, so that asking for each entry costs nothing."""
    assert newsletter_layout(issue(language="de-AT")) is newsletter_layout(issue(language="de"))


def test_survives_the_json_of_template_data() -> None:
    """Quotes, backslashes and line ends of data reach the template as they are."""
    entry = newsletter_entry(issue(items=(IssueItem(content(title='A "quoted" \\ title', summary="line\nline"), ""),)))
    assert json.loads(json.dumps(entry)) == entry
    assert fill("{{subject}}", entry) == 'A "quoted" \\ title'


def test_data_is_not_read_as_a_placeholder() -> None:
    """A title cannot pull another value into its place, even where values are filled in one after the other."""
    nasty = issue(items=(IssueItem(content(title="{{unsubscribe_url}}", summary="{{subject}}"), "{{date}}"),))
    entry = newsletter_entry(nasty)
    assert not any(PLACEHOLDER.search(value) for value in entry.values())


@pytest.mark.parametrize(
    ("subject", "expected"), [("{title}", "Paper 0 on things"), ("News: {title}", "News: Paper 0 on things"), ("", "Daily Brief")]
)
def test_subject_takes_the_first_title(subject: str, expected: str) -> None:
    """{title} is the title of the first item; an empty subject is the newsletter's name."""
    assert newsletter_subject(issue(subject=subject)) == expected


def test_shows_what_a_reader_needs() -> None:
    """Name, date, count, titles, authors, reasons, why they get it, sender and postal address."""
    message = newsletter_email(issue(3))
    page = Page(message.html)
    for text in (page.text, message.text):
        for part in (
            "3 picks for you",
            "Sunday, November 22, 2026",
            "Paper 2 on things",
            "Ada Lovelace, Emmy Noether",
            "You follow hep-ph",
        ):
            assert part in text.replace("\u2011", "-")
        assert "because you subscribed to Daily Brief" in " ".join(text.split())
        assert "1 Example Street, Berlin" in text
    assert "Also: Paper 1 on things; Paper 2 on things" in page.text


def test_is_made_for_narrow_screens_and_dark_mode() -> None:
    """Reading width 600 px, a narrow layout, both colour schemes, text without automatic enlargement."""
    html = newsletter_email(issue()).html
    assert "max-width:600px" in html
    assert "prefers-color-scheme:dark" in html
    assert "@media (max-width:480px)" in html
    assert 'name="color-scheme" content="light dark"' in html


def test_plain_text_is_wrapped() -> None:
    """No line of the text part is longer than 72 columns, addresses excepted."""
    lines = newsletter_email(issue()).text.splitlines()
    assert all(len(line) <= 72 for line in lines if "://" not in line)


def test_right_to_left_titles_keep_their_direction() -> None:
    """Each text is isolated, so that its direction does not reach its neighbours."""
    html = newsletter_email(issue(items=(IssueItem(content(title="مرحبا", language="ar"), ""),))).html
    assert 'dir="auto" lang="ar"' in html


def test_fragments_are_shared_between_reasons() -> None:
    """An item is rendered once; each issue has its own reason in it."""
    cache = FragmentCache()
    one = newsletter_entry(issue(items=(IssueItem(content(1), "topic:a<b"),)), cache)
    newsletter_entry(issue(items=(IssueItem(content(1), "popular"),)), cache)
    assert len(cache) == 1
    other = newsletter_entry(issue(items=(IssueItem(content(1), ""),)), cache)
    assert "You follow a&lt;b" in one["items_html"]
    assert "You follow a<b" in one["items_text"]
    assert "You follow" not in other["items_html"] + other["items_text"]


def test_an_entry_is_small() -> None:
    """Ten items are about 17 kB of data: the layout is not among them."""
    assert len(json.dumps(newsletter_entry(issue(10)))) < 25_000


def test_an_alert_says_so_in_its_subject() -> None:
    """When it is critical; its mail names who sent it, and times are in UTC to the minute in every language."""
    message = alert_email(alert(postal_address="1 Example Street, Berlin"))
    assert message.subject == "Critical alert: Release withdrawn"
    assert "1 Example Street, Berlin" in message.html
    assert "1 Example Street, Berlin" in message.text
    assert "Nov 21, 2026, 08:30 UTC" in message.text
    assert alert_email(alert(priority="high")).subject == "Release withdrawn"
    german = alert_email(alert(language="de"))
    assert german.subject == "Dringende Meldung: Release withdrawn"
    assert "21.11.2026, 08:30 UTC" in german.text


def test_every_item_can_be_read_on_and_reasons_do_not_look_like_links() -> None:
    """One link of its own an item besides its title; the reason has the colour of the text around it."""
    message = newsletter_email(issue(3))
    assert message.html.count("Read it") == 3
    assert re.search(r'<p class="muted"[^>]*>More in hep\u2011ph', message.html)


@pytest.mark.parametrize("template", SHIPPED.values(), ids=SHIPPED.keys())
@pytest.mark.parametrize("mark", ["&", '"', "{", "語", "😀", "w "])
def test_no_issue_is_so_long_that_gmail_cuts_it_off(mark: str, template: MailTemplate) -> None:
    """Twenty items of marks that take six bytes each in HTML, of the longest addresses: less is said of each, and all stand."""
    items = tuple(
        IssueItem(
            content(
                number, title=f"{number} {mark * 5_000}", summary=mark * 5_000, authors=(mark * 500,), topics=(mark * 200,) * 3,
                url=f"https://example.org/{number}/{'p' * 750}",
            ),
            mark * 300,
        )
        for number in range(20)
    )  # fmt: skip
    longest = issue(
        items=items, template=template, newsletter_name=mark * 300, from_name=mark * 300, postal_address=mark * 600,
        unsubscribe_url="https://edge.example/u/" + "x" * 900,
    )  # fmt: skip
    message = newsletter_email(longest)
    assert len(message.html.encode()) < 102_000
    for number in range(20):
        assert f"https://example.org/{number}/ppp" in message.html
        assert f"https://example.org/{number}/ppp" in message.text
    assert message.html.index("https://edge.example/u/") > message.html.index("https://example.org/19/")


@pytest.mark.parametrize("body", ["&" * 50_000, "\n\n".join("a" * 25_000), "語" * 50_000, "a b\n" * 12_000])
def test_no_alert_is_so_long_that_gmail_cuts_it_off(body: str) -> None:
    """Marks that take five bytes each in HTML, or an element for every letter."""
    long = alert(
        title="&" * 500, body=body, url="https://example.org/?" + "&" * 2_000, from_name="&" * 300, postal_address="&" * 600,
        unsubscribe_url="https://edge.example/u/" + "x" * 900,
    )  # fmt: skip
    message = alert_email(long)
    assert 50_000 < len(message.html.encode()) < 102_000
    assert "https://edge.example/u/" in message.html


def test_a_real_item_is_shown_whole() -> None:
    """What is usual in any script is far from the limit."""
    for text in ("A title of a paper, as long as they are: " * 4, "論文の題名" * 20):
        message = newsletter_email(issue(items=(IssueItem(content(title=text, summary=text), "topic:hep-ph"),) * 2))
        assert " ".join(text.split()) in message.html


def test_the_body_of_an_alert_is_shortened_once_for_all_recipients() -> None:
    """One whose HTML is above the bound is measured many times over."""
    first = alert_entry(alert(body="Short.\n\n" * 3_000, unsubscribe_url="https://edge.example/u/1"))
    other = alert_entry(alert(body="Short.\n\n" * 3_000, unsubscribe_url="https://edge.example/u/2"))
    assert first["body_html"] is other["body_html"]
    assert len(first["body_html"].encode()) <= BODY_BYTES
