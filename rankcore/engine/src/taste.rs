//! How much what a shopper lately did speaks for the candidates of a search: their taste for each, 0 to 1.
//!
//! The latest products of the history are read, the i-th from the end with the weight 1/i of their sum. Each speaks for a
//! candidate by its likeness to it, 0 to 1: by the bundle's tables from item to item, or by brand, category and text, whichever
//! says more. `docs/recommend.md` has the formula, `tests/parity/test_taste.py` a second implementation.

use std::collections::HashSet;

use crate::generation::{Described, Generation};
use crate::recommend::answer::{below, largest_first};
use crate::recommend::section::{Evidence, Section, Source, Table};
use crate::retrieve::Row;
use crate::wire;

/// Products of a history that are read, the latest.
pub const HISTORY_READ: usize = 10;
/// Candidates that a history can move: the first ones of the final order.
pub const CANDIDATES: usize = 100;
/// Name of the signal, and of what it adds.
pub const SIGNAL: &str = "taste";

/// The most that a taste moves is told in the distance of the first place's score from that of this place.
const SPREAD_PLACES: usize = 10;
/// Likeness of two products by what they are; the three add up to 1.
const BRAND: f64 = 0.5;
const CATEGORY: f64 = 0.2;
const TEXTS: f64 = 0.3;
/// Cosine of two texts from which on they are alike at all.
const ALIKE_FROM: f64 = 0.5;

/// One product of the history.
struct Taken<'a> {
    product: Described,
    /// Of all that are read; they add up to 1.
    weight: f64,
    /// `None`: there is no vector yet.
    vector: Option<Vec<f32>>,
    /// Per table of the section that has a row for it: its source, its share of all tables' weights, the greatest weight of
    /// the row.
    rows: Vec<(&'a Source, &'a Table, f64, f32)>,
    /// Its place in the section.
    place: u32,
}

/// What a history says of candidates.
pub struct Taste<'a> {
    taken: Vec<Taken<'a>>,
    section: Option<&'a Section>,
    generation: &'a Generation,
    /// Products that the catalogue does not hold.
    unknown: usize,
    /// Known products that are older than those that are read.
    left_out: usize,
}

impl<'a> Taste<'a> {
    /// Reads a history: products, oldest first, each once.
    #[must_use]
    pub fn new(
        history: &[String],
        section: Option<&'a Section>,
        generation: &'a Generation,
    ) -> Self {
        let known: Vec<Row> = history
            .iter()
            .rev()
            .filter_map(|product_id| generation.row(product_id))
            .collect();
        let read = &known[..known.len().min(HISTORY_READ)];
        let described = generation.described(read);
        let weights: f64 = (1..=described.iter().flatten().count())
            .map(|at| 1.0 / as_f64(at))
            .sum();
        let taken: Vec<Taken<'a>> = described
            .into_iter()
            .zip(generation.vectors(read))
            .filter_map(|(product, vector)| Some((product?, vector)))
            .enumerate()
            .map(|(at, (product, vector))| {
                let (place, rows) = rows(&product, section);
                Taken {
                    product,
                    weight: 1.0 / as_f64(at + 1) / weights,
                    vector,
                    rows,
                    place,
                }
            })
            .collect();
        Self {
            unknown: history.len() - known.len(),
            left_out: known.len() - taken.len(),
            taken,
            section,
            generation,
        }
    }

    /// What was made of the history; `recorded`: products that memory alone told.
    #[must_use]
    pub fn account(&self, recorded: usize) -> wire::HistoryAccount {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        wire::HistoryAccount {
            used: count(self.taken.len()),
            unknown: count(self.unknown),
            left_out: count(self.left_out),
            recorded: count(recorded),
        }
    }

    /// The taste for each of these rows, 0 to 1.
    #[must_use]
    pub fn of(&self, rows: &[Row]) -> Vec<f64> {
        let mut tastes = vec![0.0; rows.len()];
        self.parts(rows, |at, _, _, share| tastes[at] += share);
        tastes
    }

    /// What of the history speaks for one row, the most first, in the unit of what it adds: a taste of 1 adds `most`. A source
    /// that one product speaks by is told once; of more than 16 the rest is added up in one without a name.
    #[must_use]
    pub fn because(&self, row: Row, most: f64) -> Vec<wire::Because> {
        let mut reasons: Vec<wire::Because> = Vec::new();
        self.parts(&[row], |_, taken, source, share| {
            let product_id = &self.taken[taken].product.product_id;
            reasons.push(wire::Because {
                product_id: product_id.clone(),
                title: self.taken[taken].product.title.clone(),
                source: source.to_owned(),
                contribution: most * share,
            });
        });
        largest_first(&mut reasons);
        reasons
    }

    /// Every part of every taste above 0: place among `rows`, place among what was taken, source, share.
    fn parts(&self, rows: &[Row], mut part: impl FnMut(usize, usize, &str, f64)) {
        let described = self.generation.described(rows);
        let places: Vec<Option<u32>> = described
            .iter()
            .map(|one| self.section?.place(&one.as_ref()?.product_id))
            .collect();
        let mut cosines = vec![f32::NAN; rows.len()];
        for (number, taken) in self.taken.iter().enumerate() {
            match &taken.vector {
                Some(vector) => self.generation.dense_score(vector, rows, &mut cosines),
                None => cosines.fill(f32::NAN),
            }
            for (at, product) in described.iter().enumerate() {
                let Some(product) = product else { continue };
                taken.likeness(product, places[at], cosines[at], |source, likeness| {
                    part(at, number, source, taken.weight * likeness);
                });
            }
        }
    }
}

impl Taken<'_> {
    /// Every part above 0 of the likeness to a product, which is at most 1. place: in the section. cosine: of the texts, NaN
    /// where that is not known.
    fn likeness(
        &self,
        product: &Described,
        place: Option<u32>,
        cosine: f32,
        mut part: impl FnMut(&str, f64),
    ) {
        if self.product.product_id == product.product_id {
            part("itself", 1.0);
            return;
        }
        let same = |one: &str, other: &str| f64::from(u8::from(!one.is_empty() && one == other));
        let alike = ((f64::from(cosine) - ALIKE_FROM) / (1.0 - ALIKE_FROM)).clamp(0.0, 1.0);
        let kinds = [
            ("brand", BRAND * same(&self.product.brand, &product.brand)),
            (
                "category",
                CATEGORY * same(&self.product.category, &product.category),
            ),
            ("similar", TEXTS * if alike.is_nan() { 0.0 } else { alike }),
        ];
        let follows = |row: &(&Source, &Table, f64, f32), place: u32| {
            let (_, table, share, greatest) = *row;
            share * f64::from(table.at(self.place, place)) / f64::from(greatest)
        };
        let kind: f64 = kinds.iter().map(|(_, likeness)| likeness).sum();
        if let Some(place) = place {
            let following: f64 = self.rows.iter().map(|row| follows(row, place)).sum();
            if following > kind {
                for row in &self.rows {
                    let likeness = follows(row, place);
                    if likeness > 0.0 {
                        part(&row.0.name, likeness);
                    }
                }
                return;
            }
        }
        for (source, likeness) in kinds {
            if likeness > 0.0 {
                part(source, likeness);
            }
        }
    }
}

/// A product's place in the section and its rows in the section's tables.
fn rows<'a>(
    product: &Described,
    section: Option<&'a Section>,
) -> (u32, Vec<(&'a Source, &'a Table, f64, f32)>) {
    let found = section.and_then(|section| Some((section, section.place(&product.product_id)?)));
    let Some((section, place)) = found else {
        return (0, Vec::new());
    };
    let tables: Vec<(&Source, &Table)> = section
        .sources
        .iter()
        .filter(|source| source.weight > 0.0)
        .filter_map(|source| match &source.evidence {
            Evidence::Table { table, .. } => Some((source, table)),
            Evidence::Popularity | Evidence::Sequence(_) => None,
        })
        .collect();
    let weights: f64 = tables.iter().map(|(source, _)| source.weight).sum();
    let rows = tables
        .into_iter()
        .filter_map(|(source, table)| {
            let greatest = table
                .row(place)
                .map(|(_, weight)| weight)
                .fold(0.0, f32::max);
            (greatest > 0.0).then_some((source, table, source.weight / weights, greatest))
        })
        .collect();
    (place, rows)
}

/// How far a taste of 1 moves a candidate's score: `weight` times the distance of the first place's score from the tenth's, or,
/// where these are the same, as little as decides between equals. scores: best first, none of them NaN. weight: above 0.
#[must_use]
pub fn most(scores: &[f64], weight: f64) -> f64 {
    let last = SPREAD_PLACES.min(scores.len()).saturating_sub(1);
    match (scores.first(), scores.get(last)) {
        (Some(first), Some(last)) => (weight * (first - last)).max(below(*first)),
        _ => 0.0,
    }
}

/// True: the tastes tell one candidate from another.
#[must_use]
pub fn tells(tastes: &[f64]) -> bool {
    tastes.iter().any(|taste| *taste > 0.0)
        && tastes
            .iter()
            .map(|taste| taste.to_bits())
            .collect::<HashSet<_>>()
            .len()
            > 1
}

#[allow(clippy::cast_precision_loss)]
fn as_f64(value: usize) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(product_id: &str, brand: &str, category: &str) -> Described {
        Described {
            product_id: product_id.to_owned(),
            title: String::new(),
            brand: brand.to_owned(),
            category: category.to_owned(),
        }
    }

    fn likeness(one: Described, other: &Described, cosine: f32) -> Vec<(String, f64)> {
        let taken = Taken {
            product: one,
            weight: 1.0,
            vector: None,
            rows: Vec::new(),
            place: 0,
        };
        let mut parts = Vec::new();
        taken.likeness(other, None, cosine, |source, likeness| {
            parts.push((source.to_owned(), likeness));
        });
        parts
    }

    #[test]
    fn a_product_is_wholly_like_itself_and_never_more_than_that_like_another() {
        let one = described("a", "acme", "mice");
        let itself = likeness(one.clone(), &one, f32::NAN);
        assert_eq!(itself, [("itself".to_owned(), 1.0)]);
        let twin = likeness(one, &described("b", "acme", "mice"), 1.0);
        let sum: f64 = twin.iter().map(|(_, likeness)| likeness).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{twin:?}");
    }

    #[test]
    fn what_is_not_known_of_a_product_is_not_the_same() {
        let none = likeness(described("a", "", ""), &described("b", "", ""), f32::NAN);
        assert_eq!(none, []);
        let far = likeness(described("a", "x", ""), &described("b", "y", ""), 0.4);
        assert_eq!(far, []);
    }

    #[test]
    fn the_most_is_a_share_of_the_first_pages_distance() {
        let scores: Vec<f64> = (0..30).map(|place| 20.0 - f64::from(place)).collect();
        assert!((most(&scores, 0.5) - 4.5).abs() < 1e-12);
        assert!((most(&scores[..3], 0.5) - 1.0).abs() < 1e-12);
        // Between equals it decides, and moves nobody else.
        assert!((most(&[7.0; 20], 1.0) - 8e-6).abs() < 1e-12);
        assert_eq!(most(&[], 1.0), 0.0);
    }

    #[test]
    fn tastes_that_are_all_the_same_tell_nothing() {
        assert!(tells(&[0.0, 0.1]));
        for silent in [&[][..], &[0.0, 0.0], &[0.3, 0.3]] {
            assert!(!tells(silent));
        }
    }
}
