-- What a recall did about one delivery, for `newswire delivery show`: the key of ledger.edits begins with the subject.
CREATE INDEX edits_delivery ON ledger.edits (day, delivery_id);
