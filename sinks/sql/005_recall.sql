-- Recall, brake and held deliveries: what the guard process works on.

-- Deliveries that a stop or a canary holds. Only rows that are held now are in it.
CREATE INDEX deliveries_held ON ledger.deliveries (reason, source_id, channel)
    WHERE state = 'retry' AND reason IN ('stopped', 'canary');

-- What was retracted, as the consent process found it.
CREATE INDEX barred_retracted ON ledger.barred (subject) WHERE reason = 'retracted';

-- One row a retracted publication or cancelled alert: whether everything that was asked to be sent of it has been found.
CREATE TABLE ledger.recalls (
    subject      text        PRIMARY KEY, -- pub:<publication_id> or alert:<alert_id>
    retracted_at timestamptz NOT NULL,    -- time of the event
    noticed_at   timestamptz NOT NULL,    -- by this server's clock: what was sent later than the sinks' lag after it, was sent without
    found_at     timestamptz,             -- when all deliveries that had been asked for were found
    closed_at    timestamptz              -- when it was looked for later ones for the last time
);
CREATE INDEX recalls_open ON ledger.recalls (noticed_at) WHERE closed_at IS NULL;

-- One row a recipient of what was retracted: what became of it.
CREATE TABLE ledger.edits (
    subject         text        NOT NULL,
    day             date        NOT NULL,
    delivery_id     uuid        NOT NULL,
    channel         text        NOT NULL,
    subscriber_id   uuid        NOT NULL,
    state           text        NOT NULL CHECK (state IN ('pending', 'not_sent', 'left_out', 'not_editable', 'edited', 'failed', 'unknown')),
    reason          text,
    attempts        integer     NOT NULL DEFAULT 0, -- edits asked for
    request         bytea,                          -- DeliveryRequested while it is pending; the address in it is encrypted
    next_attempt_at timestamptz,                    -- while it is pending
    settled_at      timestamptz,
    PRIMARY KEY (subject, day, delivery_id)
);
CREATE INDEX edits_pending ON ledger.edits (channel, next_attempt_at) WHERE state = 'pending';

-- Sends by source, channel and minute, and everything that came back: what the brake weighs. From delivery-status, with its
-- offsets in the same transaction.
CREATE TABLE ledger.sends (
    source    text        NOT NULL, -- newsletter_id or alert_id
    channel   text        NOT NULL,
    since     timestamptz NOT NULL, -- a minute's beginning, or later when the source was resumed within it
    source_id text        NOT NULL, -- the slot, or the alert
    sent      bigint      NOT NULL,
    first_at  timestamptz NOT NULL,
    PRIMARY KEY (source, channel, since, source_id)
);
CREATE TABLE ledger.returns (
    delivery_id text        PRIMARY KEY,
    source      text        NOT NULL,
    channel     text        NOT NULL,
    source_id   text        NOT NULL,
    reason      text        NOT NULL CHECK (reason IN ('bounced', 'complained')),
    at          timestamptz NOT NULL
);
CREATE INDEX returns_source ON ledger.returns (source, channel, at);
CREATE TABLE ledger.sends_progress (
    topic       text    NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint  NOT NULL,
    PRIMARY KEY (topic, partition)
);
