//! Scores the rows of an index for a query, window by window.

use std::cell::RefCell;

use tantivy::postings::BlockSegmentPostings;

use super::{LexicalIndex, Scoring, settle, stem_score, weighted};
use crate::error::Result;
use crate::retrieve::Row;

/// More than what a sum of [`super::QUERY_WORDS_MAX`] scores can be off by, as a share of it.
const ROUNDING: f32 = 1e-5;
/// Rows scored at a time: their sums stay in the cache.
const WINDOW_ROWS: usize = if cfg!(test) { 64 } else { 2_048 };
/// Rows whose sums are looked at together.
const GROUP_ROWS: usize = 16;
/// As [`WINDOW_ROWS`], where few rows of a window are touched and the others are passed over.
const SPARSE_WINDOW_ROWS: usize = 8 * WINDOW_ROWS;
/// A pass over all rows of a window, many at a time, costs as much as visiting one row in so many alone.
const SPARSE_SHARE: usize = 16;
/// Rows of a posting list that are read in the time of looking one up.
const LOOK_UP_COST: usize = 8;

/// A posting list of the generation, read once from its first row to its last.
struct Cursor<'a> {
    postings: BlockSegmentPostings,
    at: usize,
    norms: &'a [u8],
    occurrence: &'a [f32; 256],
}

impl Cursor<'_> {
    /// Adds the weighted frequencies of the rows below `end` to `frequencies`, whose first entry is row
    /// `start`. first: called with the place of each row that had none before. False: there is no row.
    fn add_until(
        &mut self,
        start: Row,
        end: Row,
        frequencies: &mut [f32],
        mut first: impl FnMut(u32),
    ) -> bool {
        let mut any = false;
        loop {
            let docs = &self.postings.docs()[self.at..];
            let counts = &self.postings.freqs()[self.at..];
            let inside = if docs.last().is_some_and(|&last| last < end) {
                docs.len()
            } else {
                docs.partition_point(|&row| row < end)
            };
            any |= inside > 0;
            for (&row, &count) in docs[..inside].iter().zip(&counts[..inside]) {
                let norm = self.norms[row as usize];
                let frequency = &mut frequencies[(row - start) as usize];
                if *frequency == 0.0 {
                    first(row - start);
                }
                *frequency += weighted(self.occurrence, norm, count);
            }
            if inside < docs.len() || docs.is_empty() {
                self.at += inside;
                return any;
            }
            self.postings.advance();
            self.at = 0;
        }
    }

    /// Passes over the rows below `row`.
    fn skip_to(&mut self, row: Row) {
        self.at = self.postings.seek(row);
    }

    /// Adds the weighted frequency of one row, which must not lie before earlier ones.
    fn add_one(&mut self, row: Row, frequency: &mut f32) {
        self.at = self.postings.seek(row);
        if self.postings.docs().get(self.at) == Some(&row) {
            let norm = self.norms[row as usize];
            *frequency += weighted(self.occurrence, norm, self.postings.freq(self.at));
        }
    }
}

/// The posting lists of one stem, in the order of [`super::FIELDS`].
struct StemCursors<'a> {
    weight: f32,
    fields: Vec<Cursor<'a>>,
}

/// What is known of the rows of one window.
#[derive(Default)]
struct Window {
    /// Of the stem at hand; 0 between two stems.
    frequencies: Vec<f32>,
    /// Scores of the stems so far.
    sums: Vec<f32>,
    /// Places of the rows that the stem at hand has, where rows are visited alone.
    touched: Vec<u32>,
    /// Places of the rows that any stem so far has, where rows are visited alone.
    scored: Vec<u32>,
    /// Rows that may still enter the result.
    near: Vec<Row>,
}

thread_local! {
    static WINDOW: RefCell<Window> = RefCell::default();
}

/// Scores the index window by window. Once the result is full, stems whose weights together cannot lift a
/// row over the worst result are looked up only for rows that other stems brought near enough.
pub(super) fn search_index(
    index: &LexicalIndex,
    scoring: &Scoring<'_>,
    best: &mut Best,
    accept: &impl Fn(Row) -> bool,
) -> Result<()> {
    let mut stems: Vec<StemCursors<'_>> = Vec::with_capacity(scoring.stems.len());
    for stem in &scoring.stems {
        let mut fields = Vec::with_capacity(stem.clauses.len());
        for clause in &stem.clauses {
            if let Some(info) = &clause.info {
                fields.push(Cursor {
                    postings: index.postings(clause.field, info, true)?,
                    at: 0,
                    norms: &index.norms[clause.field],
                    occurrence: scoring.occurrence(clause),
                });
            }
        }
        if !fields.is_empty() {
            let weight = stem.weight;
            stems.push(StemCursors { weight, fields });
        }
    }
    // What the stems from each place on can add at most; a little above, as sums are rounded.
    let mut reach = vec![0.0_f32; stems.len() + 1];
    for at in (0..stems.len()).rev() {
        reach[at] = (reach[at + 1] + stems[at].weight) * (1.0 + ROUNDING);
    }
    WINDOW.with_borrow_mut(|window| {
        let Window {
            frequencies,
            sums,
            touched,
            scored,
            near,
        } = window;
        frequencies.resize(SPARSE_WINDOW_ROWS, 0.0);
        sums.resize(SPARSE_WINDOW_ROWS, 0.0);
        let mut start = 0;
        while start < index.documents {
            let floor = best.floor();
            // A row that only the stems from `essential` on have cannot enter.
            let essential = reach.partition_point(|&reach| reach >= floor);
            if essential == 0 {
                break;
            }
            let essential = essential.min(stems.len());
            let (first, rest) = stems.split_at_mut(essential);
            let postings: usize = first
                .iter()
                .flat_map(|stem| &stem.fields)
                .map(|cursor| cursor.postings.doc_freq() as usize)
                .sum();
            let sparse = postings * SPARSE_SHARE < index.documents;
            let rows = if sparse {
                SPARSE_WINDOW_ROWS
            } else {
                WINDOW_ROWS
            };
            let end = (start + rows).min(index.documents);
            let frequencies = &mut frequencies[..end - start];
            let sums = &mut sums[..end - start];
            // What a row must have before the stems from a place on, or it cannot enter.
            let least = |place: usize| floor * (1.0 - ROUNDING) - reach[place];
            near.clear();
            let enough = least(essential);
            if sparse {
                scored.clear();
                for stem in first {
                    touched.clear();
                    for cursor in &mut stem.fields {
                        cursor.add_until(start as Row, end as Row, frequencies, |place| {
                            touched.push(place);
                        });
                    }
                    for &place in touched.iter() {
                        let sum = &mut sums[place as usize];
                        if *sum == 0.0 {
                            scored.push(place);
                        }
                        *sum += stem_score(stem.weight, frequencies[place as usize]);
                        frequencies[place as usize] = 0.0;
                    }
                }
                near.extend(scored.iter().filter_map(|&place| {
                    let row = start as Row + place;
                    (sums[place as usize] >= enough && accept(row)).then_some(row)
                }));
                // Stems are looked up in the order of rows.
                near.sort_unstable();
            } else {
                for stem in first {
                    let mut any = false;
                    for cursor in &mut stem.fields {
                        any |= cursor.add_until(start as Row, end as Row, frequencies, |_| {});
                    }
                    if any {
                        settle(stem.weight, frequencies, sums);
                    }
                }
                // Most rows have nothing, and to see that of many at once is far cheaper than to ask each.
                let least_sum = enough.max(f32::from_bits(1));
                for (group, sums) in sums.chunks(GROUP_ROWS).enumerate() {
                    if !sums
                        .iter()
                        .fold(false, |any, &sum| any | (sum >= least_sum))
                    {
                        continue;
                    }
                    let from = start + group * GROUP_ROWS;
                    near.extend(sums.iter().enumerate().filter_map(|(at, &sum)| {
                        let row = (from + at) as Row;
                        (sum >= least_sum && accept(row)).then_some(row)
                    }));
                }
            }
            for (later, stem) in rest.iter_mut().enumerate() {
                let enough = least(essential + later);
                near.retain(|&row| sums[row as usize - start] >= enough);
                if near.is_empty() {
                    break;
                }
                for cursor in &mut stem.fields {
                    // Looking a row up costs about as much as reading a few rows in passing.
                    let passed =
                        cursor.postings.doc_freq() as usize * (end - start) / index.documents;
                    if near.len() * LOOK_UP_COST < passed {
                        for &row in near.iter() {
                            cursor.add_one(row, &mut frequencies[row as usize - start]);
                        }
                    } else {
                        cursor.skip_to(start as Row);
                        cursor.add_until(start as Row, end as Row, frequencies, |_| {});
                    }
                }
                for &row in near.iter() {
                    let at = row as usize - start;
                    sums[at] += stem_score(stem.weight, frequencies[at]);
                }
                frequencies.fill(0.0);
            }
            for &row in near.iter() {
                let sum = sums[row as usize - start];
                if best.admits(sum, row) {
                    best.push(sum, row);
                }
            }
            if sparse {
                for &place in scored.iter() {
                    sums[place as usize] = 0.0;
                }
            } else {
                sums.fill(0.0);
            }
            start = end;
        }
    });
    Ok(())
}

/// The best rows so far. Order: score falling, then row rising.
pub(super) struct Best {
    width: usize,
    rows: Vec<(f32, Row)>,
    /// Once full: the worst of the best `width`. Rows at or past it cannot enter.
    worst: Option<(f32, Row)>,
}

impl Best {
    pub(super) fn new(width: usize) -> Self {
        Self {
            width,
            rows: Vec::with_capacity(2 * width.min(1 << 16)),
            worst: None,
        }
    }

    /// Scores below this cannot enter.
    fn floor(&self) -> f32 {
        match self.worst {
            Some((score, _)) => score,
            None if self.width == 0 => f32::INFINITY,
            None => f32::MIN_POSITIVE,
        }
    }

    pub(super) fn admits(&self, score: f32, row: Row) -> bool {
        match self.worst {
            Some((worst, last)) => score > worst || (score == worst && row < last),
            None => score > 0.0 && self.width > 0,
        }
    }

    pub(super) fn push(&mut self, score: f32, row: Row) {
        self.rows.push((score, row));
        if self.rows.len() >= 2 * self.width {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.rows.len() > self.width {
            self.rows.select_nth_unstable_by(self.width - 1, better);
            self.rows.truncate(self.width);
        }
        if self.rows.len() == self.width {
            self.worst = self.rows.iter().copied().max_by(better);
        }
    }

    pub(super) fn into_sorted(mut self) -> Vec<(Row, f32)> {
        self.cut();
        self.rows.sort_unstable_by(better);
        self.rows
            .into_iter()
            .map(|(score, row)| (row, score))
            .collect()
    }
}

fn better(left: &(f32, Row), right: &(f32, Row)) -> std::cmp::Ordering {
    right.0.total_cmp(&left.0).then(left.1.cmp(&right.1))
}
