"""What is remembered of shoppers, and for how long."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from muster.privacy.pseudonyms import SESSION, SHOPPER, Secret
from muster.v1 import catalogue_pb2, feedback_pb2
from server.catalogue.errors import EventsFolded
from server.feedback.histories import Histories, HistoryBounds
from server.privacy.erasure import remember
from server.privacy.secrets import Secrets

NOW_S = 1_000_000.0
BOUNDS = HistoryBounds(products_max=3, shoppers_max=2, age_max_s=3_600.0)
SECRETS = Secrets((Secret("0a0b0c0d", bytes(range(32))), Secret("01020304", bytes(32))))
PERIOD_DAYS = 5


def remembering(bounds: HistoryBounds = BOUNDS, marks: Path = Path("/nowhere/erased.jsonl")) -> Histories:
    return Histories(bounds, SECRETS, PERIOD_DAYS, marks)


def told(
    product_id: str,
    *,
    at_s: float = NOW_S,
    shopper: str = "",
    session: str = "",
    kind: int = feedback_pb2.FEEDBACK_KIND_CLICK,
    erased: bool = False,
) -> bytes:
    """A serialised event of the log."""
    feedback = feedback_pb2.Feedback(
        kind=kind,  # type: ignore[arg-type]
        product_id=product_id,
        shopper=shopper,
        session=session,
        erased=erased,
    )
    event = catalogue_pb2.Event(event_id="feedback/1", feedback=feedback)
    sequenced = catalogue_pb2.SequencedEvent(sequence=1, committed_unix_us=int(at_s * 1e6), event=event)
    return sequenced.SerializeToString()


def products(histories: Histories, *names: str) -> list[str]:
    return [item.product_id for item in histories.of(names, NOW_S)]


def test_the_newest_products_of_a_shopper_are_remembered_each_once() -> None:
    histories = remembering()
    histories.follow([told(name, shopper="s", at_s=NOW_S - 9 + at) for at, name in enumerate("abcab")])
    assert products(histories, "s") == ["c", "a", "b"]
    histories.follow([told("d", shopper="s")])
    assert products(histories, "s") == ["a", "b", "d"]


def test_pseudonyms_of_one_shopper_are_told_together_by_time() -> None:
    histories = remembering()
    histories.follow(
        [told("late", shopper="new", at_s=NOW_S - 1), told("early", shopper="old", at_s=NOW_S - 2)]
    )
    assert products(histories, "new", "old") == ["early", "late"]


def test_views_other_events_and_the_erased_tell_nothing() -> None:
    histories = remembering()
    upsert = catalogue_pb2.Event(event_id="x", upsert=catalogue_pb2.Product(product_id="p", title="t"))
    histories.follow(
        [
            told("seen", shopper="s", kind=feedback_pb2.FEEDBACK_KIND_VIEW),
            told("", shopper="s", erased=True),
            catalogue_pb2.SequencedEvent(sequence=1, event=upsert).SerializeToString(),
        ]
    )
    assert products(histories, "s") == []


def test_what_is_too_old_is_not_told_and_who_did_nothing_for_longest_is_forgotten() -> None:
    histories = remembering()
    histories.follow([told("old", shopper="s", at_s=NOW_S - 3_601), told("new", shopper="s")])
    assert products(histories, "s") == ["new"]
    histories.follow([told("a", shopper="t"), told("b", shopper="s"), told("c", shopper="u")])
    assert (products(histories, "t"), histories.shoppers()) == ([], 2)


def test_nothing_is_remembered_where_the_bound_is_none() -> None:
    histories = remembering(HistoryBounds(products_max=0, shoppers_max=2, age_max_s=3_600.0))
    histories.follow([told("a", shopper="s")])
    assert histories.shoppers() == 0


def test_an_erased_pseudonym_is_forgotten_once_its_mark_is_written(tmp_path: Path) -> None:
    marks = tmp_path / "erased.jsonl"
    histories = remembering(marks=marks)
    histories.follow([told("a", shopper="s"), told("b", shopper="t")])
    assert products(histories, "s") == ["a"]
    remember(marks, [SECRETS.mark("s")])
    assert (products(histories, "s"), products(histories, "t")) == ([], ["b"])
    assert histories.shoppers() == 1


def test_an_erasure_takes_visits_along(tmp_path: Path) -> None:
    marks = tmp_path / "erased.jsonl"
    histories = remembering(marks=marks)
    events = [told("a", shopper="s", session="v")]
    events += [told(name, session="v") for name in "bcde"]
    histories.follow(events)
    assert products(histories, "v") == ["c", "d", "e"]
    remember(marks, [SECRETS.mark("s")])
    assert products(histories, "v") == []
    histories.follow([told("a", shopper="x", session="w"), told("b", session="w")])
    histories.forget(["x"])
    assert products(histories, "w") == []


def test_what_the_log_still_holds_is_recalled_and_what_was_folded_passed_over() -> None:
    log = {at: told(f"p{at}", shopper="s", at_s=NOW_S - 100 + at) for at in range(6, 9)}
    asked = []

    def read(first_sequence: int) -> list[bytes]:
        asked.append(first_sequence)
        if first_sequence < 6:
            raise EventsFolded(first_sequence, 6)
        return [payload for at, payload in log.items() if at >= first_sequence][:2]

    histories = remembering()
    histories.recall(read, 2, 8)
    assert products(histories, "s") == ["p6", "p7", "p8"]
    assert asked == [2, 6, 8]


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("stu"), st.integers(0, 4_000)), max_size=40)
)
def test_whatever_comes_the_bounds_hold(events: list[tuple[str, str, int]]) -> None:
    histories = remembering()
    histories.follow([told(name, shopper=who, at_s=NOW_S - ago) for name, who, ago in events])
    assert histories.shoppers() <= BOUNDS.shoppers_max
    for who in "stu":
        found = histories.of([who], NOW_S)
        times = [item.occurred_unix_us for item in found]
        assert times == sorted(times)
        assert len({item.product_id for item in found}) == len(found) <= BOUNDS.products_max
        assert all(NOW_S - at / 1e6 <= BOUNDS.age_max_s for at in times)


@given(st.text(min_size=1, max_size=40), st.integers(0, 4_000_000_000))
@settings(max_examples=30)
def test_the_core_makes_the_pseudonyms_that_feedback_is_kept_under(name: str, now_s: int) -> None:
    histories, pseudonyms = remembering(), SECRETS.pseudonyms(PERIOD_DAYS)
    for kind in (SHOPPER, SESSION):
        found = histories.core.pseudonyms(kind, name, now_s * 1_000_000)
        assert found == list(pseudonyms.all_of(kind, name, max(0.0, now_s - BOUNDS.age_max_s), now_s))
        assert pseudonyms.of(kind, name, now_s) in found
