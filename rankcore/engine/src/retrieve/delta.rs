//! The live state on top of a generation: tombstones, columns, and rows that are newer.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use prost::Message;

use crate::encode::EncodedProduct;
use crate::wire;

use super::Row;
use super::columns::{Columns, Values};
use super::dense::quantise;
use super::facets::{KeywordIndex, Keywords};
use super::lexical::{Analysed, LexicalDelta};
use super::match_text::MatchText;

/// What the models made of one product of the delta.
#[derive(Debug)]
pub struct Vectors {
    /// Dense vector, int8.
    pub dense: Box<[i8]>,
    /// Brings `dense` back to f32.
    pub scale: f32,
    /// Packed token vectors.
    pub tokens: Box<[i8]>,
    /// Number of token vectors.
    pub token_count: usize,
    /// Token ids for a cross-encoder.
    pub pieces: Box<[u32]>,
}

impl From<EncodedProduct> for Vectors {
    fn from(encoded: EncodedProduct) -> Self {
        let mut dense = Vec::with_capacity(encoded.dense.len());
        let scale = quantise(&encoded.dense, &mut dense);
        Self {
            dense: dense.into(),
            scale,
            tokens: encoded.tokens.into(),
            token_count: encoded.token_count,
            pieces: encoded.pieces.into(),
        }
    }
}

/// Where the vectors of a row of the delta are.
#[derive(Debug, Clone)]
pub enum Source {
    /// Not computed yet.
    Pending,
    /// In the generation, at this row: the models read the same text as before.
    Indexed(Row),
    /// Here.
    Own(Arc<Vectors>),
}

/// A row of the delta.
#[derive(Debug)]
pub struct NewRow {
    /// The serialised product; its columns are those it was written with.
    pub product: Box<[u8]>,
    /// Its words.
    pub words: MatchText,
    /// Its vectors.
    pub source: Source,
}

/// A product whose text is new or changed, analysed and ready to be added.
#[derive(Debug)]
pub struct Prepared {
    /// The product.
    pub product: wire::Product,
    /// The stems of its text.
    pub analysed: Analysed,
    /// Its words.
    pub words: MatchText,
    /// Its vectors, if those of the replaced row still stand.
    pub source: Source,
}

impl Prepared {
    /// Analyses `product`.
    pub fn new(product: wire::Product, source: Source) -> Self {
        Self {
            analysed: Analysed::of(&product),
            words: MatchText::of(&product),
            product,
            source,
        }
    }
}

/// One change of the live state.
#[derive(Debug)]
pub enum Change {
    /// A new row; the row it replaces and that row's stems.
    Add(Box<Prepared>, Option<(Row, Analysed)>),
    /// Same text, other columns.
    Replace(Row, Values),
    /// Some columns.
    Patch(Row, wire::Patch),
    /// A tombstone; the row's stems.
    Remove(Row, Analysed),
    /// Nothing to do, for events about products that do not exist.
    Nothing,
}

/// Everything that changes while a generation is served.
#[derive(Debug)]
pub struct Live {
    /// Rows of the generation.
    pub indexed_rows: Row,
    /// Rows that are not tombstones.
    pub live: FixedBitSet,
    /// Number of them.
    pub products: usize,
    /// Tombstones among the generation's rows.
    pub indexed_tombstones: usize,
    /// Columns of all rows.
    pub columns: Columns,
    /// Values of all rows.
    pub keywords: Keywords,
    /// Stems of the delta.
    pub lexical: LexicalDelta,
    /// Rows of the delta, tombstones included.
    pub rows: Vec<NewRow>,
    /// Live products of the delta.
    pub ids: HashMap<String, Row>,
    /// Rows whose vectors are to be computed; may hold tombstones.
    pub pending: VecDeque<Row>,
    /// Highest sequence applied.
    pub applied_sequence: u64,
    /// Highest epoch seen.
    pub epoch: u64,
}

impl Live {
    /// The state of a generation that has just been opened.
    pub fn new(
        columns: Columns,
        keywords: Option<KeywordIndex>,
        sequence: u64,
        epoch: u64,
    ) -> Self {
        let rows = columns.rows();
        let mut live = FixedBitSet::with_capacity(rows);
        live.insert_range(..);
        Self {
            indexed_rows: rows as Row,
            live,
            products: rows,
            indexed_tombstones: 0,
            columns,
            keywords: Keywords::new(keywords),
            lexical: LexicalDelta::default(),
            rows: Vec::new(),
            ids: HashMap::new(),
            pending: VecDeque::new(),
            applied_sequence: sequence,
            epoch,
        }
    }

    /// Number of rows, tombstones included.
    pub fn row_count(&self) -> usize {
        self.indexed_rows as usize + self.rows.len()
    }

    /// True: the row exists and is not a tombstone.
    pub fn is_live(&self, row: Row) -> bool {
        self.live.contains(row as usize)
    }

    /// The row of the delta; none for rows of the generation and rows that do not exist.
    pub fn new_row(&self, row: Row) -> Option<&NewRow> {
        let at = row.checked_sub(self.indexed_rows)?;
        self.rows.get(at as usize)
    }

    /// Carries out one change.
    pub fn carry_out(&mut self, change: Change) {
        match change {
            Change::Add(prepared, replaced) => {
                if let Some((row, analysed)) = replaced {
                    self.remove(row, &analysed);
                }
                self.add(*prepared);
            }
            Change::Replace(row, values) => self.columns.set(row, &values),
            Change::Patch(row, patch) => {
                let mut values = self.columns.get(row);
                values.patch(&patch);
                self.columns.set(row, &values);
            }
            Change::Remove(row, analysed) => self.remove(row, &analysed),
            Change::Nothing => {}
        }
    }

    fn add(&mut self, prepared: Prepared) {
        let row = self.row_count() as Row;
        let product = &prepared.product;
        self.lexical.add(row, &prepared.analysed);
        self.keywords.push(product);
        self.columns.push(&Values::of(product));
        self.live.grow_and_insert(row as usize);
        self.products += 1;
        if matches!(prepared.source, Source::Pending) {
            self.pending.push_back(row);
        }
        self.rows.push(NewRow {
            product: product.encode_to_vec().into(),
            words: prepared.words,
            source: prepared.source,
        });
        self.ids.insert(prepared.product.product_id, row);
    }

    fn remove(&mut self, row: Row, analysed: &Analysed) {
        if !self.is_live(row) {
            return;
        }
        self.live.set(row as usize, false);
        self.products -= 1;
        self.keywords.remove(row);
        if row < self.indexed_rows {
            self.indexed_tombstones += 1;
            self.lexical.remove_indexed(analysed);
            return;
        }
        self.lexical.remove(row, analysed);
        let tombstone = &mut self.rows[(row - self.indexed_rows) as usize];
        let product = wire::Product::decode(&*tombstone.product);
        if let Ok(product) = product
            && self.ids.get(&product.product_id) == Some(&row)
        {
            self.ids.remove(&product.product_id);
        }
    }
}
