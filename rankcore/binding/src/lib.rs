//! The Python face of rankcore: converts, releases the GIL, maps errors; holds no ranking logic.

mod convert;
mod errors;
mod front;
mod kernels;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use numpy::{
    PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods,
};
use parking_lot::Mutex;
use prost::Message;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use rankcore_engine::bundle::Bundle;
use rankcore_engine::engine as core;
use rankcore_engine::error::{Error, Result};
use rankcore_engine::generation::build::GenerationBuilder as CoreBuilder;
use rankcore_engine::generation::{DenseRows as CoreRows, Generation as CoreGeneration};
use rankcore_engine::reply::Cancel as CoreCancel;
use rankcore_engine::request::Answer;
use rankcore_engine::rerank::cross::PairScorer;
use rankcore_engine::retrieve::lexical::ANALYSER;
use rankcore_engine::retrieve::{DenseSearch, Row, lists, validate_apply};
use rankcore_engine::{signals, wire};

use convert::{PythonDense, PythonPairs};
use errors::raise;

/// The engine; the last owner stops its threads, which may be waiting for the interpreter, so it gives it up first.
#[derive(Clone)]
struct Owner(Option<Arc<core::Engine>>);

impl Owner {
    fn new(engine: core::Engine) -> Self {
        Self(Some(Arc::new(engine)))
    }
}

impl std::ops::Deref for Owner {
    type Target = core::Engine;

    fn deref(&self) -> &core::Engine {
        self.0.as_deref().expect("owned until dropped")
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let engine = self.0.take();
        // While the interpreter ends nobody can attach; no worker waits for it then.
        let mut engine = Some(engine);
        let detached = Python::try_attach(|py| {
            let engine = engine.take();
            py.detach(|| drop(engine));
        });
        if detached.is_none() {
            drop(engine);
        }
    }
}

/// Gives one request up from another thread.
#[pyclass(module = "rankcore._native", frozen)]
struct Cancel(CoreCancel);

#[pymethods]
impl Cancel {
    #[new]
    fn new() -> Self {
        Self(CoreCancel::default())
    }

    /// Give the request up: its caller gets `Cancelled`, its work leaves before more is computed. Idempotent.
    fn cancel(&self) {
        // Takes a lock that is only ever held for an instant; giving up the interpreter would take longer.
        self.0.cancel();
    }
}

/// An opened generation and the live state on top of it.
#[pyclass(module = "rankcore._native", frozen)]
struct Generation {
    engine: Owner,
    inner: Arc<CoreGeneration>,
}

#[pymethods]
impl Generation {
    /// Name of the generation; empty for one that was never built.
    #[getter]
    fn generation_id(&self) -> &str {
        self.inner.id()
    }

    /// Sequence that the generation was built up to.
    #[getter]
    fn sequence(&self) -> u64 {
        self.inner.sequence()
    }

    /// How the nearest rows are found: kind, probes, recall_at_100, median_ms; None where that is not known.
    #[getter]
    fn dense_index<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        self.inner
            .dense_index()
            .map(|index| convert::dense_index(py, index))
            .transpose()
    }

    /// Apply serialised `SequencedEvent`s in ascending order; those already applied are skipped.
    fn apply(&self, py: Python<'_>, events: Vec<Vec<u8>>) -> PyResult<u64> {
        py.detach(|| self.engine.apply(&self.inner, &events))
            .map_err(|error| raise(py, error))
    }

    /// Highest sequence applied.
    fn applied_sequence(&self) -> u64 {
        self.inner.applied_sequence()
    }

    /// Live products.
    fn products(&self) -> usize {
        self.inner.products()
    }

    /// Live products whose text is newer than the generation.
    fn delta_products(&self) -> usize {
        self.inner.delta_products()
    }

    /// Texts whose vectors are still to be computed.
    fn pending(&self) -> usize {
        self.inner.pending()
    }

    /// The serialised `Product` with its live columns.
    fn product<'py>(&self, py: Python<'py>, product_id: &str) -> Option<Bound<'py, PyBytes>> {
        let product = self.inner.product(product_id)?;
        Some(PyBytes::new(py, &product.encode_to_vec()))
    }

    /// True if the product can be found.
    fn contains(&self, product_id: &str) -> bool {
        self.inner.contains(product_id)
    }

    /// All live products, serialised.
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            generation: Arc::clone(&self.inner),
            state: Mutex::new((Vec::new().into_iter(), Some(0))),
        }
    }
}

/// Products read ahead by a snapshot.
const SNAPSHOT_BATCH: usize = 256;

/// Iterator over the live products of a generation.
#[pyclass(module = "rankcore._native", frozen)]
struct Snapshot {
    generation: Arc<CoreGeneration>,
    state: Mutex<(std::vec::IntoIter<wire::Product>, Option<Row>)>,
}

#[pymethods]
impl Snapshot {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let product = py.detach(|| {
            let mut state = self.state.lock();
            loop {
                if let Some(product) = state.0.next() {
                    return Some(product.encode_to_vec());
                }
                let from = state.1?;
                let (products, next) = self.generation.snapshot_products(from, SNAPSHOT_BATCH);
                *state = (products.into_iter(), next);
            }
        })?;
        Some(PyBytes::new(py, &product))
    }
}

/// A bundle, the generation being served, and the workers that answer.
#[pyclass(module = "rankcore._native", frozen)]
struct Engine(Owner);

impl Engine {
    /// Runs `rank` without the GIL, looking now and then for a signal such as an interrupt.
    fn answer<'py>(
        py: Python<'py>,
        rank: impl FnOnce(&dyn Fn() -> bool) -> Result<Answer> + Send,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (answer, interrupt) = py.detach(|| {
            let interrupt = RefCell::new(None);
            let interrupted = || {
                let raised = Python::attach(|py| py.check_signals().err());
                let stop = raised.is_some();
                *interrupt.borrow_mut() = raised;
                stop
            };
            let answer = rank(&interrupted);
            (answer, interrupt.into_inner())
        });
        if let Some(interrupt) = interrupt {
            return Err(interrupt);
        }
        answer
            .map(|answer| PyBytes::new(py, &answer.bytes))
            .map_err(|error| raise(py, error))
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    #[pyo3(signature = (bundle, *, runtime_library, workers=0, replica=String::new(), chunk_pairs=4, reserve_ms=0.5, queue_max=1024, backlog_ms=0.0, price_gain=1.0, kernels="auto"))]
    fn new(
        py: Python<'_>,
        bundle: PathBuf,
        runtime_library: PathBuf,
        workers: usize,
        replica: String,
        chunk_pairs: usize,
        reserve_ms: f64,
        queue_max: usize,
        backlog_ms: f64,
        price_gain: f64,
        kernels: &str,
    ) -> PyResult<Self> {
        let kernels = convert::kernels(kernels)?;
        py.detach(|| {
            let settings = core::Settings {
                kernels,
                workers,
                replica,
                chunk_pairs,
                reserve_us: core::reserve_us(reserve_ms)?,
                queue_max,
                pricing: core::pricing(backlog_ms, price_gain)?,
            };
            core::Engine::new(&bundle, &runtime_library, settings)
        })
        .map(|engine| Self(Owner::new(engine)))
        .map_err(|error| raise(py, error))
    }

    /// Open another bundle on the workers of this engine: both take turns in one queue.
    #[pyo3(signature = (bundle, *, runtime_library, replica=String::new(), chunk_pairs=8, reserve_ms=2.0, queue_max=1024, backlog_ms=0.0, price_gain=1.0, kernels="auto"))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn beside(
        &self,
        py: Python<'_>,
        bundle: PathBuf,
        runtime_library: PathBuf,
        replica: String,
        chunk_pairs: usize,
        reserve_ms: f64,
        queue_max: usize,
        backlog_ms: f64,
        price_gain: f64,
        kernels: &str,
    ) -> PyResult<Self> {
        let kernels = convert::kernels(kernels)?;
        py.detach(|| {
            let settings = core::Settings {
                kernels,
                workers: 0,
                replica,
                chunk_pairs,
                reserve_us: core::reserve_us(reserve_ms)?,
                queue_max,
                pricing: core::pricing(backlog_ms, price_gain)?,
            };
            self.0.beside(&bundle, &runtime_library, settings)
        })
        .map(|engine| Self(Owner::new(engine)))
        .map_err(|error| raise(py, error))
    }

    /// Name of the bundle.
    #[getter]
    fn bundle_id(&self) -> &str {
        &self.0.bundle().id
    }

    /// What runs each model: its folder in the bundle, the runner, and why it is not our own kernels (None: it is, or
    /// they were not asked for).
    #[getter]
    fn models(&self) -> Vec<convert::Model> {
        convert::models(self.0.bundle())
    }

    /// Replay the bundle's golden requests; an empty list means that they are reproduced.
    fn verify_golden(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        py.detach(|| self.0.verify_golden())
            .map_err(|error| raise(py, error))
    }

    /// A generation without products.
    fn empty(&self, py: Python<'_>) -> PyResult<Generation> {
        py.detach(|| self.0.empty())
            .map(|inner| self.generation(inner))
            .map_err(|error| raise(py, error))
    }

    /// Open a built generation; `dense` searches its dense index.
    fn open(
        &self,
        py: Python<'_>,
        path: PathBuf,
        dense: Option<Py<PyAny>>,
    ) -> PyResult<Generation> {
        let dense = dense.map(|callable| Arc::new(PythonDense(callable)) as Arc<dyn DenseSearch>);
        py.detach(|| self.0.open(&path, dense))
            .map(|inner| self.generation(inner))
            .map_err(|error| raise(py, error))
    }

    /// Have the pairs of a cross-encoder tier scored by `scorer`, in chunks of `chunk_pairs`; `None`: by the bundle's model.
    fn delegate(
        &self,
        py: Python<'_>,
        tier: &str,
        scorer: Option<Py<PyAny>>,
        chunk_pairs: usize,
    ) -> PyResult<()> {
        let scorer = scorer.map(|callable| Arc::new(PythonPairs(callable)) as Arc<dyn PairScorer>);
        py.detach(|| self.0.delegate(convert::tier(tier)?, scorer, chunk_pairs))
            .map_err(|error| raise(py, error))
    }

    /// Serve this generation from now on; requests that run end on the one they began with.
    fn serve(&self, py: Python<'_>, generation: &Generation) {
        py.detach(|| self.0.serve(Arc::clone(&generation.inner)));
    }

    /// Run every plan over the queries and take the stage costs from what they took.
    fn warm_up(&self, py: Python<'_>, queries: Vec<String>) -> PyResult<()> {
        py.detach(|| self.0.warm_up(&queries))
            .map_err(|error| raise(py, error))
    }

    /// Tell the engine what the log looks like.
    fn observe(&self, epoch: u64, head_sequence: u64) {
        self.0.observe(epoch, head_sequence);
    }

    /// Let so many workers take work from now on; returns how many do.
    fn resize(&self, workers: usize) -> usize {
        self.0.resize(workers)
    }

    /// Tell the engine that the log cannot be read, until the next `observe`.
    fn lose_log(&self) {
        self.0.lose_log();
    }

    /// Answer a serialised `SearchRequest` within the budget, microseconds; `priority` is the class that metadata name.
    #[pyo3(signature = (request, remaining_us, cancel=None, priority=None))]
    fn search<'py>(
        &self,
        py: Python<'py>,
        request: &[u8],
        remaining_us: i64,
        cancel: Option<&Cancel>,
        priority: Option<&str>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let cancel = cancel.map(|cancel| &cancel.0);
        let remaining_us = u64::try_from(remaining_us).unwrap_or(0);
        Self::answer(py, |interrupted| {
            self.0
                .search(request, remaining_us, priority, cancel, interrupted)
        })
    }

    /// Answer a serialised `RerankRequest` within the budget, microseconds; `priority` as for a search.
    #[pyo3(signature = (request, remaining_us, cancel=None, priority=None))]
    fn rerank<'py>(
        &self,
        py: Python<'py>,
        request: &[u8],
        remaining_us: i64,
        cancel: Option<&Cancel>,
        priority: Option<&str>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let cancel = cancel.map(|cancel| &cancel.0);
        let remaining_us = u64::try_from(remaining_us).unwrap_or(0);
        Self::answer(py, |interrupted| {
            self.0
                .rerank(request, remaining_us, priority, cancel, interrupted)
        })
    }

    /// Answer a serialised `RecommendRequest` within the budget, microseconds; `priority` as for a search. `now_unix_us`: the wall
    /// clock. Returns the serialised `RecommendResponse`, its tier, its reason.
    #[pyo3(signature = (request, remaining_us, *, now_unix_us, priority=None))]
    fn recommend<'py>(
        &self,
        py: Python<'py>,
        request: &[u8],
        remaining_us: i64,
        now_unix_us: u64,
        priority: Option<&str>,
    ) -> PyResult<(Bound<'py, PyBytes>, &'static str, String)> {
        let remaining_us = u64::try_from(remaining_us).unwrap_or(0);
        let answer = py.detach(|| {
            self.0
                .recommend(request, remaining_us, priority, now_unix_us)
        });
        let answer = answer.map_err(|error| raise(py, error))?;
        let reason = answer.reason.as_str_name();
        let reason = reason.trim_start_matches("REASON_").to_lowercase();
        Ok((
            PyBytes::new(py, &answer.bytes),
            answer.tier.as_str(),
            reason,
        ))
    }

    /// Answer a serialised `SearchRequest` with a fixed plan and no deadline.
    #[pyo3(signature = (request, tier, depth, width=200))]
    fn execute<'py>(
        &self,
        py: Python<'py>,
        request: &[u8],
        tier: &str,
        depth: usize,
        width: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Self::answer(py, |_| {
            self.0.execute(request, convert::tier(tier)?, depth, width)
        })
    }

    /// Answer a serialised `RerankRequest` with a fixed plan and no deadline.
    #[pyo3(signature = (request, tier, depth=1000))]
    fn execute_rerank<'py>(
        &self,
        py: Python<'py>,
        request: &[u8],
        tier: &str,
        depth: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        Self::answer(py, |_| {
            self.0.execute_rerank(request, convert::tier(tier)?, depth)
        })
    }

    /// Product ids, signal names, and signals float64 `[products, signals]`; NaN: unknown.
    #[pyo3(signature = (query, tier, *, product_ids=None, width=200))]
    #[allow(clippy::type_complexity)]
    fn signals<'py>(
        &self,
        py: Python<'py>,
        query: &str,
        tier: &str,
        product_ids: Option<Vec<String>>,
        width: usize,
    ) -> PyResult<(Vec<String>, Vec<&'static str>, Bound<'py, PyArray2<f64>>)> {
        let (ids, matrix) = py
            .detach(|| {
                self.0
                    .signals(query, convert::tier(tier)?, product_ids, width)
            })
            .map_err(|error| raise(py, error))?;
        let values = PyArray1::from_vec(py, matrix.into_values());
        let values = values.reshape([ids.len(), signals::COUNT])?;
        Ok((ids, signals::NAMES.to_vec(), values))
    }

    /// The engine as it stands now.
    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        convert::status(py, &self.0.status())
    }

    /// Stop the threads; waiting requests end as cancelled, later ones are refused. Idempotent.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}

impl Engine {
    /// One more owner of the engine.
    fn shared(&self) -> Arc<core::Engine> {
        Arc::clone(self.0.0.as_ref().expect("owned until dropped"))
    }

    fn generation(&self, inner: Arc<CoreGeneration>) -> Generation {
        Generation {
            engine: self.0.clone(),
            inner,
        }
    }
}

/// Writes the files of a new generation, but for its approximate index and its manifest.
#[pyclass(module = "rankcore._native", frozen)]
struct GenerationBuilder(Mutex<Option<CoreBuilder>>);

impl GenerationBuilder {
    fn spent() -> Error {
        Error::Generation("the builder has finished".to_owned())
    }
}

#[pymethods]
impl GenerationBuilder {
    #[new]
    #[pyo3(signature = (bundle, out, *, runtime_library, threads=0, reuse=None, kernels="auto", draw=0))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn new(
        py: Python<'_>,
        bundle: PathBuf,
        out: PathBuf,
        runtime_library: PathBuf,
        threads: usize,
        reuse: Option<PathBuf>,
        kernels: &str,
        draw: usize,
    ) -> PyResult<Self> {
        let kernels = convert::kernels(kernels)?;
        py.detach(|| {
            let bundle = Bundle::open_with(&bundle, &runtime_library, kernels)?;
            let mut builder =
                CoreBuilder::new(bundle, &out, threads, reuse.as_deref().map(Path::new))?;
            builder.draw(draw);
            Ok(builder)
        })
        .map(|builder| Self(Mutex::new(Some(builder))))
        .map_err(|error| raise(py, error))
    }

    /// Add serialised `Product`s.
    fn add(&self, py: Python<'_>, products: Vec<Vec<u8>>) -> PyResult<()> {
        py.detach(|| {
            let mut builder = self.0.lock();
            let builder = builder.as_mut().ok_or_else(Self::spent)?;
            for product in convert::products(&products)? {
                builder.add(product)?;
            }
            Ok(())
        })
        .map_err(|error| raise(py, error))
    }

    /// Compute the vectors and make all files valid. `progress` is called with products done and products altogether.
    #[pyo3(signature = (progress=None))]
    fn finish<'py>(
        &self,
        py: Python<'py>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let (report, raised) = py.detach(|| {
            let mut raised = None;
            let report = self
                .0
                .lock()
                .take()
                .ok_or_else(Self::spent)
                .and_then(|builder| {
                    builder.finish(|done, total| {
                        let Some(progress) = &progress else { return };
                        if raised.is_none() {
                            raised = Python::attach(|py| progress.call1(py, (done, total)).err());
                        }
                    })
                });
            (report, raised)
        });
        if let Some(error) = raised {
            return Err(error);
        }
        let report = report.map_err(|error| raise(py, error))?;
        let facts = PyDict::new(py);
        facts.set_item("products", report.products)?;
        facts.set_item("dimension", report.dimension)?;
        facts.set_item("token_dimension", report.token_dimension)?;
        facts.set_item("encoded", report.encoded)?;
        facts.set_item("reused", report.reused)?;
        facts.set_item("drawn", report.drawn)?;
        Ok(facts)
    }
}

/// The dense rows of a generation that is being built, to measure how they are best searched.
#[pyclass(module = "rankcore._native", frozen)]
struct DenseRows(CoreRows);

#[pymethods]
impl DenseRows {
    /// Open the dense rows in `folder`, and the lists where they were written.
    #[new]
    fn new(py: Python<'_>, folder: PathBuf, products: usize, dimension: usize) -> PyResult<Self> {
        py.detach(|| CoreRows::open(&folder, products, dimension))
            .map(Self)
            .map_err(|error| raise(py, error))
    }

    /// The nearest `k` rows and their cosines, best first; by the lists where `probes` is above 0.
    #[pyo3(signature = (query, k, *, probes=0, eligible=None))]
    #[allow(clippy::type_complexity)]
    fn search<'py>(
        &self,
        py: Python<'py>,
        query: PyReadonlyArray1<'py, f32>,
        k: usize,
        probes: usize,
        eligible: Option<PyReadonlyArray1<'py, u8>>,
    ) -> PyResult<(Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f32>>)> {
        let query = query.as_slice()?;
        let eligible = eligible.as_ref().map(|bits| bits.as_slice()).transpose()?;
        let found = py
            .detach(|| self.0.search(query, k, probes, eligible))
            .map_err(|error| raise(py, error))?;
        let (rows, scores): (Vec<i64>, Vec<f32>) = found
            .into_iter()
            .map(|(row, score)| (i64::from(row), score))
            .unzip();
        Ok((PyArray1::from_vec(py, rows), PyArray1::from_vec(py, scores)))
    }
}

/// Write the lists of a generation to `folder`: centroids float32 `[lists, D]`, and the list of each row.
#[pyfunction]
fn write_lists(
    py: Python<'_>,
    folder: PathBuf,
    centroids: PyReadonlyArray2<'_, f32>,
    list_of: PyReadonlyArray1<'_, u32>,
) -> PyResult<()> {
    let dimension = centroids.shape()[1];
    let centroids = centroids
        .as_slice()
        .map_err(|_| PyValueError::new_err("centroids must be C-contiguous"))?;
    let list_of = list_of.as_slice()?;
    py.detach(|| lists::write(&folder, centroids, dimension, list_of))
        .map_err(|error| raise(py, error))
}

/// What is wrong with a serialised `ApplyRequest`: (field, description) pairs; empty: nothing.
#[pyfunction(name = "validate_apply")]
fn check_apply(py: Python<'_>, request: &[u8]) -> Vec<(String, String)> {
    py.detach(|| match wire::ApplyRequest::decode(request) {
        Ok(request) => convert::pairs(validate_apply(&request)),
        Err(error) => vec![("request".to_owned(), format!("cannot be decoded: {error}"))],
    })
}

/// Instruction sets of this machine that the core's kernels can use.
#[pyfunction]
fn cpu_features() -> Vec<&'static str> {
    core::cpu_features()
}

/// Private: import `rankcore`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Cancel>()?;
    module.add_class::<Generation>()?;
    module.add_class::<Snapshot>()?;
    module.add_class::<Engine>()?;
    module.add_class::<GenerationBuilder>()?;
    module.add_class::<front::Front>()?;
    module.add_function(wrap_pyfunction!(check_apply, module)?)?;
    module.add_function(wrap_pyfunction!(cpu_features, module)?)?;
    module.add_function(wrap_pyfunction!(front::front_bounds_s, module)?)?;
    module.add_function(wrap_pyfunction!(front::front_scopes, module)?)?;
    module.add_function(wrap_pyfunction!(front::front_statuses, module)?)?;
    module.add_class::<DenseRows>()?;
    module.add_function(wrap_pyfunction!(write_lists, module)?)?;
    module.add("ANALYSER", ANALYSER)?;
    kernels::register(module)?;
    errors::register(module)
}
