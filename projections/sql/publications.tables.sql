-- One row a revision that was submitted; revisions are joined to one row a publication by the view.
create table revisions (
    publication_id uuid not null,
    revision integer not null,
    title text,
    content_type text,
    language text,
    topics jsonb,
    submitted_at timestamptz,
    content_partition integer,
    content_offset bigint,
    accepted boolean not null,      -- approval took it up: revised, scored, approved or rejected
    state text not null,            -- submitted, scored, approved or rejected
    quality double precision,
    reason text,
    approved_at timestamptz,
    applied_offset bigint not null, -- last offset of the publication's partition that the row contains
    primary key (publication_id, revision)
);

create table retractions (
    publication_id uuid primary key,
    reason text not null,
    retracted_at timestamptz not null
);
