"""The judge of leaks. It reads the recorded history and nothing else.

Beside the kinds that every judge reads:

    searched  files, bytes: what was looked through; unread: what could not be
    leak      place, canary, form: a canary was found
    store_searched  as searched, of the files of an encrypted store; kept: which texts it keeps on purpose;
    folded: whether all that was sent had gone into its snapshot
"""

from __future__ import annotations

from typing import Any

from drills.experiment import Judgement
from drills.journal import History
from drills.judges.promises import FIGURES, Findings, check_promises

LEAK_FIGURES: dict[str, Any] = {
    **FIGURES,
    "canaries": 0,
    "recorded": 0,
    "asked": 0,
    "files": 0,
    "searched_mib": None,
    "leaks": 0,
    "store_files": 0,
    "store_mib": None,
    "kept": 0,
}
FILES_MIN = 10
"""A data folder, logs and answers are more than that: with less, hardly anything was looked through."""


def judge_leaks(history: History) -> Judgement:
    """Judges one run."""
    found = check_promises(history)
    figures = {**LEAK_FIGURES, **found.figures}
    found.figures = figures
    fault, searched, leaks = history.first("fault"), history.first("searched"), history.of("leak")
    if fault is not None:
        figures.update({key: fault[key] for key in ("canaries", "recorded", "asked")})
    figures["leaks"] = len(leaks)
    found.deviations.extend(
        f"the {leak['canary']} was found in {leak['place']}, written as {leak['form']}" for leak in leaks[:10]
    )
    if fault is not None and not figures["recorded"]:
        found.doubts.append("no feedback was recorded, so there was nothing to leak")
    if searched is None:
        found.doubts.append("nothing was looked through")
    else:
        figures["files"] = searched["files"]
        figures["searched_mib"] = round(searched["bytes"] / 2**20, 1)
        if searched["files"] < FILES_MIN:
            found.doubts.append(f"only {searched['files']} files and answers were looked through")
        found.doubts.extend(f"not looked through: {one}" for one in searched["unread"])
    if fault is not None and fault.get("stored"):
        _store(found, history, fault["stored"])
    return found.judgement()


def _store(found: Findings, history: History, stored: int) -> None:
    """What was looked for in the store's files must have been in the store."""
    searched = history.first("store_searched")
    if searched is None:
        found.doubts.append("the store's files were not looked through")
        return
    found.figures["store_files"] = searched["files"]
    found.figures["store_mib"] = round(searched["bytes"] / 2**20, 1)
    found.figures["kept"] = len(searched["kept"])
    if not searched["files"]:
        found.doubts.append("the store has no file that could be looked through")
    if len(searched["kept"]) < stored:
        kept = ", ".join(searched["kept"]) or "none"
        found.doubts.append(f"of {stored} marked texts the store keeps only: {kept}")
    if not searched["folded"]:
        found.doubts.append("what was sent had not been folded, so nothing is known of the snapshot")
    found.doubts.extend(f"not looked through: {one}" for one in searched["unread"])
