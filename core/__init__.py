"""Decisions and rendering: pure functions and plain data; no I/O, no clock, no hidden randomness."""
