"""The file of secrets: made once, read by its owner alone, never shown."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from muster.privacy.pseudonyms import SHOPPER
from server.privacy.secrets import FILE_NAME, SecretsRefused, add_secret, open_secrets


def test_replicas_that_start_together_have_the_same_secrets(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: open_secrets(tmp_path / FILE_NAME, make=True), range(16)))
    assert len({secrets.fingerprint for secrets in found}) == 1
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_new_secret_changes_pseudonyms_but_not_receipts_and_ids(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    before = open_secrets(path, make=True)
    name = add_secret(path)
    after = open_secrets(path, make=False)
    one, other = (secrets.pseudonyms(90).of(SHOPPER, "anna", 0.0) for secrets in (before, after))
    assert one != other
    assert other.startswith(name)
    assert after.pseudonyms(90).belongs(one, SHOPPER, "anna")
    assert (before.receipts, before.event_id("e"), before.mark("p")) == (
        after.receipts,
        after.event_id("e"),
        after.mark("p"),
    )


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"version": 2, "secrets": []}',
        '{"version": 1, "secrets": [{"name": "x", "value": "y"}]}',
        "[" * 9000,
    ],
)
def test_what_is_no_such_file_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(content, encoding="ascii")
    path.chmod(0o600)
    with pytest.raises(SecretsRefused, match="not a file of secrets"):
        open_secrets(path, make=True)
    assert path.read_text(encoding="ascii") == content


def test_one_that_others_can_read_is_refused_and_so_is_a_missing_one(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with pytest.raises(SecretsRefused, match="missing"):
        open_secrets(path, make=False)
    secrets = open_secrets(path, make=True)
    assert secrets.all[0].value.hex() not in f"{secrets} {secrets.all}"
    path.chmod(0o640)
    with pytest.raises(SecretsRefused, match="chmod 600"):
        open_secrets(path, make=True)
