//! Products of the catalogue for one history, by tier.
//!
//! What the section names is looked up in the generation: what is not in the catalogue (any more), or fails the filter, is not
//! shown. Products that the section does not know come by their texts. Where too little is found, the page is filled with what is
//! popular in the catalogue.

use std::collections::HashSet;

use fixedbitset::FixedBitSet;

use super::Tier;
use super::ask::Ask;
use super::mixture::{Extent, Scored, recent};
use super::section::{Order, Section};
use crate::error::Result;
use crate::generation::Generation;
use crate::retrieve::Row;
use crate::retrieve::dense::best;
use crate::wire;

/// The latest products of a history whose texts are compared, and how the older ones fade.
const SIMILAR_HISTORY: usize = 10;
const SIMILAR_RECENCY: f64 = 1.0;
/// Of the mixture, what belongs to products that the section does not know; among how many of the nearest it is divided, by the
/// softmax of their cosines at this temperature. Share and temperature are those by which training gives new items theirs.
const NEW_SHARE: f64 = 0.02;
const NEW_WIDTH: usize = 64;
const NEW_TEMPERATURE: f64 = 0.05;
/// Candidates among which results are chosen that are unlike each other.
const DIVERSE: usize = 100;
/// Items that are looked up in the catalogue for one answer: a filter may turn nearly all of them away.
const LOOKUPS_MAX: usize = 5_000;
/// Items that are looked up for each one that is wanted, where there is no filter.
const LOOKED_UP: usize = 4;
/// Reasons of one result that are told apart.
const REASONS_MAX: usize = 16;
/// Names of the sources that are no part of a section.
const SIMILAR: &str = "similar";
const POPULARITY: &str = "popularity";

/// Puts the reasons of one result in order, the largest first; of more than 16 the rest is added up in one without a name.
pub fn largest_first(parts: &mut Vec<wire::Because>) {
    parts.sort_by(|a, b| b.contribution.abs().total_cmp(&a.contribution.abs()));
    if parts.len() > REASONS_MAX {
        let rest = parts.split_off(REASONS_MAX - 1);
        parts.push(wire::Because {
            contribution: rest.iter().map(|part| part.contribution).sum(),
            ..Default::default()
        });
    }
}

/// What a history comes to, in the section and in the catalogue.
pub struct Known {
    /// Places of the section's items, oldest first.
    pub places: Vec<u32>,
    /// Live rows of its products, oldest first.
    pub rows: Vec<Row>,
    /// Products that neither knows.
    pub unknown: usize,
    /// Rows with a vector among the latest, the latest first: (row, weight, vector). Weights sum to 1.
    near: Vec<(Row, f64, Vec<f32>)>,
}

impl Known {
    /// Looks a history up.
    #[must_use]
    pub fn new(history: &[String], section: Option<&Section>, generation: &Generation) -> Self {
        let (mut places, mut rows, mut unknown) = (Vec::new(), Vec::new(), 0);
        for product_id in history {
            let place = section.and_then(|section| section.place(product_id));
            let row = generation.row(product_id);
            places.extend(place);
            rows.extend(row);
            unknown += usize::from(place.is_none() && row.is_none());
        }
        let latest: Vec<Row> = rows.iter().rev().take(SIMILAR_HISTORY).copied().collect();
        let vectors = generation.vectors(&latest);
        let mut near: Vec<(Row, f64, Vec<f32>)> = latest
            .into_iter()
            .zip(vectors)
            .filter_map(|(row, vector)| Some((row, vector?)))
            .enumerate()
            .map(|(at, (row, vector))| (row, f64::from(recent(at + 1, SIMILAR_RECENCY)), vector))
            .collect();
        let sum: f64 = near.iter().map(|(_, weight, _)| weight).sum();
        near.iter_mut().for_each(|(_, weight, _)| *weight /= sum);
        Self {
            places,
            rows,
            unknown,
            near,
        }
    }

    /// The tiers that can answer, cheap to dear.
    #[must_use]
    pub fn tiers(&self, section: Option<&Section>, generation: &Generation) -> Vec<Tier> {
        let mut tiers = vec![Tier::Popularity];
        match section {
            Some(section) if !self.places.is_empty() => {
                tiers.push(Tier::Mixture);
                tiers.extend(section.sequence.then_some(Tier::Sequence));
                tiers.extend(section.order.as_ref().map(|_| Tier::Ordered));
            }
            _ if !self.near.is_empty() && generation.has_dense() => tiers.push(Tier::Similar),
            _ => {}
        }
        tiers
    }
}

/// One result before it has a face.
struct Candidate {
    row: Row,
    score: f64,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// An item of the section. mixture: its score there. ordered: the learnt order gave the score.
    Item {
        item: u32,
        mixture: f64,
        ordered: bool,
    },
    /// A product whose text is like the history's: `share` times the cosines of its parts by their sum.
    Near { share: f64 },
    /// It fills the page.
    Filling,
}

/// Results and what was made of the history.
pub struct Found {
    /// Best first.
    pub results: Vec<wire::RankedProduct>,
    /// Candidates seen.
    pub candidates: usize,
    /// Candidates that the learnt order ordered.
    pub depth: usize,
    /// What was made of the history.
    pub history: wire::HistoryAccount,
}

/// Everything that one answer is made from.
pub struct Maker<'a> {
    /// The bundle's section.
    pub section: Option<&'a Section>,
    /// The catalogue.
    pub generation: &'a Generation,
    /// What is wanted.
    pub ask: &'a Ask,
    /// The history, looked up.
    pub known: &'a Known,
}

impl Maker<'_> {
    /// Answers by one tier.
    ///
    /// # Errors
    /// `InvalidRequest` for a filter on attributes that no product carries; those of the dense index.
    pub fn make(&self, tier: Tier) -> Result<Found> {
        let eligible = self.generation.filter(self.ask.filter.as_ref())?;
        let eligible = eligible.as_ref();
        let wanted = if self.ask.diversity > 0.0 {
            self.ask.page.max(DIVERSE)
        } else {
            self.ask.page
        };
        let mut scored = None;
        let mut depth = 0;
        let mut candidates = match (tier, self.section) {
            (Tier::Similar, _) => self.near(wanted, eligible)?,
            (Tier::Mixture | Tier::Sequence | Tier::Ordered, Some(section)) => {
                let order = section.order.as_ref().filter(|_| tier == Tier::Ordered);
                let count = wanted.max(order.map_or(0, |order| order.candidates));
                let mixed = self.mixture(section, tier, count, eligible.is_some())?;
                let mut found = self.with_new(
                    section,
                    self.items(section, &mixed, count, eligible),
                    eligible,
                )?;
                found.truncate(count);
                if let Some(order) = order {
                    depth = found.len().min(order.candidates);
                    self.order(section, order, &mixed, &mut found);
                }
                scored = Some(mixed);
                found
            }
            (_, Some(section)) => self.popular(section, wanted, eligible),
            (_, None) => Vec::new(),
        };
        self.fill(&mut candidates, eligible);
        let seen = candidates.len();
        if self.ask.diversity > 0.0 {
            candidates = self.diverse(candidates);
        }
        candidates.truncate(self.ask.page);
        let results = candidates
            .iter()
            .filter_map(|candidate| self.render(candidate, tier, scored.as_ref()))
            .collect();
        Ok(Found {
            results,
            candidates: seen,
            depth,
            history: self.account(tier, scored.as_ref()),
        })
    }

    fn mixture<'s>(
        &self,
        section: &'s Section,
        tier: Tier,
        count: usize,
        filtered: bool,
    ) -> Result<Scored<'s>> {
        let extent = Extent {
            repeats: self.ask.repeats,
            network: tier > Tier::Mixture,
            // A filter may turn any of them away; without one only those that left the catalogue go.
            kept: if filtered {
                LOOKUPS_MAX
            } else {
                LOOKED_UP * count
            },
        };
        Scored::new(section, &self.known.places, extent)
    }

    /// True: the row may be shown.
    fn shown(&self, row: Row, eligible: Option<&FixedBitSet>) -> bool {
        eligible.is_none_or(|rows| rows.contains(row as usize))
            && (self.ask.repeats || !self.known.rows.contains(&row))
    }

    fn items(
        &self,
        section: &Section,
        scored: &Scored<'_>,
        count: usize,
        eligible: Option<&FixedBitSet>,
    ) -> Vec<Candidate> {
        scored
            .ranked
            .iter()
            .take(LOOKUPS_MAX)
            .filter_map(|(item, mixture)| {
                let row = self.generation.row(&section.item_ids[*item as usize])?;
                let kind = Kind::Item {
                    item: *item,
                    mixture: *mixture,
                    ordered: false,
                };
                self.shown(row, eligible).then_some(Candidate {
                    row,
                    score: *mixture,
                    kind,
                })
            })
            .take(count)
            .collect()
    }

    fn popular(
        &self,
        section: &Section,
        count: usize,
        eligible: Option<&FixedBitSet>,
    ) -> Vec<Candidate> {
        let sum = section.popularity_sum.max(f64::MIN_POSITIVE);
        section
            .popular
            .iter()
            .take(LOOKUPS_MAX)
            .map(|item| (*item, f64::from(section.popularity[*item as usize])))
            .take_while(|(_, taken)| *taken > 0.0)
            .filter_map(|(item, taken)| {
                let row = self.generation.row(&section.item_ids[item as usize])?;
                let score = taken / sum;
                let kind = Kind::Item {
                    item,
                    mixture: score,
                    ordered: false,
                };
                self.shown(row, eligible)
                    .then_some(Candidate { row, score, kind })
            })
            .take(count)
            .collect()
    }

    /// The nearest products to the history by their texts, with the weighted mean of their cosines, best first.
    fn nearest(&self, count: usize, eligible: Option<&FixedBitSet>) -> Result<Vec<(Row, f64)>> {
        let Some((_, _, first)) = self.known.near.first() else {
            return Ok(Vec::new());
        };
        let mut query = vec![0.0_f32; first.len()];
        for (_, weight, vector) in &self.known.near {
            for (sum, value) in query.iter_mut().zip(vector) {
                #[allow(clippy::cast_possible_truncation)]
                {
                    *sum += *weight as f32 * value;
                }
            }
        }
        let length = query.iter().map(|value| value * value).sum::<f32>().sqrt();
        if length <= 0.0 {
            return Ok(Vec::new());
        }
        query.iter_mut().for_each(|value| *value /= length);
        let width = count + self.known.rows.len();
        let found = self
            .generation
            .dense(&query, width, eligible)?
            .unwrap_or_default();
        let found = best(found, width);
        let mut found: Vec<(Row, f64)> = found
            .into_iter()
            .filter(|(row, _)| self.shown(*row, eligible))
            .map(|(row, _)| (row, self.cosines(row).iter().sum()))
            .collect();
        found.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        found.truncate(count);
        Ok(found)
    }

    /// Weighted cosines of a row with the history's latest products.
    fn cosines(&self, row: Row) -> Vec<f64> {
        self.known
            .near
            .iter()
            .map(|(_, weight, vector)| {
                let mut cosine = [0.0_f32];
                self.generation.dense_score(vector, &[row], &mut cosine);
                if cosine[0].is_nan() {
                    0.0
                } else {
                    weight * f64::from(cosine[0])
                }
            })
            .collect()
    }

    fn near(&self, count: usize, eligible: Option<&FixedBitSet>) -> Result<Vec<Candidate>> {
        let found = self.nearest(count, eligible)?;
        Ok(found
            .into_iter()
            .map(|(row, score)| Candidate {
                row,
                score,
                kind: Kind::Near { share: score },
            })
            .collect())
    }

    /// Puts products that the section does not know among its items, by a share of their own.
    fn with_new(
        &self,
        section: &Section,
        items: Vec<Candidate>,
        eligible: Option<&FixedBitSet>,
    ) -> Result<Vec<Candidate>> {
        let mut new = self.nearest(NEW_WIDTH, eligible)?;
        new.retain(|(row, cosine)| {
            let product = self.generation.render(*row);
            *cosine > 0.0
                && product.is_some_and(|product| section.place(&product.product_id).is_none())
        });
        let softened: Vec<f64> = new
            .iter()
            .map(|(_, cosine)| ((cosine - 1.0) / NEW_TEMPERATURE).exp())
            .collect();
        let sum: f64 = softened.iter().sum();
        let mut all = items;
        all.extend(new.iter().zip(&softened).map(|((row, _), soft)| {
            let share = NEW_SHARE * soft / sum;
            Candidate {
                row: *row,
                score: share,
                kind: Kind::Near { share },
            }
        }));
        // Stable: of equals an item of the section comes first.
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(all)
    }

    /// Orders the first candidates by the learnt order; those that nobody took keep their places.
    fn order(
        &self,
        section: &Section,
        order: &Order,
        scored: &Scored<'_>,
        candidates: &mut Vec<Candidate>,
    ) {
        let tail = candidates.split_off(candidates.len().min(order.candidates));
        let mut known: Vec<Candidate> = Vec::new();
        let mut slots: Vec<Option<Candidate>> = Vec::new();
        for mut candidate in candidates.drain(..) {
            match candidate.kind {
                Kind::Item { item, mixture, .. } if !section.is_new(item) => {
                    candidate.score = order.forest.score(&scored.signals(item, &order.reads));
                    candidate.kind = Kind::Item {
                        item,
                        mixture,
                        ordered: true,
                    };
                    known.push(candidate);
                    slots.push(None);
                }
                _ => slots.push(Some(candidate)),
            }
        }
        known.sort_by(|a, b| b.score.total_cmp(&a.score));
        let first = known.first().map_or(0.0, |candidate| candidate.score);
        let mut known = known.into_iter();
        let mut before = first + 2.0 * below(first);
        for slot in slots
            .into_iter()
            .map(Some)
            .chain(tail.into_iter().map(|one| Some(Some(one))))
            .flatten()
        {
            let candidate = match slot {
                Some(mut kept) => {
                    // Scores never rise from one result to the next.
                    let next = known
                        .as_slice()
                        .first()
                        .map_or(f64::NEG_INFINITY, |next| next.score);
                    kept.score = (before - below(before)).max(next);
                    kept
                }
                None => match known.next() {
                    Some(candidate) => candidate,
                    None => continue,
                },
            };
            before = candidate.score;
            candidates.push(candidate);
        }
    }

    /// Fills the page with what is popular in the catalogue.
    fn fill(&self, candidates: &mut Vec<Candidate>, eligible: Option<&FixedBitSet>) {
        if candidates.len() >= self.ask.page {
            return;
        }
        let there: HashSet<Row> = candidates.iter().map(|candidate| candidate.row).collect();
        let count = self.ask.page + there.len() + self.known.rows.len();
        let mut score = candidates.last().map_or(1.0, |candidate| candidate.score);
        for row in self.generation.popular(count, eligible) {
            if candidates.len() >= self.ask.page {
                break;
            }
            if !there.contains(&row) && self.shown(row, eligible) {
                score -= below(score);
                candidates.push(Candidate {
                    row,
                    score,
                    kind: Kind::Filling,
                });
            }
        }
    }

    /// Chooses results that are unlike each other: maximal marginal relevance (Carbonell & Goldstein 1998), relevance being the
    /// score between the least and the greatest of the candidates.
    fn diverse(&self, candidates: Vec<Candidate>) -> Vec<Candidate> {
        let rows: Vec<Row> = candidates.iter().map(|candidate| candidate.row).collect();
        let vectors = self.generation.vectors(&rows);
        let brands: Vec<String> = rows
            .iter()
            .map(|row| {
                self.generation
                    .render(*row)
                    .map_or_else(String::new, |product| product.brand)
            })
            .collect();
        let like = |a: usize, b: usize| match (&vectors[a], &vectors[b]) {
            (Some(one), Some(other)) => f64::from(
                one.iter()
                    .zip(other)
                    .map(|(one, other)| one * other)
                    .sum::<f32>(),
            ),
            _ => f64::from(u8::from(!brands[a].is_empty() && brands[a] == brands[b])),
        };
        let scores: Vec<f64> = candidates.iter().map(|candidate| candidate.score).collect();
        let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
        let span = (scores.iter().copied().fold(f64::NEG_INFINITY, f64::max) - least)
            .max(f64::MIN_POSITIVE);
        let mut left: Vec<usize> = (0..candidates.len()).collect();
        let mut likest = vec![0.0_f64; candidates.len()];
        let mut chosen = Vec::new();
        while chosen.len() < self.ask.page && !left.is_empty() {
            let value = |at: usize| {
                (1.0 - self.ask.diversity) * (scores[at] - least) / span
                    - self.ask.diversity * likest[at]
            };
            let mut take = 0;
            for at in 1..left.len() {
                if value(left[at]) > value(left[take]) {
                    take = at;
                }
            }
            let taken = left.remove(take);
            for other in &left {
                likest[*other] = likest[*other].max(like(taken, *other));
            }
            chosen.push(taken);
        }
        let mut candidates: Vec<Option<Candidate>> = candidates.into_iter().map(Some).collect();
        chosen
            .into_iter()
            .filter_map(|at| candidates[at].take())
            .collect()
    }

    fn account(&self, tier: Tier, scored: Option<&Scored<'_>>) -> wire::HistoryAccount {
        let used = match tier {
            Tier::Popularity => 0,
            Tier::Similar => self.known.near.len(),
            Tier::Mixture | Tier::Sequence | Tier::Ordered => {
                let read = scored.map_or(0, |scored| scored.history().len());
                let near = self.known.near.iter().map(|(row, _, _)| *row);
                let beside = near.filter(|row| !self.in_section(*row)).count();
                read + beside
            }
        };
        let all = self.ask.history.len() - self.known.unknown;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        wire::HistoryAccount {
            used: count(used),
            unknown: count(self.known.unknown),
            left_out: count(all.saturating_sub(used)),
            recorded: count(self.ask.recorded),
        }
    }

    fn in_section(&self, row: Row) -> bool {
        let product = self.generation.render(row);
        let place = |product: wire::RankedProduct| self.section?.place(&product.product_id);
        product.and_then(place).is_some()
    }

    fn render(
        &self,
        candidate: &Candidate,
        tier: Tier,
        scored: Option<&Scored<'_>>,
    ) -> Option<wire::RankedProduct> {
        // A product deleted meanwhile has no face any more.
        let mut product = self.generation.render(candidate.row)?;
        product.score = candidate.score;
        if self.ask.explain {
            product.because = self.because(candidate, tier, scored);
            self.signals(candidate, tier, scored, &mut product);
        }
        Some(product)
    }

    fn because(
        &self,
        candidate: &Candidate,
        tier: Tier,
        scored: Option<&Scored<'_>>,
    ) -> Vec<wire::Because> {
        let mut parts = Vec::new();
        match (candidate.kind, self.section, scored) {
            (Kind::Item { mixture, .. }, _, _) if tier == Tier::Popularity => {
                parts.push(because(POPULARITY, None, mixture));
            }
            (Kind::Item { item, .. }, Some(section), Some(scored)) => {
                scored.parts(item, |source, place, share| {
                    let source = &section.sources[source];
                    let taken = place
                        .map(|place| section.item_ids[scored.history()[place] as usize].as_str());
                    if source.weight * share > 0.0 {
                        parts.push(because(&source.name, taken, source.weight * share));
                    }
                });
            }
            (Kind::Near { share }, _, _) => {
                let cosines = self.cosines(candidate.row);
                let sum: f64 = cosines.iter().sum();
                for ((row, _, _), cosine) in self.known.near.iter().zip(cosines) {
                    let taken = self
                        .generation
                        .render(*row)
                        .map(|product| product.product_id);
                    parts.push(because(SIMILAR, taken.as_deref(), share * cosine / sum));
                }
            }
            _ => parts.push(because(POPULARITY, None, candidate.score)),
        }
        largest_first(&mut parts);
        for part in &mut parts {
            let row = self.generation.row(&part.product_id);
            part.title = row
                .and_then(|row| self.generation.render(row))
                .map_or_else(String::new, |one| one.title);
        }
        parts
    }

    fn signals(
        &self,
        candidate: &Candidate,
        tier: Tier,
        scored: Option<&Scored<'_>>,
        product: &mut wire::RankedProduct,
    ) {
        let signal = |name: &str, value: f64, contribution: Option<f64>| wire::Signal {
            name: name.to_owned(),
            value: (!value.is_nan()).then_some(value),
            contribution,
        };
        match (candidate.kind, self.section, scored) {
            (
                Kind::Item {
                    item,
                    ordered: true,
                    ..
                },
                Some(Section {
                    order: Some(order), ..
                }),
                Some(scored),
            ) => {
                let row = scored.signals(item, &order.reads);
                let mut parts = vec![0.0; row.len()];
                let base = order.forest.contributions(&row, &mut parts);
                product.base_score = base;
                let named = order.forest.feature_names().iter().zip(row).zip(parts);
                product.signals = named
                    .map(|((name, value), part)| signal(name, value, base.map(|_| part)))
                    .collect();
            }
            (Kind::Item { item, .. }, Some(section), Some(scored)) if tier != Tier::Ordered => {
                product.base_score = Some(0.0);
                let shares = section.sources.iter().zip(scored.shares(item));
                product.signals = shares
                    .map(|(source, share)| signal(&source.name, share, Some(source.weight * share)))
                    .collect();
            }
            (Kind::Near { share }, _, _) if tier != Tier::Ordered => {
                product.base_score = Some(0.0);
                product.signals = vec![signal(
                    SIMILAR,
                    self.cosines(candidate.row).iter().sum(),
                    Some(share),
                )];
            }
            (Kind::Item { .. } | Kind::Filling, _, _) if tier == Tier::Popularity => {
                product.base_score = Some(0.0);
                product.signals = vec![signal(POPULARITY, candidate.score, Some(candidate.score))];
            }
            _ => {}
        }
    }
}

fn because(source: &str, product_id: Option<&str>, contribution: f64) -> wire::Because {
    wire::Because {
        product_id: product_id.unwrap_or_default().to_owned(),
        title: String::new(),
        source: source.to_owned(),
        contribution,
    }
}

/// A step down that is visible at the score's magnitude.
pub(crate) fn below(score: f64) -> f64 {
    1e-6 * (1.0 + score.abs())
}
