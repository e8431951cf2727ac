"""What an engagement is worth: the weight of each kind, and which clicks a machine made.

Weights are in views: a like says as much as two of them. They are the ones that the ranking was measured with.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

OPEN_WEIGHT: Final = 1.0
"""The unit. A mail that was displayed, a page that was viewed: weak, because mail clients load images by themselves."""

CLICK_WEIGHT: Final = 2.0
"""Somebody chose this item among others and left the mail for it."""

REACTION_WEIGHTS: Final[Mapping[str, float]] = {
    "like": 2.0,  # as cheap as a click, and said of the content rather than of its title
    "bookmark": 2.5,  # wanted again
    "save": 2.5,
    "follow": 3.0,  # wanted from now on
    "comment": 4.0,  # took minutes, in words of one's own
    "reply": 4.0,
}

OTHER_REACTION_WEIGHT: Final = 2.0
"""A provider's own reaction, such as an emoji, counts as a like."""

WEAK_EVIDENCE: Final = frozenset({"pixel_proxy", "scanner"})
"""What a machine did for a person who may never have seen the message: a privacy proxy that loads every image, a scanner that
follows every link. It weighs nothing."""

SCAN_LINKS: Final = 4
"""So many different links of one delivery within SCAN_MS are a scanner's: it follows all, a person reads titles in between."""

SCAN_MS: Final = 10_000
"""Milliseconds within which a scanner follows its links."""

AT_ONCE: Final = 2
"""So many within AT_ONCE_MS are one's too: nobody follows two links at once, and short issues do not have SCAN_LINKS."""

AT_ONCE_MS: Final = 300
"""Milliseconds: a person needs longer from one link to the next."""


def engagement_weight(name: str, value: Mapping[str, Any]) -> float:
    """Return what an event of the engagements topic weighs; 0 for what a machine did."""
    if value.get("evidence") in WEAK_EVIDENCE:
        return 0.0
    if name == "ContentOpened":
        return OPEN_WEIGHT
    if name == "ContentClicked":
        return CLICK_WEIGHT
    return REACTION_WEIGHTS.get(value["reaction"], OTHER_REACTION_WEIGHT)


def scanned(links: npt.NDArray[np.integer], at_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which clicks of one subscriber on one delivery are a scanner's, given the link and the time of each.

    All clicks of any span of SCAN_MS in which SCAN_LINKS different links were followed, or of AT_ONCE_MS with AT_ONCE, so that
    the first ones of a burst are taken back when it becomes one. The order in which the clicks are given does not matter.
    """
    order = np.lexsort((links, at_ms))
    times, numbers = at_ms[order].tolist(), links[order].tolist()
    found = np.zeros(len(order), dtype=np.bool_)
    for most, within_ms in ((SCAN_LINKS, SCAN_MS), (AT_ONCE, AT_ONCE_MS)):
        start = 0
        for end, time_ms in enumerate(times):
            while times[start] < time_ms - within_ms:
                start += 1
            if len(set(numbers[start : end + 1])) >= most:
                found[order[start : end + 1]] = True
    return found
