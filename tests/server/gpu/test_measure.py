"""The measuring itself, with the processor as the device: every runner ran, and they agree.

No time is judged.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu as benchmark
from server.gpu import graph, offload
from server.gpu import measure as measuring

SAME = 1e-3
"""The tiny bundle is float32 everywhere; late sums differ by their order only."""


def test_every_runner_is_timed_on_the_same_pairs(bundle: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (the extra `gpu` or `train`)")
    report = measuring.measure(bundle, torch.device("cpu"), sizes=(3, 20), rounds=2)
    seen = {(row["tier"], row["pairs"], row["runner"]) for row in report["rows"]}
    runners = {"processor", "gpu", "torch"} | ({"onnx_cuda"} - report["missing"].keys())
    assert seen == {
        (tier, pairs, runner)
        for tier in ("cross_small", "cross_large")
        for pairs in (3, 20)
        for runner in runners
    }
    for row in report["rows"]:
        assert 0.0 <= row["p50_ms"] <= row["p95_ms"]
        assert row["gap"] < SAME, row
    assert all(row["pairs_per_s"] > 0 for row in report["many"])
    text = benchmark.table(report)
    assert text.count("cross_small") == 2 * len(runners) + 2
    assert "onnx_cuda" in text


def test_a_bundle_without_a_cross_encoder_is_inconclusive(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (the extra `gpu` or `train`)")
    monkeypatch.setattr(measuring, "find_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(graph, "model_file", lambda folder, tier: None)
    assert measuring.main([str(bundle)]) == 20
    assert "holds no cross-encoder" in json.loads(capsys.readouterr().out)["inconclusive"]


def test_without_a_device_the_benchmark_is_inconclusive(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if offload.driver_present():
        pytest.skip("a driver for GPUs is loaded")
    assert benchmark.main([str(bundle)]) == 20
    assert capsys.readouterr().out.startswith("inconclusive: no CUDA device: no driver")
