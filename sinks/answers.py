"""What each provider's answers mean for a delivery: one row an error, with the source of the claim.

A row says what an error that the provider reports under `code` comes to; with `says`, only when its text has these words.
The first row that fits holds. What no row names is decided by its HTTP status, in the provider's own module. Retry is for
what certainly was not taken; what may have been taken is Unknown, and nothing is Dead for a fault that is not the
message's or the address's own. tests/integration/test_sinks_answers.py has a row over a real socket for each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from core.outcomes import Dead, Refusal, Retry, Unknown
from sinks.provider import ACCOUNT, ACCOUNT_RETRY_S, PROVIDER_ERROR, SOON_S, THROTTLED

QUOTA_RETRY_S: Final = 900.0
"""Wait when the daily quota is used up: it is counted over a sliding day, so it frees up bit by bit."""
BLOCKED_RETRY_S: Final = 60.0
"""Wait when the network in front of Discord blocks this address."""

_ACCOUNT: Final = Retry(ACCOUNT_RETRY_S, ACCOUNT)
_SOON: Final = Retry(SOON_S, PROVIDER_ERROR)
_LATER: Final = Retry(60.0, PROVIDER_ERROR)
_THROTTLED: Final = Retry(SOON_S, THROTTLED)
_SLOWED: Final = Retry(60.0, THROTTLED)
_LOST: Final = Unknown("answer_lost")
_REJECTED, _ADDRESS, _FORBIDDEN, _LARGE = Dead("rejected"), Dead("invalid_address"), Dead("unauthorized"), Dead("too_large")


@dataclass(frozen=True, slots=True)
class Answer:
    """One row."""

    code: str
    outcome: Refusal
    source: str
    says: str = ""


Table = Mapping[str, tuple[Answer, ...]]


def _table(rows: Sequence[Answer]) -> Table:
    table: dict[str, tuple[Answer, ...]] = {}
    for row in rows:
        table[row.code] = (*table.get(row.code, ()), row)
    return MappingProxyType(table)


def meaning(table: Table, code: str, text: str = "") -> Refusal | None:
    """Return what the error comes to, None when no row names it."""
    return next((row.outcome for row in table.get(code, ()) if row.says in text.lower()), None)


_STATUS: Final = "botocore sesv2, shape BulkEmailStatus and the documentation of BulkEmailEntryResult.Status"
_RENDERING: Final = "Amazon SES developer guide, Rendering Failure events, by which SES says so; deploy/sandbox says it at once"
_MODEL: Final = "botocore sesv2, errors of SendBulkEmail"
_COMMON: Final = "Amazon SES API v2 reference, Common Errors"
_VERIFIED: Final = (
    "Amazon SES developer guide, Amazon SES email sending errors: the sender's identity, or the sandbox's recipient"
)

SES_ENTRY: Final = _table(
    (
        Answer("MESSAGE_REJECTED", _ACCOUNT, _VERIFIED, "is not verified"),
        Answer("MESSAGE_REJECTED", _REJECTED, _STATUS),
        Answer("INVALID_PARAMETER", _ADDRESS, _STATUS, "address"),
        Answer("INVALID_PARAMETER", _REJECTED, _STATUS),
        Answer("TEMPLATE_NOT_FOUND", _REJECTED, _STATUS),
        Answer("ACCOUNT_THROTTLED", _THROTTLED, _STATUS),
        Answer("ACCOUNT_DAILY_QUOTA_EXCEEDED", Retry(QUOTA_RETRY_S, THROTTLED), _STATUS),
        Answer("TRANSIENT_FAILURE", _SOON, _STATUS),
        Answer("FAILED", Dead("rendering"), _RENDERING, "renderingfailure"),
        Answer("FAILED", Retry(5.0, PROVIDER_ERROR), _STATUS),
        Answer("MAIL_FROM_DOMAIN_NOT_VERIFIED", _ACCOUNT, _STATUS),
        Answer("CONFIGURATION_SET_NOT_FOUND", _ACCOUNT, _STATUS),
        Answer("CONFIGURATION_SET_SENDING_PAUSED", _ACCOUNT, _STATUS),
        Answer("INVALID_SENDING_POOL_NAME", _ACCOUNT, _STATUS),
        Answer("ACCOUNT_SUSPENDED", _ACCOUNT, _STATUS),
        Answer("ACCOUNT_SENDING_PAUSED", _ACCOUNT, _STATUS),
    )
)
"""Status of one entry of SendBulkEmail, but SUCCESS."""

SES_CALL: Final = _table(
    (
        Answer("TooManyRequestsException", Retry(QUOTA_RETRY_S, THROTTLED), _MODEL, "daily"),
        Answer("TooManyRequestsException", _THROTTLED, _MODEL),
        Answer("LimitExceededException", _SLOWED, _MODEL),
        Answer("AccountSuspendedException", _ACCOUNT, _MODEL),
        Answer("SendingPausedException", _ACCOUNT, _MODEL),
        Answer("MailFromDomainNotVerifiedException", _ACCOUNT, _MODEL),
        Answer("NotFoundException", _ACCOUNT, _MODEL),
        Answer("MessageRejected", _ACCOUNT, _VERIFIED, "is not verified"),
        Answer("MessageRejected", _REJECTED, _MODEL),
        Answer("ThrottlingException", Retry(QUOTA_RETRY_S, THROTTLED), _COMMON, "daily"),
        Answer("ThrottlingException", _THROTTLED, _COMMON),
        Answer("Throttling", Retry(QUOTA_RETRY_S, THROTTLED), _COMMON, "daily"),
        Answer("Throttling", _THROTTLED, _COMMON),
        Answer("AccessDeniedException", _ACCOUNT, _COMMON),
        Answer("ExpiredTokenException", _ACCOUNT, _COMMON),
        Answer("IncompleteSignature", _ACCOUNT, _COMMON),
        Answer("InvalidClientTokenId", _ACCOUNT, _COMMON),
        Answer("InvalidSignatureException", _ACCOUNT, _COMMON),
        Answer("MissingAuthenticationTokenException", _ACCOUNT, _COMMON),
        Answer("NotAuthorized", _ACCOUNT, _COMMON),
        Answer("OptInRequired", _ACCOUNT, _COMMON),
        Answer("RequestExpired", _ACCOUNT, _COMMON),
        Answer("SignatureDoesNotMatch", _ACCOUNT, _COMMON),
        Answer("UnrecognizedClientException", _ACCOUNT, _COMMON),
        Answer("UnknownOperationException", _ACCOUNT, _COMMON),
        Answer("RequestTimeoutException", _SOON, _COMMON),
        Answer("InternalFailure", _SOON, _COMMON),
        Answer("InternalServiceErrorException", _SOON, "botocore sesv2, shape InternalServiceErrorException"),
        Answer("ServiceUnavailable", _SOON, _COMMON),
        Answer("ServiceUnavailableException", _SOON, _COMMON),
    )
)
"""Error of a whole call. BadRequestException and ValidationError are not here: one entry may have spoiled the call."""

_POST: Final = "Slack, chat.postMessage, Errors"
_UPDATE: Final = "Slack, chat.update, Errors"
_OPEN: Final = "Slack, conversations.open, Errors"
_PARTLY: Final = "Slack, chat.postMessage, Errors: some aspect of the operation may have succeeded"
_KNOWN_ID: Final = "Slack, chat.postMessage, Errors: a message with this client_msg_id was known before"
_RATES: Final = "Slack, Rate limits"

SLACK: Final = _table(
    (
        Answer("ratelimited", _THROTTLED, _RATES),
        Answer("rate_limited", _THROTTLED, _POST),
        Answer("message_limit_exceeded", _SLOWED, _POST),
        Answer("service_unavailable", _SOON, _POST),
        Answer("request_timeout", _SOON, _POST),
        Answer("update_failed", _SOON, _UPDATE),
        Answer("external_channel_migrating", _LATER, _UPDATE),
        Answer("fatal_error", _LOST, _PARTLY),
        Answer("internal_error", _LOST, _PARTLY),
        Answer("duplicate_message_not_found", _LOST, _KNOWN_ID),
        Answer("duplicate_channel_not_found", _LOST, _KNOWN_ID),
        Answer("accesslimited", _ACCOUNT, _POST),
        Answer("account_inactive", _ACCOUNT, _POST),
        Answer("deprecated_endpoint", _ACCOUNT, _POST),
        Answer("enterprise_is_restricted", _ACCOUNT, _POST),
        Answer("invalid_auth", _ACCOUNT, _POST),
        Answer("is_bot", _ACCOUNT, _POST),
        Answer("messages_tab_disabled", _ACCOUNT, _POST),
        Answer("metadata_must_be_sent_from_app", _ACCOUNT, _POST),
        Answer("method_deprecated", _ACCOUNT, _POST),
        Answer("missing_scope", _ACCOUNT, _POST),
        Answer("not_allowed_token_type", _ACCOUNT, _POST),
        Answer("not_authed", _ACCOUNT, _POST),
        Answer("org_login_required", _ACCOUNT, _POST),
        Answer("team_added_to_org", _ACCOUNT, _POST),
        Answer("token_expired", _ACCOUNT, _POST),
        Answer("token_revoked", _ACCOUNT, _POST),
        Answer("two_factor_setup_required", _ACCOUNT, _POST),
        Answer("unknown_method", _ACCOUNT, _POST),
        Answer("channel_not_found", _ADDRESS, _POST),
        Answer("is_archived", _ADDRESS, _POST),
        Answer("team_not_found", _ADDRESS, _POST),
        Answer("user_disabled", _ADDRESS, _OPEN),
        Answer("user_not_found", _ADDRESS, _OPEN),
        Answer("user_not_visible", _ADDRESS, _OPEN),
        Answer("access_denied", _FORBIDDEN, _POST),
        Answer("app_access_restricted", _FORBIDDEN, _POST),
        Answer("ekm_access_denied", _FORBIDDEN, _POST),
        Answer("no_permission", _FORBIDDEN, _POST),
        Answer("not_in_channel", _FORBIDDEN, _POST),
        Answer("restricted_action", _FORBIDDEN, _POST),
        Answer("restricted_action_read_only_channel", _FORBIDDEN, _POST),
        Answer("restricted_action_thread_only_channel", _FORBIDDEN, _POST),
        Answer("restricted_action_non_threadable_channel", _FORBIDDEN, _POST),
        Answer("restricted_action_thread_locked", _FORBIDDEN, _POST),
        Answer("send_on_behalf_not_allowed", _FORBIDDEN, _POST),
        Answer("attachment_payload_limit_exceeded", _LARGE, _POST),
        Answer("metadata_too_large", _LARGE, _POST),
        Answer("msg_blocks_too_long", _LARGE, _POST),
        Answer("msg_too_long", _LARGE, _POST),
        Answer("invalid_arg_name", _REJECTED, _POST),
        Answer("invalid_arguments", _REJECTED, _POST),
        Answer("invalid_array_arg", _REJECTED, _POST),
        Answer("invalid_blocks", _REJECTED, _POST),
        Answer("invalid_blocks_format", _REJECTED, _POST),
        Answer("invalid_charset", _REJECTED, _POST),
        Answer("invalid_form_data", _REJECTED, _POST),
        Answer("invalid_metadata_format", _REJECTED, _POST),
        Answer("invalid_metadata_schema", _REJECTED, _POST),
        Answer("invalid_post_type", _REJECTED, _POST),
        Answer("markdown_text_conflict", _REJECTED, _POST),
        Answer("missing_post_type", _REJECTED, _POST),
        Answer("no_text", _REJECTED, _POST),
        Answer("too_many_attachments", _REJECTED, _POST),
        Answer("slack_connect_canvas_sharing_blocked", _REJECTED, _POST),
        Answer("slack_connect_file_link_sharing_blocked", _REJECTED, _POST),
        Answer("slack_connect_lists_sharing_blocked", _REJECTED, _POST),
        Answer("block_mismatch", _REJECTED, _UPDATE),
        Answer("cant_update_message", _REJECTED, _UPDATE),
        Answer("edit_window_closed", _REJECTED, _UPDATE),
        Answer("is_inactive", _REJECTED, _UPDATE),
        Answer("message_not_found", _REJECTED, _UPDATE),
    )
)
"""`error` of an answer whose `ok` is false. What is not listed is a refusal of this message."""

_CODES: Final = "Discord, Opcodes and Status Codes, JSON error codes"
_STATUSES: Final = "Discord, Opcodes and Status Codes, HTTP response codes"

DISCORD: Final = _table(
    (
        Answer("10003", _ADDRESS, _CODES),
        Answer("10004", _ADDRESS, _CODES),
        Answer("10008", _REJECTED, _CODES),
        Answer("10013", _ADDRESS, _CODES),
        Answer("20001", _ACCOUNT, _CODES),
        Answer("20009", _REJECTED, _CODES),
        Answer("20012", _ACCOUNT, _CODES),
        Answer("20016", _SLOWED, _CODES),
        Answer("20028", _SLOWED, _CODES),
        Answer("20029", _SLOWED, _CODES),
        Answer("30046", Retry(QUOTA_RETRY_S, THROTTLED), _CODES),
        Answer("40001", _ACCOUNT, _CODES),
        Answer("40002", _ACCOUNT, _CODES),
        Answer("40003", _SLOWED, _CODES),
        Answer("40004", _LATER, _CODES),
        Answer("40005", _LARGE, _CODES),
        Answer("40006", _LATER, _CODES),
        Answer("40007", _FORBIDDEN, _CODES),
        Answer("40058", _ADDRESS, _CODES),
        Answer("40062", _SLOWED, _CODES),
        Answer("40067", _ADDRESS, _CODES),
        Answer("40333", Retry(BLOCKED_RETRY_S, ACCOUNT), _CODES),
        Answer("50001", _FORBIDDEN, _CODES),
        Answer("50005", _REJECTED, _CODES),
        Answer("50006", _REJECTED, _CODES),
        Answer("50007", _FORBIDDEN, _CODES),
        Answer("50008", _ADDRESS, _CODES),
        Answer("50009", _FORBIDDEN, _CODES),
        Answer("50013", _FORBIDDEN, _CODES),
        Answer("50014", _ACCOUNT, _CODES),
        Answer("50024", _ADDRESS, _CODES),
        Answer("50035", _REJECTED, _CODES),
        Answer("50041", _ACCOUNT, _CODES),
        Answer("50083", _ADDRESS, _CODES),
        Answer("50109", _REJECTED, _CODES),
        Answer("50278", _FORBIDDEN, _CODES),
        Answer("110001", _LATER, _CODES),
        Answer("130000", _SOON, _CODES),
        Answer("160005", _ADDRESS, _CODES),
        Answer("200000", _REJECTED, _CODES),
        Answer("200001", _REJECTED, _CODES),
        Answer("240000", _REJECTED, _CODES),
        Answer("400", _REJECTED, _STATUSES),
        Answer("401", _ACCOUNT, _STATUSES),
        Answer("403", _ACCOUNT, _STATUSES),
        Answer("404", _ACCOUNT, _STATUSES),
        Answer("405", _ACCOUNT, _STATUSES),
        Answer("413", _LARGE, "RFC 9110, 15.5.14"),
        Answer("500", _SOON, _STATUSES),
        Answer("502", _SOON, _STATUSES),
        Answer("503", _SOON, _STATUSES),
        Answer("504", _LOST, "RFC 9110, 15.6.5: the gateway got no answer in time, the server may have had the request"),
    )
)
"""JSON error code; where that is 0 or unknown, the HTTP status."""
