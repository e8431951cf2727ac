"""What a provider's notice means for a delivery and its address. Pure; sinks/feedback.py performs it.

States are compared by rank (core/names.py), never by arrival, so that any order of notices, repeated at will, ends the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from core.names import STATE_RANK

AUTOMATIC_REPLY: Final = "Transient/General"
"""Class of bounce that an out-of-office reply gets as well (SES, "Bounce types"): it says nothing about the delivery, and
taking it for a failure would make the end depend on whether the delivery notice came before it."""
NO_MESSAGE: Final = "RenderingFailure/"
NEVER_SENT: Final = ("Reject/", NO_MESSAGE)
"""Beginnings of the class when the provider itself gave the message up after it had taken it."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A state that the delivery has at least now, and whether its address must not be used again; each may be None."""

    state: str | None = None
    reason: str | None = None
    suppress: str | None = None
    """bounced, complained or disabled: the reason of ChannelUnlinked."""
    error: str = field(default="", compare=False, repr=False)
    """What the provider said, as it said it."""


_NOTHING: Final = Effect()
_EFFECTS: Final = MappingProxyType(
    {
        "ProviderAccepted": Effect("sent"),
        "ProviderDelivered": Effect("confirmed"),
        "ComplaintReceived": Effect("failed", "complained", "complained"),
        "EndpointDisabled": Effect(suppress="disabled"),
    }
)
"""Event and what it means, whatever is in it."""


def effect_of(name: str, value: Mapping[str, Any]) -> Effect:
    """Return what an event of provider-events means; nothing for one that is only kept."""
    if name == "DeliveryBounced":
        return _bounced(bool(value["permanent"]), str(value["detail"] or ""))
    return _EFFECTS.get(name, _NOTHING)


def _bounced(permanent: bool, detail: str) -> Effect:
    if detail.startswith(NEVER_SENT):
        return Effect("failed", "rendering" if detail.startswith(NO_MESSAGE) else "rejected", error=detail)
    if permanent:
        return Effect("failed", "bounced", "bounced", detail)
    return _NOTHING if detail == AUTOMATIC_REPLY else Effect("failed", "bounced", error=detail)


def stronger(first: Effect, second: Effect) -> Effect:
    """Return the effect of two notices about one delivery: the higher state, and of equal ones the reason that sorts first."""

    def order(effect: Effect) -> tuple[int, str]:
        return -STATE_RANK.get(effect.state or "", 0), effect.reason or ""

    return min(first, second, key=order)
