create or replace view api.subscribers as
select subscriber_id,
       time_zone,
       language,
       topics,
       channels,
       newsletters,
       alerts,
       registered_at,
       unsubscribed_at is not null as unsubscribed,
       erased_at is not null as erased,
       channel_order,
       urgent_channels,
       tags,
       quiet_hours,
       paused_until,
       local_minute,
       alerts_a_day,
       unsubscribed_at,
       erased_at,
       days,
       case local_minute when -2 then 'usual' else coalesce(
            to_char(make_interval(mins => nullif(local_minute, -1)), 'HH24:MI'), 'default') end as newsletter_time
  from subscribers
 where registered_at is not null or erased_at is not null;

comment on view api.subscribers is 'One row a subscriber, without personal data; of an erased one only the fact is left.';
comment on column api.subscribers.topics is 'Object of declared topic to weight.';
comment on column api.subscribers.channels is 'Object of linked channel to whether it is verified.';
comment on column api.subscribers.unsubscribed is 'Unsubscribed from everything, and nothing was chosen since.';
comment on column api.subscribers.days is 'ISO weekdays on which newsletters are wanted, 1 Monday; none means as they say.';
comment on column api.subscribers.newsletter_time is
    'Local time of newsletters: such as 07:30, usual (when they usually read), or default (as the newsletters say).';
