-- One row a subscriber; no address, no name: what is personal stays encrypted in the log.
create table subscribers (
    subscriber_id uuid primary key,
    time_zone text,
    language text,
    tags text[] not null default '{}',
    topics jsonb not null default '{}',            -- topic to weight
    channels jsonb not null default '{}',          -- linked channel to whether it is verified
    channel_order text[] not null default '{email,slack,discord,webhook}',
    urgent_channels text[] not null default '{}',
    newsletters text[] not null default '{}',
    alerts boolean not null default false,
    quiet_hours jsonb not null default '[]',
    paused_until timestamptz,
    local_minute integer,                          -- -1 as the newsletters say, -2 when they usually read
    days integer[] not null default '{}',          -- ISO weekdays; none: as the newsletters say
    alerts_a_day integer,
    registered_at timestamptz,
    unsubscribed_at timestamptz,                   -- from everything, and nothing was chosen since
    erased_at timestamptz,
    applied_offset bigint not null default -1      -- last offset of the subscriber's partition that the row contains
) with (fillfactor = 80);
