"""Profiles of tunes as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from drills.tune.profile import ProfileError, load_profile


def test_the_shipped_standard_says_what_the_code_has_by_default() -> None:
    standard = load_profile("standard")
    assert standard.weights.unavailable_per_s == 1.0
    assert standard.limits.runs_min >= 10
    assert "lease.ttl_ms" in standard.ranges


def test_what_a_profile_leaves_out_is_as_in_the_standard(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '[mine]\nkills = 3\n[mine.weights]\nreplica_each = 0\n[mine.ranges]\n"lease.ttl_ms" = [300, 900]\n'
    )
    mine, standard = load_profile("mine", path), load_profile("standard")
    assert (mine.kills, mine.weights.replica_each) == (3, 0)
    assert mine.weights.unavailable_per_s == standard.weights.unavailable_per_s
    assert mine.hangs == standard.hangs
    assert mine.ranges == {"lease.ttl_ms": (300, 900)}, "what is not named is not searched"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[mine]\nkils = 3\n", "kils"),
        ("[mine]\nkills = 0\n", "kills: Input should be greater than or equal to 1"),
        ("[mine.weights]\nreplica_each = -1\n", "weights.replica_each"),
        ('[mine.ranges]\n"lease.ttl" = [1, 2]\n', "'lease.ttl' is no setting that is searched"),
        ('[mine.ranges]\n"lease.ttl_ms" = [10, 900]\n', "is not a range within 100 to 60000"),
        ('[mine.ranges]\n"lease.ttl_ms" = [900, 300]\n', "from 900 to 300 is not a range"),
        ("[other]\n", "no profile 'mine'"),
        ("mine = [", "cannot be read as profiles"),
        ("[mine]\nhang_max_s = nan\n", "hang_max_s"),
    ],
)
def test_a_profile_that_cannot_be_used_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=reason.replace("(", r"\(")):
        load_profile("mine", path)


def test_a_file_that_is_missing_is_told() -> None:
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile("mine", Path("nowhere.toml"))
