-- The last state of each breaker: one of each provider, and those of destinations that were ever open.
create table breakers (
    control_id text primary key,
    channel text not null,
    destination_hash bytea,         -- of a destination; null for the provider
    state text not null,            -- closed, open or half_open
    reason text not null,
    changed_at timestamptz not null,
    applied_offset bigint not null  -- last offset of the topic's partition that the row contains
);
