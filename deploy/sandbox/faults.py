"""Failures that a test or a person switches on at run time; each says which provider, how often and for whom.

Kinds, in the order of a request's life:
  throttle             the provider's own form of "too many requests", with Retry-After where the provider sends one
  error                a 5xx in the provider's form
  refuse               a refusal for good: SES MessageRejected, Slack restricted_action, Discord 403, webhook and score 4xx
  timeout              no answer for delay_s; not accepted, or accepted before the silence with accept=true
  drop_before_accept   the connection is closed without an answer, nothing was accepted
  drop_after_accept    accepted and recorded, then the connection is closed without an answer
  slow_body            accepted; headers at once, the body after delay_s
  partial              SES only: single entries of a call fail, with the status in code
"""

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from deploy.sandbox.recorder import PROVIDERS, Message

KINDS: Final = ("throttle", "error", "refuse", "timeout", "drop_before_accept", "drop_after_accept", "slow_body", "partial")
AFTER_ACCEPT: Final = ("drop_after_accept", "slow_body")

DEFAULT_RETRY_AFTER_S: Final = 1.0
DEFAULT_DELAY_S: Final = {"timeout": 600.0, "slow_body": 2.0}


class BadControl(Exception):
    """A control request that cannot be understood; the message says what to write instead."""


@dataclass(slots=True)
class Fault:
    """One failure that is switched on."""

    id: int
    provider: str
    kind: str
    share: float = 1.0
    count: int | None = None
    retry_after_s: float | None = None
    status: int | None = None
    code: str = ""
    text: str = ""
    only: str = ""
    delay_s: float = 0.0
    accept: bool = False
    scope: str = "shared"
    hits: int = 0

    @property
    def accepts(self) -> bool:
        """Whether the message is taken although the answer is spoiled."""
        return self.kind in AFTER_ACCEPT or (self.kind == "timeout" and self.accept)

    @property
    def wait_s(self) -> float:
        """Seconds to name in Retry-After."""
        return DEFAULT_RETRY_AFTER_S if self.retry_after_s is None else self.retry_after_s


FIELDS: Final[dict[str, tuple[type, ...]]] = {
    "provider": (str,),
    "kind": (str,),
    "share": (int, float),
    "count": (int, type(None)),
    "retry_after_s": (int, float, type(None)),
    "status": (int, str, type(None)),
    "code": (str,),
    "text": (str,),
    "only": (str,),
    "delay_s": (int, float),
    "accept": (bool,),
    "scope": (str,),
}


class FaultBook:
    """The faults that are on, oldest first; the first that matches a request happens to it."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)
        self._faults: dict[int, Fault] = {}
        self._last_id = 0

    def add(self, document: Any) -> Fault:
        """Switch a fault on; BadControl names the field that is wrong."""
        if not isinstance(document, dict):
            raise BadControl("a fault is a JSON object such as {'provider': 'ses', 'kind': 'throttle'}")
        for name, value in document.items():
            if name not in FIELDS:
                raise BadControl(f"{name} is no field of a fault: use {', '.join(FIELDS)}")
            if not isinstance(value, FIELDS[name]) or (isinstance(value, bool) and bool not in FIELDS[name]):
                raise BadControl(f"{name} cannot be {value!r}")
        given = dict(document)
        if isinstance(given.get("status"), str):
            given["code"] = given.pop("status")
        fault = Fault(self._last_id + 1, given.pop("provider", ""), given.pop("kind", ""), **given)
        _check(fault)
        fault.delay_s = fault.delay_s or DEFAULT_DELAY_S.get(fault.kind, 0.0)
        self._last_id = fault.id
        self._faults[fault.id] = fault
        return fault

    def pick(self, provider: str, messages: Iterable[Message]) -> Fault | None:
        """Return the fault that happens to this request, or None; it counts as one of the fault's hits."""
        if not self._faults:
            return None
        drafts = list(messages)
        return next((f for f in self._on(provider, partial=False) if self._hit(f, drafts)), None)

    def pick_partial(self, provider: str, message: Message) -> Fault | None:
        """Return the partial fault that happens to this entry, or None."""
        if not self._faults:
            return None
        return next((f for f in self._on(provider, partial=True) if self._hit(f, [message])), None)

    def _on(self, provider: str, *, partial: bool) -> list[Fault]:
        return [f for f in self._faults.values() if f.provider == provider and (f.kind == "partial") is partial]

    def _hit(self, fault: Fault, messages: list[Message]) -> bool:
        if fault.count is not None and fault.hits >= fault.count:
            return False
        if fault.only and not any(fault.only in m.delivery_id or fault.only in m.destination for m in messages):
            return False
        if fault.share < 1.0 and self._random.random() >= fault.share:
            return False
        fault.hits += 1
        return True

    def documents(self) -> list[dict[str, Any]]:
        """Return the faults as JSON; hits says how often each happened."""
        return [asdict(fault) for fault in self._faults.values()]

    def clear(self, provider: str = "", fault_id: int | None = None) -> int:
        """Switch off all faults, or those of a provider, or one; returns how many."""
        gone = [f.id for f in self._faults.values() if (not provider or f.provider == provider) and fault_id in (None, f.id)]
        for number in gone:
            del self._faults[number]
        return len(gone)


def _check(fault: Fault) -> None:
    if fault.provider not in PROVIDERS:
        raise BadControl(f"provider is {fault.provider!r}: use one of {', '.join(PROVIDERS)}")
    if fault.kind not in KINDS:
        raise BadControl(f"kind is {fault.kind!r}: use one of {', '.join(KINDS)}")
    if fault.kind == "partial" and fault.provider != "ses":
        raise BadControl("kind partial is for ses only: other providers take one message a request")
    if not 0 <= fault.share <= 1:
        raise BadControl(f"share is {fault.share}: use a number from 0 to 1")
    if fault.count is not None and fault.count < 1:
        raise BadControl(f"count is {fault.count}: use a number from 1 on, or null for no end")
    if fault.status is not None and not 400 <= fault.status <= 599:
        raise BadControl(f"status is {fault.status}: use an HTTP status from 400 to 599")
    if (fault.retry_after_s or 0) < 0 or fault.delay_s < 0:
        raise BadControl("retry_after_s and delay_s are seconds from 0 on")
    if fault.scope not in ("user", "shared", "global"):
        raise BadControl(f"scope is {fault.scope!r}: use shared, user or global (Discord's rate-limit scopes)")
