//! Scores of items for one history: evidence, shares, mixture, learnt order.
//!
//! The formulas are those of docs/bundle-format.md; `training/recommend` computes the same with matrices, and a test compares
//! the two. Items are numbered by their place in the section.

use std::cell::RefCell;

use super::section::{Evidence, Read, Section};
use crate::error::Result;

/// No share is divided by less.
const LEAST: f64 = 1e-20;
/// Signals are logarithms of at least this.
const SIGNAL_LEAST: f32 = 1e-9;
const NONE: u32 = u32::MAX;

/// Which candidate an item is, for all items: kept by each thread, cleaned item by item.
struct Slots(Vec<u32>);

thread_local! {
    static SLOTS: RefCell<Slots> = const { RefCell::new(Slots(Vec::new())) };
}

/// Items with what each source says of them. A share is at most 1 over all items.
pub struct Scored<'a> {
    section: &'a Section,
    /// The history's items that were read, oldest first.
    history: Vec<u32>,
    /// All of the history's items, each once, ascending.
    taken: Vec<u32>,
    /// Items of the whole history.
    length: usize,
    /// The items that something speaks for, with their mixture, best first, ties by place.
    pub ranked: Vec<(u32, f64)>,
    /// Per source: by what its evidence is divided.
    divisors: Vec<f64>,
    /// Per source: the evidence for all items, where a network was run for it; else empty.
    networks: Vec<Vec<f32>>,
    repeats: bool,
}

/// How much is computed.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// What is in the history may be named.
    pub repeats: bool,
    /// The sequence model is run, where there is one.
    pub network: bool,
    /// Items kept at most, the best ones.
    pub kept: usize,
}

impl<'a> Scored<'a> {
    /// Scores all items for a history.
    ///
    /// `history`: places of items, oldest first; of more than `history_max` the latest are read.
    ///
    /// # Errors
    /// `Internal` if the sequence model fails.
    pub fn new(section: &'a Section, history: &[u32], extent: Extent) -> Result<Self> {
        SLOTS.with_borrow_mut(|slots| Self::with(section, history, extent, &mut slots.0))
    }

    fn with(
        section: &'a Section,
        all: &[u32],
        extent: Extent,
        slots: &mut Vec<u32>,
    ) -> Result<Self> {
        let Extent {
            repeats,
            network,
            kept,
        } = extent;
        let networks = section
            .sources
            .iter()
            .map(|source| match &source.evidence {
                Evidence::Sequence(model) if network && !all.is_empty() => model.evidence(all),
                _ => Ok(Vec::new()),
            })
            .collect::<Result<Vec<_>>>()?;
        let dense = networks.iter().any(|evidence| !evidence.is_empty());
        let history = all[all.len().saturating_sub(section.history_max)..].to_vec();
        let mut taken = all.to_vec();
        taken.sort_unstable();
        taken.dedup();
        if slots.len() < section.item_ids.len() {
            slots.resize(section.item_ids.len(), NONE);
        }
        let mut items: Vec<u32> = Vec::new();
        let mut mixture: Vec<f64> = Vec::new();
        let mut evidence: Vec<f32> = Vec::new();
        let mut divisors = Vec::with_capacity(section.sources.len());
        let left_out = |item: u32| !repeats && taken.binary_search(&item).is_ok();
        let gone: f64 = taken.iter().map(|item| popularity(section, *item)).sum();
        let kept_popularity = section.popularity_sum - if repeats { 0.0 } else { gone };
        for (source, network) in section.sources.iter().zip(&networks) {
            let Evidence::Table { table, recency } = &source.evidence else {
                let all: f64 = network.iter().copied().map(f64::from).sum();
                let gone = taken.iter().filter_map(|item| network.get(*item as usize));
                let gone: f64 = gone.copied().map(f64::from).sum();
                divisors.push(match source.evidence {
                    Evidence::Popularity => (kept_popularity + source.doubt).max(LEAST),
                    _ => (all - if repeats { 0.0 } else { gone } + source.doubt).max(LEAST),
                });
                continue;
            };
            evidence.clear();
            evidence.resize(items.len(), 0.0);
            for (at, item) in history.iter().enumerate() {
                let counts = recent(history.len() - at, *recency);
                for (column, weight) in table.row(*item) {
                    let slot = &mut slots[column as usize];
                    if *slot == NONE {
                        #[allow(
                            clippy::cast_possible_truncation,
                            reason = "at most as many as items"
                        )]
                        {
                            *slot = items.len() as u32;
                        }
                        items.push(column);
                        mixture.push(0.0);
                        evidence.push(0.0);
                    }
                    evidence[*slot as usize] += counts * weight;
                }
            }
            for (item, speaks) in items.iter().zip(&mut evidence) {
                if *speaks > 0.0 && left_out(*item) {
                    *speaks = 0.0;
                }
            }
            let sum: f64 = evidence.iter().copied().map(f64::from).sum();
            let divisor = (sum + source.doubt).max(LEAST);
            divisors.push(divisor);
            for (mixed, speaks) in mixture.iter_mut().zip(&evidence) {
                *mixed += source.weight * f64::from(*speaks) / divisor;
            }
        }
        // What only popularity speaks for comes in its order; what a network speaks for may be anything.
        let mut more = if dense { usize::MAX } else { kept };
        #[allow(clippy::cast_possible_truncation, reason = "places are 32 bits")]
        let all_items = (0..if dense { section.item_ids.len() } else { 0 }).map(|item| item as u32);
        for item in section.popular.iter().copied().chain(all_items) {
            if more == 0 {
                break;
            }
            let spoken_for = dense || popularity(section, item) > 0.0;
            if slots[item as usize] == NONE && !left_out(item) && spoken_for {
                slots[item as usize] = 0;
                items.push(item);
                mixture.push(0.0);
                more -= 1;
            }
        }
        for item in &items {
            slots[*item as usize] = NONE;
        }
        for (at, source) in section.sources.iter().enumerate() {
            let network = &networks[at];
            let speaks = |item: u32| match source.evidence {
                Evidence::Popularity => popularity(section, item),
                _ => network.get(item as usize).copied().map_or(0.0, f64::from),
            };
            if matches!(source.evidence, Evidence::Popularity) || !network.is_empty() {
                for (item, mixed) in items.iter().zip(&mut mixture) {
                    *mixed += source.weight * speaks(*item) / divisors[at];
                }
            }
        }
        let mut ranked: Vec<(u32, f64)> = items
            .into_iter()
            .zip(mixture)
            .filter(|(item, mixed)| *mixed > 0.0 && !left_out(*item))
            .collect();
        let order = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if ranked.len() > kept && kept > 0 {
            ranked.select_nth_unstable_by(kept - 1, order);
        }
        ranked.truncate(kept);
        ranked.sort_unstable_by(order);
        Ok(Self {
            section,
            history,
            length: all.len(),
            taken,
            ranked,
            divisors,
            networks,
            repeats,
        })
    }

    /// What each source says of an item: its share, 0 for an item that is left out.
    #[must_use]
    pub fn shares(&self, item: u32) -> Vec<f64> {
        let mut shares = vec![0.0; self.section.sources.len()];
        if self.repeats || self.taken.binary_search(&item).is_err() {
            self.parts(item, |source, _, share| shares[source] += share);
        }
        shares
    }

    /// What each item of the history adds to each source's share of an item: source, place in the history (`None`: the source
    /// reads none), share.
    pub fn parts(&self, item: u32, mut part: impl FnMut(usize, Option<usize>, f64)) {
        for (at, source) in self.section.sources.iter().enumerate() {
            match &source.evidence {
                Evidence::Table { table, recency } => {
                    for (place, taken) in self.history.iter().enumerate() {
                        let weight = table.at(*taken, item);
                        if weight > 0.0 {
                            let counts = recent(self.history.len() - place, *recency);
                            part(
                                at,
                                Some(place),
                                f64::from(counts * weight) / self.divisors[at],
                            );
                        }
                    }
                }
                Evidence::Popularity => {
                    part(at, None, popularity(self.section, item) / self.divisors[at]);
                }
                Evidence::Sequence(_) => {
                    if let Some(speaks) = self.networks[at].get(item as usize) {
                        part(at, None, f64::from(*speaks) / self.divisors[at]);
                    }
                }
            }
        }
    }

    /// The history's items that were read, oldest first.
    #[must_use]
    pub fn history(&self) -> &[u32] {
        &self.history
    }

    /// What the learnt order reads of an item, in the order of its features; NaN: no share.
    #[must_use]
    pub fn signals(&self, item: u32, reads: &[Read]) -> Vec<f64> {
        let shares = self.shares(item);
        let mixed: f64 = self
            .section
            .sources
            .iter()
            .zip(&shares)
            .map(|(source, share)| source.weight * share)
            .sum();
        reads
            .iter()
            .map(|read| match read {
                Read::Share(source) if shares[*source] > 0.0 => log(shares[*source]),
                Read::Share(_) => f64::NAN,
                Read::Mixture => log(mixed),
                #[allow(clippy::cast_precision_loss, reason = "at most some thousands")]
                Read::History => self.length as f64,
            })
            .collect()
    }
}

/// As training computes it: in single precision.
#[allow(clippy::cast_possible_truncation)]
fn log(share: f64) -> f64 {
    f64::from((share as f32).max(SIGNAL_LEAST).ln())
}

/// What an item of the history counts, by its place from the end, from 1.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
pub fn recent(from_end: usize, recency: f64) -> f32 {
    (from_end as f32).powf(-recency as f32)
}

fn popularity(section: &Section, item: u32) -> f64 {
    section
        .popularity
        .get(item as usize)
        .copied()
        .map_or(0.0, f64::from)
}
