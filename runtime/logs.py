"""Logging of every process: one JSON object a line, or plain lines on a terminal. No personal data is ever logged."""

import json
import logging
import sys
from datetime import UTC, datetime

from runtime.settings import Settings

_QUIET = {
    "aiokafka": logging.ERROR,  # a broker away for 5 s is some 18,000 lines
    "faust": logging.WARNING,
    "mode": logging.WARNING,
    "httpx": logging.WARNING,
    "httpx2": logging.WARNING,
    "httpcore": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    "botocore": logging.WARNING,
    "hikari": logging.WARNING,
    "slack_sdk": logging.WARNING,
    "runtime.librdkafka": logging.WARNING,
    "asyncio": logging.WARNING,
    "runtime.faust_transport": logging.WARNING,  # Faust logs under the name of the subclass
}

_REPEATING = ("aiokafka", "runtime.librdkafka", "runtime.producer", "faust", "mode")
"""Loggers that say the same several times a second while a broker is away."""


class _Json(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Limit(logging.Filter):
    """Let the same text of a noisy logger through once in `every_s` seconds."""

    def __init__(self, every_s: float) -> None:
        super().__init__()
        self._every_s = every_s
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key = f"{record.name}:{str(record.msg)[:80]}"
        if len(self._last) > 1000:
            self._last.clear()
        if record.created - self._last.get(key, 0.0) < self._every_s:
            return False
        self._last[key] = record.created
        return True


def configure(settings: Settings, process: str, *, human: bool | None = None) -> None:
    """Send logs to standard error: JSON lines, or human lines (by default when it is a terminal)."""
    handler = logging.StreamHandler(sys.stderr)
    if human if human is not None else sys.stderr.isatty():
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {process} %(name)s: %(message)s"))
    else:
        handler.setFormatter(_Json(process))
    limit = _Limit(every_s=5.0)
    for name, level in _QUIET.items():
        logger = logging.getLogger(name)
        logger.setLevel(level)
    handler.addFilter(lambda record: not record.name.startswith(_REPEATING) or limit.filter(record))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
