create or replace view api.channel_health as
select c.channel,
       coalesce(p.state, 'closed') as state,
       p.reason,
       p.changed_at,
       coalesce(d.destinations_open, 0) as destinations_open,
       d.destinations_since
  from (values ('email'), ('slack'), ('discord'), ('webhook')) c(channel)
  left join breakers p on p.channel = c.channel and p.destination_hash is null
  left join (select channel, count(*) as destinations_open, min(changed_at) as destinations_since
               from breakers
              where destination_hash is not null and state <> 'closed'
              group by channel) d on d.channel = c.channel;

comment on view api.channel_health is 'One row a channel: whether its provider is called, and how many destinations are not.';
comment on column api.channel_health.state is 'The provider''s breaker: closed (calls go through), open (none), half_open (one looks).';
comment on column api.channel_health.reason is 'Why it changed last; null when it never did.';
comment on column api.channel_health.destinations_open is 'Destinations whose deliveries are parked because most calls to them fail.';
comment on column api.channel_health.destinations_since is 'Since when the longest of them.';
