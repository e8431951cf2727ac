"""Small checks of one value, each of which returns what is wrong with it in words, or None.

A check never repeats what it was given: the words go to logs and dead letters, and a mail address may stand in any field.
Limits are counted in characters unless their name says otherwise.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, Final
from urllib.parse import urlsplit

from core.names import CHANNELS
from core.zones import SLOT_MIN, zone_names

Check = Callable[[Any], str | None]

MAX_URL: Final = 2_048
"""What mail programs and browsers are known to follow."""
MAX_MAIL_ADDRESS: Final = 254
"""RFC 5321, section 4.5.3.1.3, less the angle brackets."""
MAX_LANGUAGE: Final = 35
"""RFC 5646, section 4.4.1: so many are enough for every tag that is in use. It stands in messages whose size is bounded."""
MINUTES_A_DAY: Final = 1_440
_SECRET_BYTES: Final = range(24, 65)
"""Standard Webhooks 1.0.0."""

SUBJECT_VALUES: Final = ("newsletter", "title")
"""What can be filled in in a subject line."""
SUBJECT_VALUE: Final = re.compile(r"\{([^{}]*)\}")

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_LANGUAGE: Final = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-([A-Z]{2}|\d{3}))?(-([a-z\d]{5,8}|\d[a-z\d]{3}))*")
_SLUG: Final = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")
_LOCAL_PART: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_DOMAIN: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]")
_SLACK: Final = re.compile(r"[CDGUW][A-Z0-9]{2,20}")
_SNOWFLAKE: Final = re.compile(r"\d{15,20}")
_SPACE_OR_CONTROL: Final = re.compile(r"[\x00-\x20\x7f]")


def text(longest: int, *, empty: bool = False) -> Check:
    """Return a check of plain text: not blank unless allowed, at most so many characters."""

    def check(value: Any) -> str | None:
        if not empty and not value.strip():
            return "is empty; expected text"
        if len(value) > longest:
            return f"has {len(value):,} characters; expected at most {longest:,}"
        return "contains a NUL character" if "\0" in value else None

    return check


def subject(value: str) -> str | None:
    """Check a subject line in which {title} and {newsletter} are filled in."""
    if not set(SUBJECT_VALUE.findall(value)) <= set(SUBJECT_VALUES):
        return f"has something else in braces than {_or([f'{{{name}}}' for name in SUBJECT_VALUES])}"
    return text(200)(value)


def one_of(*allowed: str) -> Check:
    """Return a check that the value is one of a closed vocabulary."""
    return lambda value: None if value in allowed else f"is unknown; expected {_or(allowed)}"


def between(least: float, most: float) -> Check:
    """Return a check that a number lies between two bounds, both included."""
    return lambda value: (
        None if math.isfinite(value) and least <= value <= most else f"is {value}; expected {least:g} to {most:g}"
    )


def uuid(value: str) -> str | None:
    """Check a UUID in lower case."""
    return None if _UUID.fullmatch(value) else "is no UUID in lower case, such as 3f2b8c1e-0d4a-4b6e-9a57-2f1c6d8e9b04"


def slug(value: str) -> str | None:
    """Check a short name of letters, digits and hyphens."""
    return None if len(value) <= 64 and _SLUG.fullmatch(value) else "is no short name of letters, digits and hyphens"


def language(value: str) -> str | None:
    """Check a BCP 47 tag in its usual form."""
    fine = len(value) <= MAX_LANGUAGE and _LANGUAGE.fullmatch(value)
    return None if fine else "is no BCP 47 language tag, such as en or pt-BR"


def time_zone(value: str) -> str | None:
    """Check the name of a known IANA zone."""
    return None if value in zone_names() else "is no IANA time zone, such as Europe/Lisbon"


def url(value: str) -> str | None:
    """Check an absolute http or https address."""
    advice = "expected an absolute http or https address, such as https://example.org/paper"
    if len(value) > MAX_URL:
        return f"has {len(value):,} characters; expected at most {MAX_URL:,}"
    if _SPACE_OR_CONTROL.search(value):
        return f"contains a space or a control character; {advice}"
    try:
        parts = urlsplit(value)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    return None if fine else f"is no web address; {advice}"


def mail_address(value: str) -> str | None:
    """Check the form of a mail address; the message does not repeat it."""
    local, _, domain = value.rpartition("@")
    fine = len(value) <= MAX_MAIL_ADDRESS and len(local) <= 64 and _LOCAL_PART.fullmatch(local) and _DOMAIN.fullmatch(domain)
    return None if fine else "is no mail address; expected the form name@example.org"


def webhook_target(value: str) -> str | None:
    """Check the JSON of a webhook's address: its URL, its signing secret, and the one before while that is being replaced."""
    advice = 'expected JSON such as {"url": "https://example.org/hook", "secret": "whsec_<base64 of 24 to 64 bytes>"}'
    try:
        target = json.loads(value)
        address, secrets = target["url"], [target["secret"]]
        if target.get("previous_secret") is not None:
            secrets.append(target["previous_secret"])
        sizes = [len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) for secret in secrets]
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        return f"is no webhook address; {advice}"
    if url(address) is not None:
        return f"has a url that is no web address; {advice}"
    if not all(secret.startswith("whsec_") for secret in secrets):
        return f"has a secret that does not begin with whsec_; {advice}"
    wrong = [size for size in sizes if size not in _SECRET_BYTES]
    return f"has a secret of {wrong[0]} bytes; {advice}" if wrong else None


def address(channel: str, value: str) -> str | None:
    """Check the form of an address on a channel; the message does not repeat it."""
    if channel == "email":
        return mail_address(value)
    if channel == "slack":
        return None if _SLACK.fullmatch(value) else "is no Slack channel or user id, such as C0123456789"
    if channel == "discord":
        return None if _SNOWFLAKE.fullmatch(value) else "is no Discord channel id; expected 15 to 20 digits"
    return webhook_target(value)


def local_minute(value: int) -> str | None:
    """Check a minute of the local day on a quarter hour."""
    fine = 0 <= value < MINUTES_A_DAY and value % SLOT_MIN == 0
    return None if fine else f"is {value}; expected a minute of the day, 0 to 1425, that is a multiple of {SLOT_MIN}"


def local_date(value: str) -> str | None:
    """Check a day of the calendar."""
    try:
        fine = date.fromisoformat(value).isoformat() == value
    except ValueError:
        fine = False
    return None if fine else "is no date; expected the form 2026-12-25"


def each(check: Check, *, most: int, least: int = 0, unique: bool = True) -> Check:
    """Return a check of every entry of a list; it names the first that is wrong, counted from 1."""

    def check_all(values: Sequence[Any]) -> str | None:
        if not least <= len(values) <= most:
            return f"has {len(values)} entries; expected {least} to {most}"
        for number, value in enumerate(values, 1):
            problem = check(value)
            if problem is not None:
                return f"entry {number} {problem}"
        return "names something twice" if unique and len({str(value) for value in values}) < len(values) else None

    return check_all


def topics(values: Sequence[Mapping[str, Any]]) -> str | None:
    """Check topics with weights above 0, at most 1, each named once."""
    for number, entry in enumerate(values, 1):
        problem = text(200)(entry["topic"])
        if problem is not None:
            return f"entry {number}: topic {problem}"
        if not 0 < entry["weight"] <= 1:
            return f"entry {number}: weight is {entry['weight']}; expected above 0, at most 1"
    names = [entry["topic"] for entry in values]
    if len(values) > 100:
        return f"has {len(values)} entries; expected at most 100"
    return "names a topic twice" if len(set(names)) < len(names) else None


def labels(values: Mapping[str, str]) -> str | None:
    """Check free labels: at most 50, names up to 100 characters, values up to 1,000."""
    if len(values) > 50:
        return f"has {len(values)} labels; expected at most 50"
    for number, (name, value) in enumerate(values.items(), 1):
        if not 1 <= len(name) <= 100 or len(value) > 1_000:
            return f"label {number} is too long; expected at most 100 characters in a name and 1,000 in a value"
    return None


def quiet_hours(values: Sequence[Mapping[str, int]]) -> str | None:
    """Check local quiet hours; a span may cross midnight but not be empty."""
    for number, entry in enumerate(values, 1):
        for name in ("start_minute", "end_minute"):
            if not 0 <= entry[name] < MINUTES_A_DAY:
                return f"entry {number}: {name} is {entry[name]}; expected a minute of the day, 0 to 1439"
        if entry["start_minute"] == entry["end_minute"]:
            return f"entry {number} begins and ends in the same minute"
    return "has more than 10 entries" if len(values) > 10 else None


channel: Final = one_of(*CHANNELS)


def _or(values: Sequence[str]) -> str:
    return ", ".join(values[:-1]) + (" or " if len(values) > 1 else "") + values[-1]
