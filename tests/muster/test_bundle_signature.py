"""Signing bundles, and refusing signatures that are not worth anything."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from muster.bundle import (
    BundleDamagedError,
    BundleError,
    BundleSignatureError,
    Manifest,
    check_signature,
    make_key,
    read_bundle,
    read_key,
    read_manifest,
    sign_bundle,
)
from tests.fixtures.tiny_bundle import build


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signed") / "tiny"
    build(folder)
    return folder


def test_a_signed_bundle_is_the_same_bundle_and_good_to_those_who_trust_the_key(
    bundle: Path, tmp_path: Path
) -> None:
    before = read_manifest(bundle)
    key = make_key(tmp_path / "key.pem")
    signed = sign_bundle(bundle, read_key(tmp_path / "key.pem"))
    assert read_bundle(bundle).manifest == signed
    assert (signed.bundle_id, signed.files) == (before.bundle_id, before.files)
    check_signature(signed, [key.public_key], allow_unsigned=False)
    with pytest.raises(BundleSignatureError, match="not among the trusted"):
        check_signature(signed, ["0" * 64], allow_unsigned=False)
    check_signature(signed, [], allow_unsigned=True)
    other = make_key(tmp_path / "other.pem")
    assert sign_bundle(bundle, other).signature != signed.signature


def test_only_its_owner_can_read_a_key_and_an_old_one_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    key = make_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(path).public_key == key.public_key
    with pytest.raises(BundleError, match="cannot be written"):
        make_key(path)
    assert read_key(path).public_key == key.public_key


def test_an_unsigned_bundle_is_refused_where_signatures_are_asked_for(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    bare = Manifest(manifest.bundle_id, manifest.created_unix_s, manifest.muster_version, manifest.files)
    check_signature(bare, [], allow_unsigned=True)
    with pytest.raises(BundleSignatureError, match="not signed"):
        check_signature(bare, ["0" * 64], allow_unsigned=False)


@pytest.mark.parametrize("what", ["created_unix_s", "muster_version", "signature"])
def test_a_manifest_that_was_changed_after_it_was_signed_is_refused_also_where_nothing_is_asked(
    bundle: Path, tmp_path: Path, what: str
) -> None:
    sign_bundle(bundle, make_key(tmp_path / "key.pem"))
    value = json.loads((bundle / "manifest.json").read_text())
    if what == "signature":
        digits = value["signature"]["ed25519"]
        value["signature"]["ed25519"] = ("0" if digits[0] != "0" else "1") + digits[1:]
    else:
        value[what] = 5 if what == "created_unix_s" else "9.9.9"
    changed = Manifest.from_json(json.dumps(value))
    with pytest.raises(BundleSignatureError, match="does not fit"):
        check_signature(changed, [], allow_unsigned=True)


@pytest.mark.parametrize(
    "signature", [{"public_key": "00", "ed25519": "0" * 128}, {"public_key": "0" * 64}, "x", 7]
)
def test_a_signature_that_is_none_is_damage(bundle: Path, signature: object) -> None:
    value = json.loads((bundle / "manifest.json").read_text())
    value["signature"] = signature
    with pytest.raises(BundleDamagedError, match="signature"):
        Manifest.from_json(json.dumps(value))


def test_what_is_no_key_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(BundleError, match="cannot be read"):
        read_key(path)
    path.write_text("hello")
    with pytest.raises(BundleError, match="not an unencrypted private key"):
        read_key(path)
