"""What every provider's answers mean, over real sockets with the real clients: one row an error.

A row says what the provider (or the network) did, and what that means for the delivery. Each also counts the requests,
because a client that tries again by itself would send twice. The rows are written down here once more, apart from the
tables of sinks/answers.py, and every error that a provider documents for sending must have its row.
"""

import json
from collections.abc import Mapping
from typing import Any

import botocore.session
import pytest

from core.outcomes import Dead, Outcome, Refusal, Retry, Sent, Unknown
from sinks import answers
from sinks.calls import said
from tests.sinks_samples import Answers, address, http, opened, prepared

LOST = Unknown("answer_lost")
ACCOUNT, SOON, LATER = Retry(60.0, "account"), Retry(1.0, "provider_error"), Retry(60.0, "provider_error")
THROTTLED, SLOWED, QUOTA = Retry(1.0, "throttled"), Retry(60.0, "throttled"), Retry(900.0, "throttled")
REFUSED = Retry(5.0, "provider_error")
REJECTED, ADDRESS, FORBIDDEN, LARGE = Dead("rejected"), Dead("invalid_address"), Dead("unauthorized"), Dead("too_large")
CHANNELS = ("email", "slack", "discord", "webhook")
HTML = "<html><body>Sorry</body></html>"
TIMEOUT_S = 3.0


def ses_error(code: str, status: int = 400, text: str = "m") -> bytes:
    """An error of SES."""
    return http(status, json.dumps({"__type": code, "message": text}), x_amzn_ErrorType=code)


def bulk(*statuses: str, error: str = "e") -> bytes:
    """An answer of SendBulkEmail."""
    results = [{"Status": s, "MessageId": "m"} if s == "SUCCESS" else {"Status": s, "Error": error} for s in statuses]
    return http(200, json.dumps({"BulkEmailEntryResults": results}))


def slack_error(code: str, status: int = 200, messages: list[str] | None = None) -> bytes:
    """An answer of Slack that is not ok."""
    more = {} if messages is None else {"response_metadata": {"messages": messages}}
    return http(status, json.dumps({"ok": False, "error": code, **more}))


def discord_error(status: int, code: int = 0, **more: Any) -> bytes:
    """An error of Discord."""
    return http(status, json.dumps({"code": code, "message": "m", **more}))


SES_ENTRIES: dict[tuple[str, str], Outcome] = {
    ("SUCCESS", ""): Sent("m"),
    ("MESSAGE_REJECTED", "Message contains a virus."): REJECTED,
    ("MESSAGE_REJECTED", "Email address is not verified. The following identities failed the check in region EU: x"): ACCOUNT,
    ("INVALID_PARAMETER", "Illegal address"): ADDRESS,
    ("INVALID_PARAMETER", "Tag name"): REJECTED,
    ("TEMPLATE_NOT_FOUND", ""): REJECTED,
    ("ACCOUNT_THROTTLED", ""): THROTTLED,
    ("ACCOUNT_DAILY_QUOTA_EXCEEDED", ""): QUOTA,
    ("TRANSIENT_FAILURE", ""): SOON,
    ("FAILED", ""): Retry(5.0, "provider_error"),
    ("FAILED", "RenderingFailure: Attribute 'x' is not present in the rendering data."): Dead("rendering"),
    **dict.fromkeys(
        [
            (status, "")
            for status in (
                "MAIL_FROM_DOMAIN_NOT_VERIFIED", "CONFIGURATION_SET_NOT_FOUND", "CONFIGURATION_SET_SENDING_PAUSED",
                "INVALID_SENDING_POOL_NAME", "ACCOUNT_SUSPENDED", "ACCOUNT_SENDING_PAUSED",
            )
        ],
        ACCOUNT,
    ),
    ("SOMETHING_NEW", ""): LATER,
}  # fmt: skip
"""Status and Error of an entry."""

NOT_VERIFIED = "Email address is not verified. The following identities failed the check in region EU-WEST-1: x"
SES_CALLS: dict[tuple[str, int, str], Outcome] = {
    ("TooManyRequestsException", 429, "Maximum sending rate exceeded."): THROTTLED,
    ("TooManyRequestsException", 429, "Daily message quota exceeded."): QUOTA,
    ("ThrottlingException", 400, "Maximum sending rate exceeded."): THROTTLED,
    ("ThrottlingException", 400, "Daily message quota exceeded."): QUOTA,
    ("Throttling", 400, "Rate exceeded"): THROTTLED,
    ("Throttling", 400, "Daily message quota exceeded."): QUOTA,
    ("LimitExceededException", 400, ""): SLOWED,
    ("MessageRejected", 400, "Email contains invalid content."): REJECTED,
    ("MessageRejected", 400, NOT_VERIFIED): ACCOUNT,
    ("AccountSuspendedException", 400, ""): ACCOUNT,
    ("SendingPausedException", 400, ""): ACCOUNT,
    ("MailFromDomainNotVerifiedException", 400, ""): ACCOUNT,
    ("NotFoundException", 404, ""): ACCOUNT,
    ("BadRequestException", 400, ""): REJECTED,
    ("ValidationError", 400, ""): REJECTED,
    ("RequestEntityTooLargeException", 413, ""): LARGE,
    ("AccessDeniedException", 400, ""): ACCOUNT,
    ("AccessDeniedException", 403, ""): ACCOUNT,
    ("ExpiredTokenException", 403, ""): ACCOUNT,
    ("IncompleteSignature", 400, ""): ACCOUNT,
    ("InvalidClientTokenId", 403, ""): ACCOUNT,
    ("InvalidSignatureException", 403, ""): ACCOUNT,
    ("MissingAuthenticationTokenException", 403, ""): ACCOUNT,
    ("NotAuthorized", 400, ""): ACCOUNT,
    ("OptInRequired", 403, ""): ACCOUNT,
    ("RequestExpired", 400, ""): ACCOUNT,
    ("SignatureDoesNotMatch", 403, ""): ACCOUNT,
    ("UnrecognizedClientException", 403, ""): ACCOUNT,
    ("UnknownOperationException", 404, ""): ACCOUNT,
    ("SomethingNew", 409, ""): ACCOUNT,
    ("RequestTimeoutException", 408, ""): SOON,
    ("InternalFailure", 500, ""): SOON,
    ("InternalServiceErrorException", 500, ""): SOON,
    ("ServiceUnavailable", 503, ""): SOON,
    ("ServiceUnavailableException", 503, ""): SOON,
    ("SomethingNew", 500, ""): SOON,
    ("SomethingNew", 429, ""): THROTTLED,
}
"""Code, HTTP status and text of a refused call."""

SLACK_ERRORS: dict[Outcome, str] = {
    THROTTLED: "ratelimited rate_limited",
    SLOWED: "message_limit_exceeded",
    SOON: "service_unavailable request_timeout update_failed",
    LATER: "external_channel_migrating",
    LOST: "fatal_error internal_error duplicate_message_not_found duplicate_channel_not_found",
    ACCOUNT: "accesslimited account_inactive deprecated_endpoint enterprise_is_restricted invalid_auth is_bot"
    " messages_tab_disabled metadata_must_be_sent_from_app method_deprecated missing_scope not_allowed_token_type not_authed"
    " org_login_required team_added_to_org token_expired token_revoked two_factor_setup_required unknown_method",
    ADDRESS: "channel_not_found is_archived team_not_found user_disabled user_not_found user_not_visible",
    FORBIDDEN: "access_denied app_access_restricted ekm_access_denied no_permission not_in_channel restricted_action"
    " restricted_action_read_only_channel restricted_action_thread_only_channel restricted_action_non_threadable_channel"
    " restricted_action_thread_locked send_on_behalf_not_allowed",
    LARGE: "attachment_payload_limit_exceeded metadata_too_large msg_blocks_too_long msg_too_long",
    REJECTED: "invalid_arg_name invalid_arguments invalid_array_arg invalid_blocks invalid_blocks_format invalid_charset"
    " invalid_form_data invalid_metadata_format invalid_metadata_schema invalid_post_type markdown_text_conflict"
    " missing_post_type no_text too_many_attachments slack_connect_canvas_sharing_blocked slack_connect_file_link_sharing_blocked"
    " slack_connect_lists_sharing_blocked block_mismatch cant_update_message edit_window_closed is_inactive message_not_found"
    " something_new as_user_not_supported cannot_reply_to_message draft_already_deleted draft_already_sent draft_has_conflict"
    " draft_not_found missing_file_data too_many_contact_cards",
}
"""`error` by what it means; the last two lines are what Slack documents for things that are never sent here."""

DISCORD_ERRORS: dict[tuple[int, int], Outcome] = {
    **dict.fromkeys([(404, 10003), (404, 10004), (404, 10013), (400, 40058), (400, 40067), (400, 50008), (400, 50024)], ADDRESS),
    **dict.fromkeys([(400, 50083), (403, 160005), (404, 99999)], ADDRESS),
    **dict.fromkeys([(404, 10008), (403, 20009), (403, 50005), (400, 50006), (400, 50035), (400, 50109)], REJECTED),
    **dict.fromkeys([(400, 200000), (400, 200001), (400, 240000), (400, 0), (400, 99999)], REJECTED),
    **dict.fromkeys([(403, 20001), (403, 20012), (401, 40001), (403, 40002), (401, 50014), (400, 50041)], ACCOUNT),
    **dict.fromkeys([(401, 0), (403, 0), (404, 0), (405, 0), (403, 40333), (409, 0)], ACCOUNT),
    **dict.fromkeys([(403, 40007), (403, 50001), (403, 50007), (403, 50009), (403, 50013), (403, 50278)], FORBIDDEN),
    (403, 99999): FORBIDDEN,
    **dict.fromkeys([(403, 20016), (403, 20028), (403, 20029), (403, 40003), (403, 40062)], SLOWED),
    (403, 30046): QUOTA,
    **dict.fromkeys([(403, 40004), (403, 40006), (503, 110001)], LATER),
    **dict.fromkeys([(500, 0), (502, 0), (503, 0), (503, 130000), (408, 0), (520, 0)], SOON),
    **dict.fromkeys([(413, 0), (413, 40005)], LARGE),
    (504, 0): LOST,
}
"""HTTP status and JSON code."""

WEBHOOK_STATUSES: dict[int, Outcome | None] = {
    **dict.fromkeys((200, 201, 202, 204, 299), None),
    **dict.fromkeys((300, 302, 304, 307, 308, 400, 401, 402, 403, 404, 405, 406, 409, 411, 415, 418, 422, 451), REFUSED),
    **dict.fromkeys((408, 425, 500, 501, 502, 503, 504, 520, 599), SOON),
    410: Dead("endpoint_disabled"),
    413: LARGE,
    429: THROTTLED,
}
"""HTTP status; None is Sent."""

SLACK_DOCUMENTED = (
    "access_denied accesslimited account_inactive app_access_restricted as_user_not_supported attachment_payload_limit_exceeded"
    " cannot_reply_to_message channel_not_found deprecated_endpoint draft_already_deleted draft_already_sent draft_has_conflict"
    " draft_not_found duplicate_channel_not_found duplicate_message_not_found ekm_access_denied enterprise_is_restricted"
    " fatal_error invalid_arg_name invalid_array_arg invalid_blocks invalid_blocks_format invalid_charset invalid_form_data"
    " invalid_metadata_format invalid_metadata_schema invalid_post_type is_archived is_bot markdown_text_conflict"
    " message_limit_exceeded messages_tab_disabled metadata_must_be_sent_from_app metadata_too_large method_deprecated"
    " missing_file_data missing_post_type missing_scope msg_blocks_too_long no_permission no_text not_allowed_token_type"
    " not_authed not_in_channel org_login_required rate_limited ratelimited request_timeout restricted_action"
    " restricted_action_non_threadable_channel restricted_action_read_only_channel restricted_action_thread_locked"
    " restricted_action_thread_only_channel send_on_behalf_not_allowed service_unavailable slack_connect_canvas_sharing_blocked"
    " slack_connect_file_link_sharing_blocked slack_connect_lists_sharing_blocked team_added_to_org team_not_found"
    " token_expired token_revoked too_many_attachments too_many_contact_cards two_factor_setup_required unknown_method"
)
"""The errors that Slack's reference lists for chat.postMessage, August 2026."""


async def wrong_of(channel: str, rows: Mapping[Any, tuple[bytes, Outcome | None]]) -> dict[Any, Any]:
    """Return the rows whose answer does not come to their outcome after one request, or says nothing, with what it came to."""
    wrong = {}
    async with Answers(b"") as server, opened(channel, server.url, provider_timeout_s=TIMEOUT_S) as provider:
        for name, (answer, outcome) in rows.items():
            server.answers, server.requests = [answer], []
            one = prepared(provider, address(channel, server.url))
            (told,) = await provider.call([one])
            silent = isinstance(told, Refusal) and not said([one], [told])[0]
            if told != (outcome or Sent(one.message.delivery.delivery_id)) or len(server.requests) != 1 or silent:
                wrong[name] = (told, len(server.requests))
    return wrong


async def test_every_status_of_an_entry_of_ses() -> None:
    """HTTP 200 is no success: the entry's own status is."""
    assert await wrong_of("email", {row: (bulk(row[0], error=row[1]), o) for row, o in SES_ENTRIES.items()}) == {}


async def test_every_error_of_a_call_to_ses() -> None:
    """What is wrong with the account waits until it is mended; what is wrong with the message does not."""
    assert await wrong_of("email", {row: (ses_error(*row), o) for row, o in SES_CALLS.items()}) == {}


async def test_every_error_of_slack() -> None:
    """By its name in the answer, whatever the HTTP status."""
    rows = {code: (slack_error(code), outcome) for outcome, codes in SLACK_ERRORS.items() for code in codes.split()}
    assert await wrong_of("slack", rows) == {}


async def test_every_error_of_discord() -> None:
    """By its code, else by the HTTP status."""
    assert await wrong_of("discord", {row: (discord_error(*row), o) for row, o in DISCORD_ERRORS.items()}) == {}


async def test_every_status_of_a_webhook() -> None:
    """Only 2xx is success, only 410 and a payload that is too large are final."""
    rows = {status: (http(status, "" if status in (204, 304) else "{}"), o) for status, o in WEBHOOK_STATUSES.items()}
    assert await wrong_of("webhook", rows) == {}


def test_every_row_and_every_documented_error_is_tried() -> None:
    """Against botocore's own model, Slack's reference and our tables: an error that is added there needs a row here."""
    operation = botocore.session.get_session().get_service_model("sesv2").operation_model("SendBulkEmail")
    result = operation.output_shape.members["BulkEmailEntryResults"].member
    ours = {status for status, _ in SES_ENTRIES}
    assert set(result.members["Status"].enum) | set(answers.SES_ENTRY) <= ours
    called = {code for code, _, _ in SES_CALLS}
    assert {shape.name for shape in operation.error_shapes} | set(answers.SES_CALL) <= called
    tried = {code for codes in SLACK_ERRORS.values() for code in codes.split()}
    assert set(SLACK_DOCUMENTED.split()) | set(answers.SLACK) <= tried
    codes = {str(number) for row in DISCORD_ERRORS for number in row}
    assert set(answers.DISCORD) <= codes
    for table in (answers.SES_ENTRY, answers.SES_CALL, answers.SLACK, answers.DISCORD):
        assert all(row.source for rows in table.values() for row in rows)


ROWS: list[tuple[str, bytes | str, Outcome | None]] = [
    ("email", bulk(), LOST),
    ("email", bulk("SUCCESS", "SUCCESS"), LOST),
    ("email", http(200, json.dumps({"BulkEmailEntryResults": [{"Status": "SUCCESS"}]})), LOST),
    ("email", http(200, json.dumps({"BulkEmailEntryResults": [1]})), LOST),
    ("email", http(200, json.dumps({"BulkEmailEntryResults": {"Status": "SUCCESS"}})), LOST),
    ("email", http(503, HTML, "text/html"), SOON),
    ("email", http(502, HTML, "text/html"), LOST),
    ("email", http(504, HTML, "text/html"), LOST),
    ("email", http(403, HTML, "text/html"), ACCOUNT),
    ("slack", http(200, json.dumps({"ok": True, "ts": "1.2", "channel": "C1"})), Sent("C1:1.2")),
    ("slack", http(200, json.dumps({"ok": True})), LOST),
    ("slack", http(200, json.dumps({"ok": False})), LOST),
    ("slack", http(429, json.dumps({"ok": False, "error": "ratelimited"}), Retry_After="7"), Retry(7.0, "throttled")),
    ("slack", http(429, HTML, "text/html"), THROTTLED),
    ("slack", http(500, "oh", "text/html"), SOON),
    ("slack", http(502, HTML, "text/html"), LOST),
    ("slack", http(503, HTML, "text/html", Retry_After="9"), Retry(9.0, "throttled")),
    ("slack", http(504, HTML, "text/html"), LOST),
    ("slack", http(403, HTML, "text/html"), ACCOUNT),
    ("slack", http(413, HTML, "text/html"), LARGE),
    ("slack", http(302, "", Location="/elsewhere"), ACCOUNT),
    ("slack", http(307, "", Location="/elsewhere"), ACCOUNT),
    ("slack", slack_error("service_unavailable", 503), SOON),
    ("slack", slack_error("internal_error", 500), LOST),
    ("slack", slack_error("something_new", 500), SOON),
    ("slack", slack_error("channel_not_found", 404), ADDRESS),
    ("discord", http(429, json.dumps({"message": "m", "retry_after": 4.5, "global": False})), Retry(4.5, "throttled")),
    ("discord", http(429, "banned", "text/plain"), SLOWED),
    ("discord", http(429, json.dumps({"message": "m", "retry_after": "soon"})), LOST),
    ("discord", http(502, HTML, "text/html"), SOON),
    ("discord", http(403, HTML, "text/html"), ACCOUNT),
    ("discord", http(400, HTML, "text/html"), ACCOUNT),
    ("discord", http(404, "[]"), LOST),
    ("discord", http(204, ""), LOST),
    ("discord", http(200, json.dumps({"id": "1"})), LOST),
    ("discord", http(302, "", Location="/elsewhere"), ACCOUNT),
    ("webhook", http(301, "", Location="http://127.0.0.1/"), REFUSED),
    ("webhook", http(200, HTML, "text/html"), None),
    ("webhook", http(429, Retry_After="11"), Retry(11.0, "throttled")),
    ("webhook", http(503, Retry_After="30"), Retry(30.0, "throttled")),
    ("webhook", http(500, Retry_After="30"), Retry(30.0, "provider_error")),
    ("webhook", http(404, Retry_After="99999999"), Retry(86_400.0, "provider_error")),
    ("webhook", http(429, Retry_After="-3"), THROTTLED),
    ("webhook", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 100_000, None),
    ("webhook", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", LOST),
    ("webhook", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope", None),
    *((channel, "drop", LOST) for channel in CHANNELS),
    *((channel, "silence", LOST) for channel in CHANNELS),
    *((channel, b"nonsense\r\n\r\n", LOST) for channel in CHANNELS),
    *(
        (channel, http(200, body), LOST)
        for channel in CHANNELS[:3]
        for body in ("", "{", "{}", "[]", "[1]", "null", '"x"', "\x00")
    ),
    *((channel, http(200, HTML, "text/html"), LOST) for channel in CHANNELS[:3]),
    *((channel, http(200, HTML), LOST) for channel in CHANNELS[:3]),
    *(
        (channel, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", LOST)
        for channel in CHANNELS[:3]
    ),
    *(
        (channel, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n\xff\xfe", LOST)
        for channel in CHANNELS[:3]
    ),
]


def name_of(row: tuple[str, bytes | str, Outcome | None]) -> str:
    """A row's channel and the beginning of what came."""
    came = row[1] if isinstance(row[1], str) else row[1].split(b"\r\n\r\n")[-1][:20].decode("latin-1")
    status = "" if isinstance(row[1], str) else row[1].split(b" ")[1][:3].decode("latin-1") if b" " in row[1] else ""
    return f"{row[0]} {status} {came!r}"


@pytest.mark.parametrize(("channel", "answer", "outcome"), ROWS, ids=[name_of(row) for row in ROWS])
async def test_classifies_what_is_no_answer_of_the_providers_own(
    channel: str, answer: bytes | str, outcome: Outcome | None
) -> None:
    """Garbage, HTML, a proxy's error, 200 with an error inside, a dropped or silent connection; None is Sent."""
    async with Answers(answer) as server, opened(channel, server.url, provider_timeout_s=TIMEOUT_S) as provider:
        one = prepared(provider, address(channel, server.url))
        answered = await provider.call([one])
        assert answered == [outcome or Sent(one.message.delivery.delivery_id)]
        assert len(server.requests) == 1
        (error,) = said([one], answered)
        assert bool(error) == isinstance(answered[0], Refusal), "whatever is wrong is told"


PROVIDERS_WORDS = [
    ("email", bulk("MESSAGE_REJECTED", error="Address ada@example.org is blocked."),
     "MESSAGE_REJECTED: Address [...] is blocked."),
    ("email", ses_error("BadRequestException", text="Illegal address: 'ada@example.org'"),
     "BadRequestException: Illegal address: '[...]'"),
    ("slack", slack_error("invalid_blocks", messages=["[ERROR] too long [json-pointer:/blocks/0] in C0123456"]),
     "invalid_blocks, [ERROR] too long [json-pointer:/blocks/0] in [...]"),
    ("discord", http(400, json.dumps({"code": 50035, "message": "Invalid Form Body", "errors": {"embeds": {"0": {"title": {
        "_errors": [{"code": "BASE_TYPE_MAX_LENGTH", "message": "Must be 256 or fewer in length."}]}}}}})),
     "50035: Invalid Form Body; embeds.0.title Must be 256 or fewer in length."),
    ("webhook", http(500, '{"error": "ada@example.org has moved"}'), "status 500"),
    ("webhook", "drop", "ServerDisconnectedError"),
]  # fmt: skip


@pytest.mark.parametrize(("channel", "answer", "words"), PROVIDERS_WORDS)
async def test_keeps_the_providers_words_without_whom_they_are_about(channel: str, answer: bytes | str, words: str) -> None:
    """What an operator needs to see why; nothing of what a stranger's endpoint answers."""
    async with Answers(answer) as server, opened(channel, server.url, provider_timeout_s=TIMEOUT_S) as provider:
        one = prepared(provider, address(channel, server.url))
        assert said([one], await provider.call([one])) == [words]


async def test_one_entry_of_garbage_makes_the_whole_answer_of_ses_unknown() -> None:
    """Which entry an answer belongs to is told by its place only."""
    answer = http(200, json.dumps({"BulkEmailEntryResults": [{"Status": "SUCCESS", "MessageId": "m"}, None]}))
    async with Answers(answer) as server, opened("email", server.url, provider_timeout_s=TIMEOUT_S) as provider:
        group = [prepared(provider, f"a{n}@example.org") for n in range(2)]
        assert await provider.call(group) == [LOST, LOST]
