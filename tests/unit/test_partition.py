"""The partition of a key is the one that Java's default partitioner, librdkafka's murmur2_random and Faust choose."""

import random

import pytest
from aiokafka.partitioner import DefaultPartitioner

from schemas.partition import murmur2, partition_for


@pytest.mark.parametrize(
    ("key", "hashed"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536), (b"abc", 479470107)],
)
def test_hash_equals_the_values_in_kafkas_own_tests(key: bytes, hashed: int) -> None:
    """The vectors of org.apache.kafka.common.utils.UtilsTest."""
    assert murmur2(key) == hashed & 0xFFFFFFFF


def test_agrees_with_aiokafka_on_keys_of_every_length() -> None:
    """Faust partitions with aiokafka; 2,000 keys of 0 to 63 bytes."""
    rng = random.Random(7)
    theirs = DefaultPartitioner()
    for number in range(2_000):
        key = rng.randbytes(number % 64)
        partitions = rng.randrange(1, 50)
        assert partition_for(key, partitions) == theirs(key, list(range(partitions)), list(range(partitions)))
