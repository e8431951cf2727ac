-- What the processes of a channel share about its provider: the tokens of its rate, and the state of the breakers.
-- Neither is written for a message: tokens are taken in blocks, breakers change seldom.

-- One row a channel. core/flow/bucket.py says what the columns mean; a process reads the row FOR UPDATE, and writes it back.
CREATE TABLE ledger.buckets (
    channel    text             PRIMARY KEY,
    per_s      double precision NOT NULL, -- ceiling: messages a second
    burst      double precision NOT NULL,
    common     double precision NOT NULL, -- tokens for both lanes
    bulk       double precision NOT NULL, -- tokens that only bulk may take
    slowed_to  double precision,          -- messages a second after the last throttled answer; it grows back from there
    slowed_at  timestamptz      NOT NULL,
    held_until timestamptz      NOT NULL, -- nothing is given before: the provider named a time
    filled_at  timestamptz      NOT NULL
) WITH (fillfactor = 50);

-- Breakers as they were last announced in the topic controls. A provider's row stays; a destination's (the hash that the
-- event carries, as hex) goes when its breaker closes.
CREATE TABLE ledger.breakers (
    channel     text        NOT NULL,
    destination text        NOT NULL, -- '' is the provider
    state       text        NOT NULL CHECK (state IN ('closed', 'open', 'half_open')),
    reason      text        NOT NULL,
    changed_at  timestamptz NOT NULL,
    PRIMARY KEY (channel, destination)
);
