"""The projection engine on real Kafka and real PostgreSQL: offsets, crashes, lost connections, replays, readers."""

import dataclasses
import signal
import threading
from typing import Any
from uuid import UUID

import psycopg
import pytest

from projections.engine import Engine
from projections.model import Projection
from projections.publications import PUBLICATIONS
from projections.store import Displaced, Store, Writer
from projections.subscribers import SUBSCRIBERS
from projections.verify import verify
from runtime.kafka import make_consumer
from schemas.codec import FileSource
from tests.projections_kit import AT, event, subscriber
from tests.projections_lab import lab, wait_for

pytestmark = pytest.mark.stack


@pytest.fixture
def site(stack):
    with lab(stack, PUBLICATIONS) as made:
        yield made


def submitted(site, first, last, **fields):
    """Return submissions of publications first to last - 1."""
    events = []
    for number in range(first, last):
        value: dict[str, Any] = {
            "publication_id": subscriber(number), "revision": 1, "content_type": "article", "title": f"title {number}",
            "summary": "", "body": None, "url": "https://example.org", "authors": [], "topics": [], "language": "en",
            "published_at": AT, "attributes": {},
        }  # fmt: skip
        events.append(event("PublicationSubmitted", value | fields, site.topics.publications, key=subscriber(number)))
    return events


def test_rows_and_offsets_and_the_group_agree(site):
    """What is stored is what was read; at the end the group has committed the same offsets."""
    site.produce(submitted(site, 0, 50))
    with site.running():
        wait_for(lambda: site.records_applied() == 50, "50 records")
        assert site.query("select count(*) from api.publications") == [(50,)]
        site.produce(submitted(site, 50, 60))
        wait_for(lambda: site.records_applied() == 60, "10 more")
    assert {p: o for p, o in site.offsets().items() if o} == {p: o for p, o in site.committed().items() if o}
    assert site.generations() == [(1, "live", "first start")]


@pytest.mark.parametrize("point", ["before_commit", "after_commit", "after_group_commit"])
def test_a_kill_anywhere_in_a_step_changes_nothing(site, point):
    """After kill -9 the projection goes on from its stored offsets: no row twice, none missing, and no needless rebuild."""
    site.produce(submitted(site, 0, 40))
    process = site.start(f"projection.{point}=kill@2" if point == "before_commit" else f"projection.{point}=kill")
    wait_for(lambda: site.records_applied() == 40 or process.poll() is not None, "the first batch")
    site.produce(submitted(site, 40, 45))
    assert process.wait(90) == -signal.SIGKILL
    site.produce(submitted(site, 45, 90))
    with site.running():
        wait_for(lambda: site.records_applied() == 90, "all records")
    assert site.query("select count(*) from api.publications") == [(90,)]
    assert site.generations() == [(1, "live", "first start")]
    assert verify(site.settings, site.projection, source=FileSource(site.topics)).equal


def test_a_process_ends_when_it_is_asked_to(site):
    """SIGTERM: exit code 0, everything committed."""
    site.produce(submitted(site, 0, 5))
    process = site.start()
    wait_for(lambda: site.records_applied() == 5, "5 records")
    process.terminate()
    assert process.wait(90) == 0
    assert sum(site.committed().values()) == 5


def test_duplicates_change_nothing(site):
    """The same events three times: the rows of once."""
    events = submitted(site, 0, 20)
    for _ in range(3):
        site.produce(events)
    with site.running():
        wait_for(lambda: site.records_applied() == 60, "60 records")
        rows = site.query("select publication_id, title, content_offset from api.publications order by 1")
    assert len(rows) == 20
    assert [title for _, title, _ in rows] == sorted((f"title {n}" for n in range(20)), key=lambda t: int(t.split()[1]))


def test_lost_connections_are_survived(site):
    """Every connection of the projection is cut several times while it works; in the end all is there once."""
    with site.running():
        for part in range(6):
            site.produce(submitted(site, part * 50, part * 50 + 50))
            wait_for(
                lambda: site.query(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and application_name like 'newswire%%'"
                ),
                "a connection to cut",
            )
        wait_for(lambda: site.records_applied() == 300, "300 records")
    assert site.query("select count(*) from api.publications") == [(300,)]
    assert verify(site.settings, site.projection, source=FileSource(site.topics)).equal


def test_poison_becomes_a_dead_letter_and_the_rest_goes_on(site):
    """Truncated bytes, and a value that PostgreSQL refuses: original bytes and reason are kept, the neighbours applied."""
    topic = site.topics.publications
    site.produce(submitted(site, 0, 3))
    site.produce_raw(topic, b"somebody", b"\x00\x00", 1)
    site.produce(submitted(site, 3, 4, topics=[{"topic": "nul\x00", "weight": 1.0}]))
    (nameless,) = submitted(site, 9, 10, publication_id="no-uuid")
    site.produce([nameless._replace(key="no-uuid")])
    site.produce(submitted(site, 4, 8))
    with site.running():
        wait_for(lambda: site.records_applied() == 10, "10 records")
    assert site.query("select count(*) from api.publications") == [(7,)]
    letters = _letters(site, site.topics.dead_letters(topic), 3)
    reasons = sorted(dict(m.headers())["dlq.reason"] for m in letters)
    assert reasons == [b"refused", b"refused", b"truncated"]
    (poison,) = [m for m in letters if dict(m.headers())["dlq.reason"] == b"truncated"]
    assert (poison.value(), poison.key(), dict(poison.headers())["ce_id"]) == (b"\x00\x00", b"somebody", b"poison")
    site.reset_group()
    with site.running():
        wait_for(lambda: site.live() == 2, "the replay")
    assert len(_letters(site, site.topics.dead_letters(topic), 3, linger_s=1.0)) == 3
    assert verify(site.settings, site.projection, source=FileSource(site.topics)).equal


def _letters(site, topic, count, linger_s=0.0):
    from confluent_kafka import TopicPartition

    consumer = make_consumer(site.settings, None, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, p, 0) for p in range(site.topics.spec(topic).partitions)])
    found: list[Any] = []
    try:
        wait_for(lambda: found.extend(consumer.consume(10, 0.2)) or len(found) >= count, "dead letters")
        found.extend(consumer.consume(10, linger_s))
    finally:
        consumer.close()
    return found


@pytest.mark.parametrize("while_running", [False, True], ids=["stopped", "running"])
def test_resetting_the_group_rebuilds_into_a_new_generation(site, while_running):
    """Kafka's tools stay the interface for replay; readers never miss the view or a row, and the old schema goes away."""
    site.produce(submitted(site, 0, 200))
    with site.running():
        wait_for(lambda: site.records_applied() == 200, "200 records")
        wait_for(lambda: sum(site.committed().values()) == 200, "the group's offsets")
        if while_running:
            site.execute("update rm_publications_g1.revisions set title = 'damaged'")
            with _reader(site) as failures:
                site.reset_group()
                wait_for(lambda: site.live() == 2, "generation 2")
            assert failures == []
    if not while_running:
        site.execute("update rm_publications_g1.revisions set title = 'damaged'")
        site.reset_group()
        with _reader(site) as failures, site.running():
            wait_for(lambda: site.live() == 2, "generation 2")
        assert failures == []
    with site.running():
        wait_for(
            lambda: site.generations() == [(1, "dropped", "first start"), (2, "live", "the group was reset")], "the old one's end"
        )
    assert site.query("select count(*), count(distinct title) from api.publications") == [(200, 200)]
    assert site.query("select count(*) from pg_namespace where nspname like 'rm_publications%%'") == [(1,)]
    assert sum(site.committed().values()) == 200


class _reader:
    """Somebody who reads the view all the time; collects every answer that is not 200 rows."""

    def __init__(self, site):
        self.site, self.failures, self.stop = site, [], threading.Event()
        self.thread = threading.Thread(target=self.read, daemon=True)

    def read(self):
        with psycopg.connect(self.site.url, autocommit=True) as connection:
            while not self.stop.is_set():
                try:
                    (count,) = connection.execute("select count(*) from api.publications").fetchone()
                except psycopg.Error as error:
                    self.failures.append(error)
                    continue
                if count != 200:
                    self.failures.append(count)

    def __enter__(self):
        self.thread.start()
        return self.failures

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def test_the_live_generation_goes_on_while_readers_hold_the_views(site):
    """A report in a long transaction keeps the switch waiting, but nobody else sees stale rows meanwhile."""
    site.produce(submitted(site, 0, 10))
    with site.running():
        wait_for(lambda: site.records_applied() == 10, "10 records")
        with psycopg.connect(site.url) as report:
            assert report.execute("select count(*) from api.publications").fetchone() == (10,)
            site.query(
                "insert into projections.rebuild_requests (name, requested_by) values ('publications', 'test') returning 1"
            )
            wait_for(lambda: len(site.generations()) == 2, "a generation that builds")
            site.produce(submitted(site, 10, 20))
            wait_for(lambda: site.query("select count(*) from api.publications") == [(20,)], "new rows in the old generation")
            assert site.live() == 1
        wait_for(lambda: site.live() == 2, "the switch after the report")
    assert site.generations()[1] == (2, "live", "asked for")


def test_a_crash_in_the_middle_of_a_rebuild_goes_on_with_it(site):
    """The building generation keeps its own offsets, so the replay is not begun again."""
    site.produce(submitted(site, 0, 30))
    with site.running():
        wait_for(lambda: site.records_applied() == 30, "30 records")
    site.reset_group()
    process = site.start("projection.after_commit=kill")
    assert process.wait(90) == -signal.SIGKILL
    assert [state for _, state, _ in site.generations()] == ["live", "building"]
    with site.running():
        wait_for(lambda: site.live() == 2, "generation 2")
    assert [number for number, _, _ in site.generations()] == [1, 2]
    assert verify(site.settings, site.projection, source=FileSource(site.topics)).equal


class _Wider(Projection):
    """The same projection with an other view: a column fewer at the beginning."""

    __slots__ = ()

    @property
    def views_sql(self) -> str:
        return "create or replace view api.publications as select title, publication_id from revisions"


def test_another_version_of_the_projection_is_another_generation(site):
    """Other SQL or another version number rebuilds by itself, also when the view has other columns."""
    site.produce(submitted(site, 0, 10))
    with site.running():
        wait_for(lambda: site.records_applied() == 10, "10 records")
    with site.running(dataclasses.replace(PUBLICATIONS, version=2)):
        wait_for(lambda: site.live() == 2, "generation 2")
    other = _Wider(*(getattr(PUBLICATIONS, f.name) for f in dataclasses.fields(Projection)))
    with site.running(other):
        wait_for(lambda: site.live() == 3, "generation 3")
    assert site.query("select * from api.publications order by 2 limit 1") == [("title 0", UUID(subscriber(0)))]
    assert [reason for _, _, reason in site.generations()] == ["first start", "the projection changed", "the projection changed"]


def test_a_shorter_log_is_another_log(site):
    """When less is in the topics than was read of them, the read model is built again from what is there."""
    site.produce(submitted(site, 0, 10))
    with site.running():
        wait_for(lambda: site.records_applied() == 10, "10 records")
    site.execute("update projections.projection_offsets set next_offset = next_offset + 1000")
    with site.running():
        wait_for(lambda: site.live() == 2, "generation 2")
    assert site.generations()[1][2] == "the log is another one"
    assert site.query("select count(*) from api.publications") == [(10,)]


def test_a_second_writer_is_displaced(site):
    """Offsets are moved only from what the writer believes, so two processes can never both apply a batch."""
    store = Store(site.url, PUBLICATIONS, PUBLICATIONS.fingerprint(site.topics))
    store.bootstrap()
    position = (site.topics.publications, 0)
    store.begin("test", {position: 0})
    first, second = (Writer(site.url, store.generation("live")) for _ in range(2))
    first.write((), {position: 5})
    with pytest.raises(Displaced):
        second.write(PUBLICATIONS.apply(submitted(site, 0, 1)), {position: 7})
    assert site.query("select count(*) from api.publications") == [(0,)]
    assert site.offsets() == {position: 5}
    for item in (first, second, store):
        item.close()


def test_one_process_at_a_time_owns_a_projection(site):
    """The second waits, and takes over when the first has ended."""
    site.produce(submitted(site, 0, 5))
    first = site.start()
    wait_for(lambda: site.records_applied() == 5, "the first process")
    with site.running():
        site.produce(submitted(site, 5, 10))
        wait_for(lambda: site.records_applied() == 10, "10 records")
        first.kill()
        first.wait()
        site.produce(submitted(site, 10, 15))
        wait_for(lambda: site.records_applied() == 15, "the second process")
    assert site.query("select count(*) from api.publications") == [(15,)]


def test_an_error_that_will_not_pass_ends_the_process(site):
    """A table that is missing is no passing fault: code 70, nothing acknowledged."""
    with site.running():
        wait_for(lambda: site.live() == 1, "generation 1")
    site.execute("drop table rm_publications_g1.revisions cascade")
    site.produce(submitted(site, 0, 5))
    assert site.start().wait(90) == 70
    assert site.records_applied() == 0


def test_verify_finds_a_row_that_differs(site):
    """A changed row and a lost one are told by their table; the shadow is gone afterwards."""
    site.produce(submitted(site, 0, 10))
    with site.running():
        wait_for(lambda: site.records_applied() == 10, "10 records")
        source = FileSource(site.topics)
        assert verify(site.settings, site.projection, source=source).equal
        site.execute("update rm_publications_g1.revisions set title = 'x' where publication_id = %s", subscriber(3))
        found = verify(site.settings, site.projection, source=source)
    assert [(c.table, c.rows, c.replayed_rows, c.equal) for c in found.tables] == [
        ("revisions", 10, 10, False),
        ("retractions", 0, 0, True),
    ]
    assert (found.records, found.from_the_start) == (10, True)
    assert site.query("select count(*) from pg_namespace where nspname like '%%verify%%'") == [(0,)]


def test_a_missing_topic_is_one_sentence(stack):
    """The process ends and says what to do."""
    with lab(stack, SUBSCRIBERS) as site:
        engine = Engine(PUBLICATIONS, site.settings, source=FileSource(site.topics))
        with pytest.raises(Exception, match="make schemas"):
            engine.run(threading.Event())
