"""Which offsets may be committed: everything below the lowest record that is not finished. Pure; one object a process."""

from sinks.delivery import Position


class Offsets:
    """Unfinished records of the partitions that this process has. A position carries the generation of its assignment,
    so that what ends after a revocation does not touch the offsets of the next owner, or of a later assignment."""

    def __init__(self) -> None:
        self._generations: dict[int, int] = {}
        self._unfinished: dict[int, dict[int, None]] = {}
        self._next: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._count = 0

    @property
    def assigned(self) -> int:
        """How many partitions this process has."""
        return len(self._generations)

    def assign(self, partition: int) -> None:
        """Begin with a partition that was assigned."""
        self._count += 1
        self._generations[partition] = self._count
        self._unfinished[partition] = {}
        self._next.pop(partition, None)
        self._committed.pop(partition, None)

    def revoke(self, partition: int) -> None:
        """Forget a partition that was taken away."""
        for state in (self._generations, self._unfinished, self._next, self._committed):
            state.pop(partition, None)

    def begin(self, partition: int, offset: int) -> Position | None:
        """Note a record that was read; None when its partition is not ours."""
        generation = self._generations.get(partition)
        if generation is None:
            return None
        self._unfinished[partition][offset] = None
        self._next[partition] = offset + 1
        self._committed.setdefault(partition, offset)  # where the group stands, since this was read from there
        return Position(partition, offset, generation)

    def holds(self, position: Position) -> bool:
        """Return whether the position belongs to the present assignment of its partition."""
        return self._generations.get(position.partition) == position.generation

    def finish(self, position: Position) -> None:
        """Note that a record's outcome is durable."""
        if self.holds(position):
            self._unfinished[position.partition].pop(position.offset, None)

    def committable(self) -> dict[int, int]:
        """Return the next offset of each partition where it is higher than what was committed."""
        found = {}
        for partition, following in self._next.items():
            lowest = next(iter(self._unfinished[partition]), following)
            if lowest > self._committed[partition]:
                found[partition] = lowest
        return found

    def committed(self, offsets: dict[int, int]) -> None:
        """Note what has been committed."""
        for partition, offset in offsets.items():
            if partition in self._generations:
                self._committed[partition] = offset
