"""Noise that nobody can foretell, and that leaves no trace of a sum in its last digits.

All of it follows from one secret, drawn from the operating system: AES-256 in counter mode gives the bits, so
that a run that was interrupted repeats the same noise, which is one release, instead of drawing a second one.
Sums and noise are whole multiples of one step of a grid. What is added up on it is exact, and a sum with
noise is what rounding the exact sum with continuous noise would give, so rounding tells nothing more (Mironov
2012, on what the last digits of floating point give away; Balle & Wang 2018 on the mechanism).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from training.recipe import RecipeError

GRID = 2.0**-16
SECRET_BYTES = 32
_PIECE = 1 << 20


def on_grid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values rounded towards 0 to the grid: none gets larger."""
    return np.asarray(np.trunc(values / GRID) * GRID, dtype=np.float64)


def secret_of(run: Path) -> bytes:
    """The secret of a run folder, drawn at the first call and kept there (mode 600).

    Raises: RecipeError where the file is not what was written.
    """
    path = run / "noise.secret"
    if not path.exists():
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        part.touch(mode=0o600)
        part.write_bytes(secrets.token_bytes(SECRET_BYTES))
        part.replace(path)
    found = path.read_bytes()
    if len(found) != SECRET_BYTES:
        raise RecipeError(
            f"{path} does not hold {SECRET_BYTES} bytes: the noise of this run cannot be repeated; begin a "
            "new one with --run, which spends epsilon anew"
        )
    return found


class Noise:
    """Random numbers by label: the same secret, purpose and label give the same ones.

    purpose: what they are for. The same noise on other data would give the difference away, so it names them.
    """

    def __init__(self, secret: bytes, purpose: str = "") -> None:
        self._secret = hmac.new(secret, purpose.encode(), hashlib.sha256).digest()

    def gaussian(self, label: str, count: int, deviation: float) -> NDArray[np.float64]:
        """Normal numbers with a standard deviation, rounded to the grid: float64 [count]."""
        found = np.empty(count)
        stream = self._stream(label)
        for at in range(0, count, _PIECE):
            part = min(_PIECE, count - at)
            half = -(-part // 2)
            # Box & Muller 1958; 1 - u is above 0.
            length = np.sqrt(-2.0 * np.log(1.0 - _uniform(stream, half)))
            angle = 2.0 * np.pi * _uniform(stream, half)
            both = np.concatenate([length * np.cos(angle), length * np.sin(angle)])
            found[at : at + part] = np.rint(both[:part] * (deviation / GRID)) * GRID
        return found

    def uniform(self, label: str, count: int) -> NDArray[np.float64]:
        """Numbers from 0 to below 1: float64 [count]."""
        return _uniform(self._stream(label), count)

    def seed(self, label: str) -> int:
        """A seed of 63 bits for a generator of another library."""
        return int.from_bytes(self._key(label)[:8], "little") >> 1

    def _key(self, label: str) -> bytes:
        return hmac.new(self._secret, label.encode(), hashlib.sha256).digest()

    def _stream(self, label: str) -> Stream:
        return Stream(self._key(label))


class Stream:
    """The bits of one key."""

    def __init__(self, key: bytes) -> None:
        # Each label has a key of its own, so the counter may begin at 0.
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def take(self, count: int) -> bytes:
        """So many bytes."""
        return self._cipher.update(bytes(count))


def _uniform(stream: Stream, count: int) -> NDArray[np.float64]:
    bits = np.frombuffer(stream.take(8 * count), dtype="<u8")
    return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)
