"""Fixtures of all tests, and the second try of those that need real servers.

A test of the stack that fails is run once more, and the summary counts it as a rerun: a broker on a busy machine is not
the subject of a test. What is broken fails twice. Tests without servers have one try.
"""

import pytest

pytest_plugins = ["tests.fix_stack", "tests.fix_whole"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of the stack a second try."""
    for item in items:
        if item.get_closest_marker("stack"):
            item.add_marker(pytest.mark.flaky(reruns=1))
