"""Fan-out's pure part: one decision becomes its deliveries, any number of times with the same values.

Every id is deterministic, and nothing is decided here. The cause of a newsletter's delivery is the issue, not the slot, so that
two slots can never deliver the same issue twice. Subject and template are the decision's, whatever the newsletter is by then.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from core.ids import NAMESPACE

_SEPARATOR: Final = "\x1f"


def _dashed(text: str) -> str:
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _ids(*first: str) -> Callable[..., str]:
    """Return a function that gives the text of ids.deterministic_id(*first, *rest) for rest.

    The same as there (RFC 9562, section 5.5), a third of the time: there are two a delivery.
    """
    base = hashlib.sha1(NAMESPACE.bytes + _SEPARATOR.join([*first, ""]).encode(), usedforsecurity=False)

    def text(*rest: str) -> str:
        digest = base.copy()
        digest.update(_SEPARATOR.join(rest).encode())
        number = digest.hexdigest()
        return _dashed(f"{number[:12]}5{number[13:16]}{int(number[16], 16) & 3 | 8:x}{number[17:32]}")

    return text


_SHARED: Final = (
    "source_id",
    "source_kind",
    "lane",
    "priority",
    "newsletter_id",
    "newsletter_revision",
    "alert_partition",
    "alert_offset",
    "not_after",
    "decided_at",
)

_NO_LOOK: Final = {"subject": "", "template": ""}
"""Of an alert, whose text is its own."""


def expand(value: Mapping[str, Any], partition: int, offset: int) -> Iterator[dict[str, Any]]:
    """Yield the value of DeliveryRequested for each chosen delivery of an AudienceDecided that is at this position."""
    same = shared_fields(value, partition, offset)
    for own, entry in own_fields(value):
        yield {**same, **own, "items": _items(value, entry)}


def shared_fields(value: Mapping[str, Any], partition: int, offset: int) -> dict[str, Any]:
    """Return the fields that all deliveries of a decision have in common."""
    return {name: value[name] for name in _SHARED} | {"decision_partition": partition, "decision_offset": offset}


def _items(value: Mapping[str, Any], entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    publications, reasons = value["publications"], value["reasons"]
    return [
        {
            **publications[item["publication"]],
            "score": item["score"],
            "reason": reasons[item["reason"]],
            "propensity": item["propensity"],
        }
        for item in entry["items"]
    ]


def own_fields(value: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """Yield for each chosen delivery its other fields without the items, and the entry of the decision that holds these."""
    kind, source_id, newsletter_id = value["source_kind"], value["source_id"], value["newsletter_id"]
    not_after: datetime = value["not_after"]
    day = not_after.astimezone(UTC).strftime("%Y%m%d")
    issue_of, delivery_of = _ids("issue"), _ids("delivery")
    channels, languages, groups = value["channels"], value["languages"], value["issue_groups"]
    variants, looks = value["variants"], value["looks"] or [_NO_LOOK]
    for entry in value["chosen"]:
        subscriber_id = _dashed(entry["subscriber"].hex())
        channel = channels[entry["channel"]]
        group = groups[entry["issue_group"]] if entry["issue_group"] >= 0 else None
        cause_id = source_id if group is None else issue_of(subscriber_id, newsletter_id, group)
        look = looks[entry["variant"]]  # without an experiment the variant is -1, and there is one look
        own = {
            "delivery_id": f"{day}-{delivery_of(cause_id, kind, subscriber_id, channel)}",
            "subscriber_id": subscriber_id,
            "cause_id": cause_id,
            "channel": channel,
            "issue_group": group,
            "address": entry["address"],
            "language": languages[entry["language"]],
            "variant": variants[entry["variant"]] if entry["variant"] >= 0 else None,
            "subject": look["subject"],
            "template": look["template"],
        }
        yield own, entry
