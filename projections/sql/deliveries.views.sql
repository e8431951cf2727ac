create or replace view api.deliveries as
select d.delivery_id,
       d.source_id,
       s.source_kind,
       d.subscriber_id,
       d.channel,
       s.lane,
       (array['not_fanned_out', 'pending', 'unknown', 'sent', 'suppressed', 'confirmed', 'failed'])[d.state + 1] as state,
       d.reason,
       d.decided_at,
       d.sent_at,
       d.confirmed_at,
       d.variant,
       d.template
  from deliveries d
  join sources s on s.source_id = d.source_id;

comment on view api.deliveries is 'One row a delivery that was decided; its state is the highest that was reported of its latest attempt.';

create or replace view api.gated as
select source_id, subscriber_id, channel, reason from gated;

comment on view api.gated is 'Who would have had a delivery but for a gate; channel is none when no verified channel was left.';

create or replace view api.skips as
select source_id, channel, 'decision'::text as stage, reason, count(*) as count
  from gated
 group by source_id, channel, reason
union all
select d.source_id, d.channel, 'fanout'::text, 'expired'::text, count(*)
  from deliveries d
  join sources s on s.source_id = d.source_id
 where d.state = 0 and s.not_after < now()
 group by d.source_id, d.channel
union all
select source_id, channel, case state when 4 then 'sink' else 'provider' end, coalesce(reason, 'unknown'), count(*)
  from deliveries
 where state in (4, 6)
 group by source_id, channel, state, coalesce(reason, 'unknown');

comment on view api.skips is 'What was not delivered and why, by the stage that stopped it: decision, fanout, sink or provider.';

create or replace view api.accounting as
with facts as (
    -- what was decided, from the first copies' own counts
    select c.source_id, t.channel, t.chosen::bigint, t.gated::bigint, t.not_concerned::bigint,
           0::bigint as not_fanned_out, 0::bigint as pending, 0::bigint as unknown, 0::bigint as sent, 0::bigint as confirmed,
           0::bigint as failed, 0::bigint as suppressed
      from chunks c
     cross join lateral unnest(c.channels, c.chosen, c.gated, c.channel_not_concerned)
        as t(channel, chosen, gated, not_concerned)
    union all
    -- what became of it, counted from the delivery rows
    select g.source_id, g.channel, 0, 0, 0,
           case g.state when 0 then g.count else 0 end, case g.state when 1 then g.count else 0 end,
           case g.state when 2 then g.count else 0 end, case g.state when 3 then g.count else 0 end,
           case g.state when 5 then g.count else 0 end, case g.state when 6 then g.count else 0 end,
           case g.state when 4 then g.count else 0 end
      from (select source_id, channel, state, count(*) as count from deliveries group by source_id, channel, state) g
    union all
    select source_id, 'none', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 from sources
), counts as (
    select source_id, channel, sum(chosen)::bigint as chosen, sum(gated)::bigint as gated,
           sum(not_concerned)::bigint as not_concerned,
           sum(not_fanned_out)::bigint as not_fanned_out, sum(pending)::bigint as pending, sum(unknown)::bigint as unknown,
           sum(sent)::bigint as sent, sum(confirmed)::bigint as confirmed, sum(failed)::bigint as failed,
           sum(suppressed)::bigint as suppressed,
           sum(chosen + gated + not_fanned_out + pending + unknown + sent + confirmed + failed + suppressed)::bigint as occurs
      from facts
     group by source_id, channel
), ranked as (
    select counts.*, sum(occurs) over (partition by source_id) as occurs_anywhere from counts
), totals as (
    select source_id, sum(population)::bigint as population,
           count(*) = max(shards) * max(chunks) and min(shards) = max(shards) and min(chunks) = max(chunks) as complete
      from chunks
     group by source_id
)
select r.source_id,
       s.source_kind,
       r.channel,
       coalesce(o.complete, false) as complete,
       coalesce(o.population, 0) as population,
       r.chosen,
       r.gated,
       r.not_concerned,
       r.not_fanned_out,
       r.pending,
       r.unknown,
       r.sent,
       r.confirmed,
       r.failed,
       r.suppressed,
       -- of chosen and what became of it; when these agree, of the population and its parts
       case when r.chosen <> r.not_fanned_out + r.pending + r.unknown + r.sent + r.confirmed + r.failed + r.suppressed
            then r.chosen - (r.not_fanned_out + r.pending + r.unknown + r.sent + r.confirmed + r.failed + r.suppressed)
            else coalesce(o.population, 0) - (r.chosen + r.gated + r.not_concerned)
       end as balance
  from ranked r
  join sources s on s.source_id = r.source_id
  left join totals o on o.source_id = r.source_id
 where r.occurs > 0 or (r.channel = 'none' and r.occurs_anywhere = 0);

comment on view api.accounting is
    'One row a source and channel; every column is counted on its own, so that balance is 0 only when all is well.';

create or replace view api.sources as
select s.source_id,
       s.source_kind,
       s.lane,
       s.newsletter_id,
       s.slot_at,
       s.priority,
       s.not_after,
       c.decided_at,
       coalesce(c.copies, 0) as dropped_copies,
       a.complete,
       a.complete and a.balance = 0 and a.pending = 0 and (a.not_fanned_out = 0 or s.not_after < now()) as finished
  from sources s
  left join (select source_id, bool_and(complete) as complete, sum(abs(balance)) as balance, sum(pending) as pending,
               sum(not_fanned_out) as not_fanned_out
          from api.accounting
         group by source_id) a on a.source_id = s.source_id
  left join (select k.source_id, min(k.decided_at) as decided_at,
                    (select count(*) from dropped_copies x where x.source_id = k.source_id) as copies
               from chunks k
              group by k.source_id) c on c.source_id = s.source_id;

comment on view api.sources is 'One row an alert or slot of a newsletter; finished when nothing of it is under way any more.';
