"""`muster catalogue verify | repair | export | restore`, as an operator types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from muster.cli import app
from server.catalogue.commands import EXIT_DAMAGED, EXIT_DONE, EXIT_USAGE
from server.catalogue.opening import open_store
from server.generation.build import BuildJob, build
from tests.server.catalogue.folded import EVENTS, FLIP, FOLDED, damage, make
from tests.server.conftest import bundle  # noqa: F401


@pytest.fixture
def catalogue(path: Path) -> Path:
    make(path)
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    result = CliRunner().invoke(app, ["catalogue", *(str(argument) for argument in arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_verify_says_sound_or_what_is_damaged(catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("verify", "--store", catalogue)
    assert (code, out.splitlines()[-1].split()) == (EXIT_DONE, ["verdict", "sound"])
    assert f"10 products at event {FOLDED}" in out
    damage(catalogue, f"UPDATE log SET {FLIP} WHERE sequence = 50", "DELETE FROM log WHERE sequence = 44")
    monkeypatch.setenv("MUSTER_DATA_DIR", str(catalogue.parent))
    code, out, _ = run("verify")
    assert code == EXIT_DAMAGED
    assert "damaged, 2 problems" in out
    assert "event 50 does not match its checksum" in out
    assert "event 44 is missing" in out
    assert "muster catalogue repair" in out
    code, out, _ = run("verify", "--json")
    report = json.loads(out)
    assert (code, report["sound"], report["damaged"], report["missing"]) == (
        EXIT_DAMAGED,
        False,
        [50],
        [[44, 44]],
    )


def test_export_restore_and_repair_go_round(catalogue: Path, tmp_path: Path) -> None:
    file, copy = tmp_path / "backup.gz", tmp_path / "copy.sqlite3"
    code, out, _ = run("export", file, "--store", catalogue, "--json")
    exported = json.loads(out)
    assert (code, exported["head_sequence"]) == (EXIT_DONE, EVENTS)
    code, out, _ = run("restore", file, "--store", copy, "--json")
    restored = json.loads(out)
    assert (code, restored["digest"], restored["complete"]) == (EXIT_DONE, exported["digest"], True)
    code, out, err = run("restore", file, "--store", copy)
    assert (code, out) == (EXIT_USAGE, "")
    assert "--replace" in err
    damage(catalogue, f"UPDATE log SET {FLIP} WHERE sequence = 50")
    code, out, err = run("repair", "--store", catalogue)
    assert (code, out) == (EXIT_DAMAGED, "")
    assert "no source proves event 50" in err
    assert "whole up to event 49" in err
    code, out, _ = run("repair", "--store", catalogue, "--from", file)
    assert code == EXIT_DONE
    assert "sound again: 1 rows" in out
    assert "what was there before is kept in" in out
    code, out, _ = run("repair", "--store", catalogue)
    assert (code, "nothing was changed" in out) == (EXIT_DONE, True)


def test_repair_takes_products_from_a_generation(
    catalogue: Path,
    bundle: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    generation = build(BuildJob(str(bundle), str(catalogue), str(tmp_path / "gen"), 1, 0.9, 2, 0))
    assert generation is not None
    damage(catalogue, f"UPDATE log SET {FLIP} WHERE sequence = 59")
    code, _, err = run("repair", "--store", catalogue, "--generation", generation)
    assert (code, "--generation and --bundle go together" in err) == (EXIT_USAGE, True)
    code, _, err = run("repair", "--store", catalogue, "--generation", generation, "--bundle", bundle)
    assert (code, err) == (EXIT_DONE, "")
    open_store(catalogue).close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify"], "name the catalogue with --store, or set"),
        (["verify", "--store", "nowhere.sqlite3"], "there is no catalogue at"),
        (["verify", "--store", "mysql://a/b"], "--store cannot be on 'mysql'"),
        (["verify", "--store", "postgresql://a:secret@b/c"], "must not hold a password"),
        (["repair", "--store", "postgresql://127.0.0.1:1/b"], "cannot be reached"),
        (["restore", "no-such-backup.gz", "--store", "postgresql://127.0.0.1:1/b"], "No such file"),
        (["export", "x.gz", "--until", "-1", "--store", "y"], "not a whole number from 0"),
        (["restore", "no-such-backup.gz", "--store", "y"], "no-such-backup.gz: No such file"),
        (["restore"], "required: FILE"),
    ],
)
def test_bad_usage_says_what_to_do_and_ends_with_code_2(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("MUSTER_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (EXIT_USAGE, "")
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.postgresql
def test_the_commands_go_round_on_databases(database: str, other_database: str, tmp_path: Path) -> None:
    make(database)
    code, out, _ = run("verify", "--store", database, "--json")
    verified = json.loads(out)
    assert (code, verified["sound"], verified["events"], verified["snapshot_products"]) == (
        EXIT_DONE,
        True,
        EVENTS - FOLDED,
        10,
    )
    file = tmp_path / "backup.gz"
    code, out, _ = run("export", file, "--store", database, "--json")
    assert json.loads(out)["digest"] == verified["digest"]
    code, out, _ = run("restore", file, "--store", other_database, "--json")
    restored = json.loads(out)
    assert (code, restored["digest"], restored["store"]) == (EXIT_DONE, verified["digest"], other_database)
    code, out, _ = run("verify", "--store", other_database)
    assert code == EXIT_DONE
    assert f"digest      {verified['digest']}" in out
    for wrong, message in (([], "holds a catalogue already"), (["--replace"], "restore into an empty one")):
        code, out, err = run("restore", file, "--store", other_database, *wrong)
        assert (code, out) == (EXIT_USAGE, "")
        assert message in err
    damage(
        database,
        f"UPDATE log SET {FLIP} WHERE sequence = 50",
        "DELETE FROM log WHERE sequence = 44",
    )
    code, out, _ = run("verify", "--store", database)
    assert code == EXIT_DAMAGED
    assert "event 50 does not match its checksum" in out
    assert "event 44 is missing" in out
    code, out, err = run("repair", "--store", database)
    assert (code, out) == (EXIT_DAMAGED, "")
    assert "no source proves event 44, event 50" in err
    code, out, _ = run("repair", "--store", database, "--from", file)
    assert code == EXIT_DONE
    assert "sound again: 2 rows" in out
    assert "kept in log_damaged_" in out
    code, out, _ = run("verify", "--store", database, "--json")
    assert json.loads(out)["digest"] == verified["digest"]
