//! The section `recommend/` of a bundle, opened: tables mapped, the rest in memory.
//!
//! Checksums are the caller's business (`muster.bundle.recommend`); sizes and offsets are checked here, since what is mapped is
//! read without another look.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use serde::Deserialize;

use super::Tier;
use crate::bundle::parse_json;
use crate::error::{Error, Result};
use crate::model::Sequence;
use crate::rerank::forest::Forest;

/// Version of section.json that this code reads.
const SCHEMA_VERSION: u32 = 1;
const ITEMS_MAX: usize = 10_000_000;
/// Signals of the final order beside those of the sources.
const MIXTURE_SIGNAL: &str = "mixture";
const HISTORY_SIGNAL: &str = "history";

#[derive(Deserialize)]
struct Described {
    schema_version: u32,
    items: usize,
    history_max: usize,
    candidates: usize,
    sources: Vec<SourceDescribed>,
}

#[derive(Deserialize)]
struct SourceDescribed {
    name: String,
    kind: Kind,
    weight: f64,
    recency: f64,
    doubt: f64,
    entries: usize,
    width: usize,
    positions: usize,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Table,
    Popularity,
    Sequence,
}

#[derive(Deserialize)]
struct Items {
    item_ids: Vec<String>,
}

#[derive(Deserialize, Default)]
struct Card {
    #[serde(default)]
    order: OrderCard,
    #[serde(default)]
    tiers: HashMap<String, Measured>,
}

#[derive(Deserialize, Default)]
struct OrderCard {
    mixture_ndcg10: Option<Measured>,
    ordered_ndcg10: Option<Measured>,
}

#[derive(Deserialize)]
struct Measured {
    #[serde(rename = "ndcg10", alias = "mean")]
    mean: f64,
}

/// A table from item to item, mapped: N + 1 offsets, then the items of all entries, then their weights.
pub struct Table {
    map: Mmap,
    items: usize,
    entries: usize,
}

impl Table {
    fn open(path: &Path, items: usize, entries: usize) -> Result<Self> {
        let refuse = |what: String| Error::Bundle(format!("{}: {what}", path.display()));
        let file = File::open(path).map_err(|error| refuse(error.to_string()))?;
        // SAFETY: files of a bundle are never changed in place, and the length is checked below, on the map itself.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| refuse(error.to_string()))?;
        if map.len() != 4 * (items + 1) + 8 * entries {
            return Err(refuse(format!(
                "{} bytes do not hold {entries} entries",
                map.len()
            )));
        }
        let table = Self {
            map,
            items,
            entries,
        };
        let mut before = 0;
        for at in 0..=items {
            let offset = table.number(4 * at) as usize;
            if offset < before || offset > entries {
                return Err(refuse(format!("the offset of row {at} does not follow")));
            }
            before = offset;
        }
        if before != entries || table.number(0) != 0 {
            return Err(refuse("its rows do not hold all entries".to_owned()));
        }
        Ok(table)
    }

    fn number(&self, at: usize) -> u32 {
        let bytes = &self.map[at..at + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn bounds(&self, item: u32) -> (usize, usize) {
        let at = 4 * item as usize;
        (self.number(at) as usize, self.number(at + 4) as usize)
    }

    fn column(&self, entry: usize) -> u32 {
        self.number(4 * (self.items + 1 + entry))
    }

    fn weight(&self, entry: usize) -> f32 {
        f32::from_bits(self.number(4 * (self.items + 1 + self.entries + entry)))
    }

    /// The items of a row with their weights, ascending by item. An item that is none is passed over.
    pub fn row(&self, item: u32) -> impl Iterator<Item = (u32, f32)> + '_ {
        let (from, to) = self.bounds(item);
        (from..to)
            .map(|entry| (self.column(entry), self.weight(entry)))
            .filter(|(column, _)| (*column as usize) < self.items)
    }

    /// The weight of one item in a row; 0 where it is not in it.
    #[must_use]
    pub fn at(&self, item: u32, wanted: u32) -> f32 {
        let (mut from, mut to) = self.bounds(item);
        while from < to {
            let middle = from.midpoint(to);
            match self.column(middle).cmp(&wanted) {
                std::cmp::Ordering::Equal => return self.weight(middle),
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Greater => to = middle,
            }
        }
        0.0
    }
}

/// Where a source's evidence comes from.
pub enum Evidence {
    /// A table, the sooner a history's item was taken the more it counts: (place from the end)^-recency.
    Table {
        /// Its rows.
        table: Table,
        /// Exponent.
        recency: f64,
    },
    /// How often each item was taken.
    Popularity,
    /// The sequence model.
    Sequence(Network),
}

/// A sequence model with the vectors of its items: an item's is its row times its scale.
pub struct Network {
    model: Sequence,
    rows: Mmap,
    scales: Vec<f32>,
    width: usize,
    positions: usize,
}

impl Network {
    fn open(folder: &Path, library: &Path, items: usize, source: &SourceDescribed) -> Result<Self> {
        let (width, positions) = (source.width, source.positions);
        let path = folder.join("sequence/items.bin");
        let refuse = |what: String| Error::Bundle(format!("{}: {what}", path.display()));
        let file = File::open(&path).map_err(|error| refuse(error.to_string()))?;
        // SAFETY: files of a bundle are never changed in place, and the length is checked below, on the map itself.
        let rows = unsafe { Mmap::map(&file) }.map_err(|error| refuse(error.to_string()))?;
        if width == 0 || positions == 0 || Some(rows.len()) != items.checked_mul(width) {
            return Err(refuse(format!(
                "{} bytes for {items} vectors of {width}",
                rows.len()
            )));
        }
        Ok(Self {
            model: Sequence::open(folder.join("sequence/model.onnx"), library, width)?,
            rows,
            scales: floats(&folder.join("sequence/scales.bin"), items)?,
            width,
            positions,
        })
    }

    fn row(&self, item: usize) -> &[u8] {
        &self.rows[item * self.width..(item + 1) * self.width]
    }

    /// The softmax over the items that may be named, `[items]`, of the latest of a history, which holds at least one.
    ///
    /// # Errors
    /// `Internal` if the model fails.
    pub fn evidence(&self, history: &[u32]) -> Result<Vec<f32>> {
        let latest = &history[history.len().saturating_sub(self.positions)..];
        let mut vectors = Vec::with_capacity(latest.len() * self.width);
        for item in latest {
            let item = *item as usize;
            let scale = self.scales[item];
            vectors.extend(
                self.row(item)
                    .iter()
                    .map(|value| scale * f32::from(value.cast_signed())),
            );
        }
        let state = self.model.state(&vectors)?;
        let mut scores: Vec<f32> = (0..self.scales.len())
            .map(|item| {
                if self.scales[item] == 0.0 {
                    return f32::NEG_INFINITY;
                }
                let products = self.row(item).iter().zip(&state);
                let sum: f32 = products
                    .map(|(value, state)| f32::from(value.cast_signed()) * state)
                    .sum();
                self.scales[item] * sum
            })
            .collect();
        let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if greatest == f32::NEG_INFINITY {
            scores.fill(0.0);
            return Ok(scores);
        }
        scores
            .iter_mut()
            .for_each(|score| *score = (*score - greatest).exp());
        let sum: f32 = scores.iter().sum();
        scores.iter_mut().for_each(|score| *score /= sum);
        Ok(scores)
    }
}

/// One source of the mixture.
pub struct Source {
    /// Name, as the card lists it.
    pub name: String,
    /// In the mixture.
    pub weight: f64,
    /// Evidence for nothing known.
    pub doubt: f64,
    /// Its evidence.
    pub evidence: Evidence,
}

/// The learnt order of the first candidates.
pub struct Order {
    /// Its trees.
    pub forest: Forest,
    /// What each of its features reads.
    pub reads: Vec<Read>,
    /// Candidates that it orders.
    pub candidates: usize,
}

/// What a feature of the learnt order reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// The logarithm of a source's share, by the source's place.
    Share(usize),
    /// The logarithm of the mixture.
    Mixture,
    /// Items of the history.
    History,
}

/// An opened section.
pub struct Section {
    /// Ids of the items, by place.
    pub item_ids: Vec<String>,
    places: HashMap<String, u32>,
    /// How often each was taken; empty without a source of popularity.
    pub popularity: Vec<f32>,
    /// Places by popularity, most first, ties by place.
    pub popular: Vec<u32>,
    /// Sum of `popularity`.
    pub popularity_sum: f64,
    /// Items of a history that are read, the latest.
    pub history_max: usize,
    /// Sources, in the section's order.
    pub sources: Vec<Source>,
    /// The learnt order.
    pub order: Option<Order>,
    /// One of the sources is a sequence model.
    pub sequence: bool,
    /// nDCG@10 of each tier as a share of the best one's that there is, from the card; `None`: not measured.
    pub worths: [Option<f64>; Tier::ALL.len()],
}

impl Section {
    /// Opens the section in `folder`; `library`: of ONNX Runtime, which is loaded where there is a sequence model.
    ///
    /// # Errors
    /// `Bundle`, naming the file.
    pub fn open(folder: &Path, library: &Path) -> Result<Self> {
        let read = |name: &str| {
            std::fs::read_to_string(folder.join(name))
                .map_err(|error| Error::Bundle(format!("recommend/{name}: {error}")))
        };
        let described: Described = parse_json("recommend/section.json", &read("section.json")?)?;
        let refuse = |what: String| Error::Bundle(format!("recommend/section.json: {what}"));
        if described.schema_version != SCHEMA_VERSION {
            let version = described.schema_version;
            return Err(refuse(format!(
                "schema version {version}, this software reads {SCHEMA_VERSION}"
            )));
        }
        let Items { item_ids } = parse_json("recommend/items.json", &read("items.json")?)?;
        if item_ids.len() != described.items || !(1..=ITEMS_MAX).contains(&item_ids.len()) {
            return Err(refuse(format!(
                "{} ids for {} items",
                item_ids.len(),
                described.items
            )));
        }
        let mut popularity = Vec::new();
        let mut sources = Vec::with_capacity(described.sources.len());
        for source in described.sources {
            if !(source.weight.is_finite()
                && source.recency.is_finite()
                && source.doubt.is_finite())
            {
                return Err(refuse(format!("{} has a number that is none", source.name)));
            }
            let evidence = match source.kind {
                Kind::Table => {
                    let path = folder.join(format!("tables/{}.bin", source.name));
                    let table = Table::open(&path, described.items, source.entries)?;
                    Evidence::Table {
                        table,
                        recency: source.recency,
                    }
                }
                Kind::Popularity => {
                    popularity = floats(&folder.join("popularity.bin"), described.items)?;
                    Evidence::Popularity
                }
                Kind::Sequence => {
                    Evidence::Sequence(Network::open(folder, library, described.items, &source)?)
                }
            };
            sources.push(Source {
                name: source.name,
                weight: source.weight,
                doubt: source.doubt,
                evidence,
            });
        }
        let sequence = sources
            .iter()
            .any(|source| matches!(source.evidence, Evidence::Sequence(_)));
        let order = if described.candidates > 0 {
            let forest = Forest::parse(&read("order.txt")?)
                .map_err(|error| Error::Bundle(format!("recommend/order.txt: {error}")))?;
            let reads = reads(&forest, &sources).map_err(refuse)?;
            Some(Order {
                forest,
                reads,
                candidates: described.candidates,
            })
        } else {
            None
        };
        let card: Card = parse_json("recommend/card.json", &read("card.json")?).unwrap_or_default();
        let places: HashMap<String, u32> = item_ids.iter().cloned().zip(0..).collect();
        if places.len() != item_ids.len() {
            return Err(refuse("an item has two places".to_owned()));
        }
        #[allow(clippy::cast_possible_truncation, reason = "at most ITEMS_MAX")]
        let mut popular: Vec<u32> = (0..popularity.len() as u32).collect();
        popular.sort_by(|a, b| {
            popularity[*b as usize]
                .total_cmp(&popularity[*a as usize])
                .then(a.cmp(b))
        });
        Ok(Self {
            places,
            popular,
            popularity_sum: popularity.iter().copied().map(f64::from).sum(),
            popularity,
            history_max: described.history_max.max(1),
            sources,
            worths: worths(&card, order.is_some(), sequence),
            order,
            sequence,
            item_ids,
        })
    }

    /// The place of an item.
    #[must_use]
    pub fn place(&self, product_id: &str) -> Option<u32> {
        self.places.get(product_id).copied()
    }

    /// True: nobody took the item in what the section knows.
    #[must_use]
    pub fn is_new(&self, item: u32) -> bool {
        self.popularity
            .get(item as usize)
            .is_some_and(|count| *count == 0.0)
    }
}

/// What the tiers are worth; of a card that does not tell of tiers, the best one and the whole mixture.
fn worths(card: &Card, ordered: bool, sequence: bool) -> [Option<f64>; Tier::ALL.len()] {
    let whole = if sequence {
        Tier::Sequence
    } else {
        Tier::Mixture
    };
    let best = if ordered { Tier::Ordered } else { whole };
    let share = |part: &Measured, of: &Measured| {
        let share = part.mean / of.mean;
        share.is_finite().then(|| share.clamp(0.0, 1.0))
    };
    let mut worths = match card.tiers.get(best.as_str()) {
        Some(most) => Tier::ALL.map(|tier| share(card.tiers.get(tier.as_str())?, most)),
        None => [None; Tier::ALL.len()],
    };
    if worths[whole as usize].is_none()
        && let (Some(mixture), Some(order)) =
            (&card.order.mixture_ndcg10, &card.order.ordered_ndcg10)
    {
        worths[whole as usize] = share(mixture, order);
    }
    worths[best as usize] = Some(1.0);
    worths
}

fn reads(forest: &Forest, sources: &[Source]) -> std::result::Result<Vec<Read>, String> {
    let read = |name: &String| match name.as_str() {
        MIXTURE_SIGNAL => Ok(Read::Mixture),
        HISTORY_SIGNAL => Ok(Read::History),
        other => sources
            .iter()
            .position(|source| source.name == other)
            .map(Read::Share)
            .ok_or_else(|| format!("the order reads {other}, which is no source")),
    };
    forest.feature_names().iter().map(read).collect()
}

fn floats(path: &Path, count: usize) -> Result<Vec<f32>> {
    let refuse = |what: String| Error::Bundle(format!("{}: {what}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    if bytes.len() != 4 * count {
        return Err(refuse(format!("{} bytes for {count} numbers", bytes.len())));
    }
    let numbers: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    if numbers
        .iter()
        .any(|number| !number.is_finite() || *number < 0.0)
    {
        return Err(refuse("a number is below 0 or none".to_owned()));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(card: &str, ordered: bool, sequence: bool) -> [Option<f64>; Tier::ALL.len()] {
        let card: Card = serde_json::from_str(card).expect("a card");
        worths(&card, ordered, sequence)
    }

    const TIERS: &str = r#"{"tiers": {"popularity": {"ndcg10": 0.1, "low": 0.0, "high": 0.2}, "similar": {"ndcg10": 0.0},
        "mixture": {"ndcg10": 0.3}, "sequence": {"ndcg10": 0.4}, "ordered": {"ndcg10": 0.5}},
        "order": {"mixture_ndcg10": {"mean": 0.9}, "ordered_ndcg10": {"mean": 1.0}}}"#;

    #[test]
    fn each_tier_is_worth_its_share_of_the_best_one() {
        let found = of(TIERS, true, true).map(|worth| worth.expect("measured"));
        for (found, expected) in found.into_iter().zip([0.2, 0.0, 0.6, 0.8, 1.0]) {
            assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
        }
        let best = of(TIERS, false, false);
        assert_eq!((best[2], best[0]), (Some(1.0), Some(0.1 / 0.3)));
    }

    #[test]
    fn a_card_that_does_not_tell_of_tiers_is_read_and_says_what_it_knows() {
        let old =
            r#"{"order": {"mixture_ndcg10": {"mean": 0.4}, "ordered_ndcg10": {"mean": 0.5}}}"#;
        assert_eq!(
            of(old, true, false),
            [None, None, Some(0.8), None, Some(1.0)]
        );
        assert_eq!(
            of(old, true, true),
            [None, None, None, Some(0.8), Some(1.0)]
        );
        assert_eq!(of("{}", false, true), [None, None, None, Some(1.0), None]);
    }

    #[test]
    fn numbers_that_say_nothing_are_not_told() {
        let none = r#"{"tiers": {"popularity": {"mean": 0.0}, "mixture": {"mean": 0.0}}}"#;
        assert_eq!(of(none, false, false), [None, None, Some(1.0), None, None]);
    }
}
