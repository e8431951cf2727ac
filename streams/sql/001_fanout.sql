-- The first copy of each decision, and whether it was expanded: what fan-out has seen is never in its memory alone.
CREATE TABLE fanout_chunks (
    source_id text NOT NULL,
    shard integer NOT NULL,
    chunk integer NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    not_after timestamptz NOT NULL,
    expanded_at timestamptz,
    PRIMARY KEY (source_id, shard, chunk)
);

COMMENT ON TABLE fanout_chunks IS 'The first copy of each chunk''s decision; expanded_at is set once its deliveries are in Kafka.';
COMMENT ON COLUMN fanout_chunks."offset" IS 'Position of the first copy in the decisions topic; copies elsewhere are dropped.';

-- Rows may be deleted once the decisions topic cannot hold their copies any more (90 days after not_after).
CREATE INDEX fanout_chunks_not_after ON fanout_chunks (not_after);
