"""One line an event, with the request that it belongs to and nothing of what was asked."""

from __future__ import annotations

import json
import logging

import pytest

from muster.v1 import catalogue_pb2
from server import logs
from server.config import LogSettings
from tests.server.conftest import Pair
from tests.server.replica import upsert

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = ("traceparent", f"00-{TRACE}-{SPAN}-01")


def written(kind: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What three records come to: outside a call, within one, and one of a call that has ended elsewhere."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.set_up_logging(LogSettings(format=kind))  # type: ignore[arg-type]
        log = logging.getLogger("server.test")
        log.info("replica %s listens", "a")
        with logs.answering([("x-request-id", "order-7")]):
            log.warning("slow")
            log.info("made", extra={"request_id": "told"})
        try:
            raise OSError("torn")
        except OSError:
            log.exception("failed")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    return capsys.readouterr().err


def test_json_has_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in written("json", capsys).splitlines()]
    assert [line["message"] for line in lines] == ["replica a listens", "slow", "made", "failed"]
    assert [line.get("request_id") for line in lines] == [None, "order-7", "told", None]
    assert [line["level"] for line in lines] == ["info", "warning", "info", "error"]
    assert all(line["time"].endswith("+00:00") for line in lines)
    assert "OSError: torn" in lines[-1]["exception"]


def test_text_names_the_request_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    lines = written("text", capsys).splitlines()
    assert lines[0].endswith("INFO server.test: replica a listens")
    assert lines[1].endswith("WARNING server.test: slow (request order-7)")


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ([("x-request-id", "order-7"), PARENT], "order-7"),
        ([PARENT], TRACE),
        ([("x-request-id", "two words"), PARENT], TRACE),
        ([("x-request-id", "x" * 65), PARENT], TRACE),
        ([("x-request-id", 'a"b')], None),
        ([], None),
    ],
)
def test_a_request_is_named_by_its_caller_its_trace_or_here(
    metadata: list[tuple[str, str]], named: str | None
) -> None:
    found = logs.request_id_of(metadata)
    assert found == named if named is not None else len(found) == 16 and found != logs.request_id_of(metadata)


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"01-{TRACE}-{SPAN}-03-more", True),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN[1:]}-01", None),
        ("", None),
    ],
)
def test_a_parent_is_read_as_the_front_reads_it(text: str, sampled: bool | None) -> None:
    found = logs.parent_of([("other", "x"), ("traceparent", text)])
    assert found == (None if sampled is None else (TRACE, SPAN, sampled))


def test_a_replica_s_log_tells_nothing_of_what_was_asked(pair: Pair) -> None:
    from muster.v1 import ranking_pb2

    product = upsert("secret-42", "violet umbrella of mine")
    pair.primary.apply(product)
    request = ranking_pb2.SearchRequest(query="violet umbrella of mine")
    pair.primary.ranking.Search(request, timeout=5, metadata=[("muster-shopper-key", "shopper-77")])
    pair.primary.catalogue.Get(catalogue_pb2.GetRequest(product_id="secret-42"), timeout=5)
    log = pair.primary.log()
    for word in ("violet", "umbrella", "shopper-77"):
        assert word not in log
