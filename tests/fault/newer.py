"""A Newswire process of the next release: `python -m tests.fault.newer PROCESS`. Some of its events have one more field.

What a release adds is a file beside the others (`<Event>.v2.avsc`); here the files are copied, and the new ones added.
"""

import json
import shutil
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Final

from runtime.settings import Settings
from schemas import files
from schemas.sources import subject_of

CHANGED: Final = ("AlertRaised", "AudienceDecided", "DeliveryRequested", "DeliverySent")
"""One of upstream's, and those between the stages."""
ADDED: Final = {"name": "remark", "type": "string", "doc": "Added by a later version.", "default": "none"}


def next_version(event: str) -> files.Schema:
    """Return the second version of an event: a field more, with a default."""
    first = files.schema(event, 1)
    return {**first, "fields": [*first["fields"], ADDED]}


def versions(event: str) -> list[files.Schema]:
    """Return all versions of an event as the next release has them, for registering."""
    return [files.schema(event, 1), *([next_version(event)] if event in CHANGED else [])]


def id_of(settings: Settings, topic: str, event: str) -> int:
    """Return the id under which the next version is registered."""
    body = json.dumps({"schema": json.dumps(next_version(event)), "schemaType": "AVRO"}).encode()
    url = f"{settings.schema_registry_url}/subjects/{subject_of(topic, event)}"
    request = urllib.request.Request(url, body, {"Content-Type": "application/vnd.schemaregistry.v1+json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(json.load(answer)["id"])


def release(folder: Path) -> None:
    """Let this process have the files of the next release."""
    shutil.copytree(files.AVRO, folder, dirs_exist_ok=True)
    for event in CHANGED:
        (folder / f"{event}.v2.avsc").write_text(json.dumps(next_version(event)))
    files.AVRO = folder  # type: ignore[misc]
    for remembered in (files.versions, files.text, files.schema, files.parsed):
        remembered.cache_clear()


if __name__ == "__main__":
    from runtime.commands import main

    with tempfile.TemporaryDirectory() as name:
        release(Path(name))
        sys.argv = ["newswire", "run", sys.argv[1]]
        main()
