"""The channel registry: one entry a channel. Contract tests run over it."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from core.names import CHANNELS
from runtime.settings import Settings
from sinks.discord import Discord
from sinks.provider import Provider
from sinks.ses import Ses
from sinks.slack import Slack
from sinks.webhook import Webhook

PROVIDERS: Final[Mapping[str, Callable[[Settings], Provider]]] = MappingProxyType(
    {"email": Ses, "slack": Slack, "discord": Discord, "webhook": Webhook}
)
"""Channel and its provider. The clients' libraries are imported by `open`, so that looking here is cheap."""

assert set(PROVIDERS) == set(CHANNELS)
