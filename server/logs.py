"""What the process writes to standard error: text for people, or one JSON object for each record.

No record holds what somebody asked for or who asked: neither the text of a query nor a shopper's key. A
record made while a call is answered names the call's request id: the caller's ``x-request-id`` where it is
short and plain, else the trace that it belongs to, else one made here.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from server import config

REQUEST_ID_KEY = "x-request-id"
PARENT_KEY = "traceparent"

_PLAIN = re.compile(r"[A-Za-z0-9\-_.:]{1,64}", re.ASCII)
_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?:-.*)?",
    re.ASCII,
)
_current: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


def parent_of(metadata: Sequence[tuple[str, Any]]) -> tuple[str, str, bool] | None:
    """Trace, caller's span and whether the caller is traced, of a ``traceparent``; None without one.

    Source: W3C Trace Context, level 1, section 3.2.
    """
    for key, value in metadata:
        if key == PARENT_KEY and (match := _PARENT.fullmatch(str(value))) is not None:
            return match["trace"], match["span"], bool(int(match["flags"], 16) & 1)
    return None


def request_id_of(metadata: Sequence[tuple[str, Any]]) -> str:
    """What a call is called in the log."""
    for key, value in metadata:
        if key == REQUEST_ID_KEY and _PLAIN.fullmatch(str(value)):
            return str(value)
    parent = parent_of(metadata)
    return parent[0] if parent is not None else secrets.token_hex(8)


@contextlib.contextmanager
def answering(metadata: Sequence[tuple[str, Any]]) -> Iterator[str]:
    """Records of this thread belong to a call with these metadata; yields its request id."""
    request_id = request_id_of(metadata)
    token = _current.set(request_id)
    try:
        yield request_id
    finally:
        _current.reset(token)


class _RequestId(logging.Filter):
    """Gives each record the request id of the call under way; a record that brings one keeps it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = _current.get() or None
        return True


class JsonFormatter(logging.Formatter):
    """One object in one line: time, level, logger, message, and request_id and exception if any."""

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", None):
            values["request_id"] = request_id
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A line for people; the request id at its end."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name of the base class
        request_id = getattr(record, "request_id", None)
        return super().formatMessage(record) + (f" (request {request_id})" if request_id else "")


def set_up_logging(settings: config.LogSettings) -> None:
    """One handler, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_RequestId())
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
