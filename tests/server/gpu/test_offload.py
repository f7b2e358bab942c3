"""The switch: what each of its values does where there is a device, where there is none, where it is lost."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from muster.bundle import read_bundle
from muster.v1 import admin_pb2, ranking_pb2
from server import config
from server.gpu import offload
from tests.server.replica import ROOT, Replica, command, run_refused, shoes, wait_until

PRODUCTS = 40


class NoEngine:
    """An engine that nothing may be asked of."""


def opened(wanted: offload.Wanted, bundle: Path) -> offload.Offload | None:
    return offload.open_offload(
        wanted,
        read_bundle(bundle),
        bundle,
        NoEngine(),  # type: ignore[arg-type]
        chunk_pairs=8,
        verify=True,
    )


# --- no device ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "level"), [("cpu", None), ("auto", logging.INFO), ("cuda", logging.WARNING)]
)
def test_without_a_driver_ranking_stays_on_the_processor_with_one_line(
    wanted: offload.Wanted,
    level: int | None,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(offload, "driver_present", lambda: False)
    caplog.set_level(logging.DEBUG)
    assert opened(wanted, bundle) is None
    lines = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert lines == (
        []
        if level is None
        else [
            (
                level,
                f"ranking.device = '{wanted}', but ranking runs on the processor:"
                " no driver for NVIDIA GPUs is loaded",
            )
        ]
    )


def test_a_driver_without_torch_says_what_to_install(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(offload, "driver_present", lambda: True)
    monkeypatch.setattr(offload.importlib.util, "find_spec", lambda name: None)
    assert opened("cuda", bundle) is None
    assert "torch is not installed: install the extra `gpu`" in caplog.text


@pytest.mark.parametrize("wanted", ["cpu", "auto"])
def test_a_server_on_the_processor_imports_neither_torch_nor_onnx(wanted: str, bundle: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from muster.bundle import read_bundle
import server.lifecycle
from server.gpu import offload
offload.driver_present = lambda: False
folder = Path({str(bundle)!r})
assert offload.open_offload({wanted!r}, read_bundle(folder), folder, None, chunk_pairs=8, verify=True) is None
print([name for name in ("torch", "onnx", "transformers") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() == "[]"


def test_an_unknown_device_is_refused_with_the_known_ones(bundle: Path, tmp_path: Path) -> None:
    code, text = run_refused(command(bundle, tmp_path / "data", {"ranking.device": "tpu"}))
    assert code == 2
    assert "ranking.device = 'tpu' (from flag): Input should be 'cpu', 'auto' or 'cuda'" in text


def test_a_replica_runs_on_the_processor_unless_told_otherwise() -> None:
    assert config.load(None, {"bundle": "b", "data_dir": "d"}).ranking.device == "cpu"


def test_a_replica_that_asks_for_a_gpu_serves_without_one(bundle: Path, tmp_path: Path) -> None:
    if offload.driver_present():
        pytest.skip("a driver for GPUs is loaded")
    with Replica(bundle, tmp_path / "data", "a", {"ranking.device": "cuda"}) as replica:
        replica.wait_serving()
        assert "WARNING server.gpu.offload: ranking.device = 'cuda', but ranking runs on" in replica.log()


# --- a device, or what is taken for one --------------------------------------------------------------------


def rerank(replica: Replica, timeout_s: float = 20.0) -> ranking_pb2.RerankResponse:
    ids = [f"red-{number}" for number in range(PRODUCTS)]
    request = ranking_pb2.RerankRequest(query="red running shoe 7", product_ids=ids, explain=True)
    return replica.ranking.Rerank(request, timeout=timeout_s)


def cross_scores(reply: ranking_pb2.RerankResponse) -> dict[str, float]:
    """What the cross-encoder said of each product that it read."""
    return {
        one.product_id: signal.value
        for one in reply.results
        for signal in one.signals
        if signal.name == "cross" and signal.HasField("value")
    }


def test_a_device_serves_the_same_ranking_and_when_it_is_lost_the_processor_does(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="torch is not installed (the extra `gpu` or `train`)")
    lost = tmp_path / "lost"
    monkeypatch.setenv("FAKE_GPU_LOST", str(lost))
    os.environ["FAKE_GPU_LOST"] = str(lost)
    settings = {
        "ranking.device": "auto",
        "generation.rebuild": "false",
        # Only an index of FAISS's can be copied to a device.
        "generation.dense_index": "faiss",
        "ranking.deadline_max_ms": 60_000,
    }
    with Replica(bundle, tmp_path / "data", "a", settings, module="tests.server.gpu.fake_gpu") as replica:
        replica.wait_primary()
        assert "cross_small and cross_large run on cpu after" in replica.log()
        sequence = replica.apply(*shoes(PRODUCTS)).sequence
        wait_until(lambda: replica.status().applied_sequence >= sequence, "all products are there")
        wait_until(lambda: len(cross_scores(rerank(replica))) >= 32, "vectors of all products")

        assert replica.admin.Rebuild(admin_pb2.RebuildRequest(), timeout=5).started
        wait_until(lambda: replica.status().generation_id != "", "a built generation")
        assert f"dense search runs on the device: {PRODUCTS} products, agreement 1.000" in replica.log()
        found = replica.ranking.Search(ranking_pb2.SearchRequest(query="red shoe"), timeout=20)
        assert found.receipt.tier == ranking_pb2.TIER_CROSS_SMALL
        filtered = ranking_pb2.SearchRequest(
            query="red shoe", filter=ranking_pb2.Filter(price_max=12.0), page_size=50
        )
        answer = replica.ranking.Search(filtered, timeout=20)
        assert {one.product_id for one in answer.results} == {"red-0", "red-1", "red-2"}

        on_device = cross_scores(rerank(replica))
        lost.touch()
        after = rerank(replica)
        assert after.receipt.tier == ranking_pb2.TIER_CROSS_SMALL
        on_processor = cross_scores(after)
        # Which products it reads is the planner's choice of the moment: 32 of them or more.
        both = on_processor.keys() & on_device.keys()
        assert len(both) >= 2 * 32 - PRODUCTS
        # The bundle's small model is float32 in both.
        assert all(abs(on_processor[one] - on_device[one]) < 1e-4 for one in both)
        message = (
            "ERROR server.gpu.offload: the device failed, cross-encoders run on the processor from now on:"
            " CUDA error: an illegal memory access was encountered\n"
        )
        wait_until(lambda: message in replica.log(), "the failure is logged")
        assert len(cross_scores(rerank(replica))) >= 32
        assert replica.log().count("the device failed") == 1
        assert replica.drain() == 0


def test_a_device_that_does_not_reproduce_the_golden_requests_is_not_used(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (the extra `gpu` or `train`)")
    import rankcore
    from server.gpu import cross

    class Off(cross.CrossDevice):
        def run(self, works: list[cross.Pairs]) -> list[cross.Scores]:  # type: ignore[override]
            return [scores + 5 for scores in super().run(works)]

    monkeypatch.setattr(cross, "CrossDevice", Off)
    monkeypatch.setattr(offload, "find_device", lambda: torch.device("cpu"))
    engine = rankcore.Engine(str(bundle), runtime_library=rankcore.runtime_library(), workers=1)
    found = offload.open_offload("cuda", read_bundle(bundle), bundle, engine, chunk_pairs=8, verify=True)
    assert found is not None
    assert found.tiers == []
    assert "golden requests do not reproduce on cpu: golden case 0: cross_small is " in caplog.text
    assert engine.verify_golden() == []
    engine.close()
    found.close()


def test_scores_of_a_device_may_differ_by_a_part_of_their_range() -> None:
    golden = {
        "tolerance": {"cross": 0.25},
        "cases": [
            {"cross_small": 0.0, "cross_large": 5.0},
            {"cross_small": 1.0, "cross_large": -5.0},
            {"cross_large": 0.0},
        ],
    }
    near = {"cross_small": [0.25, 1.0, 77.0], "cross_large": [5.4, -5.4, 0.4]}
    assert offload.golden_gaps(golden, near) == []
    assert offload.golden_gaps(golden, {**near, "cross_small": [0.26, 1.0, 77.0]}) == [
        "golden case 0: cross_small is 0.2600, expected 0.0000 within 0.25"
    ]
    assert offload.golden_gaps(golden, {"cross_large": [5.0, -5.0, 0.6]}) == [
        "golden case 2: cross_large is 0.6000, expected 0.0000 within 0.50"
    ]
    assert offload.golden_gaps(golden, {"cross_large": [float("nan"), -5.0, 0.0]}) == [
        "golden case 0: cross_large is nan, expected 5.0000 within 0.50"
    ]
    assert offload.golden_gaps(golden, {"cross_large": [5.0]}) == [
        "cross_large scored 1 of 3 golden requests"
    ]
    older = {"tolerance": {"cross": 0.25}, "cases": [{"cross": 2.0}]}
    assert offload.golden_gaps(older, {"cross_small": [2.2]}) == []
    assert len(offload.golden_gaps(older, {"cross_small": [2.3]})) == 1


def test_a_model_that_cannot_be_read_stays_on_the_processor(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (the extra `gpu` or `train`)")
    from server.gpu import graph

    def unreadable(folder: Path, tier: str) -> graph.Graph:
        raise graph.UnreadableModel("no kernel for the steps Einsum")

    monkeypatch.setattr(graph, "read_cross", unreadable)
    monkeypatch.setattr(offload, "find_device", lambda: torch.device("cpu"))
    found = opened("auto", bundle)
    assert found is not None
    assert found.tiers == []
    assert "cross-encoders stay on the processor: no kernel for the steps Einsum" in caplog.text
    assert "dense search stays on the processor: the installed faiss has no part for GPUs" in caplog.text
    found.close()
