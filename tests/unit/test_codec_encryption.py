"""Personal fields: encrypted on the way in, never written in the clear, portable from event to event."""

from typing import Any
from uuid import UUID

import pytest

from core.errors import PlaintextRefused, WrongType
from schemas.codec import Clear, Codec, FileSource
from schemas.documents import to_value
from tests.unit.codec_samples import NOW, OTHER, SUBSCRIBER, FixedCipher, consumed, make_codec, sent

MAIL = "reader@example.org"


def linked(address: Any, channel: str = "email") -> dict[str, Any]:
    return {"subscriber_id": SUBSCRIBER, "channel": channel, "address": address, "linked_at": NOW}


def requested(address: Any) -> dict[str, Any]:
    names = ("delivery_id", "subscriber_id", "source_id", "source_kind", "channel", "lane")
    rest = {"cause_id": OTHER, "priority": "normal", "language": "en", "items": [], "decision_partition": 0, "decision_offset": 0}
    return {**{name: sent()[name] for name in names}, **rest, "address": address, "not_after": NOW, "decided_at": NOW}


def decided(address: Any) -> dict[str, Any]:
    value = to_value("AudienceDecided", {**_empty_decision(), "chosen": []})
    value["chosen"] = [
        {"subscriber": UUID(SUBSCRIBER).bytes, "channel": 0, "address": address, "language": 0, "issue_group": -1, "items": []}
    ]
    return value


def _empty_decision() -> dict[str, Any]:
    names = ("channels", "languages", "issue_groups", "reasons", "publications", "gated", "channel_counts", "applied")
    lists: dict[str, Any] = {name: [] for name in names}
    numbers = {"shard": 0, "shards": 12, "chunk": 0, "chunks": 1, "population": 1, "not_concerned": 0}
    texts = {
        "source_id": OTHER,
        "source_kind": "alert",
        "lane": "urgent",
        "priority": "high",
        "tzdata_version": "x",
        "code_version": "x",
    }
    return {**lists, **numbers, **texts, "not_after": NOW.isoformat(), "decided_at": NOW.isoformat()}


def test_clear_value_is_encrypted_for_the_subscriber_and_channel() -> None:
    """The purpose has the record's channel filled in, and no byte of the address is in the record."""
    topics, codec = make_codec()
    record = codec.encode(topics.subscribers, "ChannelLinked", linked(Clear(MAIL)), key=SUBSCRIBER, time=NOW)
    assert b"reader" not in record.value
    ciphertext = codec.decode(consumed(record)).value["address"]
    assert FixedCipher().decrypt(SUBSCRIBER, "address.email", ciphertext) == MAIL.encode()


def test_ciphertext_copied_between_events_still_decrypts() -> None:
    """From ChannelLinked through AudienceDecided to DeliveryRequested, byte for byte."""
    topics, codec = make_codec()
    record = codec.encode(topics.subscribers, "ChannelLinked", linked(Clear(MAIL)), key=SUBSCRIBER, time=NOW)
    first = codec.decode(consumed(record)).value["address"]
    record = codec.encode(topics.decisions_urgent, "AudienceDecided", decided(first), key=f"{OTHER}/0", time=NOW)
    second = codec.decode(consumed(record)).value["chosen"][0]["address"]
    record = codec.encode(topics.deliveries("email", "bulk"), "DeliveryRequested", requested(second), key=SUBSCRIBER, time=NOW)
    third = codec.decode(consumed(record)).value["address"]
    assert first == second == third
    assert FixedCipher().decrypt(SUBSCRIBER, "address.email", third) == MAIL.encode()


@pytest.mark.parametrize(
    ("subject", "purpose"), [(SUBSCRIBER, "address.slack"), (SUBSCRIBER, "profile.name"), (OTHER, "address.email")]
)
def test_ciphertext_is_of_one_subject_and_purpose(subject: str, purpose: str) -> None:
    """It cannot be passed off as something else."""
    topics, codec = make_codec()
    record = codec.encode(topics.subscribers, "ChannelLinked", linked(Clear(MAIL)), key=SUBSCRIBER, time=NOW)
    with pytest.raises(WrongType):
        FixedCipher().decrypt(subject, purpose, codec.decode(consumed(record)).value["address"])


@pytest.mark.parametrize("address", [MAIL.encode(), MAIL, b"", b"\x01short"])
def test_plaintext_is_refused(address: Any) -> None:
    """Only Clear, or bytes with the envelope's header."""
    topics, codec = make_codec()
    with pytest.raises(PlaintextRefused) as refusal:
        codec.encode(topics.subscribers, "ChannelLinked", linked(address), key=SUBSCRIBER, time=NOW)
    assert "reader" not in str(refusal.value)


@pytest.mark.parametrize("address", [MAIL.encode(), Clear(MAIL), MAIL])
def test_plaintext_inside_a_decision_is_refused(address: Any) -> None:
    """The nested address is passed through, never encrypted on the way."""
    topics, codec = make_codec()
    with pytest.raises(PlaintextRefused):
        codec.encode(topics.decisions_urgent, "AudienceDecided", decided(address), key=f"{OTHER}/0", time=NOW)


def test_clear_value_in_a_field_that_is_not_encrypted_is_refused() -> None:
    """A personal value must not slip into a reason."""
    topics, codec = make_codec()
    with pytest.raises(PlaintextRefused):
        codec.encode(topics.delivery_status, "DeliverySent", sent(reason=Clear(MAIL)), key=SUBSCRIBER, time=NOW)


def test_clear_value_without_a_cipher_is_refused() -> None:
    """A process without keys cannot write personal data by accident."""
    topics, _ = make_codec()
    with pytest.raises(PlaintextRefused):
        Codec(topics, FileSource(topics)).encode(
            topics.subscribers, "ChannelLinked", linked(Clear(MAIL)), key=SUBSCRIBER, time=NOW
        )


def test_plaintext_from_another_producer_is_refused_on_reading() -> None:
    """A producer's mistake becomes a dead letter, not a delivery."""
    topics, codec = make_codec()
    record = codec.encode(topics.subscribers, "ChannelLinked", linked(Clear(MAIL)), key=SUBSCRIBER, time=NOW)
    ciphertext = codec.decode(consumed(record)).value["address"]
    forged = record.value.replace(ciphertext, b"a" * len(ciphertext))
    with pytest.raises(WrongType, match="not encrypted"):
        codec.decode(consumed(record, value=forged))


def test_clear_value_shows_nothing_of_itself() -> None:
    """Its repr may reach a log."""
    assert MAIL not in repr(Clear(MAIL))
    assert MAIL not in repr({"address": Clear(MAIL)})


def test_optional_personal_field_may_be_null() -> None:
    """A subscriber need not give a name."""
    topics, codec = make_codec()
    value = {"subscriber_id": SUBSCRIBER, "time_zone": "UTC", "language": "en", "registered_at": NOW}
    record = codec.encode(topics.subscribers, "SubscriberRegistered", value, key=SUBSCRIBER, time=NOW)
    assert codec.decode(consumed(record)).value["name"] is None
