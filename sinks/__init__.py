"""Delivery, a file a provider; the delivery loop, the ledger and consent."""
