"""The last issue of each newsletter that each subscriber had. State: two arrays a newsletter, with an entry a row of the shard.

The log's order counts: a later decision replaces an earlier one, so that issues of a slot far ahead, which a wrong clock made,
stand in nobody's way for longer than until the next issue.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from core.cadence import DAY_MIN, Schedule, read_nominal
from core.packing import pack, unpack
from core.schedule import Bools, Ints

NEVER: Final = -1


@dataclass(slots=True)
class LastIssue:
    """Of one newsletter, by row; NEVER for who had none."""

    nominal: npt.NDArray[np.int32]
    """The nominal local slot; see core.cadence."""
    slot_min: npt.NDArray[np.int32]
    """The UTC slot, in minutes since 1970."""

    def had(self, schedule: Schedule, nominal: Ints, slot_min: int) -> Bools:
        """Return which rows had an issue of the period of a nominal slot of theirs, or of a later one, until this UTC slot."""
        counts = (self.nominal != NEVER) & (self.slot_min <= slot_min)
        return np.asarray(counts & (schedule.period(nominal) <= schedule.period(self.nominal.astype(np.int64))))

    def minute(self) -> Ints:
        """Return the local minute of each row's issue, or NEVER."""
        return np.where(self.nominal == NEVER, NEVER, self.nominal.astype(np.int64) % DAY_MIN)


class LastIssues:
    """Of all newsletters."""

    def __init__(self) -> None:
        self._of: dict[str, LastIssue] = {}

    def give(self, newsletter_id: str, rows: Ints, issue_groups: list[str], slot_min: int, height: int) -> None:
        """Remember that rows were chosen for issues; those of forced slots are no part of the schedule, and are not."""
        nominal = [read_nominal(group) for group in issue_groups]
        kept = np.array([slot is not None for slot in nominal], dtype=np.bool_)
        if kept.any():
            last = self._of[newsletter_id] = self._grown(newsletter_id, height)
            last.nominal[rows[kept]] = [slot for slot in nominal if slot is not None]
            last.slot_min[rows[kept]] = slot_min

    def of(self, newsletter_id: str, rows: Ints, height: int) -> LastIssue:
        """Return the last issue of a newsletter of these rows; height is how many rows the shard has."""
        last = self._grown(newsletter_id, height)
        return LastIssue(last.nominal[rows], last.slot_min[rows])

    def _grown(self, newsletter_id: str, height: int) -> LastIssue:
        empty = np.zeros(0, dtype=np.int32)
        last = self._of.get(newsletter_id, LastIssue(empty, empty))
        missing = height - len(last.nominal)
        if missing <= 0:
            return last
        more = np.full(max(missing, height // 4), NEVER, dtype=np.int32)
        return LastIssue(np.concatenate([last.nominal, more]), np.concatenate([last.slot_min, more]))

    # ---- packing ----

    def dump(self, rows: Ints, height: int) -> bytes:
        """Return the issues of these rows, which are all, as bytes."""
        names = sorted(self._of)
        arrays: dict[str, npt.NDArray[np.int32]] = {}
        for number, name in enumerate(names):
            last = self.of(name, rows, height)
            arrays |= {f"nominal{number}": last.nominal, f"slot{number}": last.slot_min}
        return pack({"newsletters": names}, arrays)

    def load(self, data: bytes) -> None:
        """Take over what dump returned."""
        head, arrays = unpack(data)
        names: list[str] = head["newsletters"]
        self._of = {name: _packed(arrays, number) for number, name in enumerate(names)}


def _packed(arrays: Mapping[str, npt.NDArray[np.int32]], number: int) -> LastIssue:
    return LastIssue(arrays[f"nominal{number}"], arrays[f"slot{number}"])
