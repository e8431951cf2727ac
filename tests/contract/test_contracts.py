"""The contracts agree with each other: schemas, YAML, examples, rules, the lock and the generated catalogue."""

import json
from pathlib import Path
from typing import Any

import pytest

from core import names
from core.errors import EventRefused
from core.ids import minute_text
from core.rules import validate
from schemas import catalogue_page, files, lock
from schemas.checking import event_of, examples, problems, undocumented
from schemas.codec import Codec, FileSource
from schemas.documents import to_document, to_value
from schemas.envelope import is_encrypted
from schemas.topics import Topics
from tests.unit.codec_samples import NOW, FixedCipher, consumed

TOPICS = Topics()
CODEC = Codec(TOPICS, FileSource(TOPICS), FixedCipher())


def key_of(topic: str, value: dict[str, Any]) -> str:
    field = TOPICS.spec(topic).key_field
    if field is None:
        return "a/0"
    return minute_text(value[field]) if field == "minute" else str(value[field])


def test_everything_that_needs_no_server_is_in_order() -> None:
    """What `make check` runs: docs, topics, examples, lock and catalogue."""
    assert problems() == []


def test_every_topic_of_the_architecture_exists() -> None:
    """26 topics and their dead letters, under the default prefix."""
    bases = {spec.base for spec in TOPICS.specs() if not spec.base.endswith(".dlq")}
    single = "publications alerts ticks subscribers engagements provider-events experiments newsletters controls models"
    lanes = {f"decisions.{lane}" for lane in names.LANES} | {
        f"deliveries.{c}.{lane}" for c in names.CHANNELS for lane in names.LANES
    }
    pairs = {f"{family}.{kind}" for family in ("audience", "snapshots") for kind in ("alerts", "newsletters")}
    assert bases == {*single.split(), "delivery-status", "readership"} | lanes | pairs


def test_topics_keyed_by_subscriber_have_the_shards_number_of_partitions() -> None:
    """Faust gives topics with equal partition counts to the same worker."""
    topics = Topics("t", shards=7)
    sharded = {spec.base for spec in topics.specs() if spec.partitions == 7}
    assert {"subscribers", "engagements", "audience.alerts", "decisions.bulk", "snapshots.alerts", "delivery-status"} <= sharded
    assert all(spec.partitions == 7 for spec in topics.specs() if spec.key_field in ("subscriber_id", "shard"))
    assert topics.spec(topics.ticks).partitions == 1


def test_every_consumed_topic_has_dead_letters_and_no_dead_letter_topic_has_any() -> None:
    """Snapshots are read by their own writer alone, and losing one costs no truth."""
    for spec in TOPICS.specs():
        if spec.base.endswith(".dlq"):
            assert spec.dead_letters is None
        elif not spec.base.startswith("snapshots."):
            assert spec.dead_letters == TOPICS.dead_letters(spec.name)
            assert TOPICS.spec(spec.dead_letters).config["retention.ms"] == str(30 * 86_400_000)


def test_attributes_and_methods_give_the_same_names() -> None:
    """A name is spelled in one place."""
    assert TOPICS.decisions_bulk == TOPICS.decisions("bulk") == "newswire.decisions.bulk"
    assert TOPICS.deliveries("email", "urgent") == "newswire.deliveries.email.urgent"
    assert Topics("other").provider_events == "other.provider-events"
    with pytest.raises(KeyError):
        TOPICS.deliveries("fax", "urgent")


@pytest.mark.parametrize("path", examples("pass"), ids=lambda path: path.name)
def test_passing_example_round_trips_in_each_of_its_topics(path: Path) -> None:
    """From JSON to Avro and back, place and headers included."""
    event = event_of(path)
    value = to_value(event, json.loads(path.read_text()))
    validate(event, value)
    for topic in TOPICS.topics_of(event):
        decoded = CODEC.decode(consumed(CODEC.encode(topic, event, value, key=key_of(topic, value), time=NOW)))
        assert decoded.name == event
        for field, given in value.items():
            if isinstance(given, str) and isinstance(decoded.value[field], bytes):
                assert is_encrypted(decoded.value[field]), "a clear value comes back encrypted"
            else:
                assert decoded.value[field] == given
        assert to_value(event, to_document(event, decoded.value)) == decoded.value


@pytest.mark.parametrize("path", examples("fail"), ids=lambda path: path.name)
def test_failing_example_is_refused_with_its_field(path: Path) -> None:
    """The message names the field and says what is expected."""
    document = json.loads(path.read_text())
    event = event_of(path)
    with pytest.raises(EventRefused) as refusal:
        validate(event, to_value(event, document["event"]))
    assert refusal.value.field == document["refused"]
    assert document["because"] in refusal.value.reason
    assert str(refusal.value).startswith(f"{event}.{document['refused']}: ")


@pytest.mark.parametrize("path", examples("pass"), ids=lambda path: path.name)
def test_no_refusal_repeats_what_it_was_given(path: Path) -> None:
    """A mail address may stand in any field by mistake, and the message goes to a dead letter's headers and to logs in clear."""
    event, canary = event_of(path), "ada@example.org \0"
    value = to_value(event, json.loads(path.read_text()))
    for field, given in value.items():
        for wrong in (canary, [canary], [{"topic": canary, "weight": 2.0}], {canary: canary * 1_000}):
            if type(given) is type(wrong) or (given is None and wrong == canary):
                assert "ada@" not in refusal(event, value | {field: wrong}), field


def refusal(event: str, value: dict[str, Any]) -> str:
    """Return what is said of a value, nothing when it obeys the rules or could not have passed the codec."""
    try:
        validate(event, value)
    except EventRefused as refused:
        return str(refused)
    except (TypeError, AttributeError, KeyError):
        pass  # an entry of another type than the schema's
    return ""


def test_refused_address_is_not_repeated() -> None:
    """The message reaches logs and dead letters."""
    for path in examples("fail"):
        document = json.loads(path.read_text())
        clear = next(
            (field["clear"] for field in document["event"].values() if isinstance(field, dict) and "clear" in field), None
        )
        if clear is not None and clear.strip():
            with pytest.raises(EventRefused) as refusal:
                validate(event_of(path), to_value(event_of(path), document["event"]))
            assert clear not in str(refusal.value)


def test_missing_documentation_is_found() -> None:
    """The check itself is tested: it looks into arrays, maps and unions."""
    inner = {"type": "record", "name": "Inner", "fields": [{"name": "x", "type": "int"}]}
    outer = {
        "type": "record",
        "name": "Outer",
        "doc": "d",
        "fields": [{"name": "f", "doc": "d", "type": ["null", {"type": "array", "items": inner}]}],
    }
    assert list(undocumented(outer, "Outer")) == ["record Outer.f", "field Outer.f.x"]


def test_encrypted_fields_are_the_personal_ones() -> None:
    """Adding a personal field without the attribute must not go unseen: addresses and names are bytes, and encrypted."""
    found = set()
    for event in files.event_names():
        for path, field in catalogue_page._fields(files.schema(event)["fields"], ""):
            if "encrypted" in field:
                found.add((event, path))
            elif path.rpartition(".")[2] in ("address", "email", "phone"):
                pytest.fail(f"{event}.{path} looks personal and is not encrypted")
    assert found == {
        ("AudienceDecided", "chosen.address"),
        ("ChannelLinked", "address"),
        ("ComplaintReceived", "address"),
        ("DeliveryBounced", "address"),
        ("DeliveryRequested", "address"),
        ("EndpointDisabled", "address"),
        ("SubscriberRegistered", "name"),
    }


def test_stale_catalogue_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One letter is enough."""
    page = tmp_path / "CATALOGUE.md"
    monkeypatch.setattr(catalogue_page, "PAGE", page)
    assert catalogue_page.stale()
    catalogue_page.write()
    assert not catalogue_page.stale()
    page.write_text(page.read_text().replace("Dead letters", "Dead Letters", 1))
    assert catalogue_page.stale()


def test_edited_published_schema_is_refused_with_what_to_do() -> None:
    """Without a registry: the lock knows the fingerprints."""
    now = lock.current()
    assert lock.problems(lock=now) == []
    published = {**now, "DeliverySent": ["0" * 64]}
    (problem,) = lock.problems(lock=published)
    assert "DeliverySent.avsc is published and was edited" in problem
    assert "DeliverySent.v2.avsc" in problem
    assert "add a new field with a default instead" in problem


def test_removed_published_schema_is_refused() -> None:
    """What was written with it must stay readable."""
    (problem,) = lock.problems(lock={**lock.current(), "Gone": ["0" * 64]})
    assert "Gone: version 1 was published and its file is gone" in problem


def test_fixed_cipher_of_the_tests_writes_the_real_envelope() -> None:
    """The tests' cipher and the key store's agree on the form."""
    sealed = FixedCipher().encrypt("s", "p", b"")
    assert is_encrypted(sealed)
    assert len(sealed) == 17 + 16
