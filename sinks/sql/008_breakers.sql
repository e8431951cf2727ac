-- What each process of a channel holds of its breakers. ledger.breakers says what was announced, for all of them together:
-- the worst of these. Written when a breaker changes, and every few seconds while one of a process is not closed.
CREATE TABLE ledger.breaker_views (
    channel     text NOT NULL,
    destination text NOT NULL, -- '' is the provider
    process     uuid NOT NULL,
    state       text NOT NULL CHECK (state IN ('open', 'half_open')),
    reason      text NOT NULL,
    PRIMARY KEY (channel, destination, process)
);

-- Processes with rows above, and when they last said that they live: what a gone one left counts no more.
CREATE TABLE ledger.breaker_processes (
    process uuid        PRIMARY KEY,
    channel text        NOT NULL,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 50);
