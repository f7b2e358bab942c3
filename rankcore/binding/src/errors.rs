//! The family of Python errors, and the one place where the engine's errors become them.

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::{PyErr, create_exception};
use rankcore_engine::error::Error;

create_exception!(
    rankcore,
    RankError,
    PyException,
    "The ranking core failed; base of all its errors."
);
create_exception!(
    rankcore,
    InvalidRequest,
    RankError,
    "The request breaks the contract; `violations` holds (field, description) pairs."
);
create_exception!(
    rankcore,
    DeadlineExceeded,
    RankError,
    "The budget is spent, or too small for the cheapest plan even on an idle engine."
);
create_exception!(
    rankcore,
    Overloaded,
    RankError,
    "Queued work leaves no room; come back after `retry_after_ms` milliseconds."
);
create_exception!(
    rankcore,
    NotReady,
    RankError,
    "No generation is being served, or the sequence asked for has not been applied."
);
create_exception!(rankcore, Cancelled, RankError, "The caller gave up.");
create_exception!(
    rankcore,
    BundleError,
    RankError,
    "The bundle cannot be used; the message names the file."
);
create_exception!(
    rankcore,
    GenerationError,
    RankError,
    "The generation cannot be used; the message names the file."
);

/// The Python error for an error of the engine.
pub fn raise(py: Python<'_>, error: Error) -> PyErr {
    let message = error.to_string();
    let (raised, attribute) = match error {
        Error::InvalidRequest(violations) => {
            let pairs: Vec<(String, String)> = violations
                .into_iter()
                .map(|violation| (violation.field, violation.description))
                .collect();
            let raised = InvalidRequest::new_err(message);
            let set = raised.value(py).setattr("violations", pairs);
            (raised, set)
        }
        Error::Overloaded { retry_after_ms } => {
            let raised = Overloaded::new_err(message);
            let set = raised.value(py).setattr("retry_after_ms", retry_after_ms);
            (raised, set)
        }
        Error::DeadlineExceeded(_) => (DeadlineExceeded::new_err(message), Ok(())),
        Error::NotReady(_) => (NotReady::new_err(message), Ok(())),
        Error::Cancelled => (Cancelled::new_err(message), Ok(())),
        Error::Bundle(_) => (BundleError::new_err(message), Ok(())),
        Error::Generation(_) => (GenerationError::new_err(message), Ok(())),
        Error::Internal(_) => (RankError::new_err(message), Ok(())),
    };
    attribute.err().unwrap_or(raised)
}

/// Adds the family to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("RankError", py.get_type::<RankError>())?;
    module.add("InvalidRequest", py.get_type::<InvalidRequest>())?;
    module.add("DeadlineExceeded", py.get_type::<DeadlineExceeded>())?;
    module.add("Overloaded", py.get_type::<Overloaded>())?;
    module.add("NotReady", py.get_type::<NotReady>())?;
    module.add("Cancelled", py.get_type::<Cancelled>())?;
    module.add("BundleError", py.get_type::<BundleError>())?;
    module.add("GenerationError", py.get_type::<GenerationError>())
}
