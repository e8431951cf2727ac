create or replace view api.publications as
select r.publication_id,
       r.revision,
       r.title,
       r.content_type,
       r.language,
       r.topics,
       case when x.publication_id is null then r.state else 'retracted' end as state,
       r.quality,
       coalesce(x.reason, r.reason) as reason,
       r.submitted_at,
       r.approved_at,
       x.retracted_at,
       r.content_partition,
       r.content_offset
  from (select distinct on (publication_id) *
          from revisions
         order by publication_id, accepted desc, case when accepted then revision end desc, content_offset) r
  left join retractions x on x.publication_id = r.publication_id;

comment on view api.publications is
    'One row a publication: its highest revision that approval took up, else the first one submitted.';
comment on column api.publications.topics is 'Object of topic to weight.';
comment on column api.publications.state is 'submitted, scored, approved, rejected or retracted.';
comment on column api.publications.content_offset is 'Position of its PublicationSubmitted in the topic publications.';
