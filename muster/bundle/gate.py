"""Which drills a bundle has been through: a signed verdict that lies beside the manifest, in `gate.json`.

It belongs to one bundle by its identity, and to no file of it: a bundle is the same with and without it. Who
asks for a gate trusts it by its signature, so a verdict that was edited is none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from muster.bundle.errors import BundleDamagedError, BundleError, BundleGateError
from muster.bundle.manifest import GATE_FILE, Signature, read_field, read_signature
from muster.bundle.signature import SigningKey, signature_fits

GATE_BYTES_MAX = 1 << 20
OVERRIDE_CHARACTERS_MAX = 500
HELD = "held"
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Rehearsed:
    """One drill with the bundle. verdict: held, deviated or inconclusive. command: its arguments."""

    drill: str
    verdict: str
    reason: str = ""
    command: str = ""
    figures: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Gate:
    """What the drills of a profile said. override: why the bundle may be served all the same; empty: it is as
    the drills say.
    """

    bundle_id: str
    profile: str
    made_unix_s: int
    muster_version: str
    drills: Sequence[Rehearsed]
    machine: Mapping[str, Any]
    override: str = ""
    signature: Signature | None = None

    @property
    def held(self) -> bool:
        """Whether there were drills, and all held."""
        return bool(self.drills) and all(one.verdict == HELD for one in self.drills)

    def to_json(self) -> str:
        """As written to disk: stable order, two spaces, one newline at the end."""
        value: dict[str, Any] = {
            "schema_version": _SCHEMA_VERSION,
            "bundle_id": self.bundle_id,
            "profile": self.profile,
            "made_unix_s": self.made_unix_s,
            "muster_version": self.muster_version,
            "drills": [
                {
                    "drill": one.drill,
                    "command": one.command,
                    "verdict": one.verdict,
                    "reason": one.reason,
                    "figures": dict(one.figures or {}),
                }
                for one in self.drills
            ],
            "machine": dict(self.machine),
            "override": self.override,
        }
        if self.signature is not None:
            value["signature"] = self.signature.plain()
        return json.dumps(value, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Gate:
        """Parse and check one. Raises: BundleDamagedError."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleDamagedError(GATE_FILE, "not complete JSON") from error
        if not isinstance(value, dict) or value.get("schema_version") != _SCHEMA_VERSION:
            raise BundleDamagedError(
                GATE_FILE, f"not a verdict of schema {_SCHEMA_VERSION}; have the drills run again"
            )
        return cls(
            bundle_id=read_field(value, "bundle_id", str, GATE_FILE),
            profile=read_field(value, "profile", str, GATE_FILE),
            made_unix_s=read_field(value, "made_unix_s", int, GATE_FILE),
            muster_version=read_field(value, "muster_version", str, GATE_FILE),
            drills=tuple(_drill(one) for one in read_field(value, "drills", list, GATE_FILE)),
            machine=read_field(value, "machine", dict, GATE_FILE),
            override=read_field(value, "override", str, GATE_FILE),
            signature=read_signature(value, GATE_FILE),
        )


def read_gate(folder: str | Path) -> Gate | None:
    """The verdict beside a bundle; None: there is none. Raises: BundleDamagedError."""
    path = Path(folder) / GATE_FILE
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise BundleDamagedError(GATE_FILE, "not a plain file")
    try:
        with path.open("rb") as file:
            data = file.read(GATE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleDamagedError(GATE_FILE, f"cannot be read: {error.strerror}") from error
    if len(data) > GATE_BYTES_MAX:
        raise BundleDamagedError(GATE_FILE, f"larger than {GATE_BYTES_MAX} bytes")
    return Gate.from_json(data)


def write_gate(folder: str | Path, gate: Gate, key: SigningKey | None) -> Gate:
    """Put a verdict beside its bundle, signed where there is a key; the one before is replaced.

    Raises: BundleError.
    """
    bare = replace(gate, signature=None)
    if key is not None:
        bare = replace(bare, signature=key.sign(bare.to_json()))
    path = Path(folder) / GATE_FILE
    # Beside the folder until it is whole: a bundle with a stray file in it is refused.
    draft = Path(folder).resolve().with_name(f".{Path(folder).resolve().name}-{GATE_FILE}-{os.getpid()}")
    try:
        draft.write_text(bare.to_json(), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise BundleError(GATE_FILE, f"cannot be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
    return bare


def check_gate(gate: Gate | None, bundle_id: str, profile: str, trusted_keys: Collection[str]) -> None:
    """Whether a bundle may be served where the drills of a profile must have held.

    Raises: BundleGateError, saying what is missing.
    """
    asked = f"`muster drill gate BUNDLE --profile {profile} --key FILE`"
    if gate is None:
        raise BundleGateError(GATE_FILE, f"the drills of {profile!r} have not been run with it: {asked}")
    if gate.bundle_id != bundle_id:
        raise BundleGateError(GATE_FILE, f"the verdict is of bundle {gate.bundle_id}, not of {bundle_id}")
    if gate.profile != profile:
        raise BundleGateError(
            GATE_FILE, f"the verdict is by the drills of {gate.profile!r}, asked for are those of {profile!r}"
        )
    if gate.signature is None or gate.signature.public_key not in trusted_keys:
        signer = "nobody" if gate.signature is None else gate.signature.public_key
        raise BundleGateError(GATE_FILE, f"the verdict is signed by {signer}, who is not trusted: {asked}")
    if not signature_fits(gate.signature, replace(gate, signature=None).to_json()):
        raise BundleGateError(GATE_FILE, "the signature does not fit the verdict")
    if not gate.held and not gate.override:
        missed = [f"{one.drill} {one.verdict}" for one in gate.drills if one.verdict != HELD]
        raise BundleGateError(GATE_FILE, f"not all drills held: {', '.join(missed) or 'there were none'}")


def _drill(value: Any) -> Rehearsed:
    if not isinstance(value, dict):
        raise BundleDamagedError(GATE_FILE, "a drill is not an object")
    return Rehearsed(
        drill=read_field(value, "drill", str, GATE_FILE),
        verdict=read_field(value, "verdict", str, GATE_FILE),
        reason=read_field(value, "reason", str, GATE_FILE),
        command=read_field(value, "command", str, GATE_FILE),
        figures=read_field(value, "figures", dict, GATE_FILE),
    )
