"""Fixtures of all tests."""

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.fix_stack", "tests.fix_whole"]

# How long an example takes says something of the machine, not of the code: a busy one must not fail a test.
settings.register_profile(
    "patient",
    settings.default,
    deadline=None,
    suppress_health_check=[*settings.default.suppress_health_check, HealthCheck.too_slow],
)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of single tests."""
    parser.addoption("--all-zones", action="store_true", help="check the schedule in all zones over ten years (half an hour)")
