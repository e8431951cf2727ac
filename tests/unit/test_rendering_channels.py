"""Slack, Discord and webhook messages stay within the providers' limits and carry what a reader needs."""

import json
import re
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.rendering import discord, slack, webhook
from core.rendering.email import newsletter_email
from core.rendering.fragments import FragmentCache
from core.rendering.model import AlertMessage, Issue, IssueItem, Retraction
from core.rendering.retraction import discord_retraction, slack_retraction, webhook_retraction
from core.rendering.text import units
from tests.rendering_samples import PUBLISHED, alert, alerts, content, issue, issues, texts

UNSUBSCRIBE = "https://edge.example/u/AbC-_1"
slow_data = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def check_slack(message: slack.Message) -> None:
    text, blocks = message
    assert 0 < units(text) <= 40_000
    assert 0 < len(blocks) <= 50
    assert slack.characters(blocks) <= 13_200
    for block in blocks:
        if block["type"] == "header":
            assert 0 < units(block["text"]["text"]) <= 150
            assert block["text"]["type"] == "plain_text"
        elif block["type"] == "section":
            assert 0 < units(block["text"]["text"]) <= 3_000
        elif block["type"] == "context":
            assert 0 < len(block["elements"]) <= 10
            assert all(units(element["text"]) > 0 for element in block["elements"])
        else:
            assert block == {"type": "divider"}
    marked = json.dumps([block for block in blocks if block["type"] != "header"])  # a header is plain text
    assert "<!" not in marked
    assert "<@" not in marked
    assert UNSUBSCRIBE in blocks[-1]["elements"][0]["text"]


def check_discord(embeds: list[dict[str, Any]]) -> None:
    assert 0 < len(embeds) <= 10
    assert discord.characters(embeds) <= 6_000
    for embed in embeds:
        assert units(embed.get("title", "")) <= 256
        assert units(embed.get("description", "")) <= 4_096
        assert units(embed.get("footer", {}).get("text", "")) <= 2_048
        assert units(embed.get("author", {}).get("name", "")) <= 256
        assert embed.get("title") or embed.get("description")
        assert len(embed.get("url", "")) <= 2_048
    written = json.dumps(embeds, ensure_ascii=False).lower()
    assert "@everyone" not in "".join(e.get("title", "") + e.get("description", "") for e in embeds).lower()
    assert UNSUBSCRIBE.lower() in written


@slow_data
@given(issues)
def test_any_issue_fits_slack(given_issue: Issue) -> None:
    """Whatever titles, texts and addresses hold, Slack takes the message."""
    check_slack(slack.newsletter_blocks(given_issue))


@slow_data
@given(alerts)
def test_any_alert_fits_slack(message: AlertMessage) -> None:
    """The same for alerts."""
    check_slack(slack.alert_blocks(message))


@slow_data
@given(issues)
def test_any_issue_fits_discord(given_issue: Issue) -> None:
    """Whatever titles, texts and addresses hold, Discord takes the message and nobody is pinged."""
    check_discord(discord.newsletter_embeds(given_issue))


@slow_data
@given(alerts)
def test_any_alert_fits_discord(message: AlertMessage) -> None:
    """The same for alerts."""
    check_discord(discord.alert_embeds(message))


@slow_data
@given(issues)
def test_any_issue_fits_a_webhook(given_issue: Issue) -> None:
    """A payload is JSON below 20 kB and names its delivery."""
    payload = webhook.newsletter_payload(given_issue, delivery_id="20261123-x", source_id="daily@x", timestamp=PUBLISHED)
    assert len(payload) < 20_000
    document = json.loads(payload)
    assert document["type"] == "newswire.newsletter.issued"
    assert document["data"]["delivery_id"] == "20261123-x"
    assert len(document["data"]["items"]) + document["data"]["items_left_out"] == len(given_issue.items)


@slow_data
@given(alerts)
def test_any_alert_fits_a_webhook(message: AlertMessage) -> None:
    """The same for alerts."""
    payload = webhook.alert_payload(message, delivery_id="20261123-x", source_id="a", timestamp=PUBLISHED)
    assert len(payload) < 20_000
    assert json.loads(payload)["type"] == "newswire.alert.raised"


def retraction(rest: Issue | None, titles: tuple[str, ...] = ("Gone",), **fields: Any) -> Retraction:
    return Retraction(
        titles=titles, publication_ids=tuple(str(n) for n in range(len(titles))), language=rest.language if rest else "en",
        retracted_at=PUBLISHED, unsubscribe_url=UNSUBSCRIBE, rest=rest, **fields,
    )  # fmt: skip


@slow_data
@given(st.none() | issues, st.lists(texts, min_size=1, max_size=12))
def test_any_retraction_fits_every_channel(rest: Issue | None, titles: list[str]) -> None:
    """Whatever was retracted and is left, the edited message is within the limits and can be unsubscribed from."""
    one = retraction(rest, tuple(titles))
    check_slack(slack_retraction(one))
    check_discord(discord_retraction(one))
    payload = webhook_retraction(one, delivery_id="20261123-x", source_id="daily@x")
    assert len(payload) < 20_000
    assert json.loads(payload)["data"]["delivery_id"] == "20261123-x"


def test_a_retraction_says_what_is_gone_and_keeps_the_rest() -> None:
    """In the reader's language, with the items that are left; without any, in place of the message."""
    _, blocks = slack_retraction(retraction(issue(2, language="de")))
    assert blocks[2]["text"]["text"] == "Am 21.11.2026 zurückgezogen: Gone"
    assert [b["type"] for b in blocks].count("section") == 3
    embeds = discord_retraction(retraction(issue(2)))
    assert embeds[0]["description"].endswith("Retracted on Nov 21, 2026: Gone")
    assert len(embeds) == 4
    text, alone = slack_retraction(retraction(None, ("A", "B", "C", "D"), alert_id="a", from_name="News"))
    assert text == "Retracted on Nov 21, 2026: A; B; C and one more"
    assert [b["type"] for b in alone] == ["header", "section", "context"]
    assert "Stop alerts" in alone[2]["elements"][0]["text"]
    assert discord_retraction(retraction(None))[0]["title"] == "Retracted"


def test_twenty_items_reach_slack_and_discord_as_links() -> None:
    """An issue of the largest size loses no item on either channel."""
    large = issue(20)
    _, blocks = slack.newsletter_blocks(large)
    embeds = discord.newsletter_embeds(large)
    for number in range(20):
        assert f"https://example.org/p/{number}|" in json.dumps(blocks)
        assert f"https://example.org/p/{number}" in json.dumps(embeds)


def test_items_stand_apart_in_chats() -> None:
    """On Slack by a line, while there are blocks for it; on Discord the first has a card of its own, the others share some."""
    for count, lines in ((10, 11), (20, 2)):
        kinds = [block["type"] for block in slack.newsletter_blocks(issue(count))[1]]
        assert kinds.count("divider") == lines
    first, lead, *lists, last = discord.newsletter_embeds(issue(10))
    assert (first["title"], lead["title"], "title" in last) == ("Daily Brief", "Paper 0 on things", False)
    assert [one["description"].count("](https://example.org/p/") for one in lists] == [5, 4]


def test_left_out_items_are_counted_in_words() -> None:
    """When not even titles fit, the message says how many more there are."""
    long = "x" * 900
    items = tuple(IssueItem(content(n, url=f"https://example.org/{n}/{long}", title="t" * 290), "") for n in range(20))
    _, blocks = slack.newsletter_blocks(issue(items=items))
    shown = sum(1 for block in blocks if block["type"] == "section")
    assert 0 < shown < 20
    assert f"and {20 - shown} more" in json.dumps(blocks)


def test_mentions_in_content_are_shown_not_made() -> None:
    """A title that asks for a mention is text."""
    nasty = issue(items=(IssueItem(content(title="<!channel> <@U1> @everyone **x**"), ""),))
    _, blocks = slack.newsletter_blocks(nasty)
    assert "&lt;!channel&gt; &lt;@U1&gt;" in blocks[3]["text"]["text"]
    assert (
        discord.newsletter_embeds(nasty)[1]["title"]
        == "\\<\\!channel\\>".replace("\\!", "!") + " \\<@U1\\> @\u200beveryone \\*\\*x\\*\\*"
    )


def test_fragments_are_rendered_once_for_all_subscribers() -> None:
    """The same publication, language and channel is one fragment, whatever the reason; another revision is another one."""
    cache = FragmentCache()
    one = slack.newsletter_blocks(issue(items=(IssueItem(content(1), "topic:a"),)), cache)
    other = slack.newsletter_blocks(issue(items=(IssueItem(content(1, title="not asked for"), "topic:b"),)), cache)
    assert len(cache) == 1
    assert one[1][3] == other[1][3]
    assert one[1][4] != other[1][4]
    slack.newsletter_blocks(issue(items=(IssueItem(content(1, revision=2), ""),)), cache)
    assert len(cache) == 2


def test_items_that_are_shared_are_counted_for_each_message() -> None:
    """What is put together from shared items has the size that it would have had rendered anew, and keeps to the limits."""
    cache = FragmentCache()
    for count in (1, 3, 8, 20):
        items = tuple(IssueItem(content(n, title=f"Ergebnis 😀 {n} " + "t" * 200), f"topic:{n}") for n in range(count))
        for _ in range(2):
            assert slack.newsletter_blocks(issue(items=items), cache) == slack.newsletter_blocks(issue(items=items))
            assert discord.newsletter_embeds(issue(items=items), cache) == discord.newsletter_embeds(issue(items=items))
        assert slack.characters(slack.newsletter_blocks(issue(items=items), cache)[1]) <= slack.MAX_TOTAL
        assert discord.characters(discord.newsletter_embeds(issue(items=items), cache)) <= discord.MAX_TOTAL


def test_fragment_cache_is_bounded() -> None:
    """The least recently used fragment goes first."""
    cache = FragmentCache(max_entries=3)
    for number in range(10):
        slack.newsletter_blocks(issue(items=(IssueItem(content(number), ""),)), cache)
    assert len(cache) == 3


def test_same_issue_is_the_same_bytes() -> None:
    """Every attempt of a webhook sends the same body."""
    payloads = {
        webhook.newsletter_payload(issue(), delivery_id="d", source_id="s", timestamp=PUBLISHED, cache=cache)
        for cache in (None, FragmentCache())
    }
    assert len(payloads) == 1


def test_german_subscribers_get_german_phrases() -> None:
    """The subscriber's language decides about fixed phrases and dates; an unknown one falls back to English."""
    assert "Abbestellen" in json.dumps(slack.newsletter_blocks(issue(language="de-AT"))[1])
    assert "Sonntag, 22. November 2026" in json.dumps(slack.newsletter_blocks(issue(language="de"))[1])
    assert "Unsubscribe" in json.dumps(discord.newsletter_embeds(issue(language="fr")))
    assert discord.alert_embeds(alert(language="de"))[0]["author"]["name"] == "Dringende Meldung"


HOSTILE = (
    "@everyone @here <@123456789012345678> <@!1> <@&1> <#1> <id:customize> @EveryOne",
    "<!channel> <!here> <!everyone> <!subteam^S1> <@U024BE7LH> <#C1|x> <https://evil.example|bank>",
    "[click](https://evil.example) <https://evil.example> ||x|| ```js``` # h\n> q\n- l\n1. n",
    "Subject\r\nBcc: victim@example.org\r\n\r\nbody",
    "<script>alert(1)</script>\"' onerror=x {{unsubscribe_url}} {{{x}}} \x00\x1b[31m\u202e",
)
hostile = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=30)), min_size=1, max_size=4).map(" ".join)


@slow_data
@given(hostile)
def test_nothing_in_a_publication_speaks_to_a_channel(text: str) -> None:
    """No mention, link, heading, header or placeholder is made of a title, summary, author, topic, reason or name."""
    nasty = issue(
        items=(IssueItem(content(title=text, summary=text, authors=(text,), topics=(text,)), text),) * 3,
        newsletter_name=text,
        from_name=text,
        postal_address=text,
    )
    _, blocks = slack.newsletter_blocks(nasty)
    check_slack(slack.newsletter_blocks(nasty))
    for mark in ("<!", "<@", "<#", "<https://evil", "\x00", "\u202e"):
        assert mark not in json.dumps([one for one in blocks if one["type"] != "header"], ensure_ascii=False)
    embeds = discord.newsletter_embeds(nasty)
    check_discord(embeds)
    for embed in embeds:
        for shown in (embed.get("title", ""), embed.get("description", "").removesuffix(f"({UNSUBSCRIBE})")):
            assert not re.search(r"(?<!\\)<[@#:a-z]|@(everyone|here)|\]\(https://evil", shown, re.IGNORECASE)
    mail = newsletter_email(nasty)
    assert "\n" not in mail.subject
    assert "\r" not in mail.subject + mail.text
    assert "<script" not in mail.html
    assert mail.html.count(UNSUBSCRIBE) == 1
    payload = webhook.newsletter_payload(nasty, delivery_id="20261123-x", source_id="daily@x", timestamp=PUBLISHED)
    assert json.loads(payload)["data"]["items"]


def test_ten_megabytes_of_text_are_a_message_within_the_limits() -> None:
    """In one word or in many: shortened, and what comes behind still stands."""
    for text in ("word " * 2_000_000, "&" * 10_000_000):
        large = issue(items=(IssueItem(content(title=text, summary=text), ""), IssueItem(content(1), "")))
        check_slack(slack.newsletter_blocks(large))
        check_discord(discord.newsletter_embeds(large))
        mail = newsletter_email(large)
        assert len(mail.html.encode()) < 102_000
        assert "Paper 1 on things" in mail.text
        payload = webhook.newsletter_payload(large, delivery_id="d", source_id="s", timestamp=PUBLISHED)
        assert len(json.loads(payload)["data"]["items"]) == 2


def test_what_is_shortened_ends_with_a_word() -> None:
    """A long title keeps whole words on every channel."""
    long = issue(items=(IssueItem(content(title="alpha beta gamma " * 100, summary="delta epsilon " * 500), ""),))
    shown = [
        json.dumps(slack.newsletter_blocks(long), ensure_ascii=False),
        json.dumps(discord.newsletter_embeds(long), ensure_ascii=False),
        newsletter_email(long).text,
        webhook.newsletter_payload(long, delivery_id="d", source_id="s", timestamp=PUBLISHED).decode(),
    ]
    for text in shown:
        assert re.search(r"(alpha|beta|gamma)…", text)
        assert re.search(r"(delta|epsilon)…", text)
