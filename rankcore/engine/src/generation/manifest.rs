//! What a generation says of itself.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::retrieve::Row;

/// Version of the folder's layout that this code reads.
pub const SCHEMA_VERSION: u32 = 2;

/// The parts of `manifest.json` that the core reads; the checksums are the caller's business.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Manifest {
    /// Version of the folder's layout.
    pub schema_version: u32,
    /// The generation's name.
    pub generation_id: String,
    /// Bundle whose models made the vectors.
    pub bundle_id: String,
    /// Sequence up to which changes are folded in.
    pub sequence: u64,
    /// Epoch of that sequence.
    pub epoch: u64,
    /// Products.
    pub products: usize,
    /// Dimensions of a dense vector.
    pub dimension: usize,
    /// Dimensions of a token vector.
    pub token_dimension: usize,
    /// How the nearest rows are found; absent: by an index that the caller searches.
    #[serde(default)]
    pub dense_index: Option<DenseIndex>,
}

/// How a generation finds the rows nearest to a query, and what was measured of it when it was built.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct DenseIndex {
    /// `scan`: all int8 rows; `lists`: those of the nearest lists; others are the caller's to search.
    pub kind: String,
    /// Lists that a search probes; 0: there are none.
    pub probes: usize,
    /// Share of the exact 100 nearest that was found.
    pub recall_at_100: f64,
    /// Median of a search for 200 rows on the machine that built, milliseconds; absent: it was not measured.
    #[serde(default)]
    pub median_ms: Option<f64>,
}

impl Manifest {
    /// Reads and checks the content of `manifest.json`. Errors: what is wrong with it.
    pub fn parse(content: &[u8]) -> std::result::Result<Self, String> {
        let manifest: Self = serde_json::from_slice(content).map_err(|error| error.to_string())?;
        if manifest.schema_version != SCHEMA_VERSION {
            return Err(format!(
                "schema_version is {}; this version reads {SCHEMA_VERSION}",
                manifest.schema_version
            ));
        }
        if Row::try_from(manifest.products).is_err() {
            return Err(format!(
                "{} products; accepted: fewer than 2^32",
                manifest.products
            ));
        }
        Ok(manifest)
    }
}

/// Reads the manifest of the generation in `dir`. Errors: [`Error::Generation`], naming the file.
pub(super) fn read_manifest(dir: &Path) -> Result<Manifest> {
    let path = dir.join("manifest.json");
    let refuse =
        |reason: &dyn std::fmt::Display| Error::Generation(format!("{}: {reason}", path.display()));
    let bytes = std::fs::read(&path).map_err(|error| refuse(&error))?;
    Manifest::parse(&bytes).map_err(|reason| refuse(&reason))
}
