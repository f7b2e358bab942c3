//! The dense rows of a generation that is being built.

use std::path::Path;

use super::files::Mapped;
use crate::error::{Error, Result};
use crate::retrieve::Row;
use crate::retrieve::lists::Lists;
use crate::retrieve::scan::{Among, Int8Rows, nearest};

/// The dense rows of a generation that is being built, to measure how they are best searched.
#[derive(Debug)]
pub struct DenseRows {
    dimension: usize,
    values: Mapped<i8>,
    scales: Mapped<f32>,
    lists: Option<Lists>,
}

impl DenseRows {
    /// Opens the dense rows in `dir`, and the lists where they were written.
    ///
    /// # Errors
    /// `Generation`, naming the file.
    pub fn open(dir: &Path, rows: usize, dimension: usize) -> Result<Self> {
        Ok(Self {
            dimension,
            values: Mapped::open(&dir.join("dense.i8"), "dense")?.expect(rows * dimension)?,
            scales: Mapped::open(&dir.join("dense_scales.f32"), "dense scales")?.expect(rows)?,
            lists: if dir.join("lists.idx").exists() {
                Some(Lists::open(dir, rows, dimension)?)
            } else {
                None
            },
        })
    }

    /// The `k` nearest rows, by the lists where `probes` is above 0, else by a scan.
    /// bits: as in [`Among::Bits`].
    ///
    /// # Errors
    /// `Generation` for a query of another dimension, or probes without lists.
    pub fn search(
        &self,
        query: &[f32],
        k: usize,
        probes: usize,
        bits: Option<&[u8]>,
    ) -> Result<Vec<(Row, f32)>> {
        if query.len() != self.dimension {
            return Err(Error::Generation(format!(
                "a query of {} dimensions for rows of {}",
                query.len(),
                self.dimension
            )));
        }
        let rows = Int8Rows {
            values: &self.values,
            scales: &self.scales,
            dimension: self.dimension,
        };
        match &self.lists {
            _ if probes == 0 => Ok(nearest(
                rows,
                query,
                k,
                bits.map_or(Among::All, Among::Bits),
            )),
            Some(lists) => Ok(lists.search(rows, query, k, probes, bits)),
            None => Err(Error::Generation("no lists were written".into())),
        }
    }
}
