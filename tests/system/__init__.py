"""Tests of the whole stack: every process, as `make up` starts them."""
