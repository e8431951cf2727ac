"""Assignments and snapshots of shards, without a broker."""

from hypothesis import given
from hypothesis import strategies as st

from runtime.assignor import CopartitionAssignor, share
from runtime.shard_snapshots import Snapshot, newest, pack_parts
from tests.unit.test_runtime_small_parts import AT


class FakeCluster:
    """The number of partitions of each topic."""

    def __init__(self, **topics: int) -> None:
        self.topics = topics

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self.topics[topic])) if topic in self.topics else None


def assigned(
    assignors: dict[str, CopartitionAssignor], cluster: FakeCluster, topics: list[str]
) -> dict[str, dict[str, list[int]]]:
    """One rebalance: what each member gets, told to it."""
    metadata = {member: assignor.metadata(topics) for member, assignor in assignors.items()}
    result = CopartitionAssignor().assign(cluster, metadata)
    for member, assignment in result.items():
        assignors[member].on_assignment(assignment)
    return {member: dict(assignment.assignment) for member, assignment in result.items()}


def test_the_same_partition_of_all_topics_goes_to_one_member() -> None:
    """Also when the partitions are no multiple of the members; every partition is given once."""
    cluster = FakeCluster(a=12, b=12, c=12, single=1)
    members = {name: CopartitionAssignor() for name in "vwxyz"}
    result = assigned(members, cluster, ["a", "b", "c", "single"])
    assert all(given.get("a") == given.get("b") == given.get("c") for given in result.values())
    assert sorted(p for given in result.values() for p in given["a"]) == list(range(12))
    assert {len(given["a"]) for given in result.values()} == {2, 3}
    assert [given["single"] for given in result.values() if "single" in given] == [[0]]


def test_members_keep_what_they_had() -> None:
    """One that joins takes only its share; one that leaves gives only its own away."""
    cluster = FakeCluster(a=12, b=12)
    members = {"x": CopartitionAssignor(), "y": CopartitionAssignor()}
    before = assigned(members, cluster, ["a", "b"])
    members["w"] = CopartitionAssignor()
    joined = assigned(members, cluster, ["a", "b"])
    assert all(set(joined[name]["a"]) < set(before[name]["a"]) for name in "xy")
    del members["w"]
    left = assigned(members, cluster, ["a", "b"])
    assert all(set(left[name]["a"]) > set(joined[name]["a"]) for name in "xy")


@given(
    st.integers(0, 40),
    st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=8, unique=True),
    st.lists(st.lists(st.integers(0, 60), max_size=30), min_size=8, max_size=8),
)
def test_every_partition_is_given_once_and_evenly(count: int, members: list[str], had: list[list[int]]) -> None:
    """Whatever members claim to have had, all partitions are given, each once, balanced to within one."""
    given_out = share(count, members, dict(zip(members, had, strict=False)), {})
    assert sorted(p for partitions in given_out.values() for p in partitions) == list(range(count))
    sizes = [len(partitions) for partitions in given_out.values()]
    assert max(sizes) - min(sizes) <= 1


def _snapshot(state: bytes, applied: int = 5, slot: str = "") -> Snapshot:
    return Snapshot(2, 12, 1, {"t": applied, "d": 9}, {("daily@1", 0): 3, ("ä@2", 7): 2**40}, state, slot)


def _records(snapshot: Snapshot, slot: str, first_offset: int, part_bytes: int = 10) -> list[tuple[int, str, dict[str, object]]]:
    values = pack_parts(snapshot, AT, part_bytes)
    return [(first_offset + n, f"{slot}/{value['part']}", value) for n, value in enumerate(values)]


def test_a_snapshot_comes_back_as_it_was() -> None:
    """State, applied offsets and decisions survive packing into many parts."""
    records = _records(_snapshot(b"x" * 100), "a", 0)
    assert len(records) > 10
    assert newest(records, 12, 1) == _snapshot(b"x" * 100, slot="a")


def test_an_interrupted_snapshot_leaves_the_one_before() -> None:
    """With the other slot half overwritten, the complete one counts; so it does after compaction."""
    old, new = _records(_snapshot(b"old"), "a", 0), _records(_snapshot(b"new"), "b", 100)
    newer = _records(_snapshot(b"newer"), "a", 200)
    assert newest(old + new + newer, 12, 1) == _snapshot(b"newer", slot="a")
    assert newest(old + new + newer[:-1], 12, 1) == _snapshot(b"new", slot="b")
    assert newest(old[1:] + new + newer[:1], 12, 1) == _snapshot(b"new", slot="b")
    assert newest(newer[:-1], 12, 1) is None


def test_a_snapshot_of_another_packing_or_number_of_shards_is_passed_over() -> None:
    """Then the shard is folded from its logs."""
    records = _records(_snapshot(b"state"), "a", 0)
    assert newest(records, 12, 2) is None
    assert newest(records, 24, 1) is None
    assert newest([], 12, 1) is None
