"""The calling library: deadlines, hedged and retried reads, writes that find the primary, errors."""

from __future__ import annotations

from muster.client.aio import AsyncClient
from muster.client.credentials import Credentials
from muster.client.errors import (
    Cancelled,
    ClientClosed,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    MusterError,
    NotAllowed,
    NotFound,
    Overloaded,
    ServiceFailed,
    Unavailable,
)
from muster.client.events import content_event_id, delete, new_event_id, patch, upsert
from muster.client.feedback_events import feedback
from muster.client.operation import ReplicaStatus
from muster.client.requests import DEADLINE_METADATA, Priority, search_filter
from muster.client.sessions import Session
from muster.client.settings import DEFAULT_TARGET, ClientSettings
from muster.client.sync import Client

__all__ = [
    "DEADLINE_METADATA",
    "DEFAULT_TARGET",
    "AsyncClient",
    "Cancelled",
    "Client",
    "ClientClosed",
    "ClientSettings",
    "Conflict",
    "Credentials",
    "DeadlineExceeded",
    "InvalidRequest",
    "MusterError",
    "NotAllowed",
    "NotFound",
    "Overloaded",
    "Priority",
    "ReplicaStatus",
    "ServiceFailed",
    "Session",
    "Unavailable",
    "content_event_id",
    "delete",
    "feedback",
    "new_event_id",
    "patch",
    "search_filter",
    "upsert",
]
