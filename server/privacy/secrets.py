"""The secrets that pseudonyms, receipts and marks are made with: a small file that only its owner reads.

    {"version": 1, "secrets": [{"name": 8 hex digits, "created_unix_s": ..., "value": 64 hex digits}, ...]}

The newest comes first and makes pseudonyms; older ones recognise theirs for as long as they are kept. The
oldest makes what must not change while anybody remembers it: receipts, the ids of events, marks of the
erased. Replicas of one machine share the file in the data folder, made by whoever comes first; those of
several machines are each given a copy (`privacy.secrets_file`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from muster.privacy.pseudonyms import Pseudonyms, Secret
from server.privacy.private_file import private_draft, settle, settle_folder

FILE_NAME = "privacy.secrets"
EVENT_ID_PREFIX = "feedback/"
VERSION = 1
_ERASED = "erased"
_SECRETS_MAX = 64
_FILE_BYTES_MAX = 1 << 16


class SecretsRefused(Exception):
    """The file of secrets cannot be used; the text says why and what to do."""


@dataclass(frozen=True, repr=False)
class Secrets:
    """The secrets, the newest first. Never shown."""

    all: tuple[Secret, ...]

    def pseudonyms(self, period_days: int) -> Pseudonyms:
        """What makes pseudonyms that last so many days."""
        return Pseudonyms(self.all, period_days)

    @property
    def receipts(self) -> bytes:
        """The key that signs the ids of answers, 32 bytes."""
        return self.all[-1].key("receipt")

    @property
    def pseudonym_keys(self) -> list[tuple[str, bytes]]:
        """Name and key of what makes pseudonyms, the newest first."""
        return [(secret.name, secret.pseudonym_key) for secret in self.all]

    @property
    def mark_key(self) -> bytes:
        """The key of the marks of the erased, 32 bytes."""
        return self.all[-1].key(_ERASED)

    def event_id(self, given: str) -> str:
        """What is kept of the id that a caller gave an event: it may name a shopper."""
        return EVENT_ID_PREFIX + self._digest("event-id", given)[:40]

    def mark(self, pseudonym: str) -> str:
        """By which an erased pseudonym is recognised, but not found."""
        return self._digest(_ERASED, pseudonym)

    @property
    def fingerprint(self) -> str:
        """Tells two files apart without saying anything of what they hold."""
        return self._digest("fingerprint", "")[:16]

    def _digest(self, purpose: str, text: str) -> str:
        key = self.all[-1].key(purpose)
        return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def open_secrets(path: Path, *, make: bool) -> Secrets:
    """The secrets in a file. make: it is made where there is none.

    Raises: SecretsRefused: it is missing, open to others, or not such a file. OSError where it cannot be
    made.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        if not make:
            raise SecretsRefused(
                f"{path} is missing: copy it from another machine of the service, or from your backup of it;"
                " without it nobody can tell whose feedback is whose"
            ) from None
    _make(path)
    return _read(path)


def add_secret(path: Path) -> str:
    """Draw a new secret and put it first; replicas use it from their next start on. Returns its name.

    Raises: SecretsRefused, OSError.
    """
    present = _document(path)
    if len(present["secrets"]) >= _SECRETS_MAX:
        raise SecretsRefused(f"{path} holds {_SECRETS_MAX} secrets; retire the oldest first")
    drawn = _drawn()
    _write(path, {"version": VERSION, "secrets": [drawn, *present["secrets"]]})
    return str(drawn["name"])


def _drawn() -> dict[str, Any]:
    return {
        "name": secrets.token_hex(4),
        "created_unix_s": int(time.time()),
        "value": secrets.token_hex(32),
    }


def _make(path: Path) -> None:
    """Make the file; of replicas that start together, one does."""
    with private_draft(path) as (file, draft):
        _dump(file, {"version": VERSION, "secrets": [_drawn()]})
        # Unlike a rename this fails where somebody was faster.
        with suppress(FileExistsError):
            os.link(draft, path)
    settle_folder(path.parent)


def _write(path: Path, document: dict[str, Any]) -> None:
    with private_draft(path) as (file, draft):
        _dump(file, document)
        draft.replace(path)
    settle_folder(path.parent)


def _dump(file: IO[bytes], document: dict[str, Any]) -> None:
    file.write(json.dumps(document, indent=1).encode("ascii") + b"\n")
    settle(file)


def _read(path: Path) -> Secrets:
    document = _document(path)
    return Secrets(
        tuple(Secret(entry["name"], bytes.fromhex(entry["value"])) for entry in document["secrets"])
    )


def _document(path: Path) -> dict[str, Any]:
    """The file's content, checked. Raises: FileNotFoundError, SecretsRefused."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise SecretsRefused(f"{path} can be read by others than its owner; run `chmod 600 {path}`")
            data = file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SecretsRefused(f"{path} cannot be read: {error.strerror}") from error
    try:
        document = json.loads(data)
        entries = document["secrets"]
        sound = (
            document["version"] == VERSION
            and 1 <= len(entries) <= _SECRETS_MAX
            and all(
                len(bytes.fromhex(entry["name"])) == 4 and len(bytes.fromhex(entry["value"])) == 32
                for entry in entries
            )
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        # Nothing of what it holds is shown.
        raise SecretsRefused(f"{path} is not a file of secrets; put back the one that was there")
    return dict(document)
