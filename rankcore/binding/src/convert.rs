//! Translation between Python's and the engine's values; nothing is decided here.

use std::collections::BTreeMap;

use numpy::{PyArray1, PyReadonlyArray1};
use prost::Message;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use rankcore_engine::account::{self, Accounted};
use rankcore_engine::bundle::{Bundle, Tier};
use rankcore_engine::engine::Status;
use rankcore_engine::error::{Error, Result, Violation};
use rankcore_engine::generation::DenseIndex;
use rankcore_engine::model::Choice;
use rankcore_engine::rerank::cross::{FlatPairs, PairScorer, Pairs};
use rankcore_engine::retrieve::{DenseSearch, Row};
use rankcore_engine::wire;

/// A Python callable as the dense index: `(query f32 [D], k, bitmap u8 | None) -> (rows i64 [n], scores f32 [n])`.
///
/// Worker threads call it and hold the GIL only to pass two arrays in and two out; FAISS gives it up while it searches.
pub struct PythonDense(pub Py<PyAny>);

impl PythonDense {
    fn call(
        &self,
        py: Python<'_>,
        query: &[f32],
        k: usize,
        eligible: Option<&[u8]>,
    ) -> PyResult<Vec<(Row, f32)>> {
        let query = PyArray1::from_slice(py, query);
        let eligible = eligible.map(|bitmap| PyArray1::from_slice(py, bitmap));
        let found = self.0.bind(py).call1((query, k, eligible))?;
        let (rows, scores): (PyReadonlyArray1<'_, i64>, PyReadonlyArray1<'_, f32>) =
            found.extract()?;
        let (rows, scores) = (rows.as_array(), scores.as_array());
        Ok(rows
            .iter()
            .zip(scores.iter())
            // FAISS pads short results with row -1.
            .filter_map(|(row, score)| Some((Row::try_from(*row).ok()?, *score)))
            .collect())
    }
}

impl DenseSearch for PythonDense {
    fn search(&self, query: &[f32], k: usize, eligible: Option<&[u8]>) -> Result<Vec<(Row, f32)>> {
        let found = Python::try_attach(|py| {
            self.call(py, query, k, eligible)
                .map_err(|error| Error::Internal(format!("dense search: {error}")))
        });
        // While the interpreter ends, no worker may enter it.
        found.unwrap_or(Err(Error::Cancelled))
    }
}

/// A Python callable as the scorer of pairs: `(ids i32 [n], starts i32 [pairs + 1], seconds i32 [pairs],
/// within_us | None) -> scores f32 [pairs] | None`.
///
/// Worker threads call it and hold the GIL only to pass arrays; the callable gives it up while it waits for scores.
pub struct PythonPairs(pub Py<PyAny>);

impl PythonPairs {
    fn call(
        &self,
        py: Python<'_>,
        pairs: &FlatPairs,
        within_us: Option<u64>,
    ) -> PyResult<Option<Vec<f32>>> {
        let ids = PyArray1::from_slice(py, &pairs.ids);
        let starts = PyArray1::from_slice(py, &pairs.starts);
        let seconds = PyArray1::from_slice(py, &pairs.seconds);
        let scored = self.0.bind(py).call1((ids, starts, seconds, within_us))?;
        let scores: Option<PyReadonlyArray1<'_, f32>> = scored.extract()?;
        Ok(scores.map(|scores| scores.as_array().to_vec()))
    }
}

impl PairScorer for PythonPairs {
    fn score(&self, pairs: &Pairs<'_>, within_us: Option<u64>) -> Result<Option<Vec<f32>>> {
        let pairs = pairs.flat()?;
        let scored = Python::try_attach(|py| {
            self.call(py, &pairs, within_us)
                .map_err(|error| Error::Internal(format!("pair scorer: {error}")))
        });
        // While the interpreter ends, no worker may enter it.
        scored.unwrap_or(Err(Error::Cancelled))
    }
}

/// A tier by its name.
pub fn tier(name: &str) -> Result<Tier> {
    name.parse().map_err(|description| {
        Error::InvalidRequest(vec![Violation {
            field: "tier".to_owned(),
            description,
        }])
    })
}

/// Serialised products, decoded.
pub fn products(serialised: &[Vec<u8>]) -> Result<Vec<wire::Product>> {
    serialised
        .iter()
        .enumerate()
        .map(|(place, bytes)| {
            wire::Product::decode(bytes.as_slice()).map_err(|error| {
                Error::InvalidRequest(vec![Violation {
                    field: format!("products[{place}]"),
                    description: format!("cannot be decoded: {error}"),
                }])
            })
        })
        .collect()
}

/// Violations as (field, description) pairs.
pub fn pairs(violations: Vec<Violation>) -> Vec<(String, String)> {
    violations
        .into_iter()
        .map(|violation| (violation.field, violation.description))
        .collect()
}

/// How a generation finds the nearest rows, as a dictionary.
pub fn dense_index<'py>(py: Python<'py>, index: &DenseIndex) -> PyResult<Bound<'py, PyDict>> {
    let facts = PyDict::new(py);
    facts.set_item("kind", &index.kind)?;
    facts.set_item("probes", index.probes)?;
    facts.set_item("recall_at_100", index.recall_at_100)?;
    facts.set_item("median_ms", index.median_ms)?;
    Ok(facts)
}

/// The engine's status as a dictionary.
pub fn status<'py>(py: Python<'py>, status: &Status) -> PyResult<Bound<'py, PyDict>> {
    let plans = PyList::empty(py);
    for now in &status.plans {
        let plan = PyDict::new(py);
        plan.set_item("tier", now.plan.tier.as_str())?;
        plan.set_item("depth", now.plan.depth)?;
        plan.set_item("width", now.plan.width)?;
        plan.set_item("expected_ndcg", now.plan.expected_ndcg)?;
        plan.set_item("cost_ms", now.cost_ms)?;
        plans.append(plan)?;
    }
    let stages = PyDict::new(py);
    for now in &status.stages {
        let stage = PyDict::new(py);
        stage.set_item("fixed_us", now.rate.fixed_us)?;
        stage.set_item("unit_us", now.rate.unit_us)?;
        stage.set_item("ratio", now.ratio)?;
        stage.set_item("tail", now.tail)?;
        stages.set_item(now.stage.as_str(), stage)?;
    }
    let by_name = |counts: &BTreeMap<&'static str, u64>| -> PyResult<Bound<'py, PyDict>> {
        let named = PyDict::new(py);
        for (name, count) in counts {
            named.set_item(*name, count)?;
        }
        Ok(named)
    };
    let counters = PyDict::new(py);
    counters.set_item("answered", status.answered.values().sum::<u64>())?;
    counters.set_item("refused", status.refused)?;
    counters.set_item("expired", status.expired)?;
    counters.set_item("cancelled", status.cancelled)?;
    counters.set_item("invalid", status.invalid)?;
    counters.set_item("failed", status.failed)?;
    counters.set_item("part_failures", status.part_failures)?;
    counters.set_item("by_tier", by_name(&status.answered)?)?;
    counters.set_item(
        "answered_by_priority",
        by_name(&status.answered_by_priority)?,
    )?;
    counters.set_item("refused_by_priority", by_name(&status.refused_by_priority)?)?;
    counters.set_item("recommended_by_tier", by_name(&status.recommended)?)?;
    counters.set_item(
        "recommended_by_reason",
        status.recommended_by_reason.clone(),
    )?;
    counters.set_item("helped_chunks", status.helped_chunks)?;
    let all = PyDict::new(py);
    all.set_item("in_flight", status.in_flight)?;
    all.set_item("queued", status.queued)?;
    all.set_item("workers", status.workers)?;
    all.set_item("plans", plans)?;
    all.set_item("stages", stages)?;
    all.set_item("counters", counters)?;
    all.set_item("price", status.price)?;
    all.set_item("help_lost", status.help_lost)?;
    all.set_item("accounted", accounted(py, &status.accounted)?)?;
    all.set_item("stall_us", status.stall_us)?;
    all.set_item("last_part_failure", status.last_part_failure.as_deref())?;
    Ok(all)
}

/// What the answers tell of themselves, added up, by name.
fn accounted<'py>(py: Python<'py>, sums: &Accounted) -> PyResult<Bound<'py, PyDict>> {
    #[allow(clippy::cast_precision_loss)]
    let histogram = |bounds: Vec<f64>, (buckets, total): &(Vec<u64>, u64), unit: f64| {
        let one = PyDict::new(py);
        one.set_item("bounds", bounds)?;
        one.set_item("buckets", buckets)?;
        one.set_item("total", *total as f64 * unit)?;
        Ok::<_, PyErr>(one)
    };
    #[allow(clippy::cast_precision_loss)]
    let scaled = |bounds: &[u64], unit: f64| -> Vec<f64> {
        bounds.iter().map(|bound| *bound as f64 * unit).collect()
    };
    let reasons = PyDict::new(py);
    for ((_, name), count) in account::REASONS.iter().zip(&sums.reasons) {
        reasons.set_item(*name, count)?;
    }
    let tastes = PyDict::new(py);
    for ((_, name), count) in account::TASTES.iter().zip(&sums.tastes) {
        tastes.set_item(*name, count)?;
    }
    let stages = PyDict::new(py);
    for (name, counted) in account::STAGES.iter().zip(&sums.stages) {
        let bounds_s = scaled(&account::STAGE_BOUNDS_US, 1e-6);
        stages.set_item(*name, histogram(bounds_s, counted, 1e-6)?)?;
    }
    let distributions = PyDict::new(py);
    for (name, bins) in account::DISTRIBUTIONS.iter().zip(&sums.distributions) {
        distributions.set_item(*name, bins)?;
    }
    let all = PyDict::new(py);
    all.set_item("reasons", reasons)?;
    all.set_item("tastes", tastes)?;
    let depths = scaled(&account::DEPTH_BOUNDS, 1.0);
    all.set_item("depth", histogram(depths, &sums.depths, 1.0)?)?;
    all.set_item("stages_s", stages)?;
    all.set_item("planned_worth", sums.planned_worth)?;
    all.set_item("worth", sums.worth)?;
    all.set_item("worth_in_time", sums.worth_in_time)?;
    all.set_item("in_time", sums.in_time)?;
    all.set_item("late", sums.late)?;
    all.set_item("distributions", distributions)?;
    Ok(all)
}

/// The kernels that a name stands for.
pub fn kernels(name: &str) -> PyResult<Choice> {
    name.parse().map_err(PyValueError::new_err)
}

/// A model of a bundle: its folder, what runs it, and why that is not our own kernels.
pub type Model = (&'static str, String, Option<String>);

/// What runs each model of a bundle.
pub fn models(bundle: &Bundle) -> Vec<Model> {
    bundle
        .runners()
        .into_iter()
        .map(|(folder, runner)| (folder, runner.name, runner.reason))
        .collect()
}
