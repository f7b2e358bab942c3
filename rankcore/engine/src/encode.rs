//! Text to token ids to vectors: the tokeniser, and the ONNX models behind a pool of sessions.

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use flate2::bufread::GzDecoder;
use ort::environment::Environment;
use ort::session::Session;
use ort::session::SessionInputValue;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use parking_lot::{Condvar, Mutex};
use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::rerank::late;
use crate::text::{TextConfig, product_text};
use crate::wire;

/// The encoder's file, and the only one that other models of a bundle may take tensors from.
const ENCODER_FILE: &str = "encoder/model.onnx";
/// Size of a model after inflating that is refused, far above any model that could answer in time.
const MODEL_BYTES_MAX: u64 = 512 << 20;

/// A query as the models see it.
#[derive(Debug, Clone)]
pub struct EncodedQuery {
    /// Token ids without special tokens, cut to `query_tokens_max`.
    pub pieces: Vec<u32>,
    /// True: the query was longer than `query_tokens_max`.
    pub truncated: bool,
    /// L2-normalised, `[dimension]`.
    pub dense: Vec<f32>,
    /// Token vectors, quantised.
    pub tokens: late::QueryTokens,
}

/// A product as the models see it.
#[derive(Debug, Clone)]
pub struct EncodedProduct {
    /// L2-normalised, `[dimension]`.
    pub dense: Vec<f32>,
    /// Token vectors in the layout of [`late::pack`].
    pub tokens: Vec<i8>,
    /// Number of token vectors, at most `late_tokens_max`.
    pub token_count: usize,
    /// Token ids for a cross-encoder, without special tokens, cut to `cross_tokens_max`.
    pub pieces: Vec<u32>,
}

/// Ids of the tokens that frame a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Specials {
    cls: u32,
    sep: u32,
}

/// One input of a model: ids, and where the second segment starts.
pub(crate) struct Row {
    ids: Vec<i64>,
    second: usize,
}

impl Specials {
    fn of(tokenizer: &Tokenizer) -> Result<Specials> {
        let id = |token: &str| {
            tokenizer
                .token_to_id(token)
                .ok_or_else(|| Error::Bundle(format!("tokenizer.json: no {token} token")))
        };
        Ok(Specials {
            cls: id("[CLS]")?,
            sep: id("[SEP]")?,
        })
    }

    /// `[CLS]` and `[SEP]`.
    pub(crate) fn ids(self) -> (u32, u32) {
        (self.cls, self.sep)
    }

    /// `[CLS] pieces [SEP]`.
    fn single(&self, pieces: &[u32]) -> Row {
        let mut ids = Vec::with_capacity(pieces.len() + 2);
        ids.push(i64::from(self.cls));
        ids.extend(pieces.iter().map(|piece| i64::from(*piece)));
        ids.push(i64::from(self.sep));
        let second = ids.len();
        Row { ids, second }
    }

    /// `[CLS] first [SEP] second [SEP]`.
    pub(crate) fn pair(&self, first: &[u32], second: &[u32]) -> Row {
        let mut row = self.single(first);
        row.ids.extend(second.iter().map(|piece| i64::from(*piece)));
        row.ids.push(i64::from(self.sep));
        row
    }
}

/// The encoder of a bundle and its tokeniser. Shared by many threads.
pub struct Encoder {
    tokenizer: Tokenizer,
    specials: Specials,
    model: Model,
    text: TextConfig,
    dimension: usize,
    token_dimension: usize,
}

impl Encoder {
    /// Opens `tokenizer.json` and `encoder/model.onnx` of the bundle in `dir`, and runs the model once.
    pub(crate) fn open(dir: &Path, text: &TextConfig) -> Result<Encoder> {
        let mut tokenizer = Tokenizer::from_file(dir.join("tokenizer.json"))
            .map_err(|error| Error::Bundle(format!("tokenizer.json: {error}")))?;
        // Cutting and padding are ours, by the limits of text.json.
        tokenizer
            .with_truncation(None)
            .map_err(|error| Error::Bundle(format!("tokenizer.json: {error}")))?;
        tokenizer.with_padding(None);
        let specials = Specials::of(&tokenizer)?;
        let model = Model::open(
            dir.join(ENCODER_FILE),
            None,
            &["input_ids", "attention_mask"],
            &["dense", "tokens"],
        )?;
        let mut widths = (0, 0);
        model.run_rows(&[specials.single(&[])], |_, outputs| {
            // Two rows of token vectors: `[CLS]` and `[SEP]`.
            widths = (outputs.len(0), outputs.len(1) / 2);
            Ok(())
        })?;
        let (dimension, token_dimension) = widths;
        if token_dimension < 4
            || !token_dimension.is_multiple_of(4)
            || token_dimension > late::DIMENSION_MAX
            || dimension == 0
        {
            return Err(Error::Bundle(format!(
                "{ENCODER_FILE}: {dimension} dense and {token_dimension} token dimensions; a token \
                 dimension must be a multiple of 4 up to {}",
                late::DIMENSION_MAX
            )));
        }
        Ok(Encoder {
            tokenizer,
            specials,
            model,
            text: text.clone(),
            dimension,
            token_dimension,
        })
    }

    /// Dimensions of a dense vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Dimensions of a token vector.
    pub fn token_dimension(&self) -> usize {
        self.token_dimension
    }

    /// The bytes of the encoder's file, which a cross-encoder may take its word table from.
    pub(crate) fn file(&self) -> &Arc<[u8]> {
        &self.model.bytes
    }

    pub(crate) fn specials(&self) -> Specials {
        self.specials
    }

    /// Token ids of a text without special tokens, uncut.
    pub fn pieces(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|error| Error::Internal(format!("tokeniser: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Tokenises and encodes a query.
    pub fn query(&self, text: &str) -> Result<EncodedQuery> {
        let mut pieces = self.pieces(text)?;
        let truncated = pieces.len() > self.text.query_tokens_max;
        pieces.truncate(self.text.query_tokens_max);
        let mut dense = Vec::new();
        let mut tokens = late::QueryTokens::new(&[], self.token_dimension);
        self.model
            .run_rows(&[self.specials.single(&pieces)], |_, outputs| {
                dense = outputs.get(0, self.dimension)?.to_vec();
                let vectors = self.token_vectors(outputs, pieces.len(), pieces.len())?;
                tokens = late::QueryTokens::new(vectors, self.token_dimension);
                Ok(())
            })?;
        Ok(EncodedQuery {
            pieces,
            truncated,
            dense,
            tokens,
        })
    }

    /// Token ids of a product for a cross-encoder, without special tokens, cut to `cross_tokens_max`.
    pub fn product_pieces(&self, product: &wire::Product) -> Result<Vec<u32>> {
        let mut pieces = self.pieces(&product_text(product, &self.text.product.cross_fields))?;
        pieces.truncate(self.text.cross_tokens_max);
        Ok(pieces)
    }

    /// Encodes products, in the order given. The vectors of a product do not depend on the others.
    pub fn products(&self, products: &[wire::Product]) -> Result<Vec<EncodedProduct>> {
        let shared = self.text.product.cross_fields == self.text.product.dense_fields;
        let mut rows = Vec::with_capacity(products.len());
        let mut read = Vec::with_capacity(products.len());
        let mut encoded = Vec::with_capacity(products.len());
        for product in products {
            let mut pieces =
                self.pieces(&product_text(product, &self.text.product.dense_fields))?;
            let cross = if shared {
                pieces[..pieces.len().min(self.text.cross_tokens_max)].to_vec()
            } else {
                self.product_pieces(product)?
            };
            pieces.truncate(self.text.dense_tokens_max);
            rows.push(self.specials.single(&pieces));
            read.push(pieces.len());
            encoded.push(EncodedProduct {
                dense: Vec::new(),
                tokens: Vec::new(),
                token_count: pieces.len().min(self.text.late_tokens_max),
                pieces: cross,
            });
        }
        self.model.run_rows(&rows, |number, outputs| {
            let product: &mut EncodedProduct = &mut encoded[number];
            product.dense = outputs.get(0, self.dimension)?.to_vec();
            let vectors = self.token_vectors(outputs, read[number], product.token_count)?;
            product.tokens = late::pack(vectors, self.token_dimension);
            Ok(())
        })?;
        Ok(encoded)
    }

    /// Vectors of the first `kept` of the `read` pieces; the first row of the output is the one of `[CLS]`.
    fn token_vectors<'a>(
        &self,
        outputs: &Outputs<'a>,
        read: usize,
        kept: usize,
    ) -> Result<&'a [f32]> {
        let width = self.token_dimension;
        let rows = outputs.get(1, (read + 2) * width)?;
        Ok(&rows[width..(kept + 1) * width])
    }
}

/// Outputs of one row, f32.
pub(crate) struct Outputs<'a> {
    tensors: Vec<&'a [f32]>,
}

impl<'a> Outputs<'a> {
    /// Values of one output, by its place in the list given to [`Model::open`].
    ///
    /// Errors where there are not exactly `expected` of them: the model is not what its bundle says.
    pub(crate) fn get(&self, output: usize, expected: usize) -> Result<&'a [f32]> {
        let values = self.tensors[output];
        if values.len() != expected {
            return Err(Error::Internal(format!(
                "output {output} of a model has {} values, expected {expected}",
                values.len()
            )));
        }
        Ok(values)
    }

    /// Number of values of one output.
    pub(crate) fn len(&self, output: usize) -> usize {
        self.tensors[output].len()
    }
}

/// An ONNX model: a bounded pool of single-threaded sessions, made when first needed.
///
/// A session runs one batch at a time (`Session::run` is exclusive), so each busy thread gets its own.
pub(crate) struct Model {
    path: PathBuf,
    /// Read once, so that a later session is of the same model whatever happens to the folder.
    bytes: Arc<[u8]>,
    /// Content of [`ENCODER_FILE`].
    encoder: Arc<[u8]>,
    inputs: Vec<&'static str>,
    outputs: Vec<&'static str>,
    sessions_max: usize,
    pool: Mutex<Pool>,
    returned: Condvar,
}

struct Pool {
    idle: Vec<Session>,
    made: usize,
}

/// A session out of the pool; goes back when dropped.
struct Lent<'a> {
    model: &'a Model,
    session: Option<Session>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut pool = self.model.pool.lock();
        match self.session.take() {
            Some(session) => pool.idle.push(session),
            None => pool.made -= 1,
        }
        drop(pool);
        self.model.returned.notify_one();
    }
}

impl Model {
    /// Opens a model that must have exactly the named `inputs` (int64 `[B, T]`) and at least the named
    /// `outputs` (f32, first dimension `B`). [`load_runtime`] must have been called.
    ///
    /// path: of an ONNX file, compressed where its name ends with `.gz`. encoder: content of the encoder's file, the
    /// only one that tensors may be stored in outside the model's own; absent: this is the encoder.
    pub(crate) fn open(
        path: PathBuf,
        encoder: Option<&Arc<[u8]>>,
        inputs: &[&'static str],
        outputs: &[&'static str],
    ) -> Result<Model> {
        let bytes: Arc<[u8]> = read_model(&path)
            .map_err(|reason| Error::Bundle(format!("{}: {reason}", path.display())))?
            .into();
        let model = Model {
            path,
            encoder: encoder.unwrap_or(&bytes).clone(),
            bytes,
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
            sessions_max: std::thread::available_parallelism().map_or(2, usize::from) * 2,
            pool: Mutex::new(Pool {
                idle: Vec::new(),
                made: 0,
            }),
            returned: Condvar::new(),
        };
        let session = model.session()?;
        let found: Vec<&str> = session.inputs().iter().map(|input| input.name()).collect();
        let mut wanted = inputs.to_vec();
        let mut sorted = found.clone();
        wanted.sort_unstable();
        sorted.sort_unstable();
        if wanted != sorted {
            return Err(model.broken(format!("inputs are {found:?}, expected {inputs:?}")));
        }
        let found: Vec<&str> = session
            .outputs()
            .iter()
            .map(|output| output.name())
            .collect();
        if let Some(missing) = outputs.iter().find(|output| !found.contains(output)) {
            return Err(model.broken(format!("no output {missing:?}, only {found:?}")));
        }
        *model.pool.lock() = Pool {
            idle: vec![session],
            made: 1,
        };
        Ok(model)
    }

    fn broken(&self, reason: impl std::fmt::Display) -> Error {
        Error::Bundle(format!("{}: {reason}", self.path.display()))
    }

    fn session(&self) -> Result<Session> {
        let make = || -> std::result::Result<Session, String> {
            let environment = RUNTIME
                .get()
                .ok_or("the runtime library is not loaded")?
                .clone();
            // Memory patterns assume one shape; ours change with every text.
            Session::builder(&environment)
                .map_err(|error| error.to_string())?
                .with_optimization_level(GraphOptimizationLevel::All)
                .map_err(|error| error.to_string())?
                .with_intra_threads(1)
                .map_err(|error| error.to_string())?
                .with_inter_threads(1)
                .map_err(|error| error.to_string())?
                .with_memory_pattern(false)
                .map_err(|error| error.to_string())?
                // With a table of files the runtime looks for tensors nowhere else, on disk in particular.
                .with_external_initializer_file_in_memory(ENCODER_FILE, self.encoder.clone())
                .map_err(|error| error.to_string())?
                .commit_from_memory(&self.bytes)
                .map_err(|error| error.to_string())
        };
        make().map_err(|reason| self.broken(reason))
    }

    fn lend(&self) -> Result<Lent<'_>> {
        let mut pool = self.pool.lock();
        loop {
            if let Some(session) = pool.idle.pop() {
                return Ok(Lent {
                    model: self,
                    session: Some(session),
                });
            }
            if pool.made < self.sessions_max {
                pool.made += 1;
                drop(pool);
                // Counted already: dropping `lent` on failure takes the count back.
                let mut lent = Lent {
                    model: self,
                    session: None,
                };
                lent.session = Some(self.session()?);
                return Ok(lent);
            }
            self.returned.wait(&mut pool);
        }
    }

    /// Runs `rows` one by one and gives each one's outputs to `take`, with its place in `rows`.
    ///
    /// Rows are not batched: int8 models scale their activations by the largest value of a batch, so in a
    /// batch a score would depend on its neighbours (by 7 % of the scores' spread, measured on a random L4H256), and
    /// a text's vectors on what else was encoded that day. On one thread a padded batch of eight ragged rows
    /// is not faster than eight rows without padding.
    pub(crate) fn run_rows(
        &self,
        rows: &[Row],
        mut take: impl FnMut(usize, &Outputs) -> Result<()>,
    ) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut lent = self.lend()?;
        let session = lent
            .session
            .as_mut()
            .ok_or_else(|| Error::Internal("a session is missing".into()))?;
        let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let ones = vec![1_i64; longest];
        let mut types = Vec::with_capacity(longest);
        let failed =
            |error: ort::Error| Error::Internal(format!("{}: {error}", self.path.display()));
        for (number, row) in rows.iter().enumerate() {
            let length = row.ids.len();
            types.clear();
            types.resize(row.second, 0_i64);
            types.resize(length, 1);
            let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> =
                Vec::with_capacity(self.inputs.len());
            for name in &self.inputs {
                let values = match *name {
                    "input_ids" => &row.ids[..],
                    "attention_mask" => &ones[..length],
                    _ => &types[..],
                };
                let tensor = TensorRef::from_array_view(([1, length], values)).map_err(failed)?;
                inputs.push(((*name).into(), tensor.into()));
            }
            let results = session.run(inputs).map_err(failed)?;
            let mut tensors = Vec::with_capacity(self.outputs.len());
            for name in &self.outputs {
                let (_, values) = results[*name].try_extract_tensor::<f32>().map_err(failed)?;
                tensors.push(values);
            }
            take(number, &Outputs { tensors })?;
        }
        Ok(())
    }
}

/// The bytes of an ONNX file, inflated where its name ends with `.gz`. Errors: what is wrong with the file.
fn read_model(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let stored = std::fs::read(path).map_err(|error| error.to_string())?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        inflate(&stored, MODEL_BYTES_MAX)
    } else {
        Ok(stored)
    }
}

/// What a gzip file of one member holds; refused where that is more than `bytes_max`.
fn inflate(stored: &[u8], bytes_max: u64) -> std::result::Result<Vec<u8>, String> {
    let mut rest = stored;
    let mut inflated = Vec::new();
    GzDecoder::new(&mut rest)
        .take(bytes_max + 1)
        .read_to_end(&mut inflated)
        .map_err(|error| format!("not a whole gzip file: {error}"))?;
    if inflated.len() as u64 > bytes_max {
        return Err(format!("inflates to more than {bytes_max} bytes"));
    }
    if !rest.is_empty() {
        return Err(format!(
            "{} bytes after the end of the gzip file",
            rest.len()
        ));
    }
    Ok(inflated)
}

static RUNTIME: OnceLock<Environment> = OnceLock::new();

/// Loads ONNX Runtime from `library`, once per process; later calls with any path keep the first.
pub fn load_runtime(library: &Path) -> Result<()> {
    static LOADING: Mutex<()> = Mutex::new(());
    let _loading = LOADING.lock();
    if RUNTIME.get().is_some() {
        return Ok(());
    }
    let refuse = |reason: String| Error::Bundle(format!("{}: {reason}", library.display()));
    if !library.is_file() {
        return Err(refuse("no such ONNX Runtime library".into()));
    }
    let environment = ort::init_from(library)
        .map_err(|error| refuse(error.to_string()))?
        .with_name("muster")
        .with_telemetry(false)
        .build()
        .map_err(|error| refuse(error.to_string()))?;
    // Only this function sets it, under the lock.
    let _ = RUNTIME.set(environment);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn deflated(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_was_compressed_comes_back_up_to_the_limit() {
        let content: Vec<u8> = (0..10_000).map(|at: u32| (at % 251) as u8).collect();
        let stored = deflated(&content);
        assert_eq!(inflate(&stored, 10_000).unwrap(), content);
        assert_eq!(
            inflate(&stored, 9_999).unwrap_err(),
            "inflates to more than 9999 bytes"
        );
        assert!(inflate(&deflated(b""), 0).unwrap().is_empty());
    }

    #[test]
    fn a_small_file_that_inflates_to_much_is_given_up_at_the_limit() {
        let stored = deflated(&vec![0; 16 << 20]);
        assert!(stored.len() < 1 << 16);
        assert!(
            inflate(&stored, 1 << 16)
                .unwrap_err()
                .contains("more than 65536")
        );
    }

    #[test]
    fn a_gzip_file_that_is_cut_changed_or_continued_is_refused() {
        let whole = deflated(b"weights of a model, weights of a model");
        for length in 0..whole.len() {
            assert!(inflate(&whole[..length], 1 << 20).is_err(), "{length}");
        }
        let mut changed = whole.clone();
        let sum = whole.len() - 8;
        changed[sum] ^= 1;
        assert!(inflate(&changed, 1 << 20).is_err());
        let twice = [&whole[..], &whole[..]].concat();
        assert!(
            inflate(&twice, 1 << 20)
                .unwrap_err()
                .contains("after the end")
        );
    }
}
