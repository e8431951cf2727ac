"""Fixtures of all tests."""

pytest_plugins = ["tests.fix_stack", "tests.fix_whole"]
