-- Data keys of the subjects, in a database of their own: destroying a key is what erases a person.

CREATE TABLE keys.key_encryption_keys (
    kek_id      integer PRIMARY KEY,
    wrapped     bytea NOT NULL,
    kms         text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE keys.key_encryption_keys IS 'Keys that wrap the data keys; themselves wrapped by the KMS named in kms.';

CREATE TABLE keys.subject_keys (
    subject       text PRIMARY KEY,
    key_id        integer NOT NULL DEFAULT 1,
    kek_id        integer REFERENCES keys.key_encryption_keys,
    wrapped       bytea,
    created_at    timestamptz NOT NULL DEFAULT now(),
    destroyed_at  timestamptz,
    CHECK ((wrapped IS NULL) = (destroyed_at IS NOT NULL)),
    CHECK ((wrapped IS NULL) = (kek_id IS NULL))
);
COMMENT ON TABLE keys.subject_keys IS 'One random 256-bit key a subject, wrapped; a destroyed one keeps its row, so that it is never made again.';

CREATE TABLE keys.address_index (
    channel  text NOT NULL,
    hash     bytea NOT NULL,
    subject  text NOT NULL,
    PRIMARY KEY (channel, hash, subject)
);
CREATE INDEX address_index_subject ON keys.address_index (subject);
COMMENT ON TABLE keys.address_index IS 'Blind index: keyed hash of an address, to find its subjects without decrypting anything.';
