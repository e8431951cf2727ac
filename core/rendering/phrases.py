"""The fixed phrases of messages in each language that there is, and dates in it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache

from babel.dates import format_date, format_datetime
from babel.numbers import format_decimal

from core.rendering.latex import readable
from core.rendering.text import one_line, shorten


@dataclass(frozen=True)
class Phrases:
    """One language's fixed phrases; {braces} are filled in by the renderer."""

    locale: str
    reads_on: str
    also: str
    because: dict[str, str]
    again: dict[str, str]
    reasons: dict[str, str]
    items_one: str
    items_many: str
    more_one: str
    more_many: str
    why_newsletter: str
    why_alert: str
    unsubscribe_newsletter: str
    unsubscribe_alert: str
    open_alert: str
    priorities: dict[str, str]
    others: str
    retracted: str
    retracted_on: str
    endpoint_disabled: str
    endpoint_disabled_why: str


ENGLISH = Phrases(
    locale="en",
    reads_on="Read it",
    also="Also: {titles}",
    because={
        "topic": "You follow {what}",
        "read": "Because you read “{what}”",
        "new": "New in {what}",
        "often": "You often read {what}",
    },
    again={
        "topic": "More in {what}",
        "read": "Also because you read “{what}”",
        "new": "Also new in {what}",
        "often": "More in {what}",
        "popular": "Also much read",
    },
    reasons={
        "topics": "Matches your topics",
        "declared": "Matches your topics",
        "history": "Close to what you read",
        "read": "Close to what you read",
        "popular": "Much read right now",
        "recent": "New since your last issue",
        "fresh": "New since your last issue",
        "new": "New since your last issue",
        "explore": "Something different",
    },
    items_one="One pick for you",
    items_many="{count} picks for you",
    more_one="and one more",
    more_many="and {count} more",
    why_newsletter="You get this because you subscribed to {name}.",
    why_alert="You get this because you asked for alerts.",
    unsubscribe_newsletter="Unsubscribe",
    unsubscribe_alert="Stop alerts",
    open_alert="Read more",
    priorities={"critical": "Critical alert", "high": "Important alert", "normal": "Alert", "low": "Note"},
    others="{first} and {count} others",
    retracted="Retracted",
    retracted_on="Retracted on {date}: {titles}",
    endpoint_disabled="Your webhook was switched off",
    endpoint_disabled_why=(
        "Its endpoint answered that it is gone, or failed for days, so nothing is sent there any more. "
        "Link a working endpoint to get deliveries by webhook again."
    ),
)

GERMAN = Phrases(
    locale="de",
    reads_on="Lesen",
    also="Außerdem: {titles}",
    because={
        "topic": "Du folgst {what}",
        "read": "Weil du „{what}“ gelesen hast",
        "new": "Neu in {what}",
        "often": "Du liest oft {what}",
    },
    again={
        "topic": "Mehr aus {what}",
        "read": "Auch weil du „{what}“ gelesen hast",
        "new": "Auch neu in {what}",
        "often": "Mehr aus {what}",
        "popular": "Wird auch viel gelesen",
    },
    reasons={
        "topics": "Passt zu deinen Themen",
        "declared": "Passt zu deinen Themen",
        "history": "Nah an dem, was du liest",
        "read": "Nah an dem, was du liest",
        "popular": "Wird gerade viel gelesen",
        "recent": "Neu seit der letzten Ausgabe",
        "fresh": "Neu seit der letzten Ausgabe",
        "new": "Neu seit der letzten Ausgabe",
        "explore": "Zur Abwechslung",
    },
    items_one="Ein Beitrag für dich",
    items_many="{count} Beiträge für dich",
    more_one="und ein weiterer",
    more_many="und {count} weitere",
    why_newsletter="Du bekommst diese Nachricht, weil du {name} abonniert hast.",
    why_alert="Du bekommst diese Nachricht, weil du Eilmeldungen möchtest.",
    unsubscribe_newsletter="Abbestellen",
    unsubscribe_alert="Keine Eilmeldungen mehr",
    open_alert="Mehr lesen",
    priorities={"critical": "Dringende Meldung", "high": "Wichtige Meldung", "normal": "Meldung", "low": "Hinweis"},
    others="{first} und {count} weitere",
    retracted="Zurückgezogen",
    retracted_on="Am {date} zurückgezogen: {titles}",
    endpoint_disabled="Dein Webhook wurde abgeschaltet",
    endpoint_disabled_why=(
        "Sein Endpunkt hat geantwortet, dass es ihn nicht mehr gibt, oder ist tagelang ausgefallen; darum wird nichts mehr "
        "dorthin geschickt. Verknüpfe einen funktionierenden Endpunkt, um wieder Zustellungen per Webhook zu bekommen."
    ),
)

_BY_LANGUAGE = {"en": ENGLISH, "de": GERMAN}
LANGUAGES = tuple(_BY_LANGUAGE)


def phrases_for(language: str) -> Phrases:
    """Return the phrases of a BCP 47 tag, or of its primary language; English when there are none."""
    return _BY_LANGUAGE[language_of(language)]


@lru_cache(maxsize=1024)
def language_of(*wanted: str) -> str:
    """Return the first of these BCP 47 tags that there are phrases for, by itself or by its primary language; else en.

    de-AT is read in de. No tag is an error: a reader of a language without phrases gets the next one's.
    """
    for tag in wanted:
        whole = tag.replace("_", "-").lower()
        for known in (whole, whole.split("-")[0]):
            if known in _BY_LANGUAGE:
                return known
    return "en"


@lru_cache(maxsize=1024)
def issue_date(issue_group: str, locale: str) -> str:
    """Return the day of an issue_group such as 2026-11-22T09:00 in words; the text itself when it holds no date."""
    try:
        day = date.fromisoformat(issue_group[:10])
    except ValueError:
        return shorten(one_line(issue_group), 60)
    return format_date(day, format="full", locale=locale)


@lru_cache(maxsize=4096)
def short_date(moment: datetime, locale: str) -> str:
    """Return an instant's UTC day, such as Nov 22, 2026."""
    return format_date(moment, format="medium", locale=locale)


@lru_cache(maxsize=1024)
def instant(moment: datetime, locale: str) -> str:
    """Return an instant in UTC with its zone, such as Nov 22, 2026, 09:00 UTC."""
    return f"{format_datetime(moment, format='dd.MM.y, HH:mm' if locale == 'de' else 'MMM d, y, HH:mm', locale=locale)} UTC"


REASON_TITLE_LIMIT, AGAIN_TITLE_LIMIT = 70, 40
"""Characters of a title or topic within a reason: it is shortened, so that the sentence around it stays whole; and of one that
the same issue has named before.
"""
_AGAIN = "again:"
"""Before a reason that was given before in the same issue."""
_TOPICAL = ("topic", "new", "often")


def named(reason: str, topic_names: Mapping[str, str]) -> str:
    """Return a reason with the name of its topic, when it is about one that has a name."""
    kind, _, topic = reason.partition(":")
    return f"{kind}:{topic_names[topic]}" if kind in _TOPICAL and topic in topic_names else reason


def told(reasons: Iterable[str], topic_names: Mapping[str, str]) -> list[str]:
    """Return the reasons of an issue's items in the form that `reason_text` takes: with names, and a repeated one marked so."""
    found, before = [], set[str]()
    for reason in reasons:
        wanted = named(reason, topic_names) if topic_names else reason
        found.append(_AGAIN + wanted if wanted in before else wanted)
        before.add(wanted)
    return found


@lru_cache(maxsize=8192)
def reason_text(reason: str, phrases_locale: str) -> str:
    """Return why an item was chosen, in words: a code of `phrases.reasons`, one of `phrases.because` with what follows its
    colon (topic:<topic>, often:<topic>, new:<topic>, read:<title>), or a text of one's own. What `told` marked as repeated is
    said in fewer.
    """
    phrases = _BY_LANGUAGE[phrases_locale]
    repeated = reason.startswith(_AGAIN)
    clean = one_line(reason.removeprefix(_AGAIN))
    kind, sign, rest = clean.partition(":")
    if sign and kind in phrases.because and rest.strip():
        what = shorten(one_line(readable(rest)), AGAIN_TITLE_LIMIT if repeated else REASON_TITLE_LIMIT)
        return (phrases.again if repeated else phrases.because)[kind].format(what=what)
    return (phrases.again.get(clean) if repeated else None) or phrases.reasons.get(clean, clean)


@lru_cache(maxsize=1024)
def number(value: int, locale: str) -> str:
    """Return a number in the form of a language, such as 3,020 or 3.020."""
    return format_decimal(value, locale=locale)


def count_text(count: int, phrases: Phrases) -> str:
    """Return how many items there are, in words."""
    return phrases.items_one if count == 1 else phrases.items_many.format(count=number(count, phrases.locale))


def more_text(count: int, phrases: Phrases) -> str:
    """Return how many items were left out, in words."""
    return phrases.more_one if count == 1 else phrases.more_many.format(count=number(count, phrases.locale))


def by_line(authors: tuple[str, ...], phrases: Phrases) -> str:
    """Return the authors: up to three by name, else the first and how many others."""
    names = [one_line(name) for name in authors if name.strip()]
    if len(names) <= 3:
        return ", ".join(names)
    return phrases.others.format(first=names[0], count=number(len(names) - 1, phrases.locale))


def retracted_text(titles: tuple[str, ...], moment: datetime, phrases: Phrases) -> str:
    """Return what was retracted and when: the first three titles, each shortened, and how many others."""
    shown = "; ".join(shorten(one_line(title), 120) or "–" for title in titles[:3])
    more = f" {more_text(len(titles) - 3, phrases)}" if len(titles) > 3 else ""
    return phrases.retracted_on.format(date=short_date(moment, phrases.locale), titles=f"{shown}{more}")
