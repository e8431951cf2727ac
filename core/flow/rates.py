"""Each channel's rates and breakers, in one table with the sources: data, to be changed here.

They hold when real providers are spoken to, or with NEWSWIRE_RATES=on; a provider that tells its account's limit
(SES: GetAccount.SendQuota) replaces its own row while the process runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from core.flow.breaker import BreakerPlan
from core.flow.bucket import Rate

LONGEST_WAIT_S: Final = 5.0
"""What is farther from its turn at a destination is parked, so that it does not fill the window."""
PROVIDER_BREAKER: Final = BreakerPlan(window=20, window_s=60.0, min_calls=5, failure_share=0.5, open_s=1.0, open_cap_s=15.0)
"""A minute, because calls that hang take 15 s each. While it is open one call every 1 to 15 s looks for the end."""
DESTINATION_BREAKER: Final = BreakerPlan(window=10, window_s=300.0, min_calls=4, failure_share=0.5, open_s=15.0, open_cap_s=600.0)
"""One endpoint gets few calls, so they are looked at for longer; its deliveries are parked meanwhile."""

Scope = Literal["provider", "destination"]


@dataclass(frozen=True, slots=True)
class ChannelRates:
    """What a channel's provider takes."""

    provider: Rate | None
    """For all that is sent through it, urgent and bulk; None without a bound."""
    destination: Rate
    """For a destination that is not named below: a chat channel, an endpoint, the domain of a mail address."""
    throttled: Scope
    """Whose bucket a throttled answer slows down."""
    breaker: Scope
    """What stops when most calls fail."""
    source: str
    destinations: Mapping[str, Rate] = field(default_factory=dict)
    """Destinations with rates of their own."""
    divided: bool = False
    """Whether a destination is common to subscribers everywhere (a mail domain): each process then takes the share of it
    that it has of the partitions. Else it belongs to one subscriber or a few, and the processes that send to it tell each
    other what they took (sinks/pacing.py)."""


_MAILBOXES = Rate(500.0, 2_000.0)
_LARGE: Final = (
    "gmail.com", "googlemail.com", "outlook.com", "hotmail.com", "live.com", "msn.com", "yahoo.com", "aol.com", "icloud.com",
    "me.com", "gmx.de", "gmx.net", "web.de", "qq.com", "163.com",
)  # fmt: skip

RATES: Final[Mapping[str, ChannelRates]] = MappingProxyType(
    {
        "email": ChannelRates(
            provider=Rate(14.0, 14.0),
            destination=Rate(50.0, 500.0),
            destinations=dict.fromkeys(_LARGE, _MAILBOXES),
            divided=True,
            throttled="provider",
            breaker="provider",
            source="SES: 14 a second until GetAccount.SendQuota.MaxSendRate says what this account has. Domains: no mailbox "
            "provider publishes a rate, and SES paces its own connections; these are bounds of our own.",
        ),
        "slack": ChannelRates(
            provider=Rate(20.0, 20.0),
            destination=Rate(1.0, 5.0),
            throttled="destination",
            breaker="provider",
            source="api.slack.com/apis/rate-limits: chat.postMessage 1 a second a channel, short bursts allowed, and a cap of "
            "the workspace of several hundred a minute that has no published number: 20 a second is ours.",
        ),
        "discord": ChannelRates(
            provider=Rate(45.0, 45.0),
            destination=Rate(1.0, 5.0),
            throttled="destination",
            breaker="provider",
            source="discord.com/developers/docs/topics/rate-limits: 50 requests a second over all (a tenth is left for other "
            "requests of the bot); a channel's bucket is 5 in 5 s at this time, and its headers have the last word (hikari).",
        ),
        "webhook": ChannelRates(
            provider=None,
            destination=Rate(10.0, 20.0),
            throttled="destination",
            breaker="destination",
            source="standard-webhooks.com names no rate, only Retry-After: 10 a second to one endpoint is ours.",
        ),
    }
)
"""Channel and its rates."""

_DAY_S: Final = 86_400.0
WARM_UP: Final = (
    (1, 500), (2, 1_000), (3, 2_000), (4, 4_000), (6, 8_000), (9, 16_000), (12, 32_000), (15, 64_000), (20, 128_000),
    (25, 256_000),
)  # fmt: skip
"""Day of a new sender, counted from 1, and mails a day to one recipient domain from then on; after day 30 there is no such
bound. No mailbox provider publishes numbers, they say to begin low and grow steadily (Google's and Yahoo's guidelines for
bulk senders); this doubles, as the plans of the large senders do, from half of where they begin."""
WARM_DAY: Final = 31


def warm_up_rate(day: int) -> Rate | None:
    """Return the rate to one recipient domain on that day of a new sender (1 is the first); None when it is warm.

    A day's mails are spread over the day, at most an hour's worth at once.
    """
    if day >= WARM_DAY:
        return None
    mails = next(count for first, count in reversed(WARM_UP) if max(day, 1) >= first)
    return Rate(mails / _DAY_S, max(1.0, mails / 24.0))
