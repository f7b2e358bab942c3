"""What replicas might tell over time, and which alert must come of it: Prometheus and our evaluator are both
asked.

Values are written as `promtool test rules` has them: `a+bxn` is a, a+b, ... (n + 1 values); one each 15 s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

STEP_S = 15


@dataclass(frozen=True)
class Scenario:
    """series: notation by series. fires_s: a moment at which the alert fires. labels: of the alert, beside
    its name and severity. quiet_s: moments at which it does not."""

    alert: str
    series: Mapping[str, str]
    fires_s: int
    quiet_s: tuple[int, ...]
    labels: Mapping[str, str] = field(default_factory=dict)


def up(instance: str) -> str:
    return f'up{{job="muster",instance="{instance}"}}'


def of(name: str, instance: str = "a", **labels: str) -> str:
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    return f'{name}{{job="muster",instance="{instance}"{more}}}'


def traffic(in_time: str, answered: str, refused: str, failed: str = "0+0x{n}") -> dict[str, str]:
    """Counters of one replica; of what is left out nothing happens."""
    length = "80"
    return {
        of("muster_answered_total"): answered.replace("{n}", length),
        of("muster_answered_in_time_total"): in_time.replace("{n}", length),
        of("muster_refused_total"): refused.replace("{n}", length),
        of("muster_expired_total"): f"0+0x{length}",
        of("muster_failed_total"): failed.replace("{n}", length),
        of("muster_served_quality_in_time_total"): in_time.replace("{n}", length),
    }


A = {"job": "muster", "instance": "a"}
SCENARIOS = (
    Scenario("MusterReplicaDown", {up("a"): "1+0x9 0+0x9 1+0x9"}, 240, (120, 150, 360), A),
    Scenario(
        "MusterPrimaryDown",
        {
            up("a"): "1+0x9 0+0x9 1+0x9",
            up("b"): "1+0x39",
            of("muster_primary", "a"): "1+0x9 _x10 0+0x9",
            of("muster_primary", "b"): "0+0x9 1+0x30",
        },
        210,
        (120, 150, 360),
        A,
    ),
    Scenario(
        "MusterNoPrimary",
        {
            of("muster_primary", "a"): "1+0x9 0+0x19 1+0x9",
            of("muster_primary", "b"): "0+0x39",
        },
        270,
        (120, 165, 480),
    ),
    Scenario("MusterNoReplica", {up("a"): "1+0x9 0+0x9", up("b"): "1+0x4 0+0x20"}, 210, (120, 150)),
    Scenario(
        "MusterTwoPrimaries",
        {of("muster_primary", "a"): "1+0x19", of("muster_primary", "b"): "0+0x9 1+0x9"},
        240,
        (120, 150),
    ),
    Scenario("MusterLeaseFlapping", {of("muster_epoch"): "1+0x9 2+1x4 6+0x80"}, 225, (120, 1200)),
    Scenario("MusterReadsNotServed", {of("muster_serving"): "1+0x9 0+0x9"}, 240, (120, 150), A),
    Scenario("MusterReplicaLag", {of("muster_lag_seconds"): "0+0x9 0+15x9"}, 255, (120, 165), A),
    Scenario("MusterStale", {of("muster_staleness_seconds"): "0+0x9 0+15x9"}, 270, (120, 180), A),
    Scenario(
        "MusterWritesFail",
        {
            of("grpc_server_handled_total", grpc_method="Apply", grpc_code="OK"): "0+10x40",
            of("grpc_server_handled_total", grpc_method="Apply", grpc_code="Unavailable"): "0+0x9 0+2x30",
            # An error of somebody else's.
            of("grpc_server_handled_total", grpc_method="Get", grpc_code="Internal"): "0+50x40",
        },
        300,
        (120,),
    ),
    Scenario(
        "MusterSlowCommits",
        {of("muster_commit_seconds"): "0.002+0x9 0.3+0x40", of("muster_commits_total"): "0+5x50"},
        240,
        (120, 165),
        A,
    ),
    Scenario("MusterFoldingFails", {of("muster_fold_failures"): "0+0x3 1+1x40"}, 540, (120, 300), A),
    Scenario(
        "MusterDiskNearlyFull",
        {of("muster_disk_free_bytes"): "50+0x9 5+0x9", of("muster_disk_size_bytes"): "100+0x19"},
        210,
        (120, 150),
        A,
    ),
    Scenario("MusterAuditBroken", {of("muster_audit_broken"): "0+0x9 1+0x9"}, 165, (120,), A),
    Scenario(
        "MusterErrorRate",
        {
            of("grpc_server_handled_total", grpc_method="Search", grpc_code="OK"): "0+100x60",
            of("grpc_server_handled_total", grpc_method="Search", grpc_code="Internal"): "0+0x9 0+5x50",
        },
        600,
        (120, 180),
    ),
    Scenario("MusterRefusals", traffic("0+100x{n}", "0+100x{n}", "0+0x9 0+5x70"), 600, (120, 180)),
    Scenario("MusterInTimeLow", traffic("0+100x9 1000+80x70", "0+100x{n}", "0+0x{n}"), 420, (120,)),
    Scenario("MusterQualityLow", traffic("0+100x9 1000+95x70", "0+100x{n}", "0+0x{n}"), 480, (120, 180)),
    Scenario("MusterBudgetBurnsFast", traffic("0+100x9 1000+50x70", "0+100x{n}", "0+0x{n}"), 1200, (120,)),
    Scenario("MusterBudgetBurns", traffic("0+100x9 1000+85x70", "0+100x{n}", "0+0x{n}"), 1200, (120,)),
    Scenario("MusterBudgetBurnsSlowly", traffic("0+100x9 1000+97x70", "0+100x{n}", "0+0x{n}"), 1200, (120,)),
    Scenario(
        "MusterDeployRolledBack", {of("muster_deploy_rolled_back"): "0+0x9 1+0x300"}, 165, (120, 3900), A
    ),
    Scenario(
        "MusterGenerationOld",
        {
            of("muster_generation_age_seconds"): "604000+60x300",
            of("muster_delta_products"): "100+0x300",
            of("muster_products"): "1000+0x300",
        },
        4200,
        (120, 3600),
        A,
    ),
    Scenario("MusterBuildsFail", {of("muster_generation_failures"): "0+0x9 3+0x9"}, 165, (120,), A),
    Scenario("MusterRecallLow", {of("muster_generation_recall"): "0.99+0x9 0.9+0x40"}, 480, (120, 300), A),
    Scenario(
        "MusterDrift",
        {
            of("muster_drift", distribution="words"): "0.01+0x200",
            of("muster_drift", distribution="match"): "0.01+0x9 0.4+0x200",
        },
        2100,
        (120, 1500),
        {"distribution": "match"},
    ),
    Scenario(
        "MusterCertificateExpires",
        {of("muster_certificate_not_after_seconds"): "605400+0x80"},
        1080,
        (300, 750),
        A,
    ),
    Scenario(
        "MusterAuthFailures",
        {of("muster_auth_refused_total", reason="signature"): "0+0x9 0+30x60"},
        600,
        (120, 180),
    ),
)


def values(notation: str) -> list[float | None]:
    """The values of a notation; None: the series has none at that step."""
    found: list[float | None] = []
    for part in notation.split():
        if gap := re.fullmatch(r"_x(\d+)", part):
            found += [None] * int(gap[1])
            continue
        run = re.fullmatch(r"([\d.]+)\+([\d.]+)x(\d+)", part)
        assert run is not None, part
        first, step, count = float(run[1]), float(run[2]), int(run[3])
        found += [first + step * number for number in range(count + 1)]
    return found
