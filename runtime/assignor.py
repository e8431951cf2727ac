"""Who gets which partitions: the same partition number of every topic goes to the same worker, and mostly stays there.

Faust uses its own co-partitioning assignor only for apps with tables and plain round robin for the others, which splits
a shard's topics between workers whenever the number of partitions is no multiple of theirs. This one gives every
partition number of the topics that have equally many partitions to one member, balances the members to within one, and
lets a member keep what it had, so that a rebalance loads few shards.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

log = logging.getLogger(__name__)

Owned = Mapping[int, Sequence[int]]
"""Partition count -> partition numbers that a member had before."""


def share(
    count: int, members: Sequence[str], before: Mapping[str, Sequence[int]], load: Mapping[str, int]
) -> dict[str, list[int]]:
    """Return which of the `count` partition numbers each member gets: balanced to within one, and sticky.

    `before` is what each had; `load` is how many it has of other topics, to put the odd ones where there is least.
    """
    # whoever had most keeps an odd one; among equals it goes where there is least
    ranked = sorted(members, key=lambda m: (-len(before.get(m, ())), load.get(m, 0), m))
    quota = {member: count // len(ranked) + (1 if place < count % len(ranked) else 0) for place, member in enumerate(ranked)}
    given: dict[str, list[int]] = {member: [] for member in ranked}
    free = set(range(count))
    for member in ranked:
        for partition in before.get(member, ()):
            if partition in free and len(given[member]) < quota[member]:
                given[member].append(partition)
                free.discard(partition)
    for member in ranked:
        while len(given[member]) < quota[member]:
            smallest = min(free)
            given[member].append(smallest)
            free.discard(smallest)
    return {member: sorted(partitions) for member, partitions in given.items()}


class CopartitionAssignor(AbstractPartitionAssignor):  # type: ignore[misc, unused-ignore]
    """The assignor of one consumer; it remembers what that consumer has."""

    name = "newswire-copartition"
    version = 1

    def __init__(self) -> None:
        self._owned: dict[str, list[int]] = {}

    def metadata(self, topics: Iterable[str]) -> Any:
        """Return what this member tells the leader: its topics and what it has."""
        return ConsumerProtocolMemberMetadata(self.version, sorted(topics), orjson.dumps(self._owned))

    def on_assignment(self, assignment: Any) -> None:
        """Remember the new assignment."""
        self._owned = {topic: list(partitions) for topic, partitions in assignment.assignment}

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """Return each member's partitions; called in the member that the broker made leader."""
        topics: dict[tuple[int, tuple[str, ...]], list[str]] = defaultdict(list)
        subscribers: dict[str, list[str]] = defaultdict(list)
        for member in sorted(members):
            for topic in members[member].subscription:
                subscribers[topic].append(member)
        for topic in sorted(subscribers):
            partitions = cluster.partitions_for_topic(topic)
            if partitions is None:
                log.warning("topic %s is not known to the cluster; nobody gets it", topic)
                continue
            topics[len(partitions), tuple(subscribers[topic])].append(topic)
        before = {member: _owned(metadata.user_data) for member, metadata in members.items()}
        load: dict[str, int] = dict.fromkeys(members, 0)
        result: dict[str, dict[str, list[int]]] = {member: {} for member in members}
        for (count, names), same in sorted(topics.items(), reverse=True):
            had = {member: sorted({p for topic in same for p in before[member].get(topic, ())}) for member in names}
            for member, partitions in share(count, names, had, load).items():
                load[member] += len(partitions) * len(same)
                if partitions:
                    result[member].update(dict.fromkeys(same, partitions))
        return {
            member: ConsumerProtocolMemberAssignment(self.version, sorted(assigned.items()), b"")
            for member, assigned in result.items()
        }


def _owned(user_data: bytes | None) -> dict[str, list[int]]:
    return orjson.loads(user_data) if user_data else {}
