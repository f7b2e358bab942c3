"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from muster import cli
from muster.products.synthetic import SyntheticCatalogue
from muster.v1 import admin_pb2, catalogue_pb2, ranking_pb2
from tests.muster.conftest import Start
from tests.muster.scripted_replica import fails

ROOT = Path(__file__).parents[2]
CODE = grpc.StatusCode


def muster(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(
        cli.app, list(arguments), env={"COLUMNS": "120", "MUSTER_TARGET": None, **environment}
    )


def test_the_version_is_the_projects() -> None:
    assert muster("--version").stdout == "muster 0.1.0\n"


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [("50ms", 50.0), ("2s", 2000.0), ("1.5s", 1500.0), ("250us", 0.25), ("1m", 60000.0)],
)
def test_durations_carry_their_unit(text: str, expected_ms: float) -> None:
    assert cli.parse_duration_ms(text) == pytest.approx(expected_ms)


@pytest.mark.parametrize("text", ["50", "", "ms", "-5ms", "0s", "1e3ms", "50 h", "\u0665ms", "nan", "1.2.3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="50ms"):
        cli.parse_duration_ms(text)


@given(st.text(max_size=20))
def test_any_text_is_a_positive_duration_or_refused(text: str) -> None:
    with contextlib.suppress(typer.BadParameter):
        assert cli.parse_duration_ms(text) > 0


def test_a_search_prints_products_and_the_receipt(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    done = muster("search", "tea", "--target", replica.endpoint, "--deadline", "20s", "--explain")
    assert done.exit_code == 0, done.output
    assert "a [bold] kettle" in done.stdout, "text of the catalogue is never markup"
    assert "9.50" in done.stdout and "bm25 2.5" in done.stdout
    assert "tier late, depth 200" in done.stdout and "97% of the best plan, reason deadline" in done.stdout


def test_a_search_prints_one_json_object(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    done = muster("search", "tea", "--deadline", "20s", "--json", MUSTER_TARGET=replica.endpoint)
    answer = json.loads(done.stdout)
    assert answer["deadline_ms"] == 20000.0
    assert answer["receipt"]["tier"] == "late" and answer["receipt"]["reason"] == "deadline"
    assert answer["results"][0]["stock"] == 0
    assert answer["results"][0]["signals"] == [{"name": "bm25", "value": 2.5}, {"name": "cross"}]


def test_filters_reach_the_service(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    done = muster(
        *("search", "tea", "--target", replica.endpoint, "--deadline", "20s", "--brand", "A", "--brand", "B"),
        *("--price-min", "1", "--price-max", "2.5", "--in-stock", "--attribute", "color=red"),
        *("--attribute", "color=blue", "-n", "3", "--facet", "brand"),
    )
    assert done.exit_code == 0, done.output
    sent = replica.requests[0]
    assert list(sent.filter.brands) == ["A", "B"] and sent.filter.price_max == 2.5 and sent.filter.in_stock
    assert [(entry.name, list(entry.values)) for entry in sent.filter.attributes] == [
        ("color", ["red", "blue"])
    ]
    assert sent.page_size == 3 and list(sent.facets) == ["brand"]


def test_a_priority_reaches_the_service_and_an_unknown_one_does_not(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    line = ("search", "tea", "--target", replica.endpoint, "--deadline", "20s", "--priority")
    assert muster(*line, "sheddable").exit_code == 0
    assert muster(*line, "urgent").exit_code == 2
    assert [request.priority for request in replica.requests] == [3]


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        (CODE.INVALID_ARGUMENT, 2, "refused"),
        (CODE.NOT_FOUND, 2, "scripted"),
        (CODE.UNAVAILABLE, 3, "muster serve"),
        (CODE.RESOURCE_EXHAUSTED, 3, "sheds load"),
        (CODE.DEADLINE_EXCEEDED, 4, "longer --deadline"),
        (CODE.INTERNAL, 1, "the service failed"),
    ],
)
def test_failures_have_their_exit_code_and_say_what_to_do(
    start_replicas: Start, code: grpc.StatusCode, exit_code: int, words: str
) -> None:
    replica = start_replicas(1)[0]
    replica.always = fails(code)
    done = muster("search", "tea", "--target", replica.endpoint, "--deadline", "20s")
    assert done.exit_code == exit_code
    assert words in done.stderr and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("search",),
        ("search", "tea", "--deadline", "50"),
        ("search", "tea", "--attribute", "color"),
        ("search", "tea", "--target", "nonsense"),
        ("search", "tea", "-n", "-3"),
        ("unknown",),
        ("data", "get", "unknown"),
        ("drill", "run", "unknown"),
        ("bench", "unknown"),
        ("bench", "curve", "--loads", "0"),
        ("serve", "--set", "nonsense"),
        ("catalogue", "load", "no-such-file.csv"),
        ("catalogue", "load", str(ROOT / "pyproject.toml")),
        ("bundle", "verify", str(ROOT / "tests")),
        ("bundle", "card", "no-such-folder"),
    ],
)
def test_bad_usage_exits_2_and_says_why(arguments: tuple[str, ...]) -> None:
    done = muster(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr and "Traceback" not in done.stderr


def test_the_process_exits_3_when_nothing_listens() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "muster.cli", "search", "tea", "--target", "127.0.0.1:1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 3
    assert "no replica is available" in done.stderr and "Traceback" not in done.stderr


def test_a_query_that_is_no_utf8_is_bad_input() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "muster.cli", "search", b"caf\xe9"],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert b"query" in done.stderr and b"Traceback" not in done.stderr


def test_help_loads_no_other_room() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom muster import cli\n"
        "assert CliRunner().invoke(cli.app, ['--help']).exit_code == 0\n"
        "rooms = {'server', 'rankcore', 'training', 'drills', 'grpc'}\n"
        "assert not rooms & set(sys.modules), rooms & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=True)


def test_status_shows_each_replica_and_fails_only_when_none_answers(start_replicas: Start) -> None:
    replica = start_replicas(1)[0]
    done = muster("status", "--target", f"{replica.endpoint},127.0.0.1:1", "--deadline", "20s", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0
    assert found[0]["status"]["role"] == "standby" and found[0]["status"]["epoch"] == 3
    assert found[1]["status"] is None and found[1]["error"]
    shown = muster("status", "--target", f"{replica.endpoint},127.0.0.1:1", "--deadline", "20s")
    assert "r0" in shown.stdout and "no answer" in shown.stdout
    index = next(line.split() for line in shown.stdout.splitlines() if "gen-1" in line)
    assert [word for word in index if word.isalnum() or "." in word] == ["lists", "9", "0.981"]
    assert muster("status", "--target", "127.0.0.1:1").exit_code == 3


def write_catalogue(path: Path, count: int) -> None:
    products = SyntheticCatalogue(count).products()
    rows = [{"product_id": product.product_id, "title": product.title} for product in products]
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize(("successor", "exit_code"), [("r0", 0), ("r1", 3), ("", 3)])
def test_a_transfer_asks_the_primary_and_says_whether_another_replica_took_over(
    start_replicas: Start, successor: str, exit_code: int
) -> None:
    replicas = start_replicas(2)
    replicas[1].role = admin_pb2.ROLE_PRIMARY
    answer = admin_pb2.TransferLeaseResponse(primary=successor, epoch=4 if successor else 0)
    replicas[1].always = lambda request, context: answer
    target = ",".join(replica.endpoint for replica in replicas)
    done = muster("transfer", "--target", target, "--deadline", "20s", "--json")
    assert done.exit_code == exit_code, done.output
    assert json.loads(done.stdout)["transferred"] is (exit_code == 0)
    assert ("no other replica took the lease" in done.stderr) is (exit_code != 0)
    assert "TransferLease" in replicas[1].calls and "TransferLease" not in replicas[0].calls


def test_a_transfer_without_a_primary_is_unavailable(start_replicas: Start) -> None:
    done = muster("transfer", "--target", start_replicas(1)[0].endpoint, "--deadline", "20s")
    assert done.exit_code == 3 and "none of the replicas is primary" in done.stderr


def test_a_load_is_batched_and_repeating_it_changes_nothing(start_replicas: Start, tmp_path: Path) -> None:
    replica = start_replicas(1)[0]
    write_catalogue(tmp_path / "products.parquet", 25)
    load = ("catalogue", "load", str(tmp_path), "--target", replica.endpoint, "--batch", "10", "--json")
    first = json.loads(muster(*load).stdout)
    assert (first["products"], first["written"], first["duplicates"]) == (25, 25, 0)
    assert [len(request.events) for request in replica.requests] == [10, 10, 5]
    second = json.loads(muster(*load).stdout)
    assert (second["written"], second["duplicates"]) == (0, 25)
    assert len(replica.log) == 25
    third = json.loads(muster(*load, "--again").stdout)
    assert (third["written"], len(replica.log)) == (25, 50)


def test_an_interrupted_load_goes_on_where_it_stopped(start_replicas: Start, tmp_path: Path) -> None:
    replica = start_replicas(1)[0]
    write_catalogue(tmp_path / "products.parquet", 25)
    load = ("catalogue", "load", str(tmp_path), "--target", replica.endpoint, "--batch", "10")
    replica.script = [lambda request, context: None, fails(CODE.INTERNAL)]
    broken = muster(*load)
    assert broken.exit_code == 1
    assert "10 of 25 products are in the log" in broken.stderr
    done = json.loads(muster(*load, "--json").stdout)
    assert (done["written"], done["duplicates"], len(replica.log)) == (15, 10, 25)


def test_a_load_waits_when_load_is_shed(start_replicas: Start, tmp_path: Path) -> None:
    replica = start_replicas(1)[0]
    write_catalogue(tmp_path / "products.parquet", 5)
    replica.script = [fails(CODE.RESOURCE_EXHAUSTED)]
    done = muster("catalogue", "load", str(tmp_path), "--target", replica.endpoint)
    assert done.exit_code == 0 and "5 of 5 products written" in done.stdout


def test_a_fault_in_the_file_is_found_before_anything_is_written(
    start_replicas: Start, tmp_path: Path
) -> None:
    replica = start_replicas(1)[0]
    path = tmp_path / "products.csv"
    path.write_text("product_id,title,price\n" + "".join(f"P{i},tea,1\n" for i in range(30)) + "Q,tea,NaN\n")
    done = muster("catalogue", "load", str(path), "--target", replica.endpoint, "--batch", "10")
    assert done.exit_code == 2
    assert "row 31, column 'price'" in done.stderr and "NaN" in done.stderr
    assert replica.calls == [] and replica.log == {}


def test_a_check_writes_nothing(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "products.parquet", 5)
    done = muster("catalogue", "load", str(tmp_path), "--check", "--target", "127.0.0.1:1")
    assert done.exit_code == 0 and "5 products, no faults" in done.stdout


def test_batches_stay_below_the_size_that_a_server_accepts() -> None:
    big = [catalogue_pb2.Product(product_id=str(i), title="t", description="x" * 900_000) for i in range(5)]
    sizes = [len(events) for events in cli.load_batches(big, "load", 100)]
    assert sizes == [2, 2, 1]


def test_nothing_is_downloaded_without_a_yes(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["data", "get", "esci", "--out", str(tmp_path / "esci")], input="n\n")
    assert done.exit_code == 2
    assert (
        "Apache-2.0" in done.stderr
        and "4a735b693b4a" in done.stderr
        and "nothing was downloaded" in done.stderr
    )
    assert not (tmp_path / "esci").exists()
    unattended = CliRunner().invoke(cli.app, ["data", "get", "wands", "--out", str(tmp_path / "wands")])
    assert unattended.exit_code == 2 and "--yes" in unattended.stderr


def test_a_synthetic_catalogue_can_be_written_and_read(tmp_path: Path) -> None:
    done = muster("data", "synthetic", str(tmp_path / "made"), "--products", "50", "--queries", "5", "--json")
    assert json.loads(done.stdout)["products"] == 50
    assert muster("catalogue", "load", str(tmp_path / "made"), "--check").exit_code == 0


def test_messages_become_plain_json_values() -> None:
    message = ranking_pb2.SearchResponse(
        receipt=ranking_pb2.Receipt(
            tier=ranking_pb2.TIER_CROSS_SMALL, applied_sequence=2**60, price=float("nan")
        ),
        results=[ranking_pb2.RankedProduct(product_id="P")],
    )
    found = cli.plain(message)
    assert found["receipt"]["tier"] == "cross_small"
    assert found["receipt"]["applied_sequence"] == 2**60 and found["receipt"]["price"] is None
    assert "stock" not in found["results"][0] and "timings" not in found["receipt"]
    assert cli.plain(admin_pb2.StatusResponse(role=admin_pb2.ROLE_PRIMARY))["role"] == "primary"
    assert cli.plain(catalogue_pb2.Product(attributes={"b": "2", "a": "1"}))["attributes"] == {
        "a": "1",
        "b": "2",
    }
