"""The pure parts of the callbacks and of feedback: SES events as notices, what they mean, and the value of a button."""

import contextlib
import itertools
import json
import uuid
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.engagement import Button, read_button, write_button
from core.feedback import Effect, effect_of, stronger
from core.names import FAILURE_REASONS, STATE_RANK
from edge.callbacks.notice import Refused
from edge.callbacks.ses import EVENTS, ses_notice
from runtime.keys import hashed_receipt
from schemas.codec import Clear
from tests.fix_callbacks import DELIVERY, SUBSCRIBER, bounce, ses_event

KEY = bytes(range(32))


def test_reads_a_send_event() -> None:
    """The delivery from the tags, the receipt as its keyed hash, the time from SES."""
    notice = ses_notice(ses_event(), KEY)
    assert notice is not None
    assert notice.name == "ProviderAccepted"
    assert notice.value["delivery_id"] == DELIVERY
    assert notice.value["provider_receipt_hash"] == hashed_receipt(KEY, "email", "0102-receipt")
    assert notice.value["occurred_at"].isoformat() == "2026-11-22T09:00:00+00:00"


@pytest.mark.parametrize(
    ("kind", "part", "name", "fields"),
    [
        ("Delivery", {"timestamp": "2026-11-22T09:00:01.000Z"}, "ProviderDelivered", {}),
        ("DeliveryDelay", {"delayType": "MailboxFull"}, "DeliveryDelayed", {"detail": "MailboxFull"}),
        ("Bounce", bounce(), "DeliveryBounced", {"permanent": True, "address": Clear("ada@example.org")}),
        ("Bounce", bounce("Transient", "MailboxFull"), "DeliveryBounced", {"detail": "Transient/MailboxFull"}),
        ("Bounce", bounce("Undetermined", "Undetermined"), "DeliveryBounced", {"permanent": False}),
        (
            "Complaint", {"complainedRecipients": [{"emailAddress": "ada@example.org"}], "complaintFeedbackType": "abuse"},
            "ComplaintReceived", {"detail": "abuse", "address": Clear("ada@example.org")},
        ),
        ("Reject", {"reason": "Bad content"}, "DeliveryBounced", {"permanent": False, "detail": "Reject/Bad content"}),
        (
            "Rendering Failure", {"templateName": "t", "errorMessage": "Attribute 'x' is not present in the rendering data."},
            "DeliveryBounced", {"detail": "RenderingFailure/Attribute 'x' is not present in the rendering data."},
        ),
        ("Rendering Failure", {"templateName": "t"}, "DeliveryBounced", {"detail": "RenderingFailure/t", "address": None}),
    ],
)  # fmt: skip
def test_reads_every_event_of_ses(kind: str, part: dict[str, Any], name: str, fields: dict[str, Any]) -> None:
    """Each with what only it has."""
    notice = ses_notice(ses_event(kind, **part), KEY)
    assert notice is not None
    assert notice.name == name
    assert {field: notice.value[field] for field in fields} == fields


def test_reads_the_form_that_identities_publish() -> None:
    """Without a configuration set SES names the type notificationType."""
    text = ses_event("Bounce", **bounce()).replace("eventType", "notificationType")
    assert ses_notice(text, KEY) is not None


@given(st.sampled_from(sorted(EVENTS)), st.data())
def test_refuses_or_ignores_whatever_is_damaged(kind: str, data: st.DataObject) -> None:
    """Any value of any field of an event in place of another: a notice, nothing, or a refusal; never another error."""
    document = json.loads(ses_event(kind, **bounce()))
    places = [(document, key) for key in document] + [(document["mail"], key) for key in document["mail"]]
    part = next(value for key, value in document.items() if key not in ("eventType", "mail"))
    places += [(part, key) for key in part] + [(document["mail"]["tags"], "delivery_id")]
    where, key = data.draw(st.sampled_from(places))
    where[key] = data.draw(
        st.sampled_from([None, "", 0, -1.5, True, [], {}, ["x"], [None], {"a": 1}, "2026", "\x00", "x" * 3000])
    )
    with contextlib.suppress(Refused):
        notice = ses_notice(json.dumps(document), KEY)
        assert notice is None or notice.name in {name for name, _ in EVENTS.values()}


@given(st.binary(max_size=60))
def test_refuses_bytes(data: bytes) -> None:
    """What is no JSON at all."""
    with contextlib.suppress(Refused):
        assert ses_notice(data.decode("latin-1"), KEY) is None


VALUES: dict[str, dict[str, Any]] = {
    "ProviderAccepted": {},
    "ProviderDelivered": {},
    "DeliveryDelayed": {"detail": "MailboxFull"},
    "ComplaintReceived": {"detail": "abuse"},
    "EndpointDisabled": {"reason": "gone"},
    "permanent": {"permanent": True, "detail": "Permanent/General"},
    "full": {"permanent": False, "detail": "Transient/MailboxFull"},
    "reply": {"permanent": False, "detail": "Transient/General"},
    "rejected": {"permanent": False, "detail": "Reject/Bad content"},
    "unmade": {"permanent": False, "detail": "RenderingFailure/Attribute 'x' is not present in the rendering data."},
}


def effect(name: str) -> Effect:
    """The effect of one of the notices above."""
    return effect_of(name if name[0].isupper() else "DeliveryBounced", VALUES[name])


def test_says_what_each_notice_means() -> None:
    """State and reason, and what stops the address."""
    assert {name: (e.state, e.reason, e.suppress) for name in VALUES for e in [effect(name)]} == {
        "ProviderAccepted": ("sent", None, None),
        "ProviderDelivered": ("confirmed", None, None),
        "DeliveryDelayed": (None, None, None),
        "ComplaintReceived": ("failed", "complained", "complained"),
        "EndpointDisabled": (None, None, "disabled"),
        "permanent": ("failed", "bounced", "bounced"),
        "full": ("failed", "bounced", None),
        "reply": (None, None, None),
        "rejected": ("failed", "rejected", None),
        "unmade": ("failed", "rendering", None),
    }
    for name in VALUES:
        assert effect(name).state in (None, *STATE_RANK)
        assert effect(name).reason in (None, *FAILURE_REASONS)


def test_the_stronger_of_effects_does_not_depend_on_their_order() -> None:
    """Any three notices, in any order and grouped in any way."""
    for three in itertools.product(VALUES, repeat=3):
        results = set()
        for a, b, c in itertools.permutations(map(effect, three)):
            results |= {stronger(stronger(a, b), c).state, stronger(a, stronger(b, c)).state}
            results |= {stronger(stronger(a, b), c).reason or "", stronger(a, stronger(b, c)).reason or ""}
        assert len(results) <= 2, three


@given(st.uuids(), st.uuids(), st.uuids(), st.dates(min_value=date(2020, 1, 1)))
def test_a_button_comes_back_as_it_was(subscriber: uuid.UUID, delivery: uuid.UUID, publication: uuid.UUID, day: Any) -> None:
    """Within what Discord allows for a custom_id."""
    button = Button("like", str(subscriber), f"{day:%Y%m%d}-{delivery}", str(publication))
    assert len(write_button(button)) <= 100
    assert read_button(write_button(button)) == button


@given(st.text(max_size=120) | st.binary(max_size=80).map(lambda b: "nw." + b.hex()))
def test_what_is_no_button_is_none(text: str) -> None:
    """Values of other apps."""
    assert read_button(text) is None


def test_a_damaged_button_is_none() -> None:
    """Cut, lengthened, of another version, with another reaction or no day."""
    good = write_button(Button("like", SUBSCRIBER, DELIVERY, str(uuid.UUID(int=3))))
    for bad in (good[:-4], good + "AAAA", "nw.Ag" + good[5:], good[:4] + "__" + good[6:], good[:27] + "_____" + good[32:]):
        assert read_button(bad) is None
