"""The client's settings as a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.client import ClientSettings


def test_what_a_file_leaves_out_is_as_by_default(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text("# healthy p95\nhedge_after_ms = 12.5\nattempts_max = 3\n")
    assert ClientSettings.from_toml(path) == ClientSettings(hedge_after_ms=12.5, attempts_max=3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hedge_after = 1\n", "no such setting of the client: hedge_after"),
        ("hedge_after_ms = true\n", "not a number: hedge_after_ms"),
        ('hedge_after_ms = "1"\n', "not a number: hedge_after_ms"),
        ("hedge_share = 2\n", "hedge_share must be from 0 to 1"),
        ("hedge_after_ms\n", "cannot be read as the client's settings"),
        (None, "cannot be read as the client's settings"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "client.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=reason) as refused:
        ClientSettings.from_toml(path)
    assert str(path) in str(refused.value)
