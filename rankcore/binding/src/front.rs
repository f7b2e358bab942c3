//! The front of a replica, for Python to start and stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use rankcore_engine::engine::Method;
use rankcore_front::counts::BOUNDS_US;
use rankcore_front::limits::Limits;
use rankcore_front::{Front as CoreFront, Settings, status};

use crate::Engine;

/// The public socket of a replica.
#[pyclass(module = "rankcore._native", frozen)]
pub struct Front(CoreFront);

impl Drop for Front {
    fn drop(&mut self) {
        // It may be the last owner of the engine, whose threads may be waiting for the interpreter.
        let stopped = Python::try_attach(|py| py.detach(|| self.0.stop(Duration::ZERO)));
        if stopped.is_none() {
            self.0.stop(Duration::ZERO);
        }
    }
}

#[pymethods]
impl Front {
    #[new]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    #[pyo3(signature = (listen, *, upstream, threads, request_bytes_max, response_bytes_max, requests_in_flight_max, connections_max, default_us, max_us))]
    fn new(
        py: Python<'_>,
        listen: &str,
        upstream: PathBuf,
        threads: usize,
        request_bytes_max: usize,
        response_bytes_max: usize,
        requests_in_flight_max: usize,
        connections_max: usize,
        default_us: i64,
        max_us: i64,
    ) -> PyResult<Self> {
        let settings = Settings {
            upstream: Arc::from(upstream),
            threads,
            request_bytes_max,
            response_bytes_max,
            requests_in_flight_max,
            connections_max,
            limits: Limits::default(),
            default_us,
            max_us,
        };
        Ok(Self(py.detach(|| CoreFront::bind(listen, settings))?))
    }

    /// The port taken.
    #[getter]
    fn port(&self) -> u16 {
        self.0.address().port()
    }

    /// Begin to answer; ranking calls are UNAVAILABLE until `serve`.
    fn start(&self, py: Python<'_>) -> PyResult<()> {
        Ok(py.detach(|| self.0.start())?)
    }

    /// Ranking calls are answered by this engine from now on.
    fn serve(&self, engine: &Engine) {
        self.0.serve(engine.shared());
    }

    /// Refuse new calls, let running ones end, break off those that outlive the grace, seconds. Idempotent.
    fn stop(&self, py: Python<'_>, grace_s: f64) {
        let grace = Duration::try_from_secs_f64(grace_s).unwrap_or_default();
        py.detach(|| self.0.stop(grace));
    }

    /// What was counted, by name of the method.
    fn counted<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        for (name, method) in [("Search", Method::Search), ("Rerank", Method::Rerank)] {
            let counted = self.0.counted(method);
            let handled = PyDict::new(py);
            for (code, count) in counted.handled {
                handled.set_item(code as u8, count)?;
            }
            let one = PyDict::new(py);
            one.set_item("started", counted.started)?;
            one.set_item("handled", handled)?;
            one.set_item("buckets", counted.buckets)?;
            #[allow(clippy::cast_precision_loss)]
            one.set_item("total_s", counted.total_us as f64 / 1e6)?;
            all.set_item(name, one)?;
        }
        Ok(all)
    }

    /// Reference and cause of the next failure that the log must tell, if one comes within `wait_s` seconds.
    fn failure(&self, py: Python<'_>, wait_s: f64) -> Option<(String, String)> {
        let wait = Duration::try_from_secs_f64(wait_s).unwrap_or_default();
        let failure = py.detach(|| self.0.failure(wait))?;
        Some((failure.reference, failure.cause))
    }
}

/// Upper bounds of the buckets of `Front.counted`, seconds.
#[pyfunction]
pub fn front_bounds_s() -> Vec<f64> {
    #[allow(clippy::cast_precision_loss)]
    BOUNDS_US
        .iter()
        .map(|bound_us| *bound_us as f64 / 1e6)
        .collect()
}

/// Error, code, reason and public text of every row that the front tells, for comparing it with the service's table.
#[pyfunction]
pub fn front_statuses() -> Vec<(&'static str, u8, &'static str, &'static str)> {
    status::ROWS
        .iter()
        .map(|row| (row.error, row.code as u8, row.reason, row.meaning))
        .collect()
}
