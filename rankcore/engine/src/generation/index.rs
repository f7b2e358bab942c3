//! The mapped files of a generation.

use std::path::Path;
use std::sync::Arc;

use super::Manifest;
use super::files::{Mapped, Ragged};
use crate::error::{Error, Result};
use crate::rerank::late;
use crate::retrieve::Row;
use crate::retrieve::dense::DenseSearch;
use crate::retrieve::lexical::LexicalIndex;
use crate::retrieve::lists::Lists;
use crate::retrieve::scan::Int8Rows;

/// The mapped files of a generation.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) rows: Row,
    pub(super) products: Ragged<u8>,
    /// Identifiers in order, and the row of each.
    pub(super) ids: Ragged<u8>,
    pub(super) id_rows: Mapped<u32>,
    pub(super) lexical: LexicalIndex,
    pub(super) words: Ragged<u32>,
    pub(super) vectors: IndexedVectors,
}

impl Index {
    pub(super) fn open(dir: &Path, manifest: &Manifest) -> Result<Self> {
        let rows = manifest.products;
        let index = Self {
            rows: rows as Row,
            products: Ragged::open(dir, "products", "bin", "products")?.expect(rows)?,
            ids: Ragged::open(dir, "ids", "bin", "ids")?.expect(rows)?,
            id_rows: Mapped::open(&dir.join("id_rows.u32"), "id rows")?.expect(rows)?,
            lexical: LexicalIndex::open(&dir.join("lexical"), rows)?,
            words: Ragged::open(dir, "words", "u32", "words")?.expect(rows)?,
            vectors: IndexedVectors::open(dir, rows, manifest.dimension, manifest.token_dimension)?,
        };
        if index.id_rows.iter().any(|&row| row as usize >= rows) {
            return Err(Error::Generation(format!(
                "{}: a row beyond the last",
                index.id_rows.path().display()
            )));
        }
        Ok(index)
    }

    pub(super) fn row(&self, product_id: &str) -> Option<Row> {
        let (mut low, mut high) = (0, self.ids.rows());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.ids.get(middle) < product_id.as_bytes() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low < self.ids.rows() && self.ids.get(low) == product_id.as_bytes())
            .then(|| self.id_rows[low])
    }
}

/// The vectors of a generation, and what they were made from.
#[derive(Debug)]
pub(super) struct IndexedVectors {
    pub(super) dimension: usize,
    pub(super) dense: Mapped<i8>,
    pub(super) scales: Mapped<f32>,
    pub(super) tokens: Ragged<i8>,
    pub(super) token_counts: Mapped<u32>,
    pub(super) pieces: Ragged<u32>,
    pub(super) texts: Mapped<u64>,
}

impl IndexedVectors {
    pub(super) fn open(
        dir: &Path,
        rows: usize,
        dimension: usize,
        token_dimension: usize,
    ) -> Result<Self> {
        let vectors = Self {
            dimension,
            dense: Mapped::open(&dir.join("dense.i8"), "dense")?.expect(rows * dimension)?,
            scales: Mapped::open(&dir.join("dense_scales.f32"), "dense scales")?.expect(rows)?,
            tokens: Ragged::open(dir, "tokens", "i8", "tokens")?.expect(rows)?,
            token_counts: Mapped::open(&dir.join("token_counts.u32"), "token counts")?
                .expect(rows)?,
            pieces: Ragged::open(dir, "pieces", "u32", "pieces")?.expect(rows)?,
            texts: Mapped::open(&dir.join("texts.u64"), "text digests")?.expect(2 * rows)?,
        };
        for row in 0..rows {
            let count = vectors.token_counts[row] as usize;
            if vectors.tokens.get(row).len() != late::packed_len(count, token_dimension) {
                return Err(Error::Generation(format!(
                    "{}: row {row} does not hold its {count} tokens",
                    vectors.tokens.path().display()
                )));
            }
        }
        Ok(vectors)
    }

    pub(super) fn dense(&self, row: Row) -> &[i8] {
        let row = row as usize;
        &self.dense[row * self.dimension..(row + 1) * self.dimension]
    }

    pub(super) fn int8_rows(&self) -> Int8Rows<'_> {
        Int8Rows {
            values: &self.dense,
            scales: &self.scales,
            dimension: self.dimension,
        }
    }
}

/// How the rows of a generation nearest to a query are found.
pub(super) enum Nearest {
    Scan,
    Lists {
        lists: Lists,
        probes: usize,
    },
    /// The caller searches.
    External(Arc<dyn DenseSearch>),
}
