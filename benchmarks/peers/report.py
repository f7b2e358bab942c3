"""What a comparison leaves behind: compare.json, one table in compare.md, and two pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers.measure import GENERATOR_LATE_MAX, VIEWS, generator_bound
from benchmarks.peers.pictures import latency_picture, storm_picture

Row = Mapping[str, Any]
GENERATOR_MARK = "†"


def write_report(result: Mapping[str, Any], folder: Path) -> None:
    """Writes everything, each file by rename. Pictures only of what was measured."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "compare.json", json.dumps(finite(result), indent=2) + "\n")
    _write(folder / "compare.md", table(result))
    rows = measured_rows(result)
    if rows:
        latency_picture(rows, folder / "latency.png")
        storm_picture(rows, result["workload"], folder / "storm.png")


def finite(value: Any) -> Any:
    """The same without numbers that JSON has not got: they become null."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def all_rows(result: Mapping[str, Any]) -> list[Row]:
    """Muster's rows, then the peers', fastest first, those that did not run last."""
    ours = [result[key] for key in ("muster", "muster_own_plan") if result.get(key)]
    return [*ours, *sorted(result.get("peers", []), key=lambda row: row.get("p50_ms", math.inf))]


def measured_rows(result: Mapping[str, Any]) -> list[Row]:
    """Those with a latency and a storm."""
    return [row for row in all_rows(result) if "not_run" not in row and row.get("storm")]


def table(result: Mapping[str, Any]) -> str:
    """Markdown."""
    machine = result["machine"]
    lines = ["# Muster and its peers, side by side", ""]
    if result.get("workload"):
        work = result["workload"]
        loads = [f"{load:g}x" for load in work["loads"]]
        seen = "that no model was trained on" if work["held_back"] else "(models may have seen them)"
        lines += [
            f"{work['queries']} judged queries {seen}, {work['candidates']} candidates each, catalogue "
            f"{work['catalogue']} ({work['products']} products). {machine['cpu']}, {machine['cores']} cores; "
            f"{result['date']}.",
            "",
            f"p50 and p99: one caller, ms. Quality in time: sum of nDCG@10 of the answers within "
            f"{work['deadline_ms']:g} ms over all requests offered, at multiples of each one's own capacity; "
            "in brackets the share answered in time.",
            "",
            f"| server | version | p50 | p99 | nDCG@10 | requests/s | MiB | {' | '.join(loads)} |",
            f"|---|---|---|---|---|---|---|{'---|' * len(loads)}",
        ]
        lines += [_row(row, len(loads)) for row in all_rows(result)]
        lines += ["", *_generator_note(result), *_more_views(result), *_ratios(result)]
        lines += ["## Settings", "", "| server | computes in | settings |", "|---|---|---|"]
        for row in all_rows(result):
            beside = ", ".join(f"{name} {version}" for name, version in row.get("beside", {}).items())
            idle = ", ".join(f"{name} {share:.0%}" for name, share in row.get("plans_idle", {}).items())
            notes = "; ".join(
                [*row["settings"], *([beside] if beside else []), *([f"idle: {idle}"] if idle else [])]
            )
            lines.append(f"| {row['title']} | {row['numbers']} | {notes} |")
        lines.append("")
    return "\n".join([*lines, *_retrieval(result.get("retrieval"))])


def _row(row: Row, loads: int) -> str:
    if "not_run" in row:
        return f"| {row['title']} | not run: {escaped(row['not_run'])} | | | | | |{' |' * loads}"
    cells = [_cell(cell) for cell in row["storm"]]
    return (
        f"| {row['title']} | {row['version']} | {row['p50_ms']:.1f} | {row['p99_ms']:.1f} | "
        f"{row['ndcg10']:.3f} | {row['capacity_per_s']:.1f} | {row['memory_mib']} | {' | '.join(cells)} |"
    )


def _cell(cell: Mapping[str, Any]) -> str:
    quality, share = cell["quality_in_time"], cell["in_time_share"]
    if quality is None or not math.isfinite(quality):
        return "nothing offered"
    return f"{quality:.3f} ({share:.0%})" + (f" {GENERATOR_MARK}" if generator_bound(cell) else "")


def escaped(text: str) -> str:
    """Text that fits into one cell of a table."""
    return " ".join(text.replace("|", "/").split())


def _generator_note(result: Mapping[str, Any]) -> list[str]:
    bound = [
        (row["title"], cell)
        for row in measured_rows(result)
        for view in VIEWS
        for cell in row.get(view) or []
        if generator_bound(cell)
    ]
    if not bound:
        return []
    told = "; ".join(
        f"{title}, {cell['rate_per_s']:,.0f} a second: {cell['sent_late_share']:.0%} sent late"
        for title, cell in bound
    )
    return [
        f"{GENERATOR_MARK} Inconclusive of the server: beside it on the same cores the generator could not "
        f"keep to its schedule (more than {GENERATOR_LATE_MAX:.0%} sent late). {told}.",
        "",
    ]


def _more_views(result: Mapping[str, Any]) -> list[str]:
    """Tables of the views beside the first."""
    patient_ms = result["workload"].get("patient_deadline_ms", 0)
    heads = {
        "storm_absolute": "The same for all at the same rates, multiples of the best peer's capacity:",
        "storm_patient": f"With {patient_ms:g} ms for each request, at multiples of each one's own capacity:",
    }
    lines: list[str] = []
    for view, head in heads.items():
        rows = [row for row in measured_rows(result) if row.get(view)]
        if not rows:
            continue
        absolute = view == "storm_absolute"
        columns = [
            f"{cell['rate_per_s']:.0f}/s" if absolute else f"{cell['load']:g}x" for cell in rows[0][view]
        ]
        lines += [head, "", f"| server | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        lines += [f"| {row['title']} | {' | '.join(_cell(cell) for cell in row[view])} |" for row in rows]
        lines.append("")
    return lines


def _ratios(result: Mapping[str, Any]) -> list[str]:
    found = result.get("ratios")
    if not found:
        return []
    lines = [
        f"With the same student, the fastest peer ({found['fastest_peer']}) takes {found['p50']:.2f} times "
        "as long as Muster (p50).",
        "",
    ]
    for view, what in (
        ("storm", "its own capacity"),
        ("storm_absolute", "the best peer's capacity"),
        ("storm_patient", "its own capacity with the longer deadline"),
    ):
        parts = []
        for one in found.get(view, []):
            ratio = one["quality_in_time"]
            times = "the peers have none" if ratio is None else f"{ratio:.2f} ({one['best_peer']})"
            parts.append(f"{one['load']:g}x: {times}")
        if parts:
            lines += [
                f"Quality in time, Muster by the best peer, at multiples of {what}: {'; '.join(parts)}.",
                "",
            ]
    return lines


def _retrieval(found: Mapping[str, Any] | None) -> list[str]:
    if not found:
        return []
    lines = [
        "## Candidates",
        "",
        f"The first {found['candidates']} candidates of {found['queries']} judged queries among "
        f"{found['products']} products. Recall: of the products with a positive label. Best nDCG@10: of a "
        "perfect re-rank of the list. Dense peers search vectors of Muster's encoder; encoding a query takes "
        f"{found['encode_ms']:.2f} ms more, which Muster's figure has in it.",
        "",
        "| finder | version | kind | p50 ms | p99 ms | recall | best nDCG@10 | build s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in [found["muster"], *sorted(found["peers"], key=lambda row: row.get("p50_ms", math.inf))]:
        if "not_run" in row:
            lines.append(f"| {row['title']} | not run: {escaped(row['not_run'])} | {row['kind']} | | | | | |")
            continue
        build = f"{row['build_s']:.1f}" if row.get("build_s") is not None else ""
        lines.append(
            f"| {row['title']} | {row['version']} | {row['kind']} | {row['p50_ms']:.2f} | "
            f"{row['p99_ms']:.2f} | {row['recall']:.3f} | {row['best_ndcg10']:.3f} | {build} |"
        )
    lines += ["", "| finder | settings |", "|---|---|"]
    lines += [
        f"| {row['title']} | {'; '.join(row['settings'])} |" for row in [found["muster"], *found["peers"]]
    ]
    return [*lines, ""]


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
