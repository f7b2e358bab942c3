"""Writes bills of materials (CycloneDX, JSON), and the page of licences; refuses what is not allowed.

    python -m scripts.sbom [--out .build/sbom] [--page docs/licences.md]

Exit codes: 0 written; 10 a licence is refused, nothing was written.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from scripts.dependencies import ROOT, Dependency, notes, problem, python_dependencies, rust_dependencies

_PURL_TYPES = {"python": "pypi", "rust": "cargo"}
_HEAD = """# Licences

What a full environment is built from and runs with, all for training, drills and tests included; serving
takes a small part of it (`pyproject.toml`). Generated: `make sbom` writes this page anew, and bills of
materials in CycloneDX below `.build/sbom`. A licence that is not allowed, or none at all, ends that with 10
(`scripts/dependencies.py`). Muster itself is under Apache-2.0.
"""


def bill(dependencies: Sequence[Dependency]) -> str:
    """A bill of materials in JSON, the same for the same dependencies but for the time in it."""
    licences = LicenseFactory()
    root = Component(type=ComponentType.APPLICATION, name="muster", bom_ref="muster")
    bom = Bom()
    bom.metadata.component = root
    components = []
    for one in dependencies:
        purl = PackageURL(_PURL_TYPES[one.kind], name=one.name, version=one.version)
        components.append(
            Component(
                type=ComponentType.LIBRARY,
                name=one.name,
                version=one.version,
                purl=purl,
                bom_ref=str(purl),
                licenses=[licences.make_from_string(one.licence)],
            )
        )
    for component in components:
        bom.components.add(component)
    bom.register_dependency(root, components)
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, "\n".join(str(one.bom_ref) for one in components))
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def page(dependencies: Sequence[Dependency]) -> str:
    """The table for people."""
    lines = [_HEAD]
    for kind, title in (("python", "Python"), ("rust", "Rust")):
        some = [one for one in dependencies if one.kind == kind]
        counts = Counter(one.licence for one in some).most_common()
        lines += [f"## {title}: {len(some)} packages\n", "| licence | packages |", "|---|---|"]
        lines += [f"| {licence} | {count} |" for licence, count in counts]
        lines += ["", "| package | version | licence | |", "|---|---|---|---|"]
        lines += [row(one) for one in some]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def row(one: Dependency) -> str:
    """Its line in the table."""
    return f"| {one.name} | {one.version} | {one.licence} | {'; '.join(notes(one))} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / ".build/sbom", metavar="FOLDER")
    parser.add_argument("--page", type=Path, metavar="FILE", help="the table of licences")
    parsed = parser.parse_args(arguments)
    found = {"python": python_dependencies(), "rust": rust_dependencies()}
    everything = [one for some in found.values() for one in some]
    refused = [f"{one.kind} {one.name} {one.version} {why}" for one in everything if (why := problem(one))]
    for text in refused:
        print(f"sbom: {text}", file=sys.stderr)
    if refused:
        return 10
    parsed.out.mkdir(parents=True, exist_ok=True)
    for kind, some in found.items():
        path = parsed.out / f"{kind}.cdx.json"
        path.write_text(bill(some), encoding="utf-8")
        print(f"{path}: {len(some)} packages")
    if parsed.page is not None:
        parsed.page.write_text(page(everything), encoding="utf-8")
        print(f"{parsed.page}: {len(everything)} packages, no licence refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
