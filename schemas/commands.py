"""`newswire schemas`: register and check the contracts.

Settings belong to `runtime`, which the rest of this package must not know; like every folder's commands, these meet it
inside the functions that run them.
"""

from typing import Any

import click

from core.errors import InputError


@click.group("schemas")
def schemas_group() -> None:
    """Contracts: topics, Avro schemas and their catalogue."""


@schemas_group.command(epilog="Example: newswire schemas sync")
@click.pass_obj
def sync(output: Any) -> None:
    """Register all schemas and create all topics, and check those that exist.

    Refuses an edited or incompatible schema, and a topic with other partitions or another retention than its YAML says.
    """
    from concurrent.futures import ThreadPoolExecutor

    from runtime.settings import Settings
    from schemas.admin import ensure_topics
    from schemas.registry import sync as register

    settings = Settings.load()
    with ThreadPoolExecutor(2) as pool:
        registering, creating = pool.submit(register, settings), pool.submit(ensure_topics, settings)
        synced, topics = registering.result(), creating.result()
    output.item(
        {
            "subjects": synced.subjects,
            "registered": len(synced.registered),
            "topics": topics.existing + len(topics.created),
            "created": len(topics.created),
        }
    )


@schemas_group.command(epilog="Example: newswire schemas check")
@click.pass_obj
def check(output: Any) -> None:
    """Check schemas, YAML, examples, the lock and the catalogue; needs no server."""
    from schemas import files
    from schemas.checking import check as check_all
    from schemas.checking import examples

    check_all()
    output.item({"events": len(files.event_names()), "passing": len(examples("pass")), "failing": len(examples("fail"))})


@schemas_group.command(epilog="Example: newswire schemas lock")
@click.pass_obj
def lock(output: Any) -> None:
    """Record the schemas as published, so that an edit is refused from here on; commit schemas/published.lock."""
    from schemas import lock as published

    before = published.read()
    after = published.write()
    added = [f"{event} v{number}" for event in after for number in range(len(before.get(event, ())) + 1, len(after[event]) + 1)]
    output.item({"events": len(after), "added": added})


@schemas_group.command(epilog="Example: newswire schemas catalogue")
@click.option("--check", "check_only", is_flag=True, help="Only say whether the page is up to date.")
@click.pass_obj
def catalogue(output: Any, check_only: bool) -> None:
    """Write schemas/CATALOGUE.md from the YAML, the Avro files and the reasons."""
    from schemas import catalogue_page

    stale = catalogue_page.stale()
    if check_only and stale:
        raise InputError("schemas/CATALOGUE.md is stale; run `newswire schemas catalogue` and commit it.")
    if not check_only:
        catalogue_page.write()
    output.item({"page": "schemas/CATALOGUE.md", "changed": stale})


commands: list[click.Command] = [schemas_group]
