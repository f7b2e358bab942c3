"""`muster insight` writes its page and tables, or says what to do."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pyarrow.parquet as pq

from muster.insight.simulate import SCHEMA, Shop, simulate
from tests.muster.commands.command_line import muster

_SMALL = Shop(days=14, active_first_week=80)


def test_an_event_file_becomes_a_page_json_and_tables(tmp_path: Path) -> None:
    shop = simulate(_SMALL, seed=2)
    pq.write_table(shop.events, tmp_path / "events.parquet")
    pq.write_table(shop.products.select(["product_id", "title"]), tmp_path / "products.parquet")
    out, tables = tmp_path / "page.html", tmp_path / "tables"
    result = muster(
        "insight", str(tmp_path / "events.parquet"), "--products", str(tmp_path / "products.parquet"),
        "--out", str(out), "--parquet", str(tables), "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["simulated"] is False
    assert said["events"] + sum(said["left_out"]["events"].values()) == shop.events.num_rows
    assert said["tables"]["funnel"]["rows"][0]["step"] == "saw products"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "events.parquet" in out.read_text(encoding="utf-8")
    assert str(tmp_path) not in out.read_text(encoding="utf-8")
    assert sorted(said["files"]) == sorted(str(path) for path in tables.iterdir())


def test_a_simulated_shop_says_so(tmp_path: Path) -> None:
    result = muster("insight", "--simulated", "--out", str(tmp_path / "page.html"))
    assert result.exit_code == 0, result.output
    assert "do not exist" in result.stdout
    assert "Clicks by tier" in result.stdout


def test_bad_use_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "events.parquet"
    pq.write_table(SCHEMA.empty_table(), file)
    for arguments, said in (
        ((), "--simulated"),
        ((str(file), "--simulated"), "--simulated"),
        ((str(file),), "there are no rows"),
        ((str(file), "--column", "kind"), "--column takes two names"),
        ((str(file), "--kind", "x=y"), "no kind 'y'"),
        ((str(file), "--least", "3"), "fewer than 10 people"),
        ((str(tmp_path),), "catalogue"),
        ((str(tmp_path / "gone.csv"),), "No such file"),
    ):
        result = muster("insight", *arguments, "--out", str(tmp_path / "page.html"))
        assert result.exit_code == 2, (arguments, result.output)
        assert said in result.stderr, (arguments, result.stderr)
    assert not (tmp_path / "page.html").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    pq.write_table(simulate(_SMALL, seed=2).events, tmp_path / "events.parquet")
    arguments = ("insight", str(tmp_path / "events.parquet"), "--out", str(tmp_path / "page.html"))
    result = muster(*arguments, "--parquet", str(tmp_path / "file"))
    assert result.exit_code == 2
    assert "File exists" in result.stderr
