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

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use fixedbitset::FixedBitSet;
use tantivy::directory::MmapDirectory;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::index::InvertedIndexReader;
use tantivy::postings::{BlockSegmentPostings, TermInfo};
use tantivy::schema::{
    Field, IndexRecordOption, Schema, TantivyDocument, TextFieldIndexing, TextOptions,
};
use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer,
    TextAnalyzer, Token, TokenStream, Tokenizer,
};
use tantivy::{Index, SegmentReader, SingleSegmentIndexWriter, Term};

use crate::account::Match;
use crate::error::{Error, Result};
use crate::wire;

use super::Row;

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
/// More than what a sum of [`QUERY_WORDS_MAX`] scores can be off by, as a share of it.
const ROUNDING: f32 = 1e-5;
const WORD_BYTES_MAX: usize = 100;
const KNOWN_STEMS_MAX: usize = 1 << 16;
/// Name of the rules by which text becomes words: English stems, pairs of CJK characters. An index written under
/// another name is refused, so the name changes with the rules.
pub const ANALYSER: &str = "muster_en_cjk";
/// Rows scored at a time: their sums stay in the cache.
const WINDOW_ROWS: usize = if cfg!(test) { 64 } else { 2_048 };
/// Rows whose sums are looked at together.
const GROUP_ROWS: usize = 16;
/// The lengths that end each file of the index.
const FOOTER_BYTES_MIN: u64 = 8;
/// As [`WINDOW_ROWS`], where few rows of a window are touched and the others are passed over.
const SPARSE_WINDOW_ROWS: usize = 8 * WINDOW_ROWS;
/// A pass over all rows of a window, many at a time, costs as much as visiting one row in so many alone.
const SPARSE_SHARE: usize = 16;
/// Rows of a posting list that are read in the time of looking one up.
const LOOK_UP_COST: usize = 8;

/// Turns one word into its stem.
fn analyser() -> TextAnalyzer {
    TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(WORD_BYTES_MAX))
        .filter(LowerCaser)
        .filter(AsciiFoldingFilter)
        .filter(Stemmer::new(Language::English))
        .build()
}

/// Stems of the words a thread has met: a catalogue repeats its words, and stemming one takes longer than
/// looking it up.
struct Stems {
    analyser: TextAnalyzer,
    /// By the hash of the word.
    known: HashMap<u64, Known, Hashed>,
}

/// A stem and its key.
struct Known {
    stem: Box<str>,
    key: u64,
}

static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Stands for a word or a stem inside this process: 64 bits, keyed at random, so that two of a million
/// coincide once in ten million runs and nobody can make them.
fn key(text: &str) -> u64 {
    KEYS.hash_one(text)
}

/// Hashes what is a hash already.
#[derive(Debug, Clone, Copy, Default)]
struct Hashed(u64);

impl BuildHasher for Hashed {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for Hashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are numbers");
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Stems {
    /// Calls `each` with the stem of `word` and its key, unless it is too long to be one.
    fn stem(&mut self, word: &str, each: &mut impl FnMut(&str, u64)) {
        let hash = key(word);
        if let Some(known) = self.known.get(&hash) {
            return each(&known.stem, known.key);
        }
        let mut stream = self.analyser.token_stream(word);
        while stream.advance() {
            let stem = &stream.token().text;
            let known = Known {
                stem: stem.as_str().into(),
                key: key(stem),
            };
            each(&known.stem, known.key);
            if self.known.len() >= KNOWN_STEMS_MAX {
                self.known.clear();
            }
            self.known.insert(hash, known);
        }
    }
}

thread_local! {
    static STEMS: RefCell<Stems> = RefCell::new(Stems {
        analyser: analyser(),
        known: HashMap::default(),
    });
}

/// Calls `each` with the stem of every word of `text`, in order: runs of alphanumeric characters,
/// lower-cased, accents folded, stemmed as English. Words of 100 bytes and more are left out. Of a run of
/// Chinese, Japanese or Korean characters each two neighbours are a word, and a character alone is one.
pub fn for_each_stem(text: &str, mut each: impl FnMut(&str)) {
    for_each_key(text, |stem, _| each(stem));
}

fn for_each_key(text: &str, mut each: impl FnMut(&str, u64)) {
    if text.is_empty() {
        return;
    }
    STEMS.with_borrow_mut(|stems| {
        for word in text.split(|character: char| !character.is_alphanumeric()) {
            if word.is_ascii() {
                if !word.is_empty() {
                    stems.stem(word, &mut each);
                }
            } else {
                for run in runs(word) {
                    if run.starts_with(is_cjk) {
                        for_each_pair(run, |pair| each(pair, key(pair)));
                    } else {
                        stems.stem(run, &mut each);
                    }
                }
            }
        }
    });
}

/// Splits a word where it passes from CJK characters to others and back. The runs are not empty.
fn runs(word: &str) -> impl Iterator<Item = &str> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let cjk = is_cjk(rest.chars().next()?);
        let end = rest
            .find(|character| is_cjk(character) != cjk)
            .unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        Some(run)
    })
}

/// Calls `each` with every two neighbouring characters of `run`, and with the one where it is alone.
fn for_each_pair<'a>(run: &'a str, mut each: impl FnMut(&'a str)) {
    let seconds = run.char_indices().map(|(at, _)| at).skip(1);
    let ends = run.char_indices().map(|(at, _)| at).skip(2);
    let mut start = 0;
    for (next, end) in seconds.zip(ends.chain([run.len()])) {
        each(&run[start..end]);
        start = next;
    }
    if start == 0 {
        each(run);
    }
}

/// Whether a letter belongs to a script that is written without spaces, or to Hangul, whose words come with endings
/// attached: Han, Hiragana, Katakana and Hangul, as in Lucene's `CJKBigramFilter`.
fn is_cjk(character: char) -> bool {
    matches!(character,
        '\u{1100}'..='\u{11ff}'        // Hangul, in letters
        | '\u{2e80}'..='\u{2fd5}'      // radicals
        | '\u{3005}'..='\u{3007}'      // the sign that repeats a character, zero
        | '\u{3021}'..='\u{3029}'      // numerals
        | '\u{3031}'..='\u{303c}'      // signs that repeat Kana, more numerals
        | '\u{3041}'..='\u{30ff}'      // Hiragana and Katakana
        | '\u{3131}'..='\u{318e}'      // Hangul, in letters
        | '\u{31f0}'..='\u{31ff}'      // small Katakana
        | '\u{3400}'..='\u{4dbf}'      // Han
        | '\u{4e00}'..='\u{9fff}'      // Han
        | '\u{a960}'..='\u{a97c}'      // Hangul, in letters
        | '\u{ac00}'..='\u{d7fb}'      // Hangul
        | '\u{f900}'..='\u{faff}'      // Han, for other encodings
        | '\u{ff66}'..='\u{ffdc}'      // Katakana and Hangul of half width
        | '\u{1aff0}'..='\u{1b16f}'    // Kana, rare
        | '\u{20000}'..='\u{3ffff}'    // Han, rare
    )
}

/// [`for_each_stem`] as tantivy wants it, so that the index and the delta cannot differ.
#[derive(Clone)]
struct StemTokenizer;

/// The stems of one text, end to end, and where each ends.
struct StemStream {
    stems: String,
    ends: Vec<usize>,
    at: usize,
    token: Token,
}

impl Tokenizer for StemTokenizer {
    type TokenStream<'a> = StemStream;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> StemStream {
        let mut stems = String::with_capacity(text.len());
        let mut ends = Vec::new();
        for_each_stem(text, |stem| {
            stems.push_str(stem);
            ends.push(stems.len());
        });
        StemStream {
            stems,
            ends,
            at: 0,
            token: Token::default(),
        }
    }
}

impl TokenStream for StemStream {
    fn advance(&mut self) -> bool {
        let Some(&end) = self.ends.get(self.at) else {
            return false;
        };
        let start = match self.at {
            0 => 0,
            at => self.ends[at - 1],
        };
        self.token.position = self.at;
        self.token.text.clear();
        self.token.text.push_str(&self.stems[start..end]);
        self.at += 1;
        true
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

/// Distinct stems of a query, in order of appearance.
pub fn query_stems(query: &str) -> Vec<String> {
    let mut stems: Vec<String> = Vec::new();
    for_each_stem(query, |stem| {
        if !stems.iter().any(|known| known == stem) {
            stems.push(stem.to_owned());
        }
    });
    stems
}

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

/// Memory of the postings that are gathered before they are written as a part.
const PART_BYTES: usize = 128 << 20;

/// Writes the lexical index of a generation: one segment whose document numbers are the rows.
///
/// Postings are gathered in memory up to a bound, then written as a part; at the end the parts are merged in
/// order, which reads them word by word.
pub struct LexicalWriter {
    dir: PathBuf,
    part_bytes: usize,
    parts: Vec<PathBuf>,
    /// Of the last part; none: it is written.
    writer: Option<SingleSegmentIndexWriter>,
    fields: [Field; FIELD_COUNT],
}

impl LexicalWriter {
    /// Starts an index in `dir`, an empty folder; parts are written beside it.
    pub fn create(dir: &Path) -> Result<Self> {
        let (_, fields) = schema();
        let mut writer = Self {
            dir: dir.to_owned(),
            part_bytes: PART_BYTES,
            parts: Vec::new(),
            writer: None,
            fields,
        };
        writer.start_part()?;
        Ok(writer)
    }

    fn refuse(&self, error: &dyn std::fmt::Display) -> Error {
        Error::Generation(format!("{}: {error}", self.dir.display()))
    }

    fn start_part(&mut self) -> Result<()> {
        let part = self.dir.with_extension(format!("part{}", self.parts.len()));
        std::fs::create_dir(&part).map_err(|error| self.refuse(&error))?;
        let directory = MmapDirectory::open(&part).map_err(|error| self.refuse(&error))?;
        let tokenizers = tantivy::tokenizer::TokenizerManager::default();
        tokenizers.register(ANALYSER, TextAnalyzer::from(StemTokenizer));
        let writer = Index::builder()
            .schema(schema().0)
            .tokenizers(tokenizers)
            .single_segment_index_writer(directory, 64 << 20)
            .map_err(|error| self.refuse(&error))?;
        self.writer = Some(writer);
        self.parts.push(part);
        Ok(())
    }

    fn end_part(&mut self) -> Result<()> {
        match self.writer.take() {
            None => Ok(()),
            Some(writer) => match writer.finalize() {
                Ok(_) => Ok(()),
                Err(error) => Err(self.refuse(&error)),
            },
        }
    }

    /// Adds the next row.
    pub fn push(&mut self, product: &wire::Product) -> Result<()> {
        let mut document = TantivyDocument::new();
        for (field, text) in self.fields.iter().zip(field_texts(product)) {
            if !text.is_empty() {
                document.add_text(*field, text);
            }
        }
        let full = |writer: &SingleSegmentIndexWriter| writer.mem_usage() > self.part_bytes;
        if self.writer.as_ref().is_none_or(full) {
            self.end_part()?;
            self.start_part()?;
        }
        let writer = self.writer.as_mut().expect("a part was started");
        writer
            .add_document(document)
            .map_err(|error| Error::Generation(format!("{}: {error}", self.dir.display())))
    }

    /// Makes the index readable.
    pub fn finish(mut self) -> Result<()> {
        self.end_part()?;
        if let [only] = &self.parts[..] {
            // An empty folder is replaced in one step.
            return std::fs::rename(only, &self.dir).map_err(|error| self.refuse(&error));
        }
        let merged = || -> tantivy::Result<()> {
            let parts = self
                .parts
                .iter()
                .map(Index::open_in_dir)
                .collect::<tantivy::Result<Vec<_>>>()?;
            tantivy::indexer::merge_indices(&parts, MmapDirectory::open(&self.dir)?)?;
            Ok(())
        };
        merged().map_err(|error| self.refuse(&error))?;
        for part in &self.parts {
            std::fs::remove_dir_all(part).map_err(|error| self.refuse(&error))?;
        }
        Ok(())
    }
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

/// The posting lists of one stem, in the order of [`FIELDS`].
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
fn search_index(
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
struct Best {
    width: usize,
    rows: Vec<(f32, Row)>,
    /// Once full: the worst of the best `width`. Rows at or past it cannot enter.
    worst: Option<(f32, Row)>,
}

impl Best {
    fn new(width: usize) -> Self {
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

    fn admits(&self, score: f32, row: Row) -> bool {
        match self.worst {
            Some((worst, last)) => score > worst || (score == worst && row < last),
            None => score > 0.0 && self.width > 0,
        }
    }

    fn push(&mut self, score: f32, row: Row) {
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

    fn into_sorted(mut self) -> Vec<(Row, f32)> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words_of(text: &str) -> Vec<String> {
        let mut words = Vec::new();
        for_each_stem(text, |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn neighbouring_characters_of_scripts_without_spaces_are_words() {
        for (text, expected) in [
            ("保温杯", &["保温", "温杯"][..]),
            ("保温", &["保温"]),
            ("杯", &["杯"]),
            ("杯 子", &["杯", "子"]),
            ("お茶のカップ", &["お茶", "茶の", "のカ", "カッ", "ップ"]),
            ("コーヒー・人々", &["コー", "ーヒ", "ヒー", "人々"]),
            ("무선 이어폰", &["무선", "이어", "어폰"]),
            ("𠮷野家", &["𠮷野", "野家"]),
        ] {
            assert_eq!(words_of(text), expected, "{text}");
        }
    }

    #[test]
    fn a_word_is_split_where_its_script_changes() {
        for (text, expected) in [
            ("iPhone手机壳15Pro", &["iphon", "手机", "机壳", "15pro"][..]),
            ("500毫升", &["500", "毫升"]),
            ("Café杯tables", &["cafe", "杯", "tabl"]),
            ("Café Ünal", &["cafe", "unal"]),
            ("ｕｓｂ线", &["usb", "线"]),
        ] {
            assert_eq!(words_of(text), expected, "{text}");
        }
    }

    #[test]
    fn an_index_merged_from_parts_scores_as_one_written_at_once() {
        let root = tempfile::tempdir().unwrap();
        let product = |row: usize| wire::Product {
            title: format!("shoe{} red {}", row % 7, "boot ".repeat(row % 3)),
            brand: if row.is_multiple_of(2) {
                "acme".into()
            } else {
                String::new()
            },
            ..Default::default()
        };
        let count = 300;
        let written = |name: &str, cuts: &[usize]| {
            let dir = root.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            let mut writer = LexicalWriter::create(&dir).unwrap();
            for row in 0..count {
                // The bound is looked at before each row.
                writer.part_bytes = if cuts.contains(&row) { 0 } else { usize::MAX };
                writer.push(&product(row)).unwrap();
            }
            assert_eq!(writer.parts.len(), 1 + cuts.len());
            writer.finish().unwrap();
            LexicalIndex::open(&dir, count).unwrap()
        };
        let whole = written("whole", &[]);
        let merged = written("merged", &[100, 101, 250]);
        let names: Vec<_> = std::fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "no part is left: {names:?}");
        let delta = LexicalDelta::default();
        let live = FixedBitSet::from_iter(0..count);
        for query in [
            "red shoe3",
            "boot acme",
            "boot",
            "shoe6 boot acme red",
            "none",
        ] {
            let found = |index| {
                let lexical = Lexical {
                    index: Some(index),
                    delta: &delta,
                    boosts: &[3.0, 2.0, 1.0, 1.0, 1.0, 1.0],
                };
                lexical.search(query, 50, &live, None).unwrap()
            };
            assert_eq!(found(&whole), found(&merged), "{query}");
        }
    }

    #[test]
    fn a_run_longer_than_a_word_may_be_keeps_its_pairs() {
        assert_eq!(words_of(&"杯子".repeat(100)).len(), 199);
        assert!(words_of(&"e".repeat(100)).is_empty());
    }

    proptest! {
        #[test]
        fn ascii_words_are_the_stems_of_the_analyser(text in "[ -~]{0,60}") {
            let mut expected = Vec::new();
            for word in text.split(|character: char| !character.is_alphanumeric()) {
                let mut analyser = analyser();
                let mut stream = analyser.token_stream(word);
                while stream.advance() {
                    expected.push(stream.token().text.clone());
                }
            }
            prop_assert_eq!(words_of(&text), expected);
        }

        #[test]
        fn words_of_a_part_of_a_run_are_words_of_the_whole(
            run in prop::collection::vec(prop::char::range('\u{4e00}', '\u{9fff}'), 2..20),
            from in 0_usize..20,
            length in 2_usize..20,
        ) {
            let from = from.min(run.len() - 2);
            let part: String = run[from..(from + length).min(run.len())].iter().collect();
            let whole = words_of(&run.iter().collect::<String>());
            prop_assert_eq!(whole.len(), run.len() - 1);
            prop_assert!(words_of(&part).iter().all(|word| whole.contains(word)));
        }

        #[test]
        fn any_text_becomes_the_same_words_for_the_index_and_for_the_delta(text in any::<String>()) {
            let mut keys = Vec::new();
            for_each_key(&text, |word, found| keys.push((word.to_owned(), found)));
            let mut tokenizer = StemTokenizer;
            let mut stream = tokenizer.token_stream(&text);
            for (word, found) in keys {
                prop_assert!(!word.is_empty());
                prop_assert_eq!(found, key(&word));
                prop_assert!(stream.advance());
                prop_assert_eq!(&stream.token().text, &word);
            }
            prop_assert!(!stream.advance());
        }
    }
}
