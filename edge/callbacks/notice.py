"""A notice: one event that a provider's message means, before it is encoded."""

from dataclasses import dataclass
from typing import Any

from core.errors import EventRefused
from core.ids import event_id
from core.rules import validate


class Refused(Exception):
    """A message that is not acted on; `result` labels the metric, and the text says why without repeating what was sent."""

    def __init__(self, status: int, result: str, text: str) -> None:
        super().__init__(text)
        self.status, self.result = status, result


@dataclass(frozen=True, slots=True)
class Notice:
    """An event of provider-events or engagements that obeys its rules (else Refused).

    The same message of a provider always gives the same id.
    """

    name: str
    value: dict[str, Any]
    identity: tuple[str, ...]
    """What tells it from every other notice: the channel and the provider's own id, or ids."""

    def __post_init__(self) -> None:
        try:
            validate(self.name, self.value)
        except EventRefused as error:
            raise Refused(400, "malformed", str(error)) from None

    @property
    def id(self) -> str:
        """The event's ce_id."""
        return event_id("notice", self.name, *self.identity)
