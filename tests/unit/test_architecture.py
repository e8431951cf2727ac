"""The checks of tests/test_imports.py find what they are there to find."""

import subprocess
import sys

import pytest

from tests.test_imports import CLOCK, ENVIRONMENT, ROOT, folder_breaches, use_breaches


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/x.py", "import runtime.clock"),
        ("core/x.py", "import os"),
        ("core/x.py", "from urllib import request"),
        ("core/x.py", "def f():\n    import socket"),
        ("core/x.py", "import requests"),
        ("core/x.py", "from random import random"),
        ("core/x.py", "import schemas.codec"),
        ("schemas/x.py", "from runtime import settings"),
        ("runtime/x.py", "from sinks import ledger"),
        ("sinks/x.py", "def f():\n    from streams.fanout import expand"),
        ("streams/x.py", "import projections"),
        ("projections/x.py", "from edge import pages"),
        ("edge/x.py", "import sinks.ledger as l"),
        ("edge/x.py", "from deploy import demo"),
        ("runtime/x.py", "from tests import fix_stack"),
        ("deploy/x.py", "import sinks"),
    ],
)
def test_a_forbidden_import_is_found(path, source):
    """Wherever in the file it stands."""
    assert len(folder_breaches(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/x.py", "import json, hashlib\nimport numpy as np\nfrom babel.dates import format_date\nfrom core import names"),
        ("core/x.py", "from urllib.parse import urlsplit\nfrom datetime import datetime"),
        ("sinks/x.py", "import os, asyncio, aiohttp\nfrom runtime import kafka\nfrom schemas.codec import Codec"),
        ("schemas/commands.py", "def f():\n    from runtime.settings import Settings"),
        ("deploy/x.py", "from runtime.settings import Settings\nfrom core.names import LANES"),
    ],
)
def test_an_allowed_import_is_let_through(path, source):
    """The table forbids nothing else."""
    assert folder_breaches(path, source) == []


def test_relative_imports_are_refused():
    """They hide the folder they come from."""
    with pytest.raises(AssertionError, match="relative"):
        folder_breaches("sinks/x.py", "from . import ledger")


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.environ['A']",
        "import os as system\nsystem.getenv('A')",
        "from os import environ\nenviron['A']",
        "from os import environ as e\nprint(e)",
    ],
)
def test_reading_the_environment_is_found(source):
    """Under whatever name."""
    assert use_breaches("edge/x.py", source, ENVIRONMENT, "environment")


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.time()",
        "from time import monotonic\nmonotonic()",
        "from datetime import datetime\ndatetime.now()",
        "from datetime import datetime as when\nwhen.utcnow()",
        "import datetime\ndatetime.datetime.now()",
        "import datetime as dt\ndt.date.today()",
        "from datetime import datetime\nfactory = datetime.now",
    ],
)
def test_reading_the_clock_is_found(source):
    """Called or handed on."""
    assert use_breaches("edge/x.py", source, CLOCK, "clock")


def test_a_clock_that_is_given_is_let_through():
    """clock.now() and time.sleep() read nothing."""
    source = "import time\ndef f(clock):\n    time.sleep(1)\n    return clock.now(), clock.monotonic()"
    assert use_breaches("edge/x.py", source, CLOCK, "clock") == []


def test_the_commands_of_projections_import_nothing_heavy():
    """Every start of every process imports them."""
    heavy = ("psycopg", "confluent_kafka", "fastavro", "numpy", "aiohttp")
    code = f"import sys, projections.commands; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
