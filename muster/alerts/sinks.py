"""Who is told of alerts: a webhook that understands Alertmanager, and a file with a line for each change."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from muster.alerts.evaluator import FIRING, RESOLVED, Alert

PAYLOAD_VERSION = "4"
_NEVER = "0001-01-01T00:00:00Z"
_TRIES = 3
_WAIT_S = 5.0
_PAUSE_S = 0.5


class SinkError(Exception):
    """Nobody could be told; the text says who and why."""


class Sink(Protocol):
    """Whoever is told of changes."""

    def tell(self, alerts: Sequence[Alert]) -> None:
        """These began to fire, or ended; at least one. Raises: SinkError."""


def payload(alerts: Sequence[Alert], *, receiver: str) -> dict[str, Any]:
    """What Alertmanager sends to a webhook for alerts of one name.

    Source: the Alertmanager documentation, "webhook_config", version 4.
    """
    entries = [
        {
            "status": alert.status,
            "labels": dict(alert.labels),
            "annotations": _annotations(alert),
            "startsAt": timestamp(alert.started_s),
            "endsAt": _NEVER if alert.ended_s is None else timestamp(alert.ended_s),
            "generatorURL": "",
            "fingerprint": alert.fingerprint,
        }
        for alert in alerts
    ]
    name = alerts[0].name
    return {
        "version": PAYLOAD_VERSION,
        "groupKey": f'{{}}:{{alertname="{name}"}}',
        "truncatedAlerts": 0,
        "status": FIRING if any(alert.status == FIRING for alert in alerts) else RESOLVED,
        "receiver": receiver,
        "groupLabels": {"alertname": name},
        "commonLabels": _shared([dict(alert.labels) for alert in alerts]),
        "commonAnnotations": _shared([_annotations(alert) for alert in alerts]),
        "externalURL": "",
        "alerts": entries,
    }


class Webhook:
    """Posts to a URL, one message for each alert's name."""

    def __init__(self, url: str, *, receiver: str = "muster") -> None:
        self._url = url
        self._receiver = receiver

    def tell(self, alerts: Sequence[Alert]) -> None:
        """Try three times; then say that nobody was told."""
        for name in dict.fromkeys(alert.name for alert in alerts):
            body = payload([alert for alert in alerts if alert.name == name], receiver=self._receiver)
            self._post(json.dumps(body).encode())

    def _post(self, body: bytes) -> None:
        problem = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE_S * attempt)
            try:
                request = urllib.request.Request(
                    self._url, body, {"Content-Type": "application/json"}, method="POST"
                )
                with urllib.request.urlopen(request, timeout=_WAIT_S):
                    return
            except (OSError, ValueError) as error:
                problem = str(error)
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
        raise SinkError(f"{self._url} was not told of an alert: {problem}")


class LogFile:
    """Appends one JSON object for each change."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def tell(self, alerts: Sequence[Alert]) -> None:
        """Append; whole lines, so that several writers do not mix."""
        lines = "".join(json.dumps(line(alert)) + "\n" for alert in alerts)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as error:
            raise SinkError(f"{self._path} cannot be written: {error.strerror}") from error


def line(alert: Alert) -> dict[str, Any]:
    """One change as an object."""
    ended = {} if alert.ended_s is None else {"ended": timestamp(alert.ended_s)}
    return {
        "alert": alert.name,
        "status": alert.status,
        "severity": alert.rule.severity,
        "labels": dict(alert.labels),
        "value": alert.value,
        "started": timestamp(alert.started_s),
        **ended,
        "summary": alert.rule.summary,
        "runbook": alert.rule.runbook,
    }


def timestamp(at_s: float) -> str:
    """A moment as RFC 3339 has it, with milliseconds."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _annotations(alert: Alert) -> dict[str, str]:
    return {"summary": alert.rule.summary, "runbook": alert.rule.runbook}


def _shared(all_of_them: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    first = all_of_them[0]
    return {
        name: value for name, value in first.items() if all(one.get(name) == value for one in all_of_them)
    }
