"""What reached the providers: numbered, written to the journal, counted, and the newest bodies kept for the inbox.

A message is counted under its delivery_id as accepted (the recipient has it), refused (the provider did not take it),
deduplicated (the provider returned an earlier message instead) or updated (an edit of an earlier message).
"""

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from deploy.sandbox.journal import Journal

PROVIDERS: Final = ("ses", "slack", "discord", "webhook", "score")
MESSAGE_PROVIDERS: Final = PROVIDERS[:4]
"""Scoring requests are recorded too, but they are no messages: counts leave them out unless they are asked for."""

CHANNEL_OF: Final = {"ses": "email", "slack": "slack", "discord": "discord", "webhook": "webhook"}
OUTCOMES: Final = ("accepted", "refused", "deduplicated", "updated")

MAX_ID_CHARS: Final = 256
"""A delivery id is cut here: what a client sends is not bounded otherwise."""

DEFAULT_KEEP: Final = 5_000
"""Messages whose bodies are kept for the inbox."""

DEFAULT_KEEP_BYTES: Final = 96 * 1024 * 1024
"""Bytes of bodies that are kept at most, whatever their number: 5,000 emails of 30 kB would be 150 MB."""


class Body(Protocol):
    """What a message says; rendered only when somebody looks."""

    def subject(self) -> str:
        """Return one line that names the message in a list."""

    def document(self) -> dict[str, Any]:
        """Return the message as JSON, with everything substituted."""


@dataclass(slots=True)
class Message:
    """One message of one request; n, at and request are set when it is recorded."""

    provider: str
    delivery_id: str
    destination: str
    digest: str
    body: Body | None = None
    size_bytes: int = 0
    outcome: str = "refused"
    status: int = 0
    receipt: str = ""
    detail: str = ""
    n: int = 0
    at: str = ""
    request: int = 0

    @property
    def accepted(self) -> bool:
        """Whether the recipient has it."""
        return self.outcome == "accepted"

    @property
    def channel(self) -> str:
        """The channel's name, such as email for ses."""
        return CHANNEL_OF.get(self.provider, self.provider)

    def line(self) -> dict[str, Any]:
        """Return the journal's line."""
        return {
            "n": self.n,
            "at": self.at,
            "provider": self.provider,
            "delivery_id": self.delivery_id,
            "destination_hash": hash_text(self.destination),
            "accepted": self.outcome == "accepted",
            "outcome": self.outcome,
            "status": self.status,
            "digest": self.digest,
            "receipt": self.receipt,
            "size_bytes": self.size_bytes,
            "request": self.request,
        }


def hash_text(text: str) -> str:
    """Return 16 hex digits of the text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def digest_of(data: bytes) -> str:
    """Return 32 hex digits of the data's SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


class Recorder:
    """The only place that counts; follow() gives a provider its own lines, so that its state survives a restart."""

    def __init__(self, journal: Journal, keep: int = DEFAULT_KEEP, keep_bytes: int = DEFAULT_KEEP_BYTES) -> None:
        self._journal = journal
        self._keep, self._keep_bytes = keep, keep_bytes
        self._followers: dict[str, Callable[[dict[str, Any]], None]] = {}
        self.resets = 0
        self._clear()

    def _clear(self) -> None:
        self.last_n = 0
        self.last_request = 0
        self.messages: OrderedDict[int, Message] = OrderedDict()
        self.kept_bytes = 0
        self._counts: dict[str, dict[str, dict[str, int]]] = {o: {p: defaultdict(int) for p in PROVIDERS} for o in OUTCOMES}
        self._totals: dict[str, dict[str, int]] = {o: dict.fromkeys(PROVIDERS, 0) for o in OUTCOMES}

    def follow(self, provider: str, apply: Callable[[dict[str, Any]], None]) -> None:
        """Call apply with every line of the provider: those read at start, and each as soon as it is written."""
        self._followers[provider] = apply

    def load(self) -> None:
        """Read the journal."""
        for line in self._journal.replay():
            self.last_n = max(self.last_n, line["n"])
            self.last_request = max(self.last_request, line["request"])
            self._count(line["outcome"], line["provider"], line["delivery_id"])
            self._tell(line)

    def record(self, messages: Sequence[Message]) -> None:
        """Number, write and count the messages of one request; on return they survive a kill of this process."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.last_request += 1
        for message in messages:
            self.last_n += 1
            message.n, message.at, message.request = self.last_n, at, self.last_request
        lines = [message.line() for message in messages]
        self._journal.append(lines)
        for line in lines:
            self._tell(line)
        for message in messages:
            self._count(message.outcome, message.provider, message.delivery_id)
            if message.body is not None and self._keep:
                self.messages[message.n] = message
                self.kept_bytes += message.size_bytes
        while len(self.messages) > self._keep or self.kept_bytes > self._keep_bytes:
            self.kept_bytes -= self.messages.popitem(last=False)[1].size_bytes

    def _tell(self, line: dict[str, Any]) -> None:
        apply = self._followers.get(line["provider"])
        if apply is not None:
            apply(line)

    def _count(self, outcome: str, provider: str, delivery_id: str) -> None:
        self._totals[outcome][provider] += 1
        if delivery_id:
            self._counts[outcome][provider][delivery_id] += 1

    def by_provider(self, outcome: str, providers: Iterable[str] = MESSAGE_PROVIDERS) -> dict[str, int]:
        """Return how many messages of each provider had this outcome."""
        return {provider: self._totals[outcome][provider] for provider in providers}

    def by_delivery(self, outcome: str, providers: Iterable[str] = MESSAGE_PROVIDERS) -> dict[str, int]:
        """Return how many messages of each delivery_id had this outcome."""
        counts: dict[str, int] = {}
        for provider in providers:
            for delivery_id, count in self._counts[outcome][provider].items():
                counts[delivery_id] = counts.get(delivery_id, 0) + count
        return counts

    def duplicates(self, providers: Iterable[str] = MESSAGE_PROVIDERS) -> dict[str, int]:
        """Return the delivery_ids that were accepted more than once by one provider, and how often."""
        counts = self._counts["accepted"]
        return {delivery_id: count for p in providers for delivery_id, count in counts[p].items() if count > 1}

    def lines(self) -> Iterable[dict[str, Any]]:
        """Read the journal's lines again, oldest first."""
        return self._journal.replay()

    def reset(self) -> None:
        """Forget everything, the journal too."""
        self._journal.reset()
        self._clear()
        self.resets += 1
