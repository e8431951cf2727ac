"""The ledger's statements. All take arrays, so that a batch is one round trip and one transaction.

clock_timestamp() is the server's time at that moment, not the transaction's start: a statement may wait for a lock. Where it
bounds an index it stands as (SELECT clock_timestamp()): worked out once; otherwise all rows in that state would be looked at.
They run as generic plans with sequential scans discouraged (see `open_pool`): each key is one look-up in one partition. A state
beside a key stands in a CASE, which no partial index is taken for: planned while few rows were in that state, a statement would
go through all of them for every key.
A statement that overwrites an outcome, or ends an attempt without one, appends it to the row's history (see
sql/004_history.sql); on the way of a delivery that succeeds at once there is no such statement.
"""

from collections.abc import Iterable
from typing import Final, LiteralString


def literal(values: Iterable[str]) -> str:
    """Return an array literal of values that need no quotes: numbers, dates, UUIDs (a fifth of the cost of psycopg's own)."""
    return "{" + ",".join(values) + "}"


def text_literal(values: Iterable[str | None]) -> str:
    """Return an array literal of any texts without NUL; None becomes NULL."""
    parts = ["NULL" if v is None else f'"{v}"' if _plain(v) else _quoted(v) for v in values]
    return "{" + ",".join(parts) + "}"


def bytes_literal(values: Iterable[bytes | None]) -> str:
    """Return an array literal of binary values."""
    return literal("NULL" if v is None else f'"\\\\x{v.hex()}"' for v in values)


def _plain(text: str) -> bool:
    return '"' not in text and "\\" not in text


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# 1. The server's time and whether consent is current enough. 2. What bars each delivery: the first of its subjects that is
# barred, in the order given. 3. New rows, claimed or at once suppressed; in the order of the key, so that two sinks with
# the same records do not deadlock. 4. Only if some were not new: how they stand. A row that another transaction committed
# after this statement began comes back from neither: another sink has it.
CLAIM: Final[LiteralString] = """
WITH now AS MATERIALIZED (SELECT clock_timestamp() AS at),
ready AS MATERIALIZED (
    SELECT coalesce(min(caught_up_at) >= (SELECT at FROM now) - make_interval(secs => %(lag_s)s::float8), false) AS ok
    FROM ledger.consent_progress
),
input AS MATERIALIZED (
    SELECT * FROM unnest(
        %(days)s::date[], %(ids)s::uuid[], %(sources)s::text[], %(kinds)s::text[], %(subscribers)s::uuid[],
        %(newsletters)s::text[], %(not_afters)s::timestamptz[], %(templates)s::text[]
    ) WITH ORDINALITY AS i(day, delivery_id, source_id, source_kind, subscriber_id, newsletter_id, not_after, template, number)
),
barred AS MATERIALIZED (
    SELECT DISTINCT ON (s.number) s.number, b.reason
    FROM unnest(%(bar_numbers)s::bigint[], %(bar_subjects)s::text[], %(bar_exceptions)s::text[])
         WITH ORDINALITY AS s(number, subject, exception, strength)
    CROSS JOIN LATERAL (
        SELECT r.reason FROM ledger.barred r
        WHERE r.subject = s.subject AND (r.except_for IS NULL OR s.exception IS NULL OR s.exception <> ALL (r.except_for))
        LIMIT 1
    ) b
    ORDER BY s.number, s.strength
),
fresh AS (
    INSERT INTO ledger.deliveries (
        day, delivery_id, channel, lane, source_id, source_kind, subscriber_id, newsletter_id, not_after, claimed_at,
        state, owner, attempt, lease_until, reason, outcome_at, template
    )
    SELECT
        day, delivery_id, %(channel)s::text, %(lane)s::text, source_id, source_kind, subscriber_id, newsletter_id, not_after, at,
        CASE WHEN bar IS NULL THEN 'claimed' ELSE 'suppressed' END,
        CASE WHEN bar IS NULL THEN %(owner)s::uuid END,
        CASE WHEN bar IS NULL THEN 1 ELSE 0 END,
        CASE WHEN bar IS NULL THEN at + make_interval(secs => %(lease_s)s::float8) END,
        bar,
        CASE WHEN bar IS NOT NULL THEN at END,
        CASE WHEN bar IS NULL THEN template END
    FROM (
        SELECT i.*, coalesce(b.reason, CASE WHEN i.not_after <= now.at THEN 'expired' END) AS bar, now.at
        FROM input i CROSS JOIN now LEFT JOIN barred b ON b.number = i.number
    ) judged
    WHERE (SELECT ok FROM ready)
    ORDER BY day, delivery_id
    ON CONFLICT (day, delivery_id) DO NOTHING
    RETURNING delivery_id, state, reason, attempt, outcome_at, owner
)
SELECT
    delivery_id::text, state, reason, attempt, NULL::bytea, outcome_at, NULL, CASE WHEN owner IS NOT NULL THEN 'fresh' END
FROM fresh
UNION ALL
SELECT
    e.delivery_id::text, e.state, e.reason, e.attempt, e.receipt_hash, e.outcome_at, e.template,
    CASE WHEN e.owner = %(owner)s::uuid AND e.lease_until > clock_timestamp() THEN 'mine' END
FROM input i
CROSS JOIN LATERAL (SELECT * FROM ledger.deliveries d WHERE d.day = i.day AND d.delivery_id = i.delivery_id LIMIT 1) e
WHERE (SELECT ok FROM ready) AND (SELECT count(*) FROM fresh) < (SELECT count(*) FROM input)
UNION ALL
SELECT NULL, 'lagging', NULL, NULL, NULL, NULL, NULL, NULL FROM ready WHERE NOT ok
"""

# An outcome counts for the attempt that it belongs to: the owner's, still claimed, or taken for unknown meanwhile (then only
# by something of a higher rank, and a refusal may park it after all). An attempt without a call does not count, unless it was
# reported as unknown meanwhile. The refusal of an attempt that followed one in doubt goes into the history, and the delivery is
# held as unknown. What was not written comes back as it stands.
WRITE: Final[LiteralString] = """
WITH input AS MATERIALIZED (
    SELECT * FROM unnest(
        %(days)s::date[], %(ids)s::uuid[], %(attempts)s::int[], %(states)s::text[], %(reasons)s::text[], %(hashes)s::bytea[],
        %(receipts)s::bytea[], %(after)s::float8[], %(requests)s::bytea[], %(uncalled)s::int[], %(call_ms)s::int[],
        %(refused)s::text[], %(templates)s::text[], %(errors)s::text[]
    ) AS i(
        day, delivery_id, attempt, state, reason, receipt_hash, receipt, after_s, request, uncalled, call_ms, refused, template,
        error
    )
),
written AS (
    UPDATE ledger.deliveries d SET
        state = i.state,
        reason = i.reason,
        attempt = d.attempt - CASE WHEN d.state = 'claimed' THEN i.uncalled ELSE 0 END,
        rounds = CASE WHEN i.state = 'retry' AND i.uncalled = 0 THEN coalesce(d.rounds, 0) + 1 ELSE d.rounds END,
        receipt_hash = i.receipt_hash,
        receipt = i.receipt,
        request = i.request,
        next_attempt_at = CASE WHEN i.state = 'retry' THEN clock_timestamp() + make_interval(secs => i.after_s) END,
        outcome_at = CASE WHEN i.state <> 'retry' THEN clock_timestamp() END,
        reported_at = NULL,
        check_at = CASE WHEN i.refused IS NOT NULL THEN 'infinity'::timestamptz END,
        call_ms = i.call_ms,
        template = coalesce(i.template, d.template),
        error = CASE WHEN i.refused IS NULL THEN i.error END,
        history = CASE
            WHEN i.state = 'retry' THEN ledger.noted(ledger.remembered(d), jsonb_build_object(
                'state', i.state, 'reason', i.reason, 'attempt', d.attempt, 'claimed_at', d.claimed_at,
                'at', clock_timestamp(), 'call_ms', i.call_ms, 'due_at', clock_timestamp() + make_interval(secs => i.after_s),
                'template', i.template, 'error', i.error
            ))
            WHEN d.state = 'unknown' THEN ledger.remembered(d)
            WHEN i.refused IS NOT NULL THEN ledger.noted(d.history, jsonb_build_object(
                'state', split_part(i.refused, '/', 1), 'reason', split_part(i.refused, '/', 2), 'attempt', d.attempt,
                'claimed_at', d.claimed_at, 'at', clock_timestamp(), 'call_ms', i.call_ms, 'template', i.template,
                'error', i.error
            ))
            ELSE d.history
        END
    FROM input i
    WHERE d.day = i.day AND d.delivery_id = i.delivery_id
      AND d.owner = %(owner)s::uuid AND d.attempt = i.attempt
      AND CASE d.state WHEN 'claimed' THEN true WHEN 'unknown' THEN i.state <> 'unknown' END
    RETURNING d.delivery_id, d.state, d.reason, d.attempt, d.receipt_hash, d.outcome_at, d.template
)
SELECT delivery_id::text, state, reason, attempt, receipt_hash, outcome_at, template, true FROM written
UNION ALL
SELECT
    e.delivery_id::text, e.state, e.reason, e.attempt, e.receipt_hash, e.outcome_at, e.template,
    coalesce(e.owner = %(owner)s::uuid AND e.attempt IN (i.attempt, i.attempt - i.uncalled), false)
FROM input i
CROSS JOIN LATERAL (SELECT * FROM ledger.deliveries d WHERE d.day = i.day AND d.delivery_id = i.delivery_id LIMIT 1) e
WHERE (SELECT count(*) FROM written) < (SELECT count(*) FROM input)
"""

# Longer leases, and one more attempt when asked. What a lost answer left done (attempt already raised) counts as done.
BEGIN: Final[LiteralString] = """
UPDATE ledger.deliveries d SET
    attempt = i.attempt + %(more)s,
    lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s::float8),
    claimed_at = CASE WHEN d.attempt < i.attempt + %(more)s THEN clock_timestamp() ELSE d.claimed_at END,
    history = CASE
        WHEN d.attempt < i.attempt + %(more)s THEN ledger.noted(d.history, jsonb_build_object(
            'state', 'retry', 'reason', i.reason, 'attempt', d.attempt, 'claimed_at', d.claimed_at, 'at', clock_timestamp(),
            'call_ms', i.call_ms, 'template', i.template, 'error', i.error
        ))
        ELSE d.history
    END
FROM unnest(
    %(days)s::date[], %(ids)s::uuid[], %(attempts)s::int[], %(reasons)s::text[], %(call_ms)s::int[], %(templates)s::text[],
    %(errors)s::text[]
) AS i(day, delivery_id, attempt, reason, call_ms, template, error)
WHERE d.day = i.day AND d.delivery_id = i.delivery_id AND CASE d.state WHEN 'claimed' THEN true END AND d.owner = %(owner)s::uuid
  AND d.attempt IN (i.attempt, i.attempt + %(more)s)
RETURNING d.delivery_id::text, d.attempt
"""

REPORTED: Final[LiteralString] = """
UPDATE ledger.deliveries d SET reported_at = clock_timestamp()
FROM unnest(%(days)s::date[], %(ids)s::uuid[], %(states)s::text[], %(attempts)s::int[]) AS i(day, delivery_id, state, attempt)
WHERE d.day = i.day AND d.delivery_id = i.delivery_id AND d.state = i.state AND d.attempt = i.attempt AND d.reported_at IS NULL
RETURNING 1
"""

EXPIRE: Final[LiteralString] = """
UPDATE ledger.deliveries d SET
    state = 'unknown', reason = 'lease_expired', outcome_at = clock_timestamp(), reported_at = NULL, check_at = NULL
FROM (
    SELECT day, delivery_id FROM ledger.deliveries
    WHERE channel = %(channel)s AND lane = %(lane)s AND state = 'claimed' AND lease_until < (SELECT clock_timestamp())
    ORDER BY lease_until LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) ended
WHERE d.day = ended.day AND d.delivery_id = ended.delivery_id
RETURNING
    d.day, d.delivery_id::text, d.subscriber_id::text, d.source_id, d.source_kind, d.state, d.reason, d.attempt, d.receipt_hash,
    d.outcome_at, d.template
"""

UNREPORTED: Final[LiteralString] = """
SELECT day, delivery_id::text, subscriber_id::text, source_id, source_kind, state, reason, attempt, receipt_hash, outcome_at,
       template
FROM ledger.deliveries
WHERE channel = %(channel)s AND lane = %(lane)s AND reported_at IS NULL
  AND outcome_at < (SELECT clock_timestamp()) - make_interval(secs => %(older_than_s)s::float8)
ORDER BY outcome_at LIMIT %(limit)s
"""

DUE: Final[LiteralString] = """
UPDATE ledger.deliveries d SET
    state = 'claimed', owner = %(owner)s::uuid, attempt = d.attempt + 1, next_attempt_at = NULL, reported_at = NULL,
    claimed_at = clock_timestamp(), call_ms = NULL, error = NULL,
    lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s::float8)
FROM (
    SELECT day, delivery_id FROM ledger.deliveries
    WHERE channel = %(channel)s AND lane = %(lane)s AND state = 'retry' AND next_attempt_at <= (SELECT clock_timestamp())
      AND (SELECT min(caught_up_at) >= clock_timestamp() - make_interval(secs => %(lag_s)s::float8) FROM ledger.consent_progress)
    ORDER BY next_attempt_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) due
WHERE d.day = due.day AND d.delivery_id = due.delivery_id
RETURNING
    d.request, d.attempt, coalesce(d.rounds, 0),
    coalesce(jsonb_path_exists(d.history, '$[*] ? (@.reason == "unresolved" || @.from == "unknown")'), false)
"""

KEEP: Final[LiteralString] = """
UPDATE ledger.deliveries d SET request = i.request, check_at = NULL
FROM unnest(%(days)s::date[], %(ids)s::uuid[], %(requests)s::bytea[]) AS i(day, delivery_id, request)
WHERE d.day = i.day AND d.delivery_id = i.delivery_id AND d.request IS NULL
  AND CASE WHEN d.state IN ('claimed', 'unknown') THEN true END
RETURNING 1
"""

# By hand: back to the sink as parked and due, while it is still in the state and attempt that were looked at. Giving it back
# counts as an attempt, so that whatever comes of it is told from what came before; its waits begin anew.
GIVE_BACK: Final[LiteralString] = """
UPDATE ledger.deliveries d SET
    state = 'retry', reason = 'redriven', attempt = d.attempt + 1, request = i.request, next_attempt_at = clock_timestamp(),
    outcome_at = NULL, reported_at = NULL, call_ms = NULL, check_at = NULL, rounds = NULL,
    history = ledger.noted(ledger.remembered(d), jsonb_build_object(
        'state', 'redriven', 'from', d.state, 'attempt', d.attempt + 1, 'at', clock_timestamp(), 'by', %(by)s::text,
        'why', %(why)s::text
    ))
FROM unnest(%(days)s::date[], %(ids)s::uuid[], %(attempts)s::int[], %(states)s::text[], %(requests)s::bytea[])
    AS i(day, delivery_id, attempt, state, request)
WHERE d.day = i.day AND d.delivery_id = i.delivery_id AND d.state = i.state AND d.attempt = i.attempt
RETURNING d.delivery_id::text
"""
