"""How fast and when to send: breakers, token buckets and retry schedules. Pure: the time is always an argument, in seconds."""
