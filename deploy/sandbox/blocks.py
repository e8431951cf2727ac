"""The limits of Slack's Block Kit, checked in the words that Slack answers with."""

from collections.abc import Callable
from typing import Any, Final

MAX_BLOCKS: Final = 50
TEXT_MAX: Final = 40_000
SECTION_MAX: Final = 3_000
FIELD_MAX: Final = 2_000
MAX_FIELDS: Final = 10
HEADER_MAX: Final = 150
MAX_CONTEXT: Final = 10
MAX_ACTIONS: Final = 25
BUTTON_TEXT_MAX: Final = 75
BUTTON_VALUE_MAX: Final = 2_000
URL_MAX: Final = 3_000
ID_MAX: Final = 255
ALL_BLOCKS_MAX: Final = 13_200
"""Characters over all blocks of a message, about: what was measured to be refused."""

UNCHECKED: Final = frozenset({"rich_text", "file", "video", "table", "markdown", "call"})
"""Kinds that Slack has and nobody here sends: taken as they are."""


class _Checker:
    """Collects what is wrong with the blocks of one message."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.characters = 0

    def fail(self, where: str, what: str) -> None:
        self.problems.append(f"{what} [json-pointer:{where}]")

    def string(self, where: str, value: Any, limit: int, *, needed: bool = True) -> None:
        if value is None and not needed:
            return
        if not isinstance(value, str) or (needed and not value):
            self.fail(where, "must be more than 0 characters" if value == "" else "missing required field: a text")
            return
        self.characters += len(value)
        if len(value) > limit:
            self.fail(where, f"must be less than {limit + 1} characters")

    def text(self, where: str, value: Any, limit: int, kinds: tuple[str, ...] = ("plain_text", "mrkdwn")) -> None:
        if not isinstance(value, dict):
            self.fail(where, "missing required field: text")
            return
        if value.get("type") not in kinds:
            self.fail(f"{where}/type", f"must be one of: {', '.join(kinds)}")
        self.string(f"{where}/text", value.get("text"), limit)

    def items(self, where: str, value: Any, limit: int) -> list[Any]:
        if not isinstance(value, list) or not value:
            self.fail(where, "must provide at least 1 item")
            return []
        if len(value) > limit:
            self.fail(where, f"no more than {limit} items allowed")
        return value

    def image(self, where: str, value: dict[str, Any]) -> None:
        if "slack_file" not in value:
            self.string(f"{where}/image_url", value.get("image_url"), URL_MAX)
        self.string(f"{where}/alt_text", value.get("alt_text"), FIELD_MAX)

    def button(self, where: str, value: Any) -> None:
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            self.fail(where, "missing required field: type")
        elif value["type"] == "button":
            self.text(f"{where}/text", value.get("text"), BUTTON_TEXT_MAX, ("plain_text",))
            self.string(f"{where}/value", value.get("value"), BUTTON_VALUE_MAX, needed=False)
            self.string(f"{where}/url", value.get("url"), URL_MAX, needed=False)
            self.string(f"{where}/action_id", value.get("action_id"), ID_MAX, needed=False)
        elif value["type"] == "image":
            self.image(where, value)


def _section(check: _Checker, where: str, block: dict[str, Any]) -> None:
    if "text" not in block and "fields" not in block:
        check.fail(where, "missing required field: text or fields")
    if "text" in block:
        check.text(f"{where}/text", block["text"], SECTION_MAX)
    if "fields" in block:
        for number, field in enumerate(check.items(f"{where}/fields", block["fields"], MAX_FIELDS)):
            check.text(f"{where}/fields/{number}", field, FIELD_MAX)
    if "accessory" in block:
        check.button(f"{where}/accessory", block["accessory"])


def _header(check: _Checker, where: str, block: dict[str, Any]) -> None:
    check.text(f"{where}/text", block.get("text"), HEADER_MAX, ("plain_text",))


def _context(check: _Checker, where: str, block: dict[str, Any]) -> None:
    for number, element in enumerate(check.items(f"{where}/elements", block.get("elements"), MAX_CONTEXT)):
        if isinstance(element, dict) and element.get("type") == "image":
            check.image(f"{where}/elements/{number}", element)
        else:
            check.text(f"{where}/elements/{number}", element, FIELD_MAX)


def _actions(check: _Checker, where: str, block: dict[str, Any]) -> None:
    for number, element in enumerate(check.items(f"{where}/elements", block.get("elements"), MAX_ACTIONS)):
        check.button(f"{where}/elements/{number}", element)


def _image(check: _Checker, where: str, block: dict[str, Any]) -> None:
    check.image(where, block)
    if "title" in block:
        check.text(f"{where}/title", block["title"], FIELD_MAX, ("plain_text",))


CHECKS: Final[dict[str, Callable[[_Checker, str, dict[str, Any]], None]]] = {
    "section": _section,
    "header": _header,
    "context": _context,
    "actions": _actions,
    "image": _image,
    "divider": lambda check, where, block: None,
}


def check_blocks(blocks: Any) -> tuple[str, list[str]]:
    """Return Slack's error code and its details, each with a JSON pointer; ("", []) when the blocks are fine."""
    if not isinstance(blocks, list):
        return "invalid_blocks_format", []
    check = _Checker()
    if len(blocks) > MAX_BLOCKS:
        check.fail("/blocks", f"no more than {MAX_BLOCKS} items allowed")
    seen: set[str] = set()
    for number, block in enumerate(blocks):
        where = f"/blocks/{number}"
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str) or (kind not in CHECKS and kind not in UNCHECKED):
            check.fail(f"{where}/type", f"unsupported type: {kind}")
            continue
        check.string(f"{where}/block_id", block.get("block_id"), ID_MAX, needed=False)
        if block.get("block_id") in seen:
            check.fail(f"{where}/block_id", "block_id already exists")
        if isinstance(block.get("block_id"), str):
            seen.add(block["block_id"])
        if kind in CHECKS:
            CHECKS[kind](check, where, block)
    if check.problems:
        return "invalid_blocks", check.problems
    if check.characters > ALL_BLOCKS_MAX:
        return "msg_blocks_too_long", []
    return "", []
