"""`schemas/published.lock`: the fingerprints of the published files, so that an edit is refused without a registry."""

import json
from typing import Final

from core.errors import InputError
from schemas import files
from schemas.compat import ADVICE, DOC_CHANGED, changes

LOCK: Final = files.FOLDER / "published.lock"

Lock = dict[str, list[str]]


def read() -> Lock:
    """Return the fingerprints by event, oldest version first; empty before the first publication."""
    if not LOCK.is_file():
        return {}
    loaded: Lock = json.loads(LOCK.read_text(encoding="utf-8"))
    return loaded


def write() -> Lock:
    """Record every version that there is now and return the lock; InputError when a locked one was changed."""
    problems_found = problems()
    if problems_found:
        raise InputError("\n".join(problems_found))
    lock = current()
    LOCK.write_text(json.dumps(lock, indent=1) + "\n", encoding="utf-8")
    return lock


def current() -> Lock:
    """Return the fingerprints of the files as they are."""
    return {
        event: [files.fingerprint(files.schema(event, number + 1)) for number in range(len(paths))]
        for event, paths in files.versions().items()
    }


def problems(lock: Lock | None = None, now: Lock | None = None) -> list[str]:
    """Return a sentence for every published version that was edited or removed, and for every incompatible new one."""
    lock, now = read() if lock is None else lock, current() if now is None else now
    found = []
    for event, published in lock.items():
        kept = now.get(event, [])
        for number, fingerprint in enumerate(published, 1):
            if number > len(kept):
                found.append(f"{event}: version {number} was published and its file is gone; restore it from version control.")
            elif kept[number - 1] != fingerprint:
                found.append(edited(event, number))
    for event, paths in files.versions().items():
        newest = files.schema(event)
        for number in range(1, len(paths)):
            if number == len(paths) - 1 and not _says_more(event, number):
                found.append(
                    f"{event}: version {len(paths)} differs in documentation alone; wait for a change that needs a version."
                )
            broken = [change for change in changes(files.schema(event, number), newest) if change.breaking]
            found.extend(f"{event}.{change} between versions {number} and {len(paths)}: {ADVICE}." for change in broken)
    return found


def _says_more(event: str, number: int) -> bool:
    """Return whether a version changes more than documentation, which not every registry keeps apart."""
    found = changes(files.schema(event, number), files.schema(event, number + 1))
    return any(change.what != DOC_CHANGED for change in found)


def edited(event: str, version: int, details: str = "") -> str:
    """Return what to do about a published file that was edited."""
    path = files.versions()[event][version - 1]
    following = len(files.versions()[event]) + 1
    return (
        f"{event}: schemas/avro/{path.name} is published and was edited{details}. A published schema never changes: restore "
        f"the file (git checkout schemas/avro/{path.name}) and put the new schema into schemas/avro/{event}.v{following}.avsc; "
        f"to change what an event says, {ADVICE}."
    )
