-- What providers report, and what follows from it: addresses that nothing may be sent to any more, endpoints that go on
-- failing, and when an unknown delivery is looked at next.

-- The suppression list. An erased person's entry stays: it is a keyed hash, and keeps them from being mailed again.
CREATE TABLE ledger.suppressions (
    address_hash  bytea       PRIMARY KEY,   -- runtime/keys.py, hashed_address
    channel       text        NOT NULL,
    subscriber_id uuid        NOT NULL,      -- whose delivery brought it here
    reason        text        NOT NULL CHECK (reason IN ('bounced', 'complained', 'disabled')),
    since         timestamptz NOT NULL,      -- when the provider said so
    notice_id     text        NOT NULL,      -- ce_id of the event in provider-events
    lifted_at     timestamptz,               -- not suppressed any more
    announced_at  timestamptz,               -- when its ChannelUnlinked was acknowledged
    address       bytea,                     -- encrypted with the subscriber's key until the provider's own list has it too
    number        bigint      NOT NULL       -- grows with every change, in the order of the commits: sinks read on from there
);
CREATE UNIQUE INDEX suppressions_number ON ledger.suppressions (number);
CREATE INDEX suppressions_mirror ON ledger.suppressions (number) WHERE address IS NOT NULL;
CREATE SEQUENCE ledger.suppression_number;

-- Webhook endpoints whose every call fails, since when. A success removes the row.
CREATE TABLE ledger.failing_endpoints (
    endpoint      bytea       PRIMARY KEY,   -- hash of the encrypted address: a new link is another endpoint
    subscriber_id uuid        NOT NULL,
    since         timestamptz NOT NULL,
    last_at       timestamptz NOT NULL
);

-- When an unknown delivery is looked at next: null is at once, infinity is held for a person to decide.
ALTER TABLE ledger.deliveries ADD COLUMN check_at timestamptz;
CREATE INDEX deliveries_unknown ON ledger.deliveries (channel, lane, (coalesce(check_at, '-infinity'::timestamptz))) WHERE state = 'unknown';
