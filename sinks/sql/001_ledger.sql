-- The ledger of deliveries and the consent that bars them. Both are what cannot be rebuilt from the log alone: the ledger
-- knows what a provider was asked and what it said. Times are the server's own (clock_timestamp()), so that leases and lag
-- do not depend on the clocks of the workers. The schema itself is made by `newswire migrate`, for the sinks' role.

-- One row a delivery, from its claim to its end. A day's partition is detached 9 days after that day (a delivery lives at
-- most 5 days, its record in Kafka 7).
CREATE TABLE ledger.deliveries (
    day             date        NOT NULL, -- UTC day of not_after: the first part of the printed delivery_id
    delivery_id     uuid        NOT NULL, -- the second part
    channel         text        NOT NULL,
    lane            text        NOT NULL,
    source_id       text        NOT NULL,
    source_kind     text        NOT NULL,
    subscriber_id   uuid        NOT NULL,
    newsletter_id   text,
    state           text        NOT NULL CHECK (state IN ('claimed', 'retry', 'unknown', 'sent', 'suppressed', 'confirmed', 'failed')),
    owner           uuid,                 -- the process that claimed it last; with attempt the fence of every later write
    attempt         integer     NOT NULL, -- calls begun; 0 when it was suppressed before the first
    lease_until     timestamptz,          -- while claimed: after this instant without an outcome it is unknown
    next_attempt_at timestamptz,          -- while parked (state retry)
    request         bytea,                -- while parked: DeliveryRequested as it was in Kafka; the address in it is encrypted
    reason          text,
    receipt_hash    bytea,                -- keyed hash of the provider's id, as in delivery-status
    receipt         bytea,                -- the provider's id, encrypted with the subscriber's key (purpose receipt)
    claimed_at      timestamptz NOT NULL,
    outcome_at      timestamptz,
    reported_at     timestamptz,          -- when delivery-status acknowledged the present state
    not_after       timestamptz NOT NULL,
    PRIMARY KEY (day, delivery_id)
) PARTITION BY RANGE (day);

-- What the sweeper looks for. Each holds only rows that are in that condition now, so it stays small.
CREATE INDEX deliveries_leases ON ledger.deliveries (channel, lane, lease_until) WHERE state = 'claimed';
CREATE INDEX deliveries_due ON ledger.deliveries (channel, lane, next_attempt_at) WHERE state = 'retry';
CREATE INDEX deliveries_unreported ON ledger.deliveries (channel, lane, outcome_at) WHERE outcome_at IS NOT NULL AND reported_at IS NULL;

-- Creates the partitions of these days, both included, and returns how many were missing. The sinks' role may call it
-- without owning the table; the lock keeps processes that start together from creating the same one.
CREATE FUNCTION ledger.ensure_days(first_day date, last_day date) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    one date;
    made integer := 0;
BEGIN
    IF last_day - first_day > 31 THEN
        RAISE EXCEPTION 'ensure_days(%, %): more than 32 days', first_day, last_day;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('ledger.ensure_days'));
    FOR one IN SELECT generate_series(first_day, last_day, interval '1 day')::date LOOP
        IF to_regclass(format('ledger.deliveries_%s', to_char(one, 'YYYYMMDD'))) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE ledger.deliveries_%s PARTITION OF ledger.deliveries FOR VALUES FROM (%L) TO (%L)',
                to_char(one, 'YYYYMMDD'), one, one + 1
            );
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END $$;

-- Whom and what not to send to, as flat subjects; sinks/consent.py lists them. A row with except_for bars all newsletters
-- of a subscriber but these.
CREATE TABLE ledger.barred (
    subject     text        PRIMARY KEY,
    reason      text        NOT NULL,
    since       timestamptz NOT NULL, -- time of the event
    topic       text        NOT NULL, -- where the event is
    partition   integer     NOT NULL,
    "offset"    bigint      NOT NULL,
    except_for  text[]
);
CREATE INDEX barred_lists ON ledger.barred (since) WHERE except_for <> '{}';

-- How far consent has been applied. caught_up_at is an instant up to which everything in that partition is applied; a claim
-- is refused when the oldest of them is too long ago.
CREATE TABLE ledger.consent_progress (
    topic        text        NOT NULL,
    partition    integer     NOT NULL,
    next_offset  bigint      NOT NULL,
    caught_up_at timestamptz NOT NULL,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
