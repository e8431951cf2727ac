"""Dead letters as people handle them: finding, opening, sending again, discarding.

Consumes the `<topic>.dlq` topics from their beginning; produces the original record to its topic again, and marks to the
dead-letter topic. A mark is a record without a value whose headers say what became of an earlier letter of that partition:
dlq.mark (redriven or discarded), dlq.of (its offset), dlq.by, dlq.why, dlq.at. Letters and marks are kept for 30 days, a
mark thus at least as long as its letter. Order: the original is acknowledged before its mark is written; a crash in between
leaves the letter open, and what is sent again twice has one effect, because every consumer tells records that it has
handled from new ones: a delivery keeps its id, and the ledger sends it once. What a later event of its key overtook is not
sent again (runtime/overtaken.py).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Final, Self

from core.errors import CodecError, InputError, KeyDestroyed
from runtime.clock import Clock, SystemClock
from runtime.deadletters import unseal
from runtime.kafka import Producer, admin_client, end_offsets, partitions_of, read_at, read_range, start_offsets
from runtime.keys import KeyStore
from runtime.overtaken import CAME_FROM, Late, Place, overtaken
from runtime.reach import require_kafka
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.partition import partition_for
from schemas.records import Event, Raw, Record
from schemas.registry import RegistrySource
from schemas.topics import Topics

OPEN, REDRIVEN, DISCARDED = "open", "redriven", "discarded"
STATES: Final = (OPEN, REDRIVEN, DISCARDED)
BATCH: Final = 500
"""Letters that are sent again, or marked, in one request."""
OVERTAKEN: Final = (
    "a later event of the same key counts now: {}; make the change anew if it is still wanted, and discard the letter"
)


@dataclass(frozen=True, slots=True)
class Mark:
    """What became of a letter."""

    state: str
    at: datetime
    by: str
    why: str


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter; the record as Kafka has it is in `record`."""

    id: str
    """Topic without prefix, partition and offset of the dead-letter topic, such as subscribers/0/17."""
    topic: str
    """Where the original came from, as the next two."""
    partition: int
    offset: int
    reason: str
    detail: str
    process: str
    """Who refused it, such as audience; empty in letters of earlier versions."""
    attempts: int
    first_at: datetime
    last_at: datetime
    sealed: str | None
    """Subject of the key that the original is encrypted with."""
    withheld: bool
    """Whether the original was too large to be repeated in the letter."""
    mark: Mark | None
    record: Raw = field(repr=False)

    @property
    def state(self) -> str:
        """Return open, redriven or discarded."""
        return self.mark.state if self.mark else OPEN

    @property
    def place(self) -> Place:
        """Return where the original is, or was."""
        return self.topic, self.partition, self.offset


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters are meant; what is None does not restrict."""

    topic: str | None = None
    """Without the prefix."""
    reason: str | None = None
    since: datetime | None = None
    """Last failed at this time or later."""
    until: datetime | None = None
    """Last failed before this time."""
    state: str | None = OPEN

    def takes(self, letter: Letter) -> bool:
        """Return whether a letter is meant; its topic was looked at before."""
        return (
            self.reason in (None, letter.reason)
            and (self.since is None or letter.last_at >= self.since)
            and (self.until is None or letter.last_at < self.until)
            and self.state in (None, letter.state)
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What was done with a letter, or would be."""

    letter: Letter
    done: bool
    detail: str


class LetterBox:
    """All dead letters under the settings' prefix; synchronous. Close it."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        require_kafka(settings.kafka_bootstrap_servers)
        self.topics = Topics.of(settings)
        self._settings, self._clock = settings, clock or SystemClock()
        self._codec = Codec(self.topics, RegistrySource(settings.schema_registry_url))
        self._admin = admin_client(settings)
        self._keys: KeyStore | None = None
        self._producer: Producer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._producer is not None:
            self._producer.close()
        if self._keys is not None:
            self._keys.close()

    # -- finding --------------------------------------------------------------------------------------------------------

    def find(self, choice: Choice) -> Iterator[Letter]:
        """Return the chosen letters as they are read, each topic's in the order in which they were written."""
        bases = [choice.topic] if choice.topic is not None else self._bases()
        return (letter for letter in self._letters(bases) if choice.takes(letter))

    def get(self, letter_ids: Sequence[str]) -> list[Letter]:
        """Return letters by their ids, each once; InputError names one that is none."""
        wanted = dict.fromkeys(letter_id.strip() for letter_id in letter_ids)
        bases = list(dict.fromkeys(self._parse(letter_id) for letter_id in wanted))
        found = {letter.id: letter for letter in self._letters(bases) if letter.id in wanted}
        for letter_id in wanted:
            if letter_id not in found:
                raise InputError(f"There is no dead letter {letter_id}: `newswire dlq list` shows those of the last 30 days.")
        return [found[letter_id] for letter_id in wanted]

    def with_others(self, letters: Iterable[Letter]) -> Iterator[Letter]:
        """Return these letters and the other open ones of the same records: each consumer of a record wrote one."""
        chosen = {letter.id: letter.place for letter in letters}
        places, bases = set(chosen.values()), dict.fromkeys(letter_id.rsplit("/", 2)[0] for letter_id in chosen)
        if not chosen:
            return iter(())
        found = self._letters(list(bases))
        return (one for one in found if one.id in chosen or (one.mark is None and one.place in places))

    def _bases(self) -> list[str]:
        return [spec.base for spec in self.topics.specs() if spec.dead_letters]

    def _parse(self, letter_id: str) -> str:
        """Return the topic of an id, without the prefix."""
        base, *rest = letter_id.rsplit("/", 2)
        if len(rest) != 2 or not all(part.isdigit() for part in rest):
            raise InputError(
                f"{letter_id!r} is no id of a dead letter: expected such as subscribers/0/17, from `newswire dlq list`."
            )
        self._dead_letters_of(base)
        return base

    def _dead_letters_of(self, base: str) -> str:
        if base not in self._bases():
            raise InputError(f"There is no topic {base!r} with dead letters; there are {', '.join(self._bases())}.")
        return self.topics.dead_letters(f"{self.topics.prefix}.{base}")

    def _letters(self, bases: Sequence[str]) -> Iterator[Letter]:
        """Yield all letters of topics with their marks; they are read twice, so that only the marks are kept in memory."""
        named = {self._dead_letters_of(base): base for base in bases}
        places = partitions_of(self._admin, list(named))
        starts, ends = start_offsets(self._admin, places), end_offsets(self._admin, places)
        marks: dict[tuple[str, int, int], Mark] = {}
        for raw in read_range(self._settings, starts, ends):
            headers = _texts(raw)
            if "dlq.mark" in headers:
                at = datetime.fromisoformat(headers["dlq.at"])
                mark = Mark(headers["dlq.mark"], at, headers["dlq.by"], headers["dlq.why"])
                marks.setdefault((raw.topic, raw.partition, int(headers["dlq.of"])), mark)
        for raw in read_range(self._settings, starts, ends):
            headers = _texts(raw)
            if "dlq.topic" in headers:
                yield _letter(named[raw.topic], raw, headers, marks.get((raw.topic, raw.partition, raw.offset)))

    # -- opening --------------------------------------------------------------------------------------------------------

    def original(self, letter: Letter) -> Raw:
        """Return the record as it was; InputError when nobody can have it any more."""
        if letter.withheld:
            raw = read_at(self._settings, *letter.place)
            if raw is None:
                raise InputError("the original was too large for its letter, and its topic does not keep it any more")
            return raw
        raw = Raw(
            letter.topic, letter.partition, letter.offset, letter.record.key, letter.record.value,
            tuple((name, data) for name, data in letter.record.headers if not name.startswith("dlq.")),
            letter.record.timestamp_ms,
        )  # fmt: skip
        if letter.sealed is not None:
            try:
                return unseal(self._get_keys(), letter.sealed, raw)
            except KeyDestroyed:
                raise InputError("its subscriber was erased since, and with the key went the original") from None
        return raw._replace(value=None) if "dlq.tombstone" in _texts(letter.record) else raw

    def read(self, letter: Letter) -> tuple[Raw, Event | CodecError]:
        """Return the original, and the event that it would be if it were sent again, or what is wrong with it still."""
        raw = self.original(letter)
        try:
            return raw, self._codec.decode(raw._replace(partition=self._partition(raw)))
        except CodecError as error:
            return raw, error

    def _partition(self, raw: Raw) -> int:
        """Return where the original belongs: with its key, which a wrong partitioner may not have put there."""
        spec = self.topics.spec(raw.topic)
        return partition_for(raw.key, spec.partitions) if spec.check == "key" and raw.key is not None else raw.partition

    def _get_keys(self) -> KeyStore:
        if self._keys is None:
            self._keys = KeyStore(self._settings)
        return self._keys

    # -- acting ---------------------------------------------------------------------------------------------------------

    def redrive(self, letters: Iterable[Letter], *, by: str, why: str, dry_run: bool) -> Iterator[Answer]:
        """Send the originals of open letters again, and mark them; yield what was done, or would be, with each.

        What would be refused for the same reason at once stays open, and so does what a later event of its key overtook.
        Letters of one record (each of its consumers wrote one) are one sending.
        """
        sent: set[Place] = set()
        for batch in _batches(letters):
            answers, going = list[Answer](), dict[Place, Late]()
            if sealed := {letter.sealed for letter in batch if letter.sealed is not None}:
                self._get_keys().prefetch(sealed)
            for letter in batch:
                answer, late = self._redriven(letter, again=letter.place in sent)
                answers.append(answer)
                if late is not None:
                    going[letter.place] = late
                    sent.add(letter.place)
            for place, later in overtaken(self._settings, self._admin, self.topics, list(going.values())).items():
                sent.discard(place)
                del going[place]
                detail = OVERTAKEN.format(later)
                answers = [
                    replace(one, done=False, detail=detail) if one.done and one.letter.place == place else one for one in answers
                ]
            if not dry_run:
                self._send([late.record for late in going.values()])
                self._mark([answer.letter for answer in answers if answer.done], REDRIVEN, by, why)
            yield from answers

    def _redriven(self, letter: Letter, *, again: bool) -> tuple[Answer, Late | None]:
        if letter.mark is not None:
            return Answer(letter, False, handled(letter)), None
        if again:
            return Answer(letter, True, "with another letter of the same record"), None
        try:
            raw, event = self.read(letter)
        except InputError as error:
            return Answer(letter, False, str(error)), None
        if isinstance(event, CodecError):
            return Answer(letter, False, f"it would be refused again: {event.code}: {event}"), None
        headers = (*((name, data) for name, data in raw.headers if name != CAME_FROM), (CAME_FROM, letter.id.encode()))
        record = Record(raw.topic, raw.key, raw.value or b"", headers, event.partition)
        answer = Answer(letter, True, f"{event.name} to {raw.topic}/{event.partition}")
        return answer, Late(letter.id, letter.place, record, min(event.time, letter.first_at))

    def discard(self, letters: Iterable[Letter], *, by: str, why: str, dry_run: bool) -> Iterator[Answer]:
        """Mark open letters as discarded; yield what was done, or would be, with each."""
        for batch in _batches(letters):
            answers = [Answer(letter, letter.mark is None, handled(letter) if letter.mark else letter.reason) for letter in batch]
            if not dry_run:
                self._mark([answer.letter for answer in answers if answer.done], DISCARDED, by, why)
            yield from answers

    def _mark(self, letters: Sequence[Letter], state: str, by: str, why: str) -> None:
        at = self._clock.now().isoformat()
        self._send([_mark_of(letter, {"mark": state, "by": by, "why": why, "at": at}) for letter in letters])

    def _send(self, records: Sequence[Record]) -> None:
        if self._producer is None:
            self._producer = Producer(self._settings, f"{self._settings.topic_prefix}.dlq")
        self._producer.send_sync(records)


def handled(letter: Letter) -> str:
    """Return the sentence that says what became of a letter before."""
    assert letter.mark is not None
    return f"it was {letter.mark.state} at {letter.mark.at:%Y-%m-%d %H:%M:%S} UTC by {letter.mark.by}: {letter.mark.why}"


def _mark_of(letter: Letter, says: Mapping[str, str]) -> Record:
    headers = tuple((f"dlq.{name}", text.encode()) for name, text in {**says, "of": str(letter.record.offset)}.items())
    return Record(letter.record.topic, None, b"", headers, letter.record.partition)


def _texts(raw: Raw) -> dict[str, str]:
    """Return the headers that are ours; the original's own may be anything."""
    return {name: data.decode() for name, data in raw.headers if name.startswith("dlq.")}


def _batches(letters: Iterable[Letter]) -> Iterator[list[Letter]]:
    """Yield lists of at most BATCH letters."""
    rest = iter(letters)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _letter(base: str, raw: Raw, headers: Mapping[str, str], mark: Mark | None) -> Letter:
    return Letter(
        id=f"{base}/{raw.partition}/{raw.offset}",
        topic=headers["dlq.topic"],
        partition=int(headers["dlq.partition"]),
        offset=int(headers["dlq.offset"]),
        reason=headers["dlq.reason"],
        detail=headers["dlq.detail"],
        process=headers.get("dlq.process", ""),
        attempts=int(headers["dlq.attempts"]),
        first_at=datetime.fromisoformat(headers["dlq.first_at"]),
        last_at=datetime.fromisoformat(headers["dlq.last_at"]),
        sealed=headers.get("dlq.sealed"),
        withheld="dlq.withheld" in headers,
        mark=mark,
        record=raw,
    )
