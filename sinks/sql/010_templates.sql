-- With which template each attempt's message was made, and what the provider said of it. Both stand in the row for the present
-- attempt, in `history` for the earlier ones. The template is written with the first claim and with every outcome, because a
-- provider's notice may come before the outcome, and a process may end before it.
ALTER TABLE ledger.deliveries
    ADD COLUMN template text, -- name@version, the version being a hash of its sources
    ADD COLUMN error text;    -- the provider's words, or why no message could be made; core/redacting.py has taken addresses out

-- Days that were detached before have the same columns, because `newswire delivery show` reads them too.
DO $$
DECLARE
    one regclass;
BEGIN
    FOR one IN
        SELECT c.oid::regclass FROM pg_class c
        WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
          AND c.relname ~ '^deliveries_[0-9]{8}$'
    LOOP
        EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS template text, ADD COLUMN IF NOT EXISTS error text', one);
    END LOOP;
END $$;

COMMENT ON COLUMN ledger.deliveries.template IS 'Template of the present attempt, name@version; null for what was suppressed at its claim.';
COMMENT ON COLUMN ledger.deliveries.error IS 'What the provider said of the present attempt, or why no message could be made.';
COMMENT ON COLUMN ledger.deliveries.reason IS
    'Why it is in its state. may_have_arrived: an attempt whose answer was lost was repeated, and the repetition was refused; so the state stays unknown, and history says what it was refused for.';

CREATE OR REPLACE FUNCTION ledger.remembered(d ledger.deliveries) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN d.outcome_at IS NULL THEN d.history ELSE ledger.noted(d.history, jsonb_build_object(
        'state', d.state, 'reason', d.reason, 'attempt', d.attempt, 'claimed_at', d.claimed_at, 'at', d.outcome_at,
        'call_ms', d.call_ms, 'reported_at', d.reported_at, 'receipt_hash', encode(d.receipt_hash, 'hex'),
        'template', d.template, 'error', d.error
    )) END
$$;
