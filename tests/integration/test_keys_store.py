"""The data keys in a real database: batches, the cache and its end, destruction, and the index of addresses."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from core.errors import KeyDestroyed, SetupError, Unavailable, WrongType
from runtime.clock import SystemClock
from runtime.keys import CACHE_S, KeyStore, create_master_key
from runtime.postgres import migrate
from runtime.settings import Settings
from schemas.codec import Clear, Codec, FileSource
from schemas.envelope import is_encrypted
from schemas.topics import Topics
from tests.fix_stack import Stack
from tests.unit.codec_samples import NOW, OTHER, SUBSCRIBER, consumed

pytestmark = pytest.mark.stack


class HandClock(SystemClock):
    """A clock whose monotonic time is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture(scope="module")
def settings(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A keys database of this module's own."""
    database = f"schemas_keys_{uuid.uuid4().hex[:8]}"
    master = tmp_path_factory.mktemp("keys") / "master.key"
    create_master_key(master)
    own = Settings(
        owner_database_url=stack.postgres_url,
        keys_database_url=make_conninfo(stack.postgres_url, dbname=database),
        master_key_file=str(master),
        receipt_key="5a" * 32,
    )
    migrate(own)
    yield own
    with psycopg.connect(stack.postgres_url, autocommit=True) as owner:
        owner.execute(f"DROP DATABASE {database} WITH (FORCE)".encode())


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def keys(settings: Settings, clock: HandClock) -> Iterator[KeyStore]:
    with KeyStore(settings, clock=clock) as store:
        yield store


def subject() -> str:
    return str(uuid.uuid4())


def rows(settings: Settings, statement: bytes, *parameters: object) -> list[tuple[object, ...]]:
    with psycopg.connect(settings.keys_database_url) as connection:
        return connection.execute(statement, parameters).fetchall()


def test_value_comes_back_and_is_bound_to_subject_and_purpose(keys: KeyStore) -> None:
    """The associated data are tenant, subject and purpose."""
    one, two = subject(), subject()
    assert keys.create([one, two, one]) == 2
    sealed = keys.encrypt(one, "address.email", b"reader@example.org")
    assert is_encrypted(sealed)
    assert b"reader" not in sealed
    assert keys.encrypt(one, "address.email", b"reader@example.org") != sealed
    assert keys.decrypt(one, "address.email", sealed) == b"reader@example.org"
    for other, purpose in ((one, "address.slack"), (one, "profile.name"), (two, "address.email")):
        with pytest.raises(WrongType):
            keys.decrypt(other, purpose, sealed)
    with pytest.raises(WrongType):
        keys.decrypt(one, "address.email", sealed[:-1] + bytes([sealed[-1] ^ 1]))
    with pytest.raises(WrongType, match="no encrypted value"):
        keys.decrypt(one, "address.email", b"reader@example.org")


def test_keys_are_wrapped_and_read_by_another_process(keys: KeyStore, settings: Settings) -> None:
    """Nothing in the database opens anything without the master key."""
    one = subject()
    keys.create([one])
    sealed = keys.encrypt(one, "profile.name", b"Ana")
    with KeyStore(settings) as other:
        assert other.decrypt(one, "profile.name", sealed) == b"Ana"
    raw = keys._cache[one][0]
    (wrapped,) = rows(settings, b"SELECT wrapped FROM keys.subject_keys WHERE subject = %s", one)[0]
    assert isinstance(wrapped, bytes)
    assert raw is not None
    assert raw not in wrapped
    strange = Path(settings.master_key_file).with_name("strange.key")
    create_master_key(strange)
    with KeyStore(replace(settings, master_key_file=str(strange))) as other, pytest.raises(SetupError):
        other.decrypt(one, "profile.name", sealed)


def test_creating_twice_keeps_the_first_key(keys: KeyStore, settings: Settings) -> None:
    """A repeated registration must not make what is encrypted unreadable."""
    one = subject()
    keys.create([one])
    sealed = keys.encrypt(one, "p", b"x")
    with KeyStore(settings) as other:
        assert other.create([one, subject()]) == 1
        assert other.decrypt(one, "p", sealed) == b"x"


def test_two_processes_agree_on_the_first_key_encryption_key(stack: Stack, settings: Settings) -> None:
    """An empty database, and eight creators at once."""
    with psycopg.connect(settings.keys_database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE keys.subject_keys, keys.key_encryption_keys")
    stores = [KeyStore(settings) for _ in range(4)]
    subjects = [subject() for _ in range(40)]
    with ThreadPoolExecutor(8) as pool:
        made = sum(pool.map(lambda number: stores[number % 4].create(subjects[number % 5 :: 5]), range(8)))
    assert made == 40
    with KeyStore(settings) as reader:
        reader.prefetch(subjects)
        assert len(reader._cache) == 40
    assert rows(settings, b"SELECT kek_id FROM keys.key_encryption_keys") == [(1,)]
    for store in stores:
        store.close()


def test_prefetch_brings_a_batch_with_one_statement(settings: Settings, clock: HandClock) -> None:
    """After it no statement is made: the database could be gone."""
    subjects = [subject() for _ in range(1_000)]
    with KeyStore(settings) as writer:
        writer.create(subjects)
        sealed = [writer.encrypt(one, "p", one.encode()) for one in subjects]
    reader = KeyStore(settings, clock=clock)
    reader.prefetch(subjects)
    reader._settings = replace(settings, keys_database_url="postgresql://127.0.0.1:9/none")
    assert reader._pool is not None
    reader._pool.close()
    assert [reader.decrypt(one, "p", data).decode() for one, data in zip(subjects, sealed, strict=True)] == subjects
    reader.prefetch(subjects)


def test_destroyed_key_is_gone_for_good(keys: KeyStore, settings: Settings) -> None:
    """The row stays without its key, so that nobody makes a new one."""
    one = subject()
    keys.create([one])
    sealed = keys.encrypt(one, "p", b"x")
    assert keys.destroy(one) is True
    assert keys.destroy(one) is False
    for attempt in (lambda: keys.decrypt(one, "p", sealed), lambda: keys.encrypt(one, "p", b"y")):
        with pytest.raises(KeyDestroyed, match="was destroyed"):
            attempt()
    assert keys.create([one]) == 0
    with KeyStore(settings) as other, pytest.raises(KeyDestroyed, match="was destroyed"):
        other.decrypt(one, "p", sealed)
    assert rows(settings, b"SELECT wrapped, kek_id FROM keys.subject_keys WHERE subject = %s", one) == [(None, None)]


def test_subject_that_never_had_a_key_is_told_apart(keys: KeyStore) -> None:
    """The same error, since the outcome is the same, with other words; it is not remembered."""
    one = subject()
    with pytest.raises(KeyDestroyed, match="never had a data key"):
        keys.encrypt(one, "p", b"x")
    keys.create([one])
    assert keys.encrypt(one, "p", b"x")
    never = subject()
    assert keys.destroy(never) is False
    assert keys.create([never]) == 0


def test_key_is_forgotten_after_a_minute(settings: Settings, clock: HandClock) -> None:
    """So long can another process still read after the key was destroyed, and no longer."""
    one = subject()
    with KeyStore(settings, clock=clock) as reader, KeyStore(settings) as eraser:
        eraser.create([one])
        sealed = eraser.encrypt(one, "p", b"x")
        assert reader.decrypt(one, "p", sealed) == b"x"
        eraser.destroy(one)
        clock.seconds += CACHE_S - 0.1
        assert reader.decrypt(one, "p", sealed) == b"x"
        clock.seconds += 0.2
        with pytest.raises(KeyDestroyed):
            reader.decrypt(one, "p", sealed)


def test_person_is_found_by_address_until_erased(keys: KeyStore, settings: Settings) -> None:
    """Only keyed hashes are stored."""
    one, two = subject(), subject()
    mail = f"{uuid.uuid4().hex}@example.org"
    keys.create([one, two])
    keys.index_addresses([("email", mail, one), ("email", mail.upper(), two), ("email", mail, one)])
    assert keys.find_by_address("email", mail) == sorted([one, two])
    assert keys.find_by_address("slack", mail) == []
    keys.unindex_address("email", mail, two)
    assert keys.find_by_address("email", mail) == [one]
    keys.destroy(one)
    keys.index_address("email", mail, one)
    assert keys.find_by_address("email", mail) == []
    assert rows(settings, b"SELECT count(*) FROM keys.address_index WHERE position('example' in encode(hash, 'escape')) > 0") == [
        (0,)
    ]


def test_codec_with_the_real_keys_erases_a_person(keys: KeyStore) -> None:
    """What is in the log stays there and cannot be read any more."""
    topics = Topics()
    codec = Codec(topics, FileSource(topics), keys)
    one = subject()
    keys.create([one])
    value = {"subscriber_id": one, "channel": "email", "address": Clear("reader@example.org"), "linked_at": NOW}
    record = codec.encode(topics.subscribers, "ChannelLinked", value, key=one, time=NOW)
    address = codec.decode(consumed(record)).value["address"]
    assert keys.decrypt(one, "address.email", address) == b"reader@example.org"
    keys.destroy(one)
    with pytest.raises(KeyDestroyed):
        keys.decrypt(one, "address.email", codec.decode(consumed(record)).value["address"])
    with pytest.raises(KeyDestroyed):
        codec.encode(topics.subscribers, "ChannelLinked", value, key=one, time=NOW)


def test_database_that_is_down_is_unavailable_and_missing_tables_say_what_to_run(stack: Stack, settings: Settings) -> None:
    """Two different things to do about it."""
    with (
        KeyStore(replace(settings, keys_database_url="postgresql://postgres@127.0.0.1:9/none")) as down,
        pytest.raises(Unavailable),
    ):
        down.decrypt(SUBSCRIBER, "p", b"\x01" + bytes(40))
    with (
        KeyStore(replace(settings, keys_database_url=stack.postgres_url)) as bare,
        pytest.raises(SetupError, match="newswire migrate"),
    ):
        bare.create([OTHER])
    with pytest.raises(SetupError, match="NEWSWIRE_KEYS_DATABASE_URL"):
        KeyStore(replace(settings, keys_database_url=""))
