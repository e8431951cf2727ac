"""Names with a number each, as columns of tables are found by them."""

from collections.abc import Iterable


class Vocabulary:
    """Names in the order of their first appearance, with their index."""

    def __init__(self, names: Iterable[str] = (), first: str | None = None) -> None:
        """Begin with names; `first`, when given, always has index 0, which is what an empty row holds."""
        self._fixed = 0 if first is None else 1
        self.names = [*([] if first is None else [first]), *names]
        self.index = {name: position for position, name in enumerate(self.names)}

    def add(self, name: str) -> int:
        """Return the index of a name, which is added when it is new."""
        position = self.index.get(name)
        if position is None:
            position = self.index[name] = len(self.names)
            self.names.append(name)
        return position

    def sorted_order(self) -> list[int]:
        """Return the indexes (without that of `first`) in the order of the names, which does not depend on who came first."""
        return sorted(range(self._fixed, len(self.names)), key=self.names.__getitem__)
