"""Every Prometheus metric of Newswire with its meaning, and the server that shows them on loopback.

Label values are bounded: topics, steps, channels and reasons come from closed vocabularies, never from data.
"""

from prometheus_client import Counter, Gauge, Histogram, start_http_server

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

EVENTS = Counter("newswire_events_total", "Events that were handled, by topic and event name.", ["topic", "event"])
HANDLE_SECONDS = Histogram("newswire_handle_seconds", "Time from the start of a handler to its end.", ["topic"], buckets=_SECONDS)
RETRIES = Counter("newswire_retries_total", "Attempts repeated because a dependency did not answer.", ["topic"])
STALLED = Gauge("newswire_stalled", "1 while a topic's events wait for a dependency that does not answer.", ["topic"])
DEAD_LETTERS = Counter("newswire_dead_letters_total", "Records written to dead letters, by reason.", ["topic", "reason"])
STALE_EVENTS = Counter(
    "newswire_stale_events_total",
    "Events of partitions that this process had lost by the time it came to them; their owner reads them.",
    ["topic"],
)

PRODUCED = Counter("newswire_produced_total", "Records acknowledged by Kafka.", ["topic"])
PRODUCE_FAILURES = Counter("newswire_produce_failures_total", "Records that Kafka did not acknowledge.", ["topic"])
PRODUCE_SECONDS = Histogram("newswire_produce_seconds", "Time until all records of a send are acknowledged.", buckets=_SECONDS)

REBALANCES = Counter("newswire_rebalances_total", "Assignments that this process was given.")
SHARDS_READY = Gauge("newswire_shards_ready", "Shards whose state is loaded in this process.")
SHARD_LOAD_SECONDS = Histogram("newswire_shard_load_seconds", "Time to load a shard: snapshot and logs.", buckets=_SECONDS)
DECISIONS = Counter("newswire_decisions_total", "Chunks decided by this process.", ["topic"])
LATER_COPIES = Counter("newswire_later_copies_total", "Copies of a chunk after its first, which count for nothing.", ["topic"])
SNAPSHOTS = Counter("newswire_snapshots_total", "Snapshots of shards that were written in full.")

FOLLOWER_SKIPPED = Counter("newswire_follower_skipped_total", "Records that a follower could not decode.", ["follower", "reason"])
FOLLOWER_APPLIED = Counter("newswire_follower_applied_total", "Events that a follower applied.", ["follower"])
CONTENT_READS = Counter("newswire_content_reads_total", "Contents asked for: hit, read, or gone.", ["result"])

STEP_SECONDS = Histogram("newswire_step_seconds", "Time of one step of a process.", ["process", "step"], buckets=_SECONDS)
OUTCOMES = Counter(
    "newswire_outcomes_total",
    "Outcomes of a process's work, by channel, outcome and reason.",
    ["process", "channel", "outcome", "reason"],
)
SETTLED_AGAIN = Counter(
    "newswire_settled_again_total",
    "Deliveries that were asked for again after their end (a redrive, a reset): reported again, not sent.",
    ["channel"],
)
CALLBACKS = Counter(
    "newswire_callbacks_total",
    "Requests of providers to the edge (or messages of its queue), by provider and what became of them.",
    ["provider", "result"],
)
FEEDBACK = Counter(
    "newswire_feedback_total", "Notices of providers, by event and whether they moved a delivery.", ["event", "result"]
)
RESOLVED = Counter(
    "newswire_unknown_resolved_total",
    "Unknown deliveries that were looked at, by channel and what came of it.",
    ["channel", "result"],
)
BREAKER_STATE = Gauge("newswire_breaker_state", "A provider's breaker: 0 closed, 1 half-open, 2 open.", ["process"])
BREAKER_CHANGES = Counter(
    "newswire_breaker_changes_total", "Changes of breakers, of a provider or a destination.", ["process", "scope", "state"]
)
DESTINATIONS_OPEN = Gauge("newswire_destinations_open", "Destinations whose breaker is not closed.", ["process"])
PARTITIONS_PAUSED = Gauge("newswire_partitions_paused", "1 while a sink reads nothing from its partitions.", ["process"])
RATE = Gauge("newswire_rate_per_second", "Messages a second that a provider's bucket lets through now.", ["process"])
THROTTLED = Counter("newswire_throttled_total", "Answers of a provider that it was asked too fast.", ["process"])
FLOW_WAIT_SECONDS = Counter(
    "newswire_flow_wait_seconds_total", "Time that calls waited for the provider's breaker or rate.", ["process", "why"]
)
BRAKES = Counter("newswire_brakes_total", "Sources that the brake has stopped, by what came back too often.", ["reason"])
EDITS = Counter(
    "newswire_edits_total", "Recipients of what was retracted, by channel and what became of them.", ["channel", "state"]
)
RELEASED = Counter("newswire_released_total", "Held deliveries that were let go, by what had held them.", ["reason"])

ROWS = Counter("newswire_rows_total", "Rows written to PostgreSQL, by table.", ["table"])


def serve(port: int) -> None:
    """Serve /metrics on 127.0.0.1:port from a thread; nothing when the port is 0."""
    if port:
        start_http_server(port, addr="127.0.0.1")
