-- Turns at destinations that a process of the channel has just used in quick succession: what all processes together took.
-- Written in batches, at most a few times a second in each process; a row that lies back counts no more, and is deleted.
CREATE TABLE ledger.paces (
    channel     text        NOT NULL,
    destination text        NOT NULL, -- keyed hash as hex
    free_at     timestamptz NOT NULL, -- end of all turns that were taken
    urgent_at   timestamptz NOT NULL, -- end of those that urgent alone took
    held_until  timestamptz NOT NULL, -- the destination named a time
    took        interval    NOT NULL, -- what the last writer took
    PRIMARY KEY (channel, destination)
) WITH (fillfactor = 50);
