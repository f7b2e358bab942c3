"""The manifests that scale by price on Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"


def manifest(name: str) -> dict[str, Any]:
    found = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_both_scale_the_same_workload_by_the_same_price_within_the_same_bounds() -> None:
    keda, hpa = manifest("keda.yaml"), manifest("hpa.yaml")
    assert (keda["apiVersion"], keda["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    assert (hpa["apiVersion"], hpa["kind"]) == ("autoscaling/v2", "HorizontalPodAutoscaler")
    assert keda["spec"]["scaleTargetRef"] == hpa["spec"]["scaleTargetRef"]
    least, most = keda["spec"]["minReplicaCount"], keda["spec"]["maxReplicaCount"]
    assert 1 < least < most
    assert (hpa["spec"]["minReplicas"], hpa["spec"]["maxReplicas"]) == (least, most)
    (trigger,) = keda["spec"]["triggers"]
    (metric,) = hpa["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert trigger["type"] == "prometheus" and name in trigger["metadata"]["query"]
    # A quantity in millionths, and the same number.
    quantity = metric["pods"]["target"]["averageValue"]
    assert quantity.endswith("u")
    assert int(quantity[:-1]) / 1e6 == float(trigger["metadata"]["threshold"])
    assert float(trigger["metadata"]["activationThreshold"]) < float(trigger["metadata"]["threshold"])
    assert keda["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["spec"]["behavior"]


def test_replicas_come_sooner_than_they_go() -> None:
    behaviour = manifest("hpa.yaml")["spec"]["behavior"]
    out, back = behaviour["scaleUp"], behaviour["scaleDown"]
    assert out["stabilizationWindowSeconds"] < back["stabilizationWindowSeconds"]
    assert out["policies"][0]["value"] > back["policies"][0]["value"]
