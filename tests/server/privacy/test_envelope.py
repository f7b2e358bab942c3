"""Envelopes: what was written comes back, what was changed does not, keys are rotated without touching the
content.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.privacy.envelope import (
    FRAME_BYTES,
    MAGIC,
    EnvelopeReader,
    EnvelopeRefused,
    EnvelopeWriter,
    HeldKeys,
    is_envelope,
    new_key,
    read_keys,
    rewrap,
)

KEYS = HeldKeys([("00000001", bytes(range(32)))])


def sealed(content: bytes, context: str = "cluster", keys: HeldKeys = KEYS) -> bytes:
    raw = io.BytesIO()
    with EnvelopeWriter(raw, keys, context) as writer:
        writer.write(content)
    return raw.getvalue()


def opened(data: bytes, keys: HeldKeys = KEYS) -> bytes:
    return EnvelopeReader(io.BytesIO(data), keys).readall() or b""


@pytest.mark.parametrize("size", [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES])
def test_what_was_written_comes_back(size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    data = sealed(content)
    assert opened(data) == content
    assert size < 64 or content[:64] not in data
    assert sealed(content) != data


@pytest.mark.parametrize("value", [1, 2, 0x20, 0x29, 0x80, 0xFF])
def test_no_changed_byte_passes(value: int) -> None:
    data = sealed(b"what a shopper did " * 4)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= value
        with pytest.raises(EnvelopeRefused):
            opened(bytes(changed))


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_one_that_was_cut_short_or_goes_on_is_refused(share: float) -> None:
    data = sealed(bytes(FRAME_BYTES + 500))
    with pytest.raises(EnvelopeRefused):
        opened(data[: int(share * len(data))])
    with pytest.raises(EnvelopeRefused):
        opened(data + b"more")


def test_frames_can_be_neither_swapped_nor_taken_from_another_file() -> None:
    content = bytes(FRAME_BYTES) + bytes([1]) * FRAME_BYTES + b"end"
    one, other = sealed(content), sealed(content)
    head = len(MAGIC) + 4 + int.from_bytes(one[len(MAGIC) : len(MAGIC) + 4], "big")
    frame = 4 + FRAME_BYTES + 16
    first, second, rest = (
        one[head : head + frame],
        one[head + frame : head + 2 * frame],
        one[head + 2 * frame :],
    )
    for wrong in (
        second + first + rest,
        first + rest,
        second + rest,
        other[head : head + frame] + second + rest,
    ):
        with pytest.raises(EnvelopeRefused, match="frame"):
            opened(one[:head] + wrong)


def test_it_opens_for_the_right_key_and_catalogue_alone() -> None:
    data = sealed(b"content")
    with pytest.raises(EnvelopeRefused, match="needs the key 00000001"):
        opened(data, HeldKeys([("00000002", bytes(32))]))
    with pytest.raises(EnvelopeRefused, match="another one"):
        opened(data, HeldKeys([("00000001", bytes(32))]))
    with pytest.raises(EnvelopeRefused):
        opened(data.replace(b'"cluster"', b'"clustes"'))


def test_a_new_key_wraps_old_envelopes_without_touching_their_content(tmp_path: Path) -> None:
    file, path = tmp_path / "keys", tmp_path / "backup"
    first = new_key(file)
    path.write_bytes(sealed(b"content", keys=read_keys(str(file))))
    path.chmod(0o600)
    second = new_key(file)
    keys = read_keys(str(file))
    assert keys.newest == second != first
    assert opened(path.read_bytes(), keys) == b"content"
    before = path.read_bytes()
    assert rewrap(path, keys)
    assert not rewrap(path, keys)
    after = path.read_bytes()
    assert opened(after, keys) == b"content"
    assert after[-20:] == before[-20:]
    assert is_envelope(path)
    # The old key can go now.
    file.write_text(file.read_text(encoding="ascii").splitlines()[0] + "\n", encoding="ascii")
    assert opened(after, read_keys(str(file))) == b"content"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["backup", "keys"]


def test_keys_come_from_a_private_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    new_key(file)
    monkeypatch.setenv("BACKUP_KEYS", file.read_text(encoding="ascii"))
    assert read_keys("env:BACKUP_KEYS").newest == read_keys(str(file)).newest
    file.chmod(0o644)
    with pytest.raises(EnvelopeRefused, match="chmod 600"):
        read_keys(str(file))
    for source, message in (("env:NOTHING", "has no NOTHING"), (str(tmp_path / "none"), "cannot be read")):
        with pytest.raises(EnvelopeRefused, match=message):
            read_keys(source)
    monkeypatch.setenv("BACKUP_KEYS", "00000001 not-hex")
    with pytest.raises(EnvelopeRefused, match="holds no keys") as caught:
        read_keys("env:BACKUP_KEYS")
    assert "not-hex" not in str(caught.value)


@given(st.binary(max_size=200))
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    for candidate in (data, MAGIC + data):
        with pytest.raises(EnvelopeRefused):
            opened(candidate)
