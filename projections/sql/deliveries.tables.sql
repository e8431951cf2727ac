-- What the deliveries of a source share; any of its events creates the row.
create table sources (
    source_id text collate "C" primary key,
    source_kind text not null,
    lane text not null,
    newsletter_id text,
    slot_at timestamptz,
    priority text,
    not_after timestamptz
);

-- The first copy of every decided chunk with its own counts; delivery rows are counted apart from these.
create table chunks (
    source_id text collate "C" not null,
    shard integer not null,
    chunk integer not null,
    shards integer not null,
    chunks integer not null,
    decision_offset bigint not null,    -- in the decisions topic of the source's lane, partition = shard
    decided_at timestamptz not null,
    population integer not null,
    not_concerned integer not null,
    channels text[] not null,           -- the next three belong to these, by position
    chosen integer[] not null,
    gated integer[] not null,
    channel_not_concerned integer[] not null,
    primary key (source_id, shard, chunk)
);

-- Copies of a chunk after its first: counted, and without any other effect.
create table dropped_copies (
    source_id text collate "C" not null,
    shard integer not null,
    chunk integer not null,
    decision_offset bigint not null,
    primary key (source_id, shard, chunk, decision_offset)
);

-- One row a delivery. Updates touch no indexed column and find room in the page (fillfactor), so that they stay cheap.
create table deliveries (
    delivery_id text collate "C" not null,
    source_id text collate "C" not null,
    subscriber_id uuid not null,
    attempt integer not null default 0, -- whose outcome the state is; 0 before there is one, and when there was no call
    state smallint not null,            -- core.names.STATE_RANK
    channel text not null,
    reason text,
    decided_at timestamptz,
    variant text,                       -- of the experiment that ran; null when none did
    template text,                      -- that the message of that attempt was made with, name@version
    state_at timestamptz,               -- when the outcome was known; null for not_fanned_out and pending
    sent_at timestamptz,
    confirmed_at timestamptz,
    primary key (delivery_id) with (fillfactor = 80)
) with (fillfactor = 50);

create index deliveries_source on deliveries (source_id);

create table gated (
    source_id text collate "C" not null,
    subscriber_id uuid not null,
    channel text not null,
    reason text not null,
    primary key (source_id, subscriber_id, channel)
);
