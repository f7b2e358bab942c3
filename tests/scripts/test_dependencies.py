"""Licences are told and judged, and the committed page says what is installed."""

from __future__ import annotations

import json
import shutil
from email.message import Message

import pytest

from scripts.dependencies import ROOT, Dependency, licence_of, problem, python_dependencies, rust_dependencies
from scripts.sbom import bill, row


def dependency(licence: str) -> Dependency:
    return Dependency("python", "thing", "1", licence)


@pytest.mark.parametrize(
    "licence",
    [
        "MIT",
        "Apache-2.0 WITH LLVM-exception",
        "MIT OR GPL-2.0-only",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "MIT OR (AGPL-3.0-only AND Zlib)",
    ],
)
def test_a_licence_of_which_one_choice_is_allowed_passes(licence: str) -> None:
    assert problem(dependency(licence)) == ""


@pytest.mark.parametrize(
    ("licence", "told"),
    [
        ("", "says nothing"),
        ("AGPL-3.0-only", "not among those allowed"),
        ("GPL-3.0-or-later", "not among those allowed"),
        ("MIT AND SSPL-1.0", "not among those allowed"),
        ("LicenseRef-Ours", "not among those allowed"),
        ("MIT AND", "cannot be read"),
        ("MIT Apache-2.0", "not among those allowed"),
    ],
)
def test_any_other_licence_is_refused_with_the_reason(licence: str, told: str) -> None:
    assert told in problem(dependency(licence))


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ([("License-Expression", "MIT AND Zlib"), ("License", "GPL")], "MIT AND Zlib"),
        ([("Classifier", "License :: OSI Approved :: MIT License"), ("License", "a long text")], "MIT"),
        ([("Classifier", "License :: OSI Approved :: GNU General Public License (GPL)")], ""),
        ([("License", "Apache 2.0")], "Apache-2.0"),
        ([("License", "MIT License  Copyright (c) somebody")], "MIT"),
        ([("License", "mitigated")], ""),
        ([], ""),
    ],
)
def test_metadata_say_the_licence_in_one_of_three_places(fields: list[tuple[str, str]], licence: str) -> None:
    metadata = Message()
    for name, value in [("Name", "Some.Thing"), *fields]:
        metadata.add_header(name, value)
    assert licence_of(metadata) == licence


def test_every_installed_package_is_allowed_and_on_the_page() -> None:
    text = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    constrained = {
        line.partition("==")[0].lower().replace("_", "-").replace(".", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    }
    for one in python_dependencies():
        if one.name in constrained:
            assert problem(one) == ""
            assert row(one) in text, f"{one.name} {one.version}: run `make sbom`"


def test_every_crate_is_allowed_and_on_the_page() -> None:
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not installed")
    text = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    crates = rust_dependencies()
    assert len(crates) > 100
    for one in crates:
        assert problem(one) == ""
        assert row(one) in text, f"{one.name} {one.version}: run `make sbom`"


def test_a_bill_names_every_package_once_with_its_licence() -> None:
    some = [dependency("MIT OR Apache-2.0"), Dependency("rust", "thing", "2", "Zlib")]
    written = json.loads(bill(some))
    assert written["bomFormat"] == "CycloneDX"
    named = {one["purl"]: one["licenses"] for one in written["components"]}
    assert named == {
        "pkg:pypi/thing@1": [{"expression": "MIT OR Apache-2.0"}],
        "pkg:cargo/thing@2": [{"license": {"id": "Zlib"}}],
    }
    assert json.loads(bill(some))["serialNumber"] == written["serialNumber"]
