//! A generation: the index built from one bundle and the catalogue up to one sequence, with the live
//! state on top of it.

pub mod build;
mod dense_rows;
mod drawn;
pub mod files;
mod index;
mod manifest;
mod models;

use std::path::Path;
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use prost::Message;

use crate::account::Match;
use crate::bundle::{Bundle, LexicalConfig};
use crate::encode::EncodedProduct;
use crate::error::{Error, Result, Violation};
use crate::rerank::late::{self, QueryTokens};
use crate::retrieve::columns::{Candidate, Columns, Values};
use crate::retrieve::delta::{Change, Live, Prepared, Source, Vectors};
use crate::retrieve::dense::{self, DenseSearch};
use crate::retrieve::facets::{KeywordIndex, folded};
use crate::retrieve::lexical::{Analysed, Lexical};
use crate::retrieve::lists::Lists;
use crate::retrieve::match_text::MatchText;
use crate::retrieve::scan::{Among, nearest};
use crate::retrieve::{Row, filter, limits};
use crate::text::product_text;
use crate::wire;

pub use build::{BuildReport, GenerationBuilder};
pub use dense_rows::DenseRows;
use index::{Index, Nearest};
use manifest::read_manifest;
pub use manifest::{DenseIndex, Manifest, SCHEMA_VERSION};
pub use models::Models;

/// Changes carried out under one hold of the write lock: readers wait no longer than for these.
const CHANGES_AT_ONCE: usize = 16;
/// Up to so many tombstones are made up for by asking the dense index for more; beyond, it gets a bitmap.
const TOMBSTONES_OVERASKED: usize = 64;
/// Filters that leave fewer rows than this, or 5 % of the generation, are scanned exactly.
const SCAN_ROWS: usize = 512;

/// The fields of a product that a result shows; skips the rest while decoding.
#[derive(Clone, PartialEq, prost::Message)]
struct Head {
    #[prost(string, tag = "1")]
    product_id: String,
    #[prost(string, tag = "2")]
    title: String,
    #[prost(string, tag = "3")]
    brand: String,
}

/// What a product is, for telling how alike two are; brand and category as filters compare them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The shop's identifier.
    pub product_id: String,
    /// Title as last written.
    pub title: String,
    /// Without case; empty: unknown.
    pub brand: String,
    /// Last name of the path, without case; empty: unknown.
    pub category: String,
}

/// The fields of a product that tell what it is; skips the rest while decoding.
#[derive(Clone, PartialEq, prost::Message)]
struct Kind {
    #[prost(string, tag = "1")]
    product_id: String,
    #[prost(string, tag = "2")]
    title: String,
    #[prost(string, tag = "3")]
    brand: String,
    #[prost(string, repeated, tag = "4")]
    category: Vec<String>,
}

/// Popular rows that are kept until the next event.
const POPULAR_KEPT: usize = 1_000;

/// A generation and its live state. Shared by all threads; changes are applied one caller at a time.
pub struct Generation {
    id: String,
    sequence: u64,
    models: Arc<dyn Models>,
    boosts: [f32; 6],
    index: Option<Index>,
    dense_index: Option<DenseIndex>,
    nearest: Option<Nearest>,
    live: RwLock<Live>,
    applying: Mutex<()>,
    /// The most popular rows as of a sequence.
    popular: Mutex<Option<(u64, Vec<Row>)>>,
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Generation")
            .field("id", &self.id)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

fn boosts_of(config: &LexicalConfig) -> [f32; 6] {
    let boosts = &config.boosts;
    [
        boosts.title,
        boosts.brand,
        boosts.category,
        boosts.bullets,
        boosts.description,
        boosts.attributes,
    ]
}

fn same_text(left: &wire::Product, right: &wire::Product) -> bool {
    left.title == right.title
        && left.brand == right.brand
        && left.category == right.category
        && left.bullets == right.bullets
        && left.description == right.description
        && left.attributes == right.attributes
}

impl Generation {
    /// Opens the generation in `dir`. dense: searches its rows where the generation does not do so itself;
    /// absent: nothing does.
    ///
    /// Errors: [`Error::Generation`], naming the file, for anything absent, truncated, damaged or foreign,
    /// and for a generation of another bundle.
    pub fn open(
        dir: &Path,
        bundle: Arc<Bundle>,
        dense: Option<Arc<dyn DenseSearch>>,
    ) -> Result<Arc<Self>> {
        Self::open_with(dir, bundle, dense)
    }

    /// As [`Generation::open`], for any models.
    pub fn open_with(
        dir: &Path,
        models: Arc<dyn Models>,
        dense: Option<Arc<dyn DenseSearch>>,
    ) -> Result<Arc<Self>> {
        let manifest = read_manifest(dir)?;
        let refuse = |reason: String| {
            Err(Error::Generation(format!(
                "{}: {reason}",
                dir.join("manifest.json").display()
            )))
        };
        if manifest.bundle_id != models.bundle_id() {
            return refuse(format!(
                "built from bundle {}, not from {}",
                manifest.bundle_id,
                models.bundle_id()
            ));
        }
        if (manifest.dimension, manifest.token_dimension)
            != (models.dimension(), models.token_dimension())
        {
            return refuse("dimensions differ from the bundle's".into());
        }
        let index = Index::open(dir, &manifest)?;
        let nearest = match &manifest.dense_index {
            Some(dense_index) if dense_index.kind == "scan" => Some(Nearest::Scan),
            Some(dense_index) if dense_index.kind == "lists" => Some(Nearest::Lists {
                lists: Lists::open(dir, manifest.products, manifest.dimension)?,
                probes: dense_index.probes,
            }),
            _ => dense.map(Nearest::External),
        };
        let columns = Columns::read(dir, manifest.products)?;
        let keywords = KeywordIndex::open(dir, manifest.products)?;
        Ok(Arc::new(Self {
            id: manifest.generation_id,
            sequence: manifest.sequence,
            boosts: boosts_of(models.lexical()),
            models,
            index: Some(index),
            dense_index: manifest.dense_index,
            nearest,
            live: RwLock::new(Live::new(
                columns,
                Some(keywords),
                manifest.sequence,
                manifest.epoch,
            )),
            applying: Mutex::new(()),
            popular: Mutex::new(None),
        }))
    }

    /// A generation without products, at sequence 0; its name is empty.
    pub fn empty(bundle: Arc<Bundle>) -> Result<Arc<Self>> {
        Self::empty_with(bundle)
    }

    /// As [`Generation::empty`], for any models.
    pub fn empty_with(models: Arc<dyn Models>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            id: String::new(),
            sequence: 0,
            boosts: boosts_of(models.lexical()),
            models,
            index: None,
            dense_index: None,
            nearest: None,
            live: RwLock::new(Live::new(Columns::default(), None, 0, 0)),
            applying: Mutex::new(()),
            popular: Mutex::new(None),
        }))
    }

    /// Name of the generation; empty for one that was never built.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Sequence that the generation was built up to.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How the nearest rows are found; none: nothing was built, or its manifest does not say.
    pub fn dense_index(&self) -> Option<&DenseIndex> {
        self.dense_index.as_ref()
    }

    /// Highest sequence applied.
    pub fn applied_sequence(&self) -> u64 {
        self.live.read().applied_sequence
    }

    /// Highest epoch seen in the generation or in applied events.
    pub fn epoch(&self) -> u64 {
        self.live.read().epoch
    }

    /// Live products.
    pub fn products(&self) -> usize {
        self.live.read().products
    }

    /// Live products whose text is newer than the generation.
    pub fn delta_products(&self) -> usize {
        self.live.read().ids.len()
    }

    /// Rows of the delta whose vectors are still to be computed (an upper bound).
    pub fn pending(&self) -> usize {
        self.live.read().pending.len()
    }

    fn find(&self, live: &Live, product_id: &str) -> Option<Row> {
        live.ids.get(product_id).copied().or_else(|| {
            let row = self.index.as_ref()?.row(product_id)?;
            live.is_live(row).then_some(row)
        })
    }

    /// The serialised product as it was written, tombstones included.
    fn written<'a>(&'a self, live: &'a Live, row: Row) -> Option<&'a [u8]> {
        match &self.index {
            Some(index) if row < index.rows => Some(index.products.get(row as usize)),
            _ => live.new_row(row).map(|row| &*row.product),
        }
    }

    fn decode(&self, live: &Live, row: Row) -> Option<wire::Product> {
        let mut product = wire::Product::decode(self.written(live, row)?).ok()?;
        live.columns.get(row).write_to(&mut product);
        Some(product)
    }

    /// Applies serialised `SequencedEvent`s in the order given; those already applied are skipped.
    /// Returns the highest sequence applied. A reader sees the events one after the other, in order.
    ///
    /// New text can be found at once; its vectors follow by [`Generation::encode_pending`].
    /// Errors: [`Error::InvalidRequest`] if an event cannot be decoded; nothing is applied then.
    pub fn apply(&self, events: &[Vec<u8>]) -> Result<u64> {
        let mut decoded = Vec::with_capacity(events.len());
        for (at, event) in events.iter().enumerate() {
            let event = wire::SequencedEvent::decode(&event[..]).map_err(|error| {
                Error::InvalidRequest(vec![Violation {
                    field: format!("events[{at}]"),
                    description: error.to_string(),
                }])
            })?;
            decoded.push(event);
        }
        let _applying = self.applying.lock();
        let mut applied = self.applied_sequence();
        let mut waiting: Vec<(u64, u64, Change)> = Vec::with_capacity(CHANGES_AT_ONCE);
        let mut touched: Vec<String> = Vec::with_capacity(CHANGES_AT_ONCE);
        for event in decoded {
            if event.sequence <= applied {
                continue;
            }
            applied = event.sequence;
            let change = event.event.and_then(|event| event.change);
            let product_id = match &change {
                Some(wire::event::Change::Upsert(product)) => product.product_id.clone(),
                Some(wire::event::Change::Patch(patch)) => patch.product_id.clone(),
                Some(wire::event::Change::Delete(delete)) => delete.product_id.clone(),
                Some(wire::event::Change::Deploy(_) | wire::event::Change::Feedback(_)) | None => {
                    String::new()
                }
            };
            // A change is prepared against the state before it: earlier changes of the product go first.
            let again = !product_id.is_empty() && touched.contains(&product_id);
            if waiting.len() == CHANGES_AT_ONCE || again {
                self.commit(&mut waiting);
                touched.clear();
            }
            waiting.push((event.sequence, event.epoch, self.prepare(change)));
            touched.push(product_id);
        }
        self.commit(&mut waiting);
        Ok(applied)
    }

    fn commit(&self, waiting: &mut Vec<(u64, u64, Change)>) {
        let mut live = self.live.write();
        for (sequence, epoch, change) in waiting.drain(..) {
            live.carry_out(change);
            live.applied_sequence = sequence;
            live.epoch = live.epoch.max(epoch);
        }
    }

    /// Does the costly part of a change, reading alone. The caller holds `applying`, so rows stay as found.
    fn prepare(&self, change: Option<wire::event::Change>) -> Change {
        use wire::event::Change as Wire;
        let live = self.live.read();
        match change {
            // What a later version writes into the log looks like no change here.
            Some(Wire::Deploy(_) | Wire::Feedback(_)) | None => Change::Nothing,
            Some(Wire::Patch(patch)) => match self.find(&live, &patch.product_id) {
                Some(row) => Change::Patch(row, patch),
                None => Change::Nothing,
            },
            Some(Wire::Delete(delete)) => match self.find(&live, &delete.product_id) {
                Some(row) => {
                    let before = self.decode(&live, row).unwrap_or_default();
                    drop(live);
                    Change::Remove(row, Analysed::of(&before))
                }
                None => Change::Nothing,
            },
            Some(Wire::Upsert(product)) => {
                let Some(row) = self.find(&live, &product.product_id) else {
                    drop(live);
                    return Change::Add(Box::new(Prepared::new(product, Source::Pending)), None);
                };
                let before = self.decode(&live, row).unwrap_or_default();
                let source = match live.new_row(row) {
                    None => Source::Indexed(row),
                    Some(before) => before.source.clone(),
                };
                drop(live);
                if same_text(&before, &product) {
                    return Change::Replace(row, Values::of(&product));
                }
                let fields = &self.models.text().product;
                let unchanged = |fields: &[String]| {
                    product_text(&before, fields) == product_text(&product, fields)
                };
                let source = if unchanged(&fields.dense_fields) && unchanged(&fields.cross_fields) {
                    source
                } else {
                    Source::Pending
                };
                Change::Add(
                    Box::new(Prepared::new(product, source)),
                    Some((row, Analysed::of(&before))),
                )
            }
        }
    }

    /// Computes the vectors of up to `max` rows that wait for them; returns how many were done.
    /// Searches and changes go on meanwhile. Errors leave the rows waiting.
    pub fn encode_pending(&self, max: usize) -> Result<usize> {
        let (rows, products) = {
            let mut live = self.live.write();
            let mut rows = Vec::new();
            let mut products = Vec::new();
            while rows.len() < max {
                let Some(row) = live.pending.pop_front() else {
                    break;
                };
                if live.is_live(row)
                    && let Some(product) = self.decode(&live, row)
                {
                    rows.push(row);
                    products.push(product);
                }
            }
            (rows, products)
        };
        if rows.is_empty() {
            return Ok(0);
        }
        let encoded = self.models.encode(&products).and_then(|encoded| {
            let fits =
                encoded.len() == rows.len() && encoded.iter().all(|product| self.fits(product));
            if fits {
                Ok(encoded)
            } else {
                Err(Error::Internal(
                    "the encoder's vectors do not fit the bundle".into(),
                ))
            }
        });
        let mut live = self.live.write();
        match encoded {
            Ok(encoded) => {
                let first = live.indexed_rows;
                for (row, product) in rows.iter().zip(encoded) {
                    live.rows[(row - first) as usize].source =
                        Source::Own(Arc::new(Vectors::from(product)));
                }
                Ok(rows.len())
            }
            Err(error) => {
                for row in rows.into_iter().rev() {
                    live.pending.push_front(row);
                }
                Err(error)
            }
        }
    }

    fn fits(&self, product: &EncodedProduct) -> bool {
        product.dense.len() == self.models.dimension()
            && product.tokens.len()
                == late::packed_len(product.token_count, self.models.token_dimension())
    }

    /// The product with its live columns.
    pub fn product(&self, product_id: &str) -> Option<wire::Product> {
        let live = self.live.read();
        self.decode(&live, self.find(&live, product_id)?)
    }

    /// True: the product can be found.
    pub fn contains(&self, product_id: &str) -> bool {
        self.row(product_id).is_some()
    }

    /// The live row of a product.
    pub fn row(&self, product_id: &str) -> Option<Row> {
        self.find(&self.live.read(), product_id)
    }

    /// Up to `max` live products from row `from` on, and the row to go on from; none: that was all.
    pub fn snapshot_products(&self, from: Row, max: usize) -> (Vec<wire::Product>, Option<Row>) {
        let live = self.live.read();
        let mut products = Vec::new();
        for row in from..live.row_count() as Row {
            if products.len() >= max {
                return (products, Some(row));
            }
            if live.is_live(row)
                && let Some(product) = self.decode(&live, row)
            {
                products.push(product);
            }
        }
        (products, None)
    }

    /// The live rows that satisfy `filter`; none: it has no condition, so every live row does.
    ///
    /// Errors: [`Error::InvalidRequest`] for attributes that no live product carries.
    pub fn filter(&self, filter: Option<&wire::Filter>) -> Result<Option<FixedBitSet>> {
        let Some(filter) = filter else {
            return Ok(None);
        };
        let live = self.live.read();
        filter::eligible(filter, &live.live, &live.keywords, &live.columns)
    }

    fn searched<'a>(&'a self, live: &'a RwLockReadGuard<'_, Live>) -> Lexical<'a> {
        Lexical {
            index: self.index.as_ref().map(|index| &index.lexical),
            delta: &live.lexical,
            boosts: &self.boosts,
        }
    }

    /// The `width` best live rows by BM25F with scores above 0, best first, ties by row.
    /// eligible: rows that may be returned; absent: any.
    pub fn lexical(
        &self,
        query: &str,
        width: usize,
        eligible: Option<&FixedBitSet>,
    ) -> Result<Vec<(Row, f32)>> {
        Ok(self.lexical_seen(query, width, eligible)?.0)
    }

    /// As [`Generation::lexical`], and what the query looks like to the lexical index.
    pub fn lexical_seen(
        &self,
        query: &str,
        width: usize,
        eligible: Option<&FixedBitSet>,
    ) -> Result<(Vec<(Row, f32)>, Match)> {
        let live = self.live.read();
        self.searched(&live)
            .search_seen(query, width, &live.live, eligible)
    }

    /// BM25F of the given rows, in their order; 0 where no word of the query matches.
    pub fn lexical_score(&self, query: &str, rows: &[Row]) -> Result<Vec<f32>> {
        let live = self.live.read();
        self.searched(&live).scores(query, rows)
    }

    /// True: dense retrieval has something to search; what [`Generation::dense`] returns is not `None`.
    pub fn has_dense(&self) -> bool {
        if self.index.as_ref().is_some_and(|index| index.rows > 0) {
            return self.nearest.is_some();
        }
        let live = self.live.read();
        live.ids
            .values()
            .filter_map(|&row| live.new_row(row))
            .any(|new| !matches!(new.source, Source::Pending))
    }

    /// The `width` rows with the greatest cosine, best first: the generation's rows by the dense index,
    /// or exactly where a filter leaves few of them; rows of the delta exactly.
    ///
    /// query: L2-normalised, `[dimension]`. None: the generation has rows but no dense index, or there is
    /// no vector at all.
    pub fn dense(
        &self,
        query: &[f32],
        width: usize,
        eligible: Option<&FixedBitSet>,
    ) -> Result<Option<Vec<(Row, f32)>>> {
        self.check_query(query)?;
        let admitted = |live: &Live, row: Row| {
            live.is_live(row) && eligible.is_none_or(|rows| rows.contains(row as usize))
        };
        let mut found = Vec::new();
        let mut any = false;
        if let Some(index) = self.index.as_ref().filter(|index| index.rows > 0) {
            let Some(by) = &self.nearest else {
                return Ok(None);
            };
            any = true;
            let (rows, tombstones) = {
                let live = self.live.read();
                let rows = eligible.map(|eligible| {
                    let mut rows = eligible.clone();
                    rows.intersect_with(&live.live);
                    rows.remove_range(rows.len().min(index.rows as usize)..);
                    rows
                });
                let rows = match rows {
                    None if live.indexed_tombstones > TOMBSTONES_OVERASKED => {
                        let mut rows = live.live.clone();
                        rows.remove_range(index.rows as usize..);
                        Some(rows)
                    }
                    rows => rows,
                };
                (rows, live.indexed_tombstones)
            };
            let few = SCAN_ROWS.max(index.rows as usize / 20);
            let vectors = index.vectors.int8_rows();
            found = match rows {
                Some(rows) if rows.count_ones(..) <= few => {
                    let rows: Vec<Row> = rows.ones().map(|row| row as Row).collect();
                    nearest(vectors, query, width, Among::Rows(&rows))
                }
                rows => {
                    let bits = rows.map(|rows| bitmap(&rows, index.rows));
                    let bits = bits.as_deref();
                    let width = width + if bits.is_none() { tombstones } else { 0 };
                    match by {
                        Nearest::Scan => {
                            nearest(vectors, query, width, bits.map_or(Among::All, Among::Bits))
                        }
                        Nearest::Lists { lists, probes } => {
                            lists.search(vectors, query, width, *probes, bits)
                        }
                        Nearest::External(index) => index.search(query, width, bits)?,
                    }
                }
            };
            // Changes may have been applied while the index searched.
            let live = self.live.read();
            found.retain(|&(row, _)| row < index.rows && admitted(&live, row));
        }
        let live = self.live.read();
        for row in live.indexed_rows..live.row_count() as Row {
            if !admitted(&live, row) {
                continue;
            }
            let score = self.dense_one(&live, query, row);
            if !score.is_nan() {
                any = true;
                found.push((row, score));
            }
        }
        Ok(any.then(|| dense::best(found, width)))
    }

    fn check_query(&self, query: &[f32]) -> Result<()> {
        if query.len() == self.models.dimension() {
            return Ok(());
        }
        Err(Error::Internal(format!(
            "a query vector of {} dimensions; the bundle has {}",
            query.len(),
            self.models.dimension()
        )))
    }

    fn dense_one(&self, live: &Live, query: &[f32], row: Row) -> f32 {
        let indexed = |row: Row| {
            self.index.as_ref().map_or(f32::NAN, |index| {
                index.vectors.int8_rows().score(query, row)
            })
        };
        match live.new_row(row).map(|new| &new.source) {
            None if row < live.indexed_rows => indexed(row),
            Some(Source::Indexed(row)) => indexed(*row),
            Some(Source::Own(vectors)) => vectors.scale * dense::dot(query, &vectors.dense),
            Some(Source::Pending) | None => f32::NAN,
        }
    }

    /// Cosine of each row with the query, from the int8 rows; NaN where there is no vector yet.
    ///
    /// out: as long as `rows`.
    pub fn dense_score(&self, query: &[f32], rows: &[Row], out: &mut [f32]) {
        assert_eq!(rows.len(), out.len(), "one score for each row");
        let live = self.live.read();
        for (row, score) in rows.iter().zip(out) {
            *score = self.dense_one(&live, query, *row);
        }
    }

    /// Late-interaction score of each row; NaN where there are no vectors yet.
    ///
    /// out: as long as `rows`.
    pub fn late(&self, query: &QueryTokens, rows: &[Row], out: &mut [f32]) {
        assert_eq!(rows.len(), out.len(), "one score for each row");
        let indexed = |row: Row| {
            self.index.as_ref().map_or(f32::NAN, |index| {
                let row = row as usize;
                let count = index.vectors.token_counts[row] as usize;
                late::maxsim(query, index.vectors.tokens.get(row), count)
            })
        };
        let live = self.live.read();
        for (&row, score) in rows.iter().zip(out) {
            *score = match live.new_row(row).map(|new| &new.source) {
                None if row < live.indexed_rows => indexed(row),
                Some(Source::Indexed(row)) => indexed(*row),
                Some(Source::Own(vectors)) => {
                    late::maxsim(query, &vectors.tokens, vectors.token_count)
                }
                Some(Source::Pending) | None => f32::NAN,
            };
        }
    }

    /// Calls `f` with the token ids of each row, for a cross-encoder; those of rows that still wait for
    /// their vectors are computed here, and are empty if that fails.
    pub fn with_pieces<T>(&self, rows: &[Row], f: impl FnOnce(&[&[u32]]) -> T) -> T {
        enum Pieces {
            Indexed(Row),
            Own(Arc<Vectors>),
            Computed(Vec<u32>),
        }
        let held: Vec<Pieces> = {
            let live = self.live.read();
            rows.iter()
                .map(|&row| match live.new_row(row).map(|new| &new.source) {
                    None if row < live.indexed_rows => Pieces::Indexed(row),
                    Some(Source::Indexed(row)) => Pieces::Indexed(*row),
                    Some(Source::Own(vectors)) => Pieces::Own(Arc::clone(vectors)),
                    Some(Source::Pending) | None => Pieces::Computed(
                        self.decode(&live, row)
                            .and_then(|product| self.models.pieces(&product).ok())
                            .unwrap_or_default(),
                    ),
                })
                .collect()
        };
        let pieces: Vec<&[u32]> = held
            .iter()
            .map(|pieces| match pieces {
                Pieces::Indexed(row) => self
                    .index
                    .as_ref()
                    .map_or(&[][..], |index| index.vectors.pieces.get(*row as usize)),
                Pieces::Own(vectors) => &vectors.pieces,
                Pieces::Computed(pieces) => pieces,
            })
            .collect();
        f(&pieces)
    }

    /// The live columns of each row.
    pub fn candidates(&self, rows: &[Row]) -> Vec<Candidate> {
        let live = self.live.read();
        rows.iter()
            .map(|&row| Candidate {
                row,
                values: live.columns.get(row),
            })
            .collect()
    }

    /// What a result shows of a row, with live price and stock; score and signals are the caller's. A row
    /// whose product got a new row meanwhile shows that one; none: the product was deleted.
    pub fn render(&self, row: Row) -> Option<wire::RankedProduct> {
        let live = self.live.read();
        let head = |row: Row| Head::decode(self.written(&live, row)?).ok();
        let (mut row, mut shown) = (row, head(row)?);
        if !live.is_live(row) {
            row = self.find(&live, &shown.product_id)?;
            shown = head(row)?;
        }
        let values = live.columns.get(row);
        Some(wire::RankedProduct {
            product_id: shown.product_id,
            score: 0.0,
            title: shown.title,
            brand: shown.brand,
            price: values.price(),
            stock: values.stock(),
            signals: Vec::new(),
            base_score: None,
            because: Vec::new(),
        })
    }

    /// What the products of rows are, as they were written; `None` for a row that is none.
    pub fn described(&self, rows: &[Row]) -> Vec<Option<Described>> {
        let live = self.live.read();
        rows.iter()
            .map(|row| {
                let mut kind = Kind::decode(self.written(&live, *row)?).ok()?;
                Some(Described {
                    product_id: kind.product_id,
                    title: kind.title,
                    brand: folded(&kind.brand),
                    category: folded(&kind.category.pop().unwrap_or_default()),
                })
            })
            .collect()
    }

    /// The vectors of rows, `[dimension]` each and of a length of about 1; none where there is no vector yet.
    pub fn vectors(&self, rows: &[Row]) -> Vec<Option<Vec<f32>>> {
        let scaled = |scale: f32, values: &[i8]| -> Vec<f32> {
            values
                .iter()
                .map(|value| scale * f32::from(*value))
                .collect()
        };
        let indexed = |row: Row| {
            let vectors = &self.index.as_ref()?.vectors;
            Some(scaled(vectors.scales[row as usize], vectors.dense(row)))
        };
        let live = self.live.read();
        rows.iter()
            .map(|&row| match live.new_row(row).map(|new| &new.source) {
                None if row < live.indexed_rows => indexed(row),
                Some(Source::Indexed(row)) => indexed(*row),
                Some(Source::Own(vectors)) => Some(scaled(vectors.scale, &vectors.dense)),
                Some(Source::Pending) | None => None,
            })
            .collect()
    }

    /// The live rows of the greatest popularity, best first: by the live column, then by ratings, then by row; unknown last.
    pub fn popular(&self, count: usize, eligible: Option<&FixedBitSet>) -> Vec<Row> {
        let live = self.live.read();
        // Many ask for the same, and only an event can change it.
        let kept = count <= POPULAR_KEPT && eligible.is_none();
        if kept {
            let seen = self.popular.lock();
            if let Some((sequence, rows)) = &*seen
                && *sequence == live.applied_sequence
            {
                return rows[..count.min(rows.len())].to_vec();
            }
        }
        let sequence = live.applied_sequence;
        let wanted = if kept { POPULAR_KEPT } else { count };
        let mut rows: Vec<(f64, i64, Row)> = live
            .live
            .ones()
            .filter(|row| eligible.is_none_or(|rows| rows.contains(*row)))
            .map(|row| {
                let values = live.columns.get(row as Row);
                let popularity = if values.popularity.is_nan() {
                    -1.0
                } else {
                    values.popularity
                };
                (popularity, values.rating_count, row as Row)
            })
            .collect();
        drop(live);
        let order = |a: &(f64, i64, Row), b: &(f64, i64, Row)| {
            b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(a.2.cmp(&b.2))
        };
        if wanted < rows.len() {
            rows.select_nth_unstable_by(wanted, order);
            rows.truncate(wanted);
        }
        rows.sort_unstable_by(order);
        let mut rows: Vec<Row> = rows.into_iter().map(|(_, _, row)| row).collect();
        if kept {
            *self.popular.lock() = Some((sequence, rows.clone()));
            rows.truncate(count);
        }
        rows
    }

    /// The words of a row, for the signals that compare them with the query.
    pub fn match_text(&self, row: Row) -> MatchText {
        match &self.index {
            Some(index) if row < index.rows => MatchText::decode(index.words.get(row as usize)),
            _ => self
                .live
                .read()
                .new_row(row)
                .map(|new| new.words.clone())
                .unwrap_or_default(),
        }
    }

    /// Counts the values of each of `fields` over the live products that carry any word of the query and
    /// are eligible (absent: all are).
    ///
    /// Errors: [`Error::InvalidRequest`] for fields other than `brand`, `category`, `attributes.NAME`.
    pub fn facets(
        &self,
        query: &str,
        fields: &[String],
        eligible: Option<&FixedBitSet>,
    ) -> Result<Vec<wire::Facet>> {
        let unknown: Vec<Violation> = fields
            .iter()
            .enumerate()
            .filter(|(_, field)| !limits::is_facet(field))
            .map(|(at, field)| Violation {
                field: format!("facets[{at}]"),
                description: format!("{field:?}; accepted: brand, category, attributes.NAME"),
            })
            .collect();
        if !unknown.is_empty() {
            return Err(Error::InvalidRequest(unknown));
        }
        if fields.is_empty() {
            return Ok(Vec::new());
        }
        let live = self.live.read();
        let mut matching = self.searched(&live).matching(query, live.row_count())?;
        matching.intersect_with(&live.live);
        if let Some(eligible) = eligible {
            matching.intersect_with(eligible);
        }
        Ok(fields
            .iter()
            .map(|field| wire::Facet {
                field: field.clone(),
                counts: live.keywords.count(field, &matching),
            })
            .collect())
    }
}

/// Bit `i % 8` of byte `i / 8` for row `i`, for rows below `count`.
fn bitmap(rows: &FixedBitSet, count: Row) -> Vec<u8> {
    let mut bytes: Vec<u8> = rows
        .as_slice()
        .iter()
        .flat_map(|block| block.to_le_bytes())
        .collect();
    bytes.resize((count as usize).div_ceil(8), 0);
    bytes
}

#[cfg(test)]
mod tests;
