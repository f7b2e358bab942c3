"""What Muster is built from and runs with, and under which licences: Python as installed, Rust as locked.

A licence that is not in `ALLOWED` is refused, and so is none at all. Of "A OR B" one must be allowed, of
"A AND B" both.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boolean.boolean import ParseError  # type: ignore[import-untyped]
from license_expression import (  # type: ignore[import-untyped]
    AND,
    OR,
    ExpressionError,
    LicenseSymbol,
    LicenseWithExceptionSymbol,
    Licensing,
)

ROOT = Path(__file__).parents[1]

ALLOWED = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
        "ISC",
        "LGPL-3.0-only",
        "LicenseRef-BSD",
        "LicenseRef-NVIDIA-Proprietary",
        "LicenseRef-Public-Domain",
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "MPL-2.0",
        "PSF-2.0",
        "Unicode-3.0",
        "Unlicense",
        "Zlib",
        "zlib-acknowledgement",
    }
)

NOTES = {
    "LGPL-3.0-only": "a library that can be exchanged; only where the store is on PostgreSQL",
    "LicenseRef-NVIDIA-Proprietary": "comes with torch, for training and the GPU path; not part of Muster",
    "LicenseRef-BSD": "a BSD licence, its metadata do not say which",
}

# Where metadata say nothing, or more than one thing: what the files of the package say.
_BY_HAND = {
    "boolean-py": "BSD-2-Clause",
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "nvidia-cusparselt-cu13": "LicenseRef-NVIDIA-Proprietary",
    # Its one file under the GPL is a mode for an editor, which no package installs.
    "docutils": "LicenseRef-Public-Domain AND BSD-2-Clause AND 0BSD",
    "pysqlite3": "Zlib",
    "tqdm": "MPL-2.0 AND MIT",
}
_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "LicenseRef-BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# How the free text begins, in lower case.
_TEXTS = (
    (r"apache(-|\s|$)", "Apache-2.0"),
    (r"mit( license)?(\s|$)", "MIT"),
    (r"(bsd 3-clause|bsd-3-clause|3-clause bsd|new bsd)", "BSD-3-Clause"),
    (r"bsd(\s|$)", "LicenseRef-BSD"),
    (r"isc( license)?$", "ISC"),
    (r"mpl-2.0$", "MPL-2.0"),
    (r"psf-2.0$", "PSF-2.0"),
)
_LICENSING = Licensing()


@dataclass(frozen=True)
class Dependency:
    """One package. kind: `python` or `rust`. licence: an SPDX expression; empty: nothing says."""

    kind: str
    name: str
    version: str
    licence: str


# --- Python ----------------------------------------------------------------------------------------------


def python_dependencies() -> list[Dependency]:
    """What is installed beside Muster itself, by name."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = canonical(distribution.metadata["Name"])
        if name != "muster":
            found[name] = Dependency("python", name, distribution.version, licence_of(distribution.metadata))
    return [found[name] for name in sorted(found)]


def canonical(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(metadata: Any) -> str:
    """The SPDX expression of a distribution's metadata, as far as they tell; empty: they do not."""
    name = canonical(metadata["Name"])
    if name in _BY_HAND:
        return _BY_HAND[name]
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classified = [
        _CLASSIFIERS.get(text.rpartition(" :: ")[2], "")
        for text in metadata.get_all("Classifier") or []
        if text.startswith("License :: OSI Approved :: ")
    ]
    if classified:
        return " AND ".join(sorted(classified)) if all(classified) else ""
    text = " ".join((metadata.get("License") or "").split()).lower()
    return next((licence for start, licence in _TEXTS if re.match(start, text)), "")


# --- Rust ------------------------------------------------------------------------------------------------


def rust_dependencies() -> list[Dependency]:
    """The crates of Cargo.lock that are not our own, by name and version. Raises: CalledProcessError."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--offline"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    packages = json.loads(done.stdout)["packages"]
    found = [
        Dependency("rust", package["name"], package["version"], _spdx(package["license"] or ""))
        for package in packages
        if package["source"] is not None
    ]
    return sorted(found, key=lambda one: (one.name, one.version))


def _spdx(licence: str) -> str:
    """Older crates write "MIT/Apache-2.0"."""
    return re.sub(r"\s*/\s*", " OR ", licence)


# --- judging ----------------------------------------------------------------------------------------------


def problem(dependency: Dependency) -> str:
    """Why its licence is refused; empty: it is not."""
    if not dependency.licence:
        return (
            "says nothing about its licence; look at its files, and write it down in scripts/dependencies.py"
        )
    try:
        tree = _LICENSING.parse(dependency.licence)
    except (ExpressionError, ParseError) as error:
        return f"has a licence that cannot be read, {dependency.licence!r}: {error}"
    if not _allowed(tree):
        return f"is under {dependency.licence}, which is not among those allowed"
    return ""


def notes(dependency: Dependency) -> Iterator[str]:
    """What is to be known of its licences."""
    for name, note in NOTES.items():
        if name in dependency.licence:
            yield note


def _allowed(tree: Any) -> bool:
    if isinstance(tree, AND):
        return all(_allowed(part) for part in tree.args)
    if isinstance(tree, OR):
        return any(_allowed(part) for part in tree.args)
    if isinstance(tree, LicenseWithExceptionSymbol):
        # An exception only ever allows more.
        return tree.license_symbol.key in ALLOWED
    return isinstance(tree, LicenseSymbol) and tree.key in ALLOWED
