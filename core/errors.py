"""The error tree. Expected failures of a delivery are values (see sinks); these are for everything else.

NewswireError
├── InputError          bad input from a person or a producer: says what, to what, and what to do
│   └── EventRefused    an event that is well-formed Avro but breaks a rule; names the field
├── CodecError          bytes that are no event of this topic; each goes to the dead letters
│   ├── UnknownSchema, WrongTopic, Truncated, TrailingBytes, WrongType, WrongPartition, BadHeaders
├── PlaintextRefused    a personal field that was not encrypted (a programming error that must not reach a log)
├── KeyDestroyed        the subject's data key does not exist any more
├── RenderingFailed     a template that was found sound cannot be filled with a message's own values
├── SetupError          something on this machine is missing or in use; one sentence that says what to do
└── Unavailable         a dependency does not answer; retried, and the process ends when it lasts
"""


class NewswireError(Exception):
    """Base of all errors raised on purpose."""


class InputError(NewswireError):
    """Bad input; the message is shown to a person as it is."""


class EventRefused(InputError):
    """An event that breaks a rule of its contract."""

    def __init__(self, event: str, field: str, message: str) -> None:
        super().__init__(f"{event}.{field}: {message}")
        self.event, self.field, self.reason = event, field, message


class CodecError(NewswireError):
    """Bytes that are no event of their topic; `code` is the reason in the dead letter."""

    code = "codec"


class UnknownSchema(CodecError):
    """The schema id is not in the registry."""

    code = "unknown_schema"


class WrongTopic(CodecError):
    """The event's type does not belong to this topic."""

    code = "wrong_topic"


class Truncated(CodecError):
    """The value ends before the record does, or is no Confluent wire format."""

    code = "truncated"


class TrailingBytes(CodecError):
    """Bytes are left after the record."""

    code = "trailing_bytes"


class WrongType(CodecError):
    """A field has another type than its schema says."""

    code = "wrong_type"


class WrongPartition(CodecError):
    """The key belongs in another partition, or the key and the record disagree."""

    code = "wrong_partition"


class BadHeaders(CodecError):
    """The CloudEvents headers contradict the value."""

    code = "bad_headers"


class PlaintextRefused(NewswireError):
    """A personal field was about to be written unencrypted."""


class KeyDestroyed(NewswireError):
    """The subject's data key was destroyed; the ciphertext cannot be read by anyone."""


class RenderingFailed(NewswireError):
    """A template cannot be filled with these values; the message says why, as the template engine does."""


class SetupError(NewswireError):
    """Something on this machine is missing or in use; the message says what to do."""


class Unavailable(NewswireError):
    """A dependency does not answer."""
