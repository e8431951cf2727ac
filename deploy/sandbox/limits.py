"""The providers' rates, off until somebody switches them on: a token bucket a provider or a destination.

The defaults are what the providers document: Slack 1 message a second a channel with short bursts, Discord 50 requests a
second over all, SES the account's MaxSendRate in recipients a second.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from deploy.sandbox.faults import BadControl
from deploy.sandbox.recorder import PROVIDERS

SCOPES: Final = ("global", "destination")


@dataclass(slots=True)
class Limit:
    """A provider's rate."""

    provider: str
    per_second: float
    burst: float
    scope: str
    on: bool = False


def _defaults() -> dict[str, Limit]:
    return {
        "ses": Limit("ses", 500.0, 500.0, "global"),
        "slack": Limit("slack", 1.0, 5.0, "destination"),
        "discord": Limit("discord", 50.0, 50.0, "global"),
        "webhook": Limit("webhook", 10.0, 10.0, "destination"),
        "score": Limit("score", 100.0, 100.0, "global"),
    }


class Limits:
    """All rates, and the buckets that they have filled or emptied."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Put the defaults back; everything is off."""
        self._limits = _defaults()
        self._buckets: dict[tuple[str, str], tuple[float, float]] = {}

    def set(self, document: Any) -> Limit:
        """Change a rate: {"provider", "per_second", "burst"?, "scope"?} switches it on, "on": false or per_second null off."""
        if not isinstance(document, dict) or document.get("provider") not in PROVIDERS:
            raise BadControl(f"name a provider: one of {', '.join(PROVIDERS)}")
        unknown = set(document) - {"provider", "per_second", "burst", "scope", "on"}
        if unknown:
            raise BadControl(f"{', '.join(sorted(unknown))} is no field of a limit: use provider, per_second, burst, scope, on")
        limit = self._limits[document["provider"]]
        limit.on = bool(document.get("on", True)) and document.get("per_second", limit.per_second) is not None
        for name in ("per_second", "burst"):
            value = document.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise BadControl(f"{name} is {value!r}: use a number above 0")
            setattr(limit, name, float(value))
        if document.get("per_second") and "burst" not in document:
            limit.burst = max(limit.per_second, 1.0)
        if document.get("scope", limit.scope) not in SCOPES:
            raise BadControl(f"scope is {document['scope']!r}: use {' or '.join(SCOPES)}")
        limit.scope = document.get("scope", limit.scope)
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if key[0] != limit.provider}
        return limit

    def get(self, provider: str) -> Limit:
        """Return a provider's rate."""
        return self._limits[provider]

    def documents(self) -> list[dict[str, Any]]:
        """Return the rates as JSON."""
        return [asdict(limit) for limit in self._limits.values()]

    def take(self, provider: str, destination: str, amount: int = 1) -> float:
        """Take tokens; returns 0 when there were enough, else the seconds until there are, and then takes none."""
        limit = self._limits[provider]
        if not limit.on:
            return 0.0
        key = (provider, destination if limit.scope == "destination" else "")
        now = time.monotonic()
        tokens, since = self._buckets.get(key, (limit.burst, now))
        tokens = min(limit.burst, tokens + (now - since) * limit.per_second)
        needed = min(float(amount), limit.burst)
        taken = tokens >= needed
        self._buckets[key] = (tokens - amount if taken else tokens, now)
        return 0.0 if taken else (needed - tokens) / limit.per_second
