"""The cache of rendered items: one publication looks the same in every issue of a language, so it is rendered once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, NamedTuple

REASONED: Final = 4_096
"""Items together with a reason that a channel keeps beside its fragments: most readers of a publication share one of a few
reasons. The largest are a mail's, HTML and text as they stand in SES's call: 2 to 3 kB each, 6 kB for the longest, so that
a full cache has 10 to 25 MB."""


class FragmentKey(NamedTuple):
    """All that a rendered item depends on; the reason is the issue's own and is put in afterwards."""

    publication_id: str
    revision: int
    language: str
    template: str
    channel: str


class FragmentCache:
    """Bounded, least recently used out first; belongs to one thread and one set of topics' names.

    Pass one a process, or a fresh one in a test.
    """

    def __init__(self, max_entries: int = 10_000) -> None:
        """max_entries: 10,000 email fragments of about 4 kB are 40 MB: 2,500 publications, as lead and item, in two languages."""
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()
        self._max_entries = max_entries

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the fragment of a key; `make` renders it when it is not there."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
            return found
        made = self._entries[key] = make()
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
        return made

    def __len__(self) -> int:
        return len(self._entries)
