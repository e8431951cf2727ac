"""The closed vocabularies that every stage shares: channels, lanes, states and reasons.

They are strings in Avro, because an Avro enum cannot grow; this module is where they are closed.
"""

from typing import Final

TENANT: Final = "default"

CHANNELS: Final = ("email", "slack", "discord", "webhook")
LANES: Final = ("urgent", "bulk")
NO_CHANNEL: Final = "none"
"""Channel column of what has no channel, such as a subscriber who was gated because none is verified."""

PRIORITIES: Final = ("critical", "high", "normal", "low")
POLICIES: Final = ("resend", "hold")
"""What a source wants done about a delivery that stays unknown."""
MAX_LATE_H: Final = 120
"""Hours after its slot for which an issue may at most be worth sending: the ledger keeps its partitions so long."""

MAX_AGE_H: Final = 1_920
"""Hours for which content may be chosen: a shard that starts anew knows nothing older than 90 days, and a slot may be late."""
CADENCES: Final = ("weekdays", "monthly", "hours")
"""How a newsletter's issues follow one another."""
USUAL_HOUR: Final = -2
"""A subscriber's local_minute that says: when I usually read."""
PREVIEW_RECIPIENTS: Final = {"email": "preview@newswire.example", "slack": "preview", "discord": "1", "webhook": "preview"}
"""Who gets a preview in the sandbox, by channel: nobody."""

RANKINGS: Final = ("blend", "topics", "recent")
"""Policies by which the items of an issue are chosen."""
NOTICE: Final = "notice"
"""Kind of source of what Newswire itself tells one person, such as that their endpoint was disabled: no decision is behind it, so
it is no part of the accounting."""

STATE_RANK: Final = {
    "not_fanned_out": 0,
    "pending": 1,
    "unknown": 2,
    "sent": 3,
    "suppressed": 4,
    "confirmed": 5,
    "failed": 6,
}
"""State of a delivery by rank: a higher rank replaces a lower one, whatever the order of arrival."""

STATUS_EVENTS: Final = {
    "DeliveryUnknown": "unknown",
    "DeliverySent": "sent",
    "DeliverySuppressed": "suppressed",
    "DeliveryConfirmed": "confirmed",
    "DeliveryFailed": "failed",
}
"""Event of the delivery-status topic and the state it stands for."""

GATE_REASONS: Final = {
    "cap": "the subscriber's cap of alerts in 24 hours is reached",
    "quiet_hours": "it is within the subscriber's quiet hours",
    "duplicate": "the subscriber already got an alert with the same dedup key within a day",
    "paused": "the subscriber paused newsletters",
    "no_channel": "the subscriber has no verified channel that this source may use",
    "low_quality": "the quality is not above the gate",
    "unscored": "neither the alert nor its publication has a quality",
    "empty_issue": "nothing was left for this subscriber that they have not had or read, of what they follow or read about",
    "expired": "it was decided after it had stopped being worth sending, or when the next issue was due already",
    "holiday": "the newsletter has no issue on this local date",
}
"""Why somebody who would have had a delivery did not get it, decided by a stream."""

SKIP_REASONS: Final = {
    "expired": "it was past not_after",
    "unsubscribed": "the subscriber unsubscribed before the send",
    "unlinked": "the channel was unlinked before the send",
    "erased": "the subscriber's data key was destroyed",
    "suppressed_address": "the address is on the suppression list",
    "retracted": "the publication was retracted, or the alert cancelled, before the send",
    "stopped": "an operator stopped this channel or source",
    "empty_issue": "every item of the issue was retracted before the send",
    "not_allowed": "the live allow-list does not name this recipient",
}
"""Why a sink did not send on purpose (DeliverySuppressed)."""

FAILURE_REASONS: Final = {
    "rejected": "the provider refused the message",
    "invalid_address": "the provider refused the address",
    "unauthorized": "the provider refused the credentials",
    "too_large": "the message exceeds the provider's limits",
    "content_missing": "the content could not be read at its recorded position",
    "rendering": "no message could be made from its template",
    "attempts_exhausted": "every attempt was refused for a passing reason until it expired",
    "bounced": "the message came back",
    "complained": "the recipient called it spam",
    "endpoint_disabled": "the endpoint answered that it is gone",
}
"""Why a delivery failed (DeliveryFailed)."""

UNKNOWN_REASONS: Final = {
    "lease_expired": "the process that had claimed it ended without an outcome",
    "answer_lost": "the connection ended, or time ran out, before the provider's answer was read",
    "may_have_arrived": "an earlier attempt may have arrived; it was tried again, and that attempt certainly did not",
}
"""Why an outcome is unknown (DeliveryUnknown)."""
