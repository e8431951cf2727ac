"""The limits of Discord's messages and embeds, and the errors that Discord answers with (code 50035)."""

from typing import Any, Final
from urllib.parse import urlsplit

from deploy.sandbox.exchange import Reply, json_reply

CONTENT_MAX: Final = 2_000
NONCE_MAX: Final = 25
MAX_EMBEDS: Final = 10
TITLE_MAX: Final = 256
DESCRIPTION_MAX: Final = 4_096
MAX_FIELDS: Final = 25
FIELD_NAME_MAX: Final = 256
FIELD_VALUE_MAX: Final = 1_024
FOOTER_MAX: Final = 2_048
AUTHOR_MAX: Final = 256
ALL_EMBEDS_MAX: Final = 6_000
URL_MAX: Final = 2_048
COLOR_MAX: Final = 0xFFFFFF
MENTION_KINDS: Final = ("roles", "users", "everyone")
MAX_MENTIONS: Final = 100

Errors = dict[str, Any]


def leaf(code: str, message: str) -> Errors:
    """Return the errors of one field."""
    return {"_errors": [{"code": code, "message": message}]}


def form_error(errors: Errors) -> Reply:
    """Return Discord's 50035 with the errors at their fields."""
    return json_reply({"message": "Invalid Form Body", "code": 50035, "errors": errors}, 400)


def check_message(payload: dict[str, Any], *, edit: bool = False) -> Reply | None:
    """Return Discord's refusal of a message's body, or None when it is fine."""
    errors: Errors = {}
    _string(errors, payload, "content", CONTENT_MAX)
    nonce = payload.get("nonce")
    if nonce is not None and (isinstance(nonce, bool) or not isinstance(nonce, str | int)):
        errors["nonce"] = leaf("NONCE_TYPE_INVALID", "The nonce must be a string or an integer.")
    elif isinstance(nonce, str) and len(nonce) > NONCE_MAX:
        errors["nonce"] = leaf("NONCE_TYPE_TOO_LONG", f"Must be between 1 and {NONCE_MAX} in length.")
    embeds = payload.get("embeds") or []
    if not isinstance(embeds, list):
        errors["embeds"] = leaf("LIST_TYPE_CONVERT", "Only iterables may be used in a ListType")
    elif found := _embeds(embeds):
        errors["embeds"] = found
    if found := _mentions(payload.get("allowed_mentions")):
        errors["allowed_mentions"] = found
    if not _are_components(payload.get("components") or []):
        errors["components"] = leaf("MODEL_TYPE_CONVERT", "Only dictionaries may be used in a ModelType")
    if errors:
        return form_error(errors)
    if not edit and not any(
        payload.get(name) for name in ("content", "embeds", "components", "sticker_ids", "poll", "attachments")
    ):
        return json_reply({"message": "Cannot send an empty message", "code": 50006}, 400)
    return None


def _are_components(components: Any) -> bool:
    return isinstance(components, list) and all(
        isinstance(c, dict) and _are_components(c.get("components") or []) for c in components
    )


def _string(errors: Errors, holder: dict[str, Any], name: str, limit: int, *, needed: bool = False) -> int:
    """Check a text field; returns its length, for the sum over all embeds."""
    value = holder.get(name)
    if value is None or value == "":
        if needed:
            errors[name] = leaf("BASE_TYPE_REQUIRED", "This field is required")
        return 0
    if not isinstance(value, str):
        errors[name] = leaf("STRING_TYPE_CONVERT", "Could not interpret value as string.")
        return 0
    if len(value) > limit:
        errors[name] = leaf("BASE_TYPE_MAX_LENGTH", f"Must be {limit} or fewer in length.")
    return len(value)


def _url(errors: Errors, holder: dict[str, Any], name: str) -> None:
    value = holder.get(name)
    if value is None:
        return
    scheme = urlsplit(value).scheme if isinstance(value, str) else ""
    if scheme not in ("http", "https", "attachment"):
        errors[name] = leaf(
            "URL_TYPE_INVALID_SCHEME", f"Scheme \"{scheme}\" is not supported. Scheme must be one of ('http', 'https')."
        )
    elif len(value) > URL_MAX:
        errors[name] = leaf("BASE_TYPE_MAX_LENGTH", f"Must be {URL_MAX} or fewer in length.")


def _embeds(embeds: list[Any]) -> Errors:
    if len(embeds) > MAX_EMBEDS:
        return leaf("BASE_TYPE_MAX_LENGTH", f"Must be {MAX_EMBEDS} or fewer in length.")
    found: Errors = {}
    characters = 0
    for number, embed in enumerate(embeds):
        if not isinstance(embed, dict):
            found[str(number)] = leaf("MODEL_TYPE_CONVERT", "Only dictionaries may be used in a ModelType")
            continue
        errors, length = _embed(embed)
        characters += length
        if errors:
            found[str(number)] = errors
    if not found and characters > ALL_EMBEDS_MAX:
        return leaf("MAX_EMBED_SIZE_EXCEEDED", f"Embed size exceeds maximum size of {ALL_EMBEDS_MAX}")
    return found


def _embed(embed: dict[str, Any]) -> tuple[Errors, int]:
    errors: Errors = {}
    characters = _string(errors, embed, "title", TITLE_MAX) + _string(errors, embed, "description", DESCRIPTION_MAX)
    _url(errors, embed, "url")
    color = embed.get("color")
    if color is not None and (isinstance(color, bool) or not isinstance(color, int) or not 0 <= color <= COLOR_MAX):
        errors["color"] = leaf("NUMBER_TYPE_MAX", f"int value should be less than or equal to {COLOR_MAX}.")
    for name, key, limit in (("footer", "text", FOOTER_MAX), ("author", "name", AUTHOR_MAX)):
        if isinstance(embed.get(name), dict):
            inner: Errors = {}
            characters += _string(inner, embed[name], key, limit, needed=True)
            _url(inner, embed[name], "icon_url")
            if inner:
                errors[name] = inner
    for name in ("image", "thumbnail"):
        if isinstance(embed.get(name), dict):
            inner = {}
            _url(inner, embed[name], "url")
            if inner:
                errors[name] = inner
    found, length = _fields(embed.get("fields") or [])
    if found:
        errors["fields"] = found
    shown = ("title", "description", "fields", "image", "thumbnail", "author", "footer")
    if not errors and not any(embed.get(name) for name in shown):
        errors["description"] = leaf("BASE_TYPE_REQUIRED", "This field is required")
    return errors, characters + length


def _fields(fields: Any) -> tuple[Errors, int]:
    if not isinstance(fields, list) or len(fields) > MAX_FIELDS:
        return leaf("BASE_TYPE_MAX_LENGTH", f"Must be {MAX_FIELDS} or fewer in length."), 0
    found: Errors = {}
    characters = 0
    for number, field in enumerate(fields):
        inner: Errors = {}
        if isinstance(field, dict):
            characters += _string(inner, field, "name", FIELD_NAME_MAX, needed=True)
            characters += _string(inner, field, "value", FIELD_VALUE_MAX, needed=True)
        else:
            inner = leaf("MODEL_TYPE_CONVERT", "Only dictionaries may be used in a ModelType")
        if inner:
            found[str(number)] = inner
    return found, characters


def _mentions(allowed: Any) -> Errors:
    if allowed is None:
        return {}
    if not isinstance(allowed, dict):
        return leaf("MODEL_TYPE_CONVERT", "Only dictionaries may be used in a ModelType")
    errors: Errors = {}
    for number, kind in enumerate(allowed.get("parse") or []):
        if kind not in MENTION_KINDS:
            choice = leaf("BASE_TYPE_CHOICES", f"Value must be one of {MENTION_KINDS}.")
            errors.setdefault("parse", {})[str(number)] = choice
    for name in ("users", "roles"):
        if len(allowed.get(name) or []) > MAX_MENTIONS:
            errors[name] = leaf("BASE_TYPE_MAX_LENGTH", f"Must be {MAX_MENTIONS} or fewer in length.")
        elif allowed.get(name) and name in (allowed.get("parse") or []):
            errors[name] = leaf(
                "MESSAGE_ALLOWED_MENTIONS_PARSE_EXCLUSIVE", f'parse:["{name}"] and {name}: [ids...] are mutually exclusive.'
            )
    return errors
