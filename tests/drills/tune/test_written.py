"""What a tune writes and shows."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from drills.tune.shown import picture, plain, table
from drills.tune.space import CHECK, HEDGE, TTL
from drills.tune.study import Result
from drills.tune.written import write_settings
from muster.client import ClientSettings
from server import config
from tests.drills.tune.surface import GOOD, MEASURED, POOR, MadeUp
from tests.drills.tune.test_study import PROFILE, tune


def improved(folder: Path) -> Result:
    return tune(folder, POOR, MadeUp(noise=0.05)).run(MEASURED)


def test_the_files_are_taken_by_replicas_and_clients_and_give_every_change_a_reason(tmp_path: Path) -> None:
    result = improved(tmp_path)
    sections = {"catalogue": {"poll_ms": 7}, "lease": {"eligible": True}}
    replica, client = write_settings(tmp_path, result, sections=sections, client={"attempts_max": 3})
    settings = config.load(replica, {"bundle": "b", "data_dir": "d"})
    assert settings.lease.ttl_ms == result.point[TTL] and settings.lease.check_every_ms == result.point[CHECK]
    assert (settings.catalogue.poll_ms, settings.lease.eligible) == (7, True), "the rest stays as it was"
    taken = ClientSettings.from_toml(client)
    assert taken.attempts_max == 3 and taken.hedge_after_ms == result.point[HEDGE]
    text = replica.read_text()
    before = text[: text.index("ttl_ms =")]
    assert "was 3000 ms" in before and "points" in before
    assert text.startswith("# Found by `muster drill tune`") and "Replicas: 3." in text
    assert tomllib.loads(client.read_text())


def test_what_a_tune_tells_is_json_and_says_before_and_after_with_intervals(tmp_path: Path) -> None:
    result = improved(tmp_path)
    told = json.loads(json.dumps(plain(result, PROFILE)))
    assert told["recommended"] and told["runs_of_each_side"] == PROFILE.limits.runs_min
    away = told["figures"]["unavailable_s"]
    assert away["after"] < away["before"] and away["difference"]["high"] < 0
    assert {change["setting"] for change in told["changed"]} == set(result.decision.changes(result.start))
    assert all(change["reason"] for change in told["changed"])


def test_where_nothing_is_better_nothing_is_changed(tmp_path: Path) -> None:
    told = plain(tune(tmp_path, GOOD, MadeUp(noise=0.3, seed=2), points=4).run(MEASURED), PROFILE)
    assert told["recommended"] is bool(told["changed"])
    if not told["recommended"]:
        assert told["settings"] == told["start"]


def test_the_tables_have_a_row_for_each_setting_and_figure_and_the_picture_is_a_png(tmp_path: Path) -> None:
    result = improved(tmp_path)
    settings, measured = table(result, PROFILE)
    assert settings.row_count == len(result.start) and measured.row_count == 6
    assert picture(result, PROFILE, tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG")
