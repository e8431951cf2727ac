-- Where a delivery stands in its channel's schedule of waits: attempts do not say it, because calls that are made again at once
-- count as well, and what is given back by hand begins anew.
ALTER TABLE ledger.deliveries
    ADD COLUMN rounds smallint; -- times that it was parked after a call that was refused; null for none
