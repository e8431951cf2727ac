"""What somebody should hear about preferences and audiences: what of them will come to nothing.

Reads the log, and changes nothing. A newsletter that is not defined is an error unless it is said to be meant, because nearly
always it is mistyped; nothing else here is: a topic may be published tomorrow.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from core.errors import InputError
from core.names import CHANNELS
from runtime.output import Output

if TYPE_CHECKING:
    from core.newsletters import Definitions
    from edge.writing import Log

READ_PUBLICATIONS: Final = 5_000
"""Newest records of publications whose topics count as known, with those that have a name; they are read in half a second."""
NEAREST: Final = 3
"""Known topics that are named beside one that is not."""

Advice = dict[str, list[str] | dict[str, list[str]]]
"""By kind, what it is about, of topics with the nearest known ones; the kinds are fields of a command's answer."""

_SAYS: Final = {
    "unknown_newsletters": "There is no newsletter {!r} (see `newswire newsletter list`): nothing comes until it is defined.",
    "unknown_topics": "No publication in the log has the topic {0!r}{1}; it counts from the first one on.",
    "no_address": "They have no verified address on {0}: nothing comes there until `newswire link --channel {0}` gives them one.",
    "never_due": "The newsletter {!r} comes on no day that they take newsletters on: it will never come.",
}


def of_profiles(log: "Log", preferences: Sequence[Mapping[str, Any]]) -> Advice:
    """Return what is to be said of the preferences of new subscribers."""
    wanted = {newsletter for one in preferences for newsletter in one.get("newsletters") or ()}
    topics = {topic for one in preferences for topic in _topics(one)}
    absent = {name for one in preferences for name in one.get("urgent_channels") or () if name not in one["channels"]}
    known = _defined(log) if wanted else None
    never = {
        newsletter
        for one in preferences
        if known is not None and one.get("days")
        for newsletter in one.get("newsletters") or ()
        if _never(known, newsletter, one["days"])
    }
    return _some(
        unknown_newsletters=_undefined(known, wanted), unknown_topics=unknown_topics(log, topics), no_address=absent,
        never_due=never,
    )  # fmt: skip


def of_changes(log: "Log", subscriber_id: str, changes: Mapping[str, Any]) -> Advice:
    """Return what is to be said of a subscriber's preferences of which these were just written."""
    from core.subscribers import SubscriberTable
    from core.verdicts import registered_row

    wanted, topics = set(changes.get("newsletters") or ()), _topics(changes)
    known = _defined(log) if wanted or changes.get("days") else None
    asked = {*(changes.get("channels") or ()), *(changes.get("urgent_channels") or ())}
    table = SubscriberTable()
    for event in log.events_of(log.topics.subscribers, [subscriber_id]) if asked or known is not None else ():
        table.apply(event)
    rows, never = registered_row(table, subscriber_id), set[str]()
    if known is not None:
        days = [day for day in range(1, 8) for row in rows.tolist() if int(table.column("days")[row]) >> (day - 1) & 1]
        takes = [one["newsletter_id"] for one in known.all() if len(rows) and table.takes(rows, one["newsletter_id"])[0]]
        never = {newsletter for newsletter in takes if _never(known, newsletter, days)}
    verified = {name for row in rows.tolist() for name, has in zip(CHANNELS, table.column("verified")[row], strict=True) if has}
    return _some(
        unknown_newsletters=_undefined(known, wanted), unknown_topics=unknown_topics(log, topics),
        no_address=asked - verified, never_due=never,
    )  # fmt: skip


def unknown_newsletters(log: "Log", wanted: Collection[str]) -> Advice:
    """Return which of these newsletters are not defined."""
    return _some(unknown_newsletters=_undefined(_defined(log), wanted)) if wanted else {}


def refuse_undefined(log: "Log", preferences: Iterable[Mapping[str, Any]]) -> None:
    """Raise InputError, with those that exist, when somebody wants a newsletter that is not defined."""
    wanted = {newsletter for one in preferences for newsletter in one.get("newsletters") or ()}
    known = _defined(log) if wanted else None
    undefined = sorted(_undefined(known, wanted))
    if known is not None and undefined:
        names = ", ".join(one["newsletter_id"] for one in known.all()) or "none is defined"
        raise InputError(
            f"newsletters: there is no newsletter {' or '.join(map(repr, undefined))}. Known: {names}. Correct it, define it "
            "first, or give --allow-undefined when it is to be defined later; nothing was changed."
        )


def unknown_topics(log: "Log", topics: Collection[str]) -> dict[str, list[str]]:
    """Return which of these topics have neither a name nor a publication in the log, and the nearest that have.

    None while there is no publication.
    """
    from runtime.topic_names import load_topic_names

    named = load_topic_names(log.settings)["en"].keys()
    unnamed = set(topics) - named
    if not unnamed:
        return {}
    known = set[str]()
    for event in log.read_newest(log.partitions(log.topics.publications), READ_PUBLICATIONS):
        known |= {topic["topic"] for topic in event.value.get("topics") or ()}
    near = sorted(known | named)
    return {topic: get_close_matches(topic, near, NEAREST) for topic in sorted(unnamed - known)} if known else {}


def usual_hours(log: "Log", subscriber_id: str) -> list[str]:
    """Return, for each newsletter of a subscriber who takes them when they usually read, the hour that was found."""
    from core.explain_due import about_the_hour
    from core.verdicts import registered_row
    from edge.campaigns import shard_of, slot_of

    state, now = shard_of(log, subscriber_id), log.clock.now()
    rows, found = registered_row(state.table, subscriber_id), []
    for rules in _defined(log).all():
        newsletter_id = rules["newsletter_id"]
        if len(rows) and state.table.takes(rows, newsletter_id)[0]:
            slot = slot_of(log, rules, now, None, forced=False)
            found += [f"{newsletter_id}: {sentence}" for sentence in about_the_hour(state, rows, slot)]
    return found


def fields_of(output: Output, advice: Advice) -> Advice:
    """Return what a command's answer has of advice: all of it for programs, nothing for people, who are told in sentences."""
    return advice if output.json_mode else {}


def say(output: Output, advice: Advice) -> None:
    """Print advice as sentences."""
    for kind, names in advice.items():
        for name in names:
            near = names[name] if isinstance(names, dict) else []
            output.say(_SAYS[kind].format(name, f" (the nearest known: {', '.join(near)})" if near else ""))


def _topics(preferences: Mapping[str, Any]) -> set[str]:
    """Return the topics of preferences as commands and files give them: weights by topic, or objects with both."""
    return {one if isinstance(one, str) else one["topic"] for one in preferences.get("topics") or ()}


def _defined(log: "Log") -> "Definitions":
    from edge.newsletters import defined_newsletters

    return defined_newsletters(log)


def _undefined(known: "Definitions | None", wanted: Iterable[str]) -> set[str]:
    return set() if known is None else {one for one in wanted if known.newest(one) is None}


def _never(known: "Definitions", newsletter: str, days: Sequence[int]) -> bool:
    """Return whether a newsletter that comes on weekdays comes on none of these."""
    rules = known.newest(newsletter)
    return rules is not None and rules["cadence"] == "weekdays" and not set(rules["days"]) & set(days)


def _some(**found: Collection[str] | dict[str, list[str]]) -> Advice:
    return {kind: names if isinstance(names, dict) else sorted(names) for kind, names in found.items() if names}
