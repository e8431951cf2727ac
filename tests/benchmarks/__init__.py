"""Benchmarks: `make bench`. They print figures and never decide a test."""
