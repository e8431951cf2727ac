-- Everything that happened to a delivery, in its own row: the present attempt is in the columns, the earlier ones in
-- `history`, oldest first. A delivery that succeeds at once has none, and costs nothing. Whoever overwrites an outcome
-- (a state with outcome_at) writes `history = ledger.remembered(d)` in the same statement.
ALTER TABLE ledger.deliveries
    ADD COLUMN call_ms integer, -- from the call to its answer; null when no call was made, or nothing was heard of it
    ADD COLUMN history jsonb;   -- array of objects: state, at, and what is known of reason, attempt, claimed_at, call_ms,
                                -- due_at, reported_at, receipt_hash, by, why

COMMENT ON COLUMN ledger.deliveries.claimed_at IS 'When the present attempt was claimed; earlier ones are in history.';
COMMENT ON COLUMN ledger.deliveries.attempt IS 'Calls begun, and times that it was given back by hand.';

-- The history with one more entry. At most 100 are kept: the first 20 and the last 80, so that a row stays small.
CREATE FUNCTION ledger.noted(history jsonb, entry jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN history IS NULL THEN jsonb_build_array(jsonb_strip_nulls(entry))
        WHEN jsonb_array_length(history) < 100 THEN history || jsonb_strip_nulls(entry)
        ELSE (history - 20) || jsonb_strip_nulls(entry)
    END
$$;

-- The history with the outcome that stands in the row now; without one (claimed, parked) it is as it was.
CREATE FUNCTION ledger.remembered(d ledger.deliveries) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN d.outcome_at IS NULL THEN d.history ELSE ledger.noted(d.history, jsonb_build_object(
        'state', d.state, 'reason', d.reason, 'attempt', d.attempt, 'claimed_at', d.claimed_at, 'at', d.outcome_at,
        'call_ms', d.call_ms, 'reported_at', d.reported_at, 'receipt_hash', encode(d.receipt_hash, 'hex')
    )) END
$$;
