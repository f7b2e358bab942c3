//! Builds the files of a generation: text, columns and words as products come in, vectors at the end.

use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, RandomState};
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use prost::Message;

use crate::bundle::Bundle;
use crate::encode::EncodedProduct;
use crate::error::{Error, Result};
use crate::rerank::late;
use crate::retrieve::Row;
use crate::retrieve::columns::{Columns, Values};
use crate::retrieve::dense::quantise;
use crate::retrieve::facets::KeywordWriter;
use crate::retrieve::lexical::LexicalWriter;
use crate::retrieve::limits::validate_product;
use crate::retrieve::match_text::MatchText;
use crate::text::product_text;
use crate::wire;

use super::drawn::Drawn;
use super::files::{Ragged, RaggedWriter, Writer};
use super::index::IndexedVectors;
use super::{Models, read_manifest};

/// Products that a thread encodes at a time.
const CHUNK: usize = 64;
/// Chunks that each thread takes before vectors are written.
const CHUNKS_PER_THREAD: usize = 4;

/// What was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildReport {
    /// Products.
    pub products: usize,
    /// Dimensions of a dense vector.
    pub dimension: usize,
    /// Dimensions of a token vector.
    pub token_dimension: usize,
    /// Products whose vectors were computed.
    pub encoded: usize,
    /// Products whose vectors were taken from the older generation.
    pub reused: usize,
    /// Products whose vectors were drawn, around those that were encoded.
    pub drawn: usize,
}

/// Writes a generation's files to a folder, but for its approximate index and its manifest.
///
/// Beside the files of the generation it leaves `dense.f32`: all dense vectors, float32
/// `[products][dimension]`, row-major, without a header, to build the approximate index from.
pub struct GenerationBuilder {
    models: Arc<dyn Models>,
    out: PathBuf,
    threads: usize,
    reuse: Option<Reuse>,
    products: RaggedWriter<u8>,
    ids: Ids,
    lexical: LexicalWriter,
    words: RaggedWriter<u32>,
    keywords: KeywordWriter,
    columns: Columns,
    sample: usize,
}

/// Vectors of an older generation, by the text they were made from.
struct Reuse {
    vectors: IndexedVectors,
    rows: HashMap<[u64; 2], Row>,
}

impl Reuse {
    fn open(dir: &Path, models: &dyn Models) -> Result<Option<Self>> {
        let manifest = read_manifest(dir)?;
        if manifest.bundle_id != models.bundle_id()
            || manifest.dimension != models.dimension()
            || manifest.token_dimension != models.token_dimension()
        {
            return Ok(None);
        }
        let vectors = IndexedVectors::open(
            dir,
            manifest.products,
            manifest.dimension,
            manifest.token_dimension,
        )?;
        let rows = (0..manifest.products)
            .map(|row| {
                (
                    [vectors.texts[2 * row], vectors.texts[2 * row + 1]],
                    row as Row,
                )
            })
            .collect();
        Ok(Some(Self { vectors, rows }))
    }
}

/// 128 bits that tell the texts which the models read of a product apart.
fn digest(models: &dyn Models, product: &wire::Product) -> [u64; 2] {
    let fields = &models.text().product;
    let texts =
        [&fields.dense_fields, &fields.cross_fields].map(|fields| product_text(product, fields));
    [0_u8, 1].map(|half| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(half);
        for text in &texts {
            hasher.write_usize(text.len());
            hasher.write(text.as_bytes());
        }
        hasher.finish()
    })
}

/// Vectors of one product, from the models or from an older generation.
enum Made {
    Encoded(Box<EncodedProduct>),
    Reused(Row),
}

impl GenerationBuilder {
    /// Starts a build in `out`, which is created and must be empty.
    ///
    /// threads: that encode; 0: one for each core. reuse: folder of an older generation whose vectors are
    /// taken for products with the same text; one of another bundle is not used.
    pub fn new(
        bundle: Arc<Bundle>,
        out: &Path,
        threads: usize,
        reuse: Option<&Path>,
    ) -> Result<Self> {
        Self::new_with(bundle, out, threads, reuse)
    }

    /// As [`GenerationBuilder::new`], for any models.
    pub fn new_with(
        models: Arc<dyn Models>,
        out: &Path,
        threads: usize,
        reuse: Option<&Path>,
    ) -> Result<Self> {
        let refuse = |error: &dyn std::fmt::Display| {
            Error::Generation(format!("{}: {error}", out.display()))
        };
        let lexical = out.join("lexical");
        std::fs::create_dir_all(out).map_err(|error| refuse(&error))?;
        if std::fs::read_dir(out)
            .map_err(|error| refuse(&error))?
            .next()
            .is_some()
        {
            return Err(refuse(&"the folder of a new generation must be empty"));
        }
        std::fs::create_dir(&lexical).map_err(|error| refuse(&error))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            reuse: match reuse {
                Some(dir) => Reuse::open(dir, &*models)?,
                None => None,
            },
            products: RaggedWriter::create(out, "products", "bin", "products")?,
            ids: Ids::default(),
            lexical: LexicalWriter::create(&lexical)?,
            words: RaggedWriter::create(out, "words", "u32", "words")?,
            keywords: KeywordWriter::default(),
            columns: Columns::default(),
            sample: 0,
            threads: if threads == 0 { cores } else { threads },
            out: out.to_owned(),
            models,
        })
    }

    /// Encodes this many products alone, and draws the vectors of all around theirs: for measurements of size.
    pub fn draw(&mut self, sample: usize) {
        self.sample = sample;
    }

    /// Adds a product. Errors: [`Error::InvalidRequest`] if it breaks a limit; [`Error::Generation`] if it
    /// was added before.
    pub fn add(&mut self, product: wire::Product) -> Result<()> {
        let violations = validate_product(&product);
        if !violations.is_empty() {
            return Err(Error::InvalidRequest(violations));
        }
        self.ids.push(&product.product_id)?;
        self.products.push(&product.encode_to_vec())?;
        self.lexical.push(&product)?;
        self.words.push(&MatchText::of(&product).encode())?;
        self.keywords.push(&product);
        self.columns.push(&Values::of(&product));
        Ok(())
    }

    /// Computes the vectors and makes all files valid. progress: called with products done and products
    /// altogether.
    pub fn finish(self, mut progress: impl FnMut(usize, usize)) -> Result<BuildReport> {
        self.products.finish()?;
        self.lexical.finish()?;
        self.words.finish()?;
        self.keywords.finish(&self.out)?;
        self.columns.write(&self.out)?;
        let count = self.ids.ends.len();
        self.ids.write(&self.out)?;
        let products: Ragged<u8> = Ragged::open(&self.out, "products", "bin", "products")?;
        let mut vectors = VectorWriter::create(&self.out)?;
        let mut report = BuildReport {
            products: count,
            dimension: self.models.dimension(),
            token_dimension: self.models.token_dimension(),
            encoded: 0,
            reused: 0,
            drawn: 0,
        };
        let round = CHUNK * CHUNKS_PER_THREAD * self.threads;
        progress(0, count);
        let drawn = if self.sample > 0 && count > 0 {
            let drawn = sample(&*self.models, &products, self.sample, self.threads)?;
            report.encoded = self.sample.min(count);
            report.drawn = count;
            Some(drawn)
        } else {
            None
        };
        let models: &dyn Models = match &drawn {
            Some(drawn) => drawn,
            None => &*self.models,
        };
        for start in (0..count).step_by(round) {
            let end = (start + round).min(count);
            let rows: Vec<usize> = (start..end).collect();
            let reuse = self.reuse.as_ref().filter(|_| drawn.is_none());
            let made = make(models, reuse, &products, &rows, self.threads)?;
            for (digest, made) in made {
                match made {
                    Made::Encoded(encoded) => {
                        vectors.push_encoded(digest, &encoded, models)?;
                        report.encoded += usize::from(drawn.is_none());
                    }
                    Made::Reused(row) => {
                        let reuse = self.reuse.as_ref().expect("rows are reused from it");
                        vectors.push_reused(digest, &reuse.vectors, row)?;
                        report.reused += 1;
                    }
                }
            }
            progress(end, count);
        }
        vectors.finish()?;
        Ok(report)
    }
}

/// Encodes `count` products, evenly spread over all rows, to draw the vectors of all from.
fn sample<'a>(
    models: &'a dyn Models,
    products: &Ragged<u8>,
    count: usize,
    threads: usize,
) -> Result<Drawn<'a>> {
    let all = products.rows();
    let count = count.min(all);
    let rows: Vec<usize> = (0..count).map(|at| at * all / count).collect();
    let made = make(models, None, products, &rows, threads)?;
    let encoded = made
        .into_iter()
        .filter_map(|(_, made)| match made {
            Made::Encoded(encoded) => Some(*encoded),
            Made::Reused(_) => None,
        })
        .collect();
    let sampled = rows
        .iter()
        .map(|&row| decode(products, row))
        .collect::<Result<Vec<_>>>()?;
    Drawn::new(models, &sampled, encoded)
}

fn decode(products: &Ragged<u8>, row: usize) -> Result<wire::Product> {
    wire::Product::decode(products.get(row)).map_err(|error| {
        Error::Generation(format!("{}: row {row}: {error}", products.path().display()))
    })
}

/// A product's digest and its vectors, for each product of a run of rows.
type MadeRows = Vec<([u64; 2], Made)>;

/// Vectors of the products in `rows`, in order, made by `threads` threads.
fn make(
    models: &dyn Models,
    reuse: Option<&Reuse>,
    products: &Ragged<u8>,
    rows: &[usize],
    threads: usize,
) -> Result<MadeRows> {
    let chunks = rows.len().div_ceil(CHUNK);
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let done: Mutex<Vec<Option<Result<MadeRows>>>> =
        Mutex::new((0..chunks).map(|_| None).collect());
    let work = || {
        loop {
            let chunk = next.fetch_add(1, Ordering::Relaxed);
            if chunk >= chunks || failed.load(Ordering::Relaxed) {
                return;
            }
            let start = chunk * CHUNK;
            let end = (start + CHUNK).min(rows.len());
            let made = make_chunk(models, reuse, products, &rows[start..end]);
            failed.fetch_or(made.is_err(), Ordering::Relaxed);
            done.lock()[chunk] = Some(made);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(chunks) {
            scope.spawn(work);
        }
        work();
    });
    let mut made = Vec::with_capacity(rows.len());
    // Chunks are taken in order, so those that never ran come after the one that failed.
    for chunk in done.into_inner().into_iter().flatten() {
        made.extend(chunk?);
    }
    Ok(made)
}

fn make_chunk(
    models: &dyn Models,
    reuse: Option<&Reuse>,
    products: &Ragged<u8>,
    rows: &[usize],
) -> Result<MadeRows> {
    let mut digests = Vec::with_capacity(rows.len());
    let mut fresh = Vec::new();
    for &row in rows {
        let product = decode(products, row)?;
        let digest = digest(models, &product);
        let reused = reuse.and_then(|reuse| reuse.rows.get(&digest)).copied();
        if reused.is_none() {
            fresh.push(product);
        }
        digests.push((digest, reused));
    }
    let encoded = if fresh.is_empty() {
        Vec::new()
    } else {
        models.encode(&fresh)?
    };
    if encoded.len() != fresh.len() {
        return Err(Error::Internal("the encoder lost a product".into()));
    }
    let mut encoded = encoded.into_iter();
    Ok(digests
        .into_iter()
        .map(|(digest, reused)| {
            let made = match reused {
                Some(row) => Made::Reused(row),
                None => Made::Encoded(Box::new(
                    encoded.next().expect("one for each fresh product"),
                )),
            };
            (digest, made)
        })
        .collect())
}

/// The identifiers of all rows, end to end, so that one takes little more than its bytes.
#[derive(Default)]
struct Ids {
    text: String,
    ends: Vec<usize>,
    /// First row whose identifier has a hash.
    rows: HashMap<u64, Row>,
    /// Rows whose identifier has the hash of an earlier, other one.
    collided: Vec<Row>,
    hashes: RandomState,
}

impl Ids {
    fn get(&self, row: Row) -> &str {
        let row = row as usize;
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.text[start..self.ends[row]]
    }

    /// Adds the next row. Errors: [`Error::Generation`] if its identifier is taken.
    fn push(&mut self, id: &str) -> Result<()> {
        let row = Row::try_from(self.ends.len())
            .map_err(|_| Error::Generation("more than 2^32 products".into()))?;
        let hash = self.hashes.hash_one(id);
        let first = self.rows.get(&hash).copied();
        let same_hash = first
            .into_iter()
            .chain(self.collided.iter().copied().filter(|_| first.is_some()));
        if same_hash.into_iter().any(|other| self.get(other) == id) {
            return Err(Error::Generation(format!("product {id:?} was added twice")));
        }
        if first.is_some() {
            self.collided.push(row);
        } else {
            self.rows.insert(hash, row);
        }
        self.text.push_str(id);
        self.ends.push(self.text.len());
        Ok(())
    }

    fn write(mut self, dir: &Path) -> Result<()> {
        self.rows = HashMap::new();
        let mut sorted: Vec<Row> = (0..self.ends.len() as Row).collect();
        sorted.sort_unstable_by(|&left, &right| self.get(left).cmp(self.get(right)));
        let mut names = RaggedWriter::create(dir, "ids", "bin", "ids")?;
        let mut rows = Writer::create(&dir.join("id_rows.u32"), "id rows")?;
        for row in sorted {
            names.push(self.get(row).as_bytes())?;
            rows.extend(&[row])?;
        }
        names.finish()?;
        rows.finish()
    }
}

struct VectorWriter {
    raw: BufWriter<File>,
    raw_path: PathBuf,
    dense: Writer<i8>,
    scales: Writer<f32>,
    tokens: RaggedWriter<i8>,
    token_counts: Writer<u32>,
    pieces: RaggedWriter<u32>,
    texts: Writer<u64>,
    row: Vec<i8>,
}

impl VectorWriter {
    fn create(dir: &Path) -> Result<Self> {
        let raw_path = dir.join("dense.f32");
        let raw = File::create(&raw_path)
            .map_err(|error| Error::Generation(format!("{}: {error}", raw_path.display())))?;
        Ok(Self {
            raw: BufWriter::with_capacity(1 << 18, raw),
            raw_path,
            dense: Writer::create(&dir.join("dense.i8"), "dense")?,
            scales: Writer::create(&dir.join("dense_scales.f32"), "dense scales")?,
            tokens: RaggedWriter::create(dir, "tokens", "i8", "tokens")?,
            token_counts: Writer::create(&dir.join("token_counts.u32"), "token counts")?,
            pieces: RaggedWriter::create(dir, "pieces", "u32", "pieces")?,
            texts: Writer::create(&dir.join("texts.u64"), "text digests")?,
            row: Vec::new(),
        })
    }

    fn push_raw(&mut self, values: impl Iterator<Item = f32>) -> Result<()> {
        for value in values {
            self.raw.write_all(&value.to_le_bytes()).map_err(|error| {
                Error::Generation(format!("{}: {error}", self.raw_path.display()))
            })?;
        }
        Ok(())
    }

    fn push_encoded(
        &mut self,
        digest: [u64; 2],
        encoded: &EncodedProduct,
        models: &dyn Models,
    ) -> Result<()> {
        let tokens = late::packed_len(encoded.token_count, models.token_dimension());
        if encoded.dense.len() != models.dimension() || encoded.tokens.len() != tokens {
            return Err(Error::Internal(
                "the encoder's vectors do not fit the bundle".into(),
            ));
        }
        self.push_raw(encoded.dense.iter().copied())?;
        self.row.clear();
        let scale = quantise(&encoded.dense, &mut self.row);
        self.dense.extend(&self.row)?;
        self.scales.extend(&[scale])?;
        self.tokens.push(&encoded.tokens)?;
        self.token_counts.extend(&[encoded.token_count as u32])?;
        self.pieces.push(&encoded.pieces)?;
        self.texts.extend(&digest)
    }

    fn push_reused(&mut self, digest: [u64; 2], older: &IndexedVectors, row: Row) -> Result<()> {
        let scale = older.scales[row as usize];
        let dense = older.dense(row);
        self.push_raw(dense.iter().map(|&value| scale * f32::from(value)))?;
        self.dense.extend(dense)?;
        self.scales.extend(&[scale])?;
        self.tokens.push(older.tokens.get(row as usize))?;
        self.token_counts
            .extend(&[older.token_counts[row as usize]])?;
        self.pieces.push(older.pieces.get(row as usize))?;
        self.texts.extend(&digest)
    }

    fn finish(mut self) -> Result<()> {
        self.raw
            .flush()
            .map_err(|error| Error::Generation(format!("{}: {error}", self.raw_path.display())))?;
        self.dense.finish()?;
        self.scales.finish()?;
        self.tokens.finish()?;
        self.token_counts.finish()?;
        self.pieces.finish()?;
        self.texts.finish()
    }
}
