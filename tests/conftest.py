"""Fixtures of all tests."""

import pytest

pytest_plugins = ["tests.fix_stack", "tests.fix_whole"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of single tests."""
    parser.addoption("--all-zones", action="store_true", help="check the schedule in all zones over ten years (half an hour)")
