//! BM25F over the text fields: the generation's tantivy index and, beside it, a small inverted index in
//! memory for rows that are newer, scored with one set of statistics.
//!
//! For each distinct stem of the query,
//!
//! ```text
//! x      = sum over fields of boost x occurrences / (1 - b + b x length / mean length)
//! score += idf x (k1 + 1) x x / (x + k1)        idf = ln(1 + (N - df + 0.5) / (df + 0.5))
//! ```
//!
//! so fields are weighed before occurrences saturate: a word that stands in many fields counts as one word
//! found often, where a sum of one BM25 a field would reward it as many words found. N is the number of live
//! products; mean lengths are over all of them, those without the field included; df is the greatest number
//! of live carriers in any one field with a boost (as in Lucene's `CombinedFieldQuery`), because the exact
//! number of carriers in all would need a pass over the postings. One b holds for all fields.
//!
//! The statistics are those of the live products alone: rows that were replaced or deleted leave the
//! counts as well as the results, so a score is the same before and after changes are folded into a new
//! generation. Sums run in one fixed order, of stems and of fields within a stem, so they agree to the last
//! bit whether the row lies in the generation or in the delta.
//!
//! Chinese, Japanese and Korean text sets no spaces between words, so there each pair of neighbouring
//! characters counts as a word (the usual way to search it without a dictionary, as in Lucene's `CJKBigramFilter`).
//!
//! Source: Robertson, Zaragoza & Taylor 2004, "Simple BM25 Extension to Multiple Weighted Fields";
//! Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", 3.6. Stems are
//! skipped as in Turtle & Flood 1995 (MaxScore).

mod scan;
mod words;
mod writer;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::index::InvertedIndexReader;
use tantivy::postings::{BlockSegmentPostings, TermInfo};
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::{Index, SegmentReader, Term};

use crate::account::Match;
use crate::error::{Error, Result};
use crate::wire;

use super::Row;

use scan::{Best, search_index};
pub use words::{ANALYSER, for_each_stem, query_stems};
use words::{Hashed, for_each_key, key};
pub use writer::LexicalWriter;

/// Fields of a product that are searched, in the order of their boosts.
pub const FIELDS: [&str; 6] = [
    "title",
    "brand",
    "category",
    "bullets",
    "description",
    "attributes",
];
const FIELD_COUNT: usize = FIELDS.len();

/// Distinct words of a query that are looked up; of longer queries the rarest count.
pub const QUERY_WORDS_MAX: usize = 32;

/// How soon occurrences saturate: at a weighted frequency of k1, half of what a stem can score is reached.
const K1: f32 = 0.9;
/// How much of a field's length counts, from 0 (nothing) to 1 (occurrences become shares).
const B: f32 = 0.75;
/// The lengths that end each file of the index.
const FOOTER_BYTES_MIN: u64 = 8;

/// The text of each field, in the order of [`FIELDS`].
pub fn field_texts(product: &wire::Product) -> [String; FIELD_COUNT] {
    let mut attributes: Vec<_> = product.attributes.iter().collect();
    attributes.sort();
    let mut pairs = String::new();
    for (name, value) in attributes {
        pairs.push_str(name);
        pairs.push(' ');
        pairs.push_str(value);
        pairs.push('\n');
    }
    [
        product.title.clone(),
        product.brand.clone(),
        product.category.join("\n"),
        product.bullets.join("\n"),
        product.description.clone(),
        pairs,
    ]
}

/// The stems of one product, counted per field.
#[derive(Debug, Default)]
pub struct Analysed {
    /// Each distinct stem of each field: key, field, occurrences.
    terms: Vec<(u64, u8, u32)>,
    lengths: [u32; FIELD_COUNT],
}

impl Analysed {
    /// Analyses the text fields.
    pub fn of(product: &wire::Product) -> Self {
        let mut found: Vec<(u64, u8)> = Vec::new();
        let mut lengths = [0; FIELD_COUNT];
        for (field, text) in field_texts(product).iter().enumerate() {
            for_each_key(text, |_, key| found.push((key, field as u8)));
            lengths[field] = (found.len() - lengths.iter().sum::<u32>() as usize) as u32;
        }
        found.sort_unstable();
        let terms = found
            .chunk_by(|left, right| left == right)
            .map(|same| (same[0].0, same[0].1, same.len() as u32))
            .collect();
        Self { terms, lengths }
    }
}

fn schema() -> (Schema, [Field; FIELD_COUNT]) {
    let mut builder = Schema::builder();
    let options = TextOptions::default().set_indexing_options(
        TextFieldIndexing::default()
            .set_tokenizer(ANALYSER)
            .set_index_option(IndexRecordOption::WithFreqs)
            .set_fieldnorms(true),
    );
    let fields = FIELDS.map(|name| builder.add_text_field(name, options.clone()));
    (builder.build(), fields)
}

/// The lexical index of a generation, memory-mapped.
pub struct LexicalIndex {
    documents: usize,
    fields: [Field; FIELD_COUNT],
    inverted: [Arc<InvertedIndexReader>; FIELD_COUNT],
    norms: [Vec<u8>; FIELD_COUNT],
}

impl LexicalIndex {
    /// Opens the index in `dir`, which must hold exactly `documents` rows in one segment.
    pub fn open(dir: &Path, documents: usize) -> Result<Self> {
        let refuse = |error: &dyn std::fmt::Display| {
            Error::Generation(format!("{}: {error}", dir.display()))
        };
        let (expected, fields) = schema();
        let index = Index::open_in_dir(dir).map_err(|error| refuse(&error))?;
        if index.schema() != expected {
            return Err(refuse(&"not a lexical index of this version"));
        }
        let segments = index
            .searchable_segments()
            .map_err(|error| refuse(&error))?;
        let [segment] = &segments[..] else {
            return Err(refuse(&format!("{} segments, expected 1", segments.len())));
        };
        // The library takes what it reads for sound and panics where it is not, so damage is found here.
        let metas = index.load_metas().map_err(|error| refuse(&error))?;
        for file in metas.list_segment_files() {
            let Ok(about) = dir.join(&file).metadata() else {
                continue;
            };
            // Its own check panics on a file that is too short for the lengths in its footer.
            let sound = about.len() >= FOOTER_BYTES_MIN
                && index
                    .directory()
                    .validate_checksum(&file)
                    .map_err(|error| refuse(&error))?;
            if !sound {
                return Err(refuse(&format!("{} is damaged", file.display())));
            }
        }
        let reader = SegmentReader::open(segment).map_err(|error| refuse(&error))?;
        if reader.max_doc() as usize != documents || reader.has_deletes() {
            return Err(refuse(&format!(
                "{} rows, expected {documents}",
                reader.num_docs()
            )));
        }
        let mut inverted = Vec::with_capacity(FIELD_COUNT);
        let mut norms = Vec::with_capacity(FIELD_COUNT);
        for field in fields {
            inverted.push(
                reader
                    .inverted_index(field)
                    .map_err(|error| refuse(&error))?,
            );
            let lengths = reader
                .get_fieldnorms_reader(field)
                .map_err(|error| refuse(&error))?;
            if lengths.num_docs() as usize != documents {
                return Err(refuse(&format!(
                    "lengths of {} rows, expected {documents}",
                    lengths.num_docs()
                )));
            }
            norms.push(
                (0..documents as u32)
                    .map(|row| lengths.fieldnorm_id(row))
                    .collect::<Vec<u8>>(),
            );
        }
        let six = "one entry for each field";
        Ok(Self {
            documents,
            fields,
            inverted: inverted.try_into().map_err(|_| six).expect(six),
            norms: norms.try_into().map_err(|_| six).expect(six),
        })
    }

    fn term_info(&self, field: usize, stem: &str) -> Result<Option<TermInfo>> {
        self.inverted[field]
            .get_term_info(&Term::from_field_text(self.fields[field], stem))
            .map_err(|error| Error::Internal(format!("lexical index: {error}")))
    }

    fn postings(
        &self,
        field: usize,
        info: &TermInfo,
        frequencies: bool,
    ) -> Result<BlockSegmentPostings> {
        let option = if frequencies {
            IndexRecordOption::WithFreqs
        } else {
            IndexRecordOption::Basic
        };
        self.inverted[field]
            .read_block_postings_from_terminfo(info, option)
            .map_err(|error| Error::Internal(format!("lexical index: {error}")))
    }
}

impl std::fmt::Debug for LexicalIndex {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LexicalIndex")
            .field("documents", &self.documents)
            .finish_non_exhaustive()
    }
}

/// One occurrence list entry of the delta.
#[derive(Debug, Clone, Copy)]
struct Posting {
    row: Row,
    count: u32,
    norm: u8,
}

/// Rows newer than the generation, and what has left the generation's counts.
#[derive(Debug, Default)]
pub struct LexicalDelta {
    terms: HashMap<u64, [Vec<Posting>; FIELD_COUNT], Hashed>,
    documents: usize,
    words: [u64; FIELD_COUNT],
    removed: HashMap<u64, [u32; FIELD_COUNT], Hashed>,
    removed_documents: usize,
    removed_words: [u64; FIELD_COUNT],
}

impl LexicalDelta {
    /// Adds a row. Rows must come in ascending order.
    pub fn add(&mut self, row: Row, analysed: &Analysed) {
        let norms = analysed.lengths.map(FieldNormReader::fieldnorm_to_id);
        for &(key, field, count) in &analysed.terms {
            let field = usize::from(field);
            self.terms.entry(key).or_default()[field].push(Posting {
                row,
                count,
                norm: norms[field],
            });
        }
        self.documents += 1;
        for (total, length) in self.words.iter_mut().zip(analysed.lengths) {
            *total += u64::from(length);
        }
    }

    /// Takes a row of the delta out again. analysed: the same text it was added with.
    pub fn remove(&mut self, row: Row, analysed: &Analysed) {
        for &(key, field, _) in &analysed.terms {
            if let Some(lists) = self.terms.get_mut(&key) {
                let list = &mut lists[usize::from(field)];
                if let Ok(at) = list.binary_search_by_key(&row, |posting| posting.row) {
                    list.remove(at);
                }
                if lists.iter().all(Vec::is_empty) {
                    self.terms.remove(&key);
                }
            }
        }
        self.documents -= 1;
        for (total, length) in self.words.iter_mut().zip(analysed.lengths) {
            *total -= u64::from(length);
        }
    }

    /// Takes a row of the generation out of the counts. analysed: its text as indexed.
    pub fn remove_indexed(&mut self, analysed: &Analysed) {
        for &(key, field, _) in &analysed.terms {
            self.removed.entry(key).or_default()[usize::from(field)] += 1;
        }
        self.removed_documents += 1;
        for (total, length) in self.removed_words.iter_mut().zip(analysed.lengths) {
            *total += u64::from(length);
        }
    }
}

/// Where a stem stands in one field.
struct Clause<'a> {
    field: usize,
    info: Option<TermInfo>,
    delta: &'a [Posting],
}

/// A distinct stem of a query that some live product carries in a field with a boost.
struct Carried<'a> {
    /// idf x (k1 + 1): what no row can exceed, as occurrences saturate.
    weight: f32,
    /// In the order of [`FIELDS`].
    clauses: Vec<Clause<'a>>,
}

/// What is searched: a generation's index, if there is one, and its delta.
#[derive(Clone, Copy)]
pub struct Lexical<'a> {
    /// The generation's index; its rows are 0 to its number of rows.
    pub index: Option<&'a LexicalIndex>,
    /// Newer rows; their numbers follow.
    pub delta: &'a LexicalDelta,
    /// Factor of each field, in the order of [`FIELDS`].
    pub boosts: &'a [f32; FIELD_COUNT],
}

/// A query against the live statistics, its stems by falling weight.
struct Scoring<'a> {
    stems: Vec<Carried<'a>>,
    /// Mean rarity of all words, those that no product has among them; 0 to 1.
    rarity: f32,
    /// For each field that a clause reads: the weight of one occurrence, by the code of the field's length.
    occurrence: [Option<Box<[f32; 256]>>; FIELD_COUNT],
}

impl Scoring<'_> {
    fn occurrence(&self, clause: &Clause<'_>) -> &[f32; 256] {
        self.occurrence[clause.field]
            .as_ref()
            .expect("built with its clause")
    }
}

/// Inverse document frequency of a word that so many of the documents have.
fn rarity(documents: u64, carriers: u64) -> f32 {
    let others = documents.saturating_sub(carriers) as f32;
    (1.0 + (others + 0.5) / (carriers as f32 + 0.5)).ln()
}

/// A field's part of a row's weighted frequency.
#[inline]
fn weighted(occurrence: &[f32; 256], norm: u8, count: u32) -> f32 {
    count as f32 * occurrence[norm as usize]
}

/// A stem's part of a row's score. frequency: the weighted one of all fields.
#[inline]
fn stem_score(weight: f32, frequency: f32) -> f32 {
    weight * (frequency / (frequency + K1))
}

/// Adds the scores of one stem to `sums` and leaves the weighted frequencies at 0 for the next stem.
/// Rows without the stem have a frequency of 0 and get 0: to pass over all rows is faster than to branch.
fn settle(weight: f32, frequencies: &mut [f32], sums: &mut [f32]) {
    for (frequency, sum) in frequencies.iter_mut().zip(sums) {
        *sum += stem_score(weight, *frequency);
        *frequency = 0.0;
    }
}

impl<'a> Lexical<'a> {
    fn documents(&self) -> usize {
        self.index.map_or(0, |index| index.documents) + self.delta.documents
            - self.delta.removed_documents
    }

    fn scoring(&self, query: &str) -> Result<Scoring<'a>> {
        const NONE: &[Posting] = &[];
        let documents = self.documents() as u64;
        let mut stems: Vec<(u64, Carried<'a>)> = Vec::new();
        let words = query_stems(query);
        let (asked, mut known, mut rarities) = (words.len(), 0, 0.0);
        for stem in words {
            let mut clauses = Vec::new();
            let mut most_common = 0;
            let key = key(&stem);
            let delta = self.delta.terms.get(&key);
            let removed = self.delta.removed.get(&key);
            for field in 0..FIELD_COUNT {
                if self.boosts[field] <= 0.0 {
                    continue;
                }
                let info = match self.index {
                    Some(index) => index.term_info(field, &stem)?,
                    None => None,
                };
                let newer = delta.map_or(NONE, |lists| &lists[field]);
                let carriers = (info.as_ref().map_or(0, |info| u64::from(info.doc_freq))
                    + newer.len() as u64)
                    .saturating_sub(removed.map_or(0, |counts| u64::from(counts[field])));
                if carriers == 0 {
                    continue;
                }
                most_common = most_common.max(carriers);
                clauses.push(Clause {
                    field,
                    info,
                    delta: newer,
                });
            }
            if !clauses.is_empty() {
                let rarity = rarity(documents, most_common);
                known += 1;
                rarities += rarity;
                let weight = rarity * (K1 + 1.0);
                stems.push((most_common, Carried { weight, clauses }));
            }
        }
        if stems.len() > QUERY_WORDS_MAX {
            stems.sort_by_key(|(carriers, _)| *carriers);
            stems.truncate(QUERY_WORDS_MAX);
        }
        let mut stems: Vec<Carried<'a>> = stems.into_iter().map(|(_, stem)| stem).collect();
        stems.sort_by(|left, right| right.weight.total_cmp(&left.weight));
        let mut occurrence: [Option<Box<[f32; 256]>>; FIELD_COUNT] = Default::default();
        for clause in stems.iter().flat_map(|stem| &stem.clauses) {
            if occurrence[clause.field].is_none() {
                occurrence[clause.field] = Some(self.occurrence_weights(clause.field));
            }
        }
        // As a share of what a word that nobody has would weigh, so that it does not grow with the catalogue.
        let rarity =
            (rarities / rarity(documents, 0) + (asked - known) as f32) / asked.max(1) as f32;
        Ok(Scoring {
            stems,
            rarity,
            occurrence,
        })
    }

    /// boost / (1 - b + b x length / mean length), by the code of the length.
    fn occurrence_weights(&self, field: usize) -> Box<[f32; 256]> {
        let words = self
            .index
            .map_or(0, |index| index.inverted[field].total_num_tokens())
            + self.delta.words[field];
        let words = words.saturating_sub(self.delta.removed_words[field]);
        let mean = (words as f32 / self.documents().max(1) as f32).max(f32::MIN_POSITIVE);
        let mut weights = Box::new([0.0; 256]);
        for (code, weight) in weights.iter_mut().enumerate() {
            let length = FieldNormReader::id_to_fieldnorm(code as u8) as f32;
            *weight = self.boosts[field] / (1.0 - B + B * length / mean);
        }
        weights
    }

    /// The `width` best live rows, best first, ties by row. Scores are above 0.
    ///
    /// live: rows that are not tombstones. eligible: rows that may be returned; absent: any.
    pub fn search(
        &self,
        query: &str,
        width: usize,
        live: &FixedBitSet,
        eligible: Option<&FixedBitSet>,
    ) -> Result<Vec<(Row, f32)>> {
        Ok(self.search_seen(query, width, live, eligible)?.0)
    }

    /// As [`Lexical::search`], and what the query looks like to the index.
    pub fn search_seen(
        &self,
        query: &str,
        width: usize,
        live: &FixedBitSet,
        eligible: Option<&FixedBitSet>,
    ) -> Result<(Vec<(Row, f32)>, Match)> {
        let scoring = self.scoring(query)?;
        let mut best = Best::new(width);
        let accept = |row: Row| {
            live.contains(row as usize) && eligible.is_none_or(|rows| rows.contains(row as usize))
        };
        if let Some(index) = self.index {
            search_index(index, &scoring, &mut best, &accept)?;
        }
        self.search_delta(&scoring, &mut best, &accept);
        let found = best.into_sorted();
        let allowed: f32 = scoring.stems.iter().map(|stem| stem.weight).sum();
        let top = found.first().map_or(0.0, |(_, score)| *score);
        let seen = Match {
            rarity: scoring.rarity,
            top_share: if allowed > 0.0 { top / allowed } else { 0.0 },
        };
        Ok((found, seen))
    }

    fn search_delta(&self, scoring: &Scoring<'_>, best: &mut Best, accept: &impl Fn(Row) -> bool) {
        let first = self.index.map_or(0, |index| index.documents) as Row;
        let Some(last) = scoring
            .stems
            .iter()
            .flat_map(|stem| &stem.clauses)
            .filter_map(|clause| clause.delta.last())
            .map(|posting| posting.row)
            .max()
        else {
            return;
        };
        let mut scores = vec![0.0_f32; (last - first) as usize + 1];
        let mut frequencies = scores.clone();
        for stem in &scoring.stems {
            for clause in &stem.clauses {
                let occurrence = scoring.occurrence(clause);
                for posting in clause.delta {
                    frequencies[(posting.row - first) as usize] +=
                        weighted(occurrence, posting.norm, posting.count);
                }
            }
            settle(stem.weight, &mut frequencies, &mut scores);
        }
        for (at, score) in scores.into_iter().enumerate() {
            let row = first + at as Row;
            if best.admits(score, row) && accept(row) {
                best.push(score, row);
            }
        }
    }

    /// BM25F of the given rows, in their order; 0 where no word matches.
    pub fn scores(&self, query: &str, rows: &[Row]) -> Result<Vec<f32>> {
        let scoring = self.scoring(query)?;
        let first = self.index.map_or(0, |index| index.documents) as Row;
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_unstable_by_key(|&at| rows[at]);
        let mut scores = vec![0.0_f32; rows.len()];
        let mut frequencies = scores.clone();
        for stem in &scoring.stems {
            for clause in &stem.clauses {
                let occurrence = scoring.occurrence(clause);
                if let (Some(index), Some(info)) = (self.index, &clause.info) {
                    let mut postings = index.postings(clause.field, info, true)?;
                    for &at in &order {
                        let row = rows[at];
                        if row >= first {
                            break;
                        }
                        let found = postings.seek(row);
                        if postings.docs().get(found) == Some(&row) {
                            let norm = index.norms[clause.field][row as usize];
                            frequencies[at] += weighted(occurrence, norm, postings.freq(found));
                        }
                    }
                }
                if !clause.delta.is_empty() {
                    for &at in &order {
                        if let Ok(found) = clause
                            .delta
                            .binary_search_by_key(&rows[at], |posting| posting.row)
                        {
                            let posting = clause.delta[found];
                            frequencies[at] += weighted(occurrence, posting.norm, posting.count);
                        }
                    }
                }
            }
            settle(stem.weight, &mut frequencies, &mut scores);
        }
        Ok(scores)
    }

    /// Rows that carry any word of the query in any searched field, tombstones included.
    /// rows: number of rows, the length of the answer.
    pub fn matching(&self, query: &str, rows: usize) -> Result<FixedBitSet> {
        let mut matching = FixedBitSet::with_capacity(rows);
        let scoring = self.scoring(query)?;
        for clause in scoring.stems.iter().flat_map(|stem| &stem.clauses) {
            if let (Some(index), Some(info)) = (self.index, &clause.info) {
                let mut postings = index.postings(clause.field, info, false)?;
                while !postings.docs().is_empty() {
                    for &row in postings.docs() {
                        matching.insert(row as usize);
                    }
                    postings.advance();
                }
            }
            for posting in clause.delta {
                matching.insert(posting.row as usize);
            }
        }
        Ok(matching)
    }
}
