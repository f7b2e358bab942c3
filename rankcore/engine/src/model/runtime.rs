//! ONNX Runtime: runs any graph, and is what our own kernels are measured by.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ort::environment::Environment;
use ort::session::Session;
use ort::session::SessionInputValue;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use parking_lot::{Condvar, Mutex};

use super::{ENCODER_FILE, Outputs, Row};
use crate::error::{Error, Result};

/// An ONNX model: a bounded pool of single-threaded sessions, made when first needed.
///
/// A session runs one batch at a time (`Session::run` is exclusive), so each busy thread gets its own.
pub(super) struct Model {
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
    /// `outputs` (f32, first dimension `B`), at most two. [`load`] must have been called.
    ///
    /// path: for messages. bytes, encoder: content of the model's file, and of the encoder's, the only one that
    /// tensors may be stored in outside the model's own.
    pub(super) fn open(
        path: PathBuf,
        bytes: Arc<[u8]>,
        encoder: Arc<[u8]>,
        inputs: &[&'static str],
        outputs: &[&'static str],
    ) -> Result<Model> {
        let model = Model {
            path,
            encoder,
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
    pub(super) fn run_rows(
        &self,
        rows: &[Row<'_>],
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
                    "input_ids" => row.ids,
                    "attention_mask" => &ones[..length],
                    _ => &types[..],
                };
                let tensor = TensorRef::from_array_view(([1, length], values)).map_err(failed)?;
                inputs.push(((*name).into(), tensor.into()));
            }
            let results = session.run(inputs).map_err(failed)?;
            let mut tensors: [&[f32]; 2] = [&[], &[]];
            for (name, tensor) in self.outputs.iter().zip(&mut tensors) {
                let (_, values) = results[*name].try_extract_tensor::<f32>().map_err(failed)?;
                *tensor = values;
            }
            take(number, &Outputs { tensors })?;
        }
        Ok(())
    }
}

impl Model {
    /// Runs a model of one input, f32 `[1, length, width]`, and returns its first output, flat.
    pub(super) fn run_vectors(&self, vectors: &[f32], width: usize) -> Result<Vec<f32>> {
        let failed =
            |error: ort::Error| Error::Internal(format!("{}: {error}", self.path.display()));
        let mut lent = self.lend()?;
        let session = lent
            .session
            .as_mut()
            .ok_or_else(|| Error::Internal("a session is missing".into()))?;
        let shape = [1, vectors.len() / width, width];
        let tensor = TensorRef::from_array_view((shape, vectors)).map_err(failed)?;
        let inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> =
            vec![(self.inputs[0].into(), tensor.into())];
        let results = session.run(inputs).map_err(failed)?;
        let (_, values) = results[self.outputs[0]]
            .try_extract_tensor::<f32>()
            .map_err(failed)?;
        Ok(values.to_vec())
    }
}

static RUNTIME: OnceLock<Environment> = OnceLock::new();

/// Loads ONNX Runtime from `library`, once per process; later calls with any path keep the first.
pub(super) fn load(library: &Path) -> Result<()> {
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
