"""Shoppers who look from the top on: the dynamic Bayesian network of clicks, by expectation maximisation.

A shopper looks at the first product. One that is looked at is clicked if it attracts. A click may satisfy,
and then the shopper leaves; otherwise the next product is looked at with the chance `continues`. So what is
looked at depends on what stands above, not on the position alone. A cascade in which the first click ends it
all (Craswell et al. 2008) is the case where every click satisfies.

Source: Chapelle & Zhang 2009, "A Dynamic Bayesian Network Click Model for Web Search Ranking", section 3 and
appendix, with the chance to go on found by the same EM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.clicks.answers import Answers
from training.clicks.impressions import Floats

_LEAST = 1e-9
PRIOR_LOOKS = 2.0


@dataclass(frozen=True)
class Cascade:
    """attracts, satisfies: chance that a look becomes a click, and that a click ends the search; float64
    [pairs]. continues: chance to look at the next product otherwise.
    """

    attracts: Floats
    satisfies: Floats
    continues: float
    name: str = "cascade"

    def expected(self, answers: Answers) -> Floats:
        """Chance of each click given those above it; float64 [answers, places], 0 where nothing stands."""
        attracts, satisfies = answers.at(self.attracts), answers.at(self.satisfies)
        found = np.zeros(answers.pair.shape)
        looked = np.ones(len(answers))
        for place in range(answers.places):
            clicked, attracted = answers.clicked[:, place], attracts[:, place]
            found[:, place] = looked * attracted
            missed = looked * (1 - attracted) / np.maximum(1 - looked * attracted, _LEAST)
            looked = self.continues * np.where(clicked, 1 - satisfies[:, place], missed)
        return found

    def examined(self, answers: Answers, weights: Floats) -> Floats:
        """Share of these answers' shoppers who look at each position; float64 [places], the first one 1."""
        attracts, satisfies = answers.at(self.attracts), answers.at(self.satisfies)
        looks: Floats = np.ones(attracts.shape)
        looks[:, 1:] = np.cumprod(self.continues * (1 - attracts * satisfies), axis=1)[:, :-1]
        shown = np.maximum(answers.by_place(np.ones(looks.shape), weights), _LEAST)
        return np.asarray(answers.by_place(looks, weights) / shown)


def fit_cascade(
    answers: Answers,
    weights: Floats,
    *,
    start: Cascade | None = None,
    prior_looks: float = PRIOR_LOOKS,
    rounds: int = 300,
    tolerance: float = 1e-4,
) -> Cascade:
    """The likeliest cascade. weights: how often each answer counts, float64 [answers]; start: from where on.
    prior_looks: looks and clicks that each pair is given at the mean of all, so that one look says little.

    Whoever never moves a product cannot tell the chance to go on from what attracts: ask
    `propensity.by_interventions` first whether positions can be told apart.
    """
    model = start or _beginning(answers, weights, prior_looks)
    for _ in range(rounds):
        after = _improved(answers, weights, model, prior_looks)
        moved = max(
            abs(after.continues - model.continues), float(np.abs(after.attracts - model.attracts).max())
        )
        model = after
        if moved < tolerance:
            break
    return model


def _beginning(answers: Answers, weights: Floats, prior_looks: float) -> Cascade:
    clicks = answers.by_pair(answers.clicked, weights)
    # Down to the last click everything was looked at, and without one about half of it.
    below = np.cumsum(answers.clicked[:, ::-1], axis=1)[:, ::-1] > 0
    looks = answers.by_pair(np.where(below, 1.0, 0.5), weights)
    return Cascade(_with_prior(clicks, looks, prior_looks), np.full(answers.pairs, 0.5), 0.8)


def _with_prior(part: Floats, whole: Floats, prior: float) -> Floats:
    mean = float(part.sum()) / max(float(whole.sum()), _LEAST)
    return np.asarray((part + prior * mean) / np.maximum(whole + prior, _LEAST))


def _improved(answers: Answers, weights: Floats, model: Cascade, prior: float) -> Cascade:
    """One round: what was looked at and what satisfied as the model expects, then the shares of that."""
    shown = answers.shown
    attracts, satisfies = answers.at(model.attracts), answers.at(model.satisfies)
    looked, left = _hidden(answers, attracts, satisfies, model.continues)
    looks = answers.by_pair(looked, weights)
    clicks = answers.by_pair(answers.clicked, weights)
    satisfied = answers.by_pair(left, weights)
    # Whoever looks, is not satisfied, and has another product below, goes on or does not.
    follows = shown[:, 1:]
    could = np.where(follows, looked[:, :-1] - left[:, :-1], 0.0)
    did = np.where(follows, looked[:, 1:], 0.0)
    continues = float(weights @ did.sum(axis=1)) / max(float(weights @ could.sum(axis=1)), _LEAST)
    return Cascade(
        _with_prior(clicks, looks, prior),
        _with_prior(satisfied, clicks, prior),
        min(max(continues, _LEAST), 1.0),
    )


def _hidden(answers: Answers, attracts: Floats, satisfies: Floats, continues: float) -> tuple[Floats, Floats]:
    """Chance that each product was looked at, and that it was clicked and satisfied, given all clicks;
    float64 [answers, places] each.
    """
    # A row for each place: what is looked at together lies together.
    shown, clicked = np.ascontiguousarray(answers.shown.T), np.ascontiguousarray(answers.clicked.T)
    attracts, satisfies = np.ascontiguousarray(attracts.T), np.ascontiguousarray(satisfies.T)
    places = answers.places
    # silent: chance of no click below, of whoever looked here and is not satisfied.
    silent, goes_on = np.ones(attracts.shape), np.zeros(attracts.shape)
    for place in reversed(range(places - 1)):
        goes_on[place] = continues * (1 - attracts[place + 1]) * silent[place + 1]
        silent[place] = np.where(shown[place + 1], 1 - continues + goes_on[place], 1.0)
    below = np.cumsum(clicked[::-1], axis=0)[::-1] > 0
    last = clicked.copy()
    last[:-1] &= ~below[1:]
    gone = satisfies / np.maximum(satisfies + (1 - satisfies) * silent, _LEAST)
    left = np.where(last, gone, 0.0)
    looked = np.empty(attracts.shape)
    now = np.ones(len(answers))
    for place in range(places):
        looked[place] = np.where(below[place], 1.0, now) * shown[place]
        now = (looked[place] - left[place]) * goes_on[place] / np.maximum(silent[place], _LEAST)
    return looked.T, left.T
