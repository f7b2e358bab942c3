//! What is remembered of shoppers, for Python to feed and to ask.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use rankcore_front::histories::Bounds;
use rankcore_front::shoppers::{Keys, Shoppers as CoreShoppers};

/// The newest products of shoppers and visits, under pseudonyms.
#[pyclass(module = "rankcore._native", frozen)]
pub struct Shoppers(Arc<CoreShoppers>);

impl Shoppers {
    /// The core's own, for another owner.
    pub fn shared(&self) -> Arc<CoreShoppers> {
        Arc::clone(&self.0)
    }
}

#[pymethods]
impl Shoppers {
    /// Nobody is known yet. secrets: name and key of each, the newest first. erased: the file with the marks of the erased.
    #[new]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    #[pyo3(signature = (*, products_max, shoppers_max, age_max_us, secrets, period_days, mark_key, erased))]
    fn new(
        products_max: usize,
        shoppers_max: usize,
        age_max_us: u64,
        secrets: Vec<(String, [u8; 32])>,
        period_days: u64,
        mark_key: [u8; 32],
        erased: PathBuf,
    ) -> Self {
        let bounds = Bounds {
            products_max,
            shoppers_max,
            age_max_us,
        };
        let keys = Keys {
            secrets,
            period_days,
            mark: mark_key,
        };
        Self(Arc::new(CoreShoppers::new(bounds, keys, erased)))
    }

    /// Take in serialised `SequencedEvent`s, ascending.
    fn follow(&self, py: Python<'_>, events: Vec<Vec<u8>>) {
        py.detach(|| self.0.follow(events.iter().map(Vec::as_slice)));
    }

    /// What is remembered under any of the pseudonyms, oldest first: product, number of the kind, time of the commit.
    fn of(
        &self,
        py: Python<'_>,
        pseudonyms: Vec<String>,
        now_unix_us: u64,
    ) -> Vec<(String, i32, u64)> {
        py.detach(|| self.0.of(&pseudonyms, now_unix_us))
            .into_iter()
            .map(|item| (item.product_id, item.kind, item.occurred_unix_us))
            .collect()
    }

    /// The pseudonyms under which a name may be remembered. kind: `shopper` or `session`.
    fn pseudonyms(&self, kind: &str, name: &str, now_unix_us: u64) -> Vec<String> {
        self.0.pseudonyms(kind, name, now_unix_us)
    }

    /// Remember nothing of these pseudonyms any more, nor of a visit that one of them made.
    fn forget(&self, py: Python<'_>, pseudonyms: Vec<String>) {
        py.detach(|| self.0.forget(&pseudonyms));
    }

    /// Pseudonyms that something is remembered of.
    fn count(&self) -> usize {
        self.0.count()
    }
}
