//! Cross-encoders: a query and a product read together by one model.

use std::path::PathBuf;

use crate::encode::Specials;
use crate::error::Result;
use crate::model::{Model, Opening, Rows, Runner, Shared};

/// A cross-encoder over token ids. Shared by many threads.
pub struct Cross {
    model: Model,
    specials: Specials,
}

impl Cross {
    /// Opens `path` (ONNX: `input_ids`, `attention_mask`, `token_type_ids` int64 `[B, T]` to `score` f32 `[B]`).
    /// shared: of the encoder, which the model may take its word table from.
    pub(crate) fn open(
        path: PathBuf,
        shared: &Shared,
        specials: Specials,
        opening: Opening<'_>,
    ) -> Result<Cross> {
        let model = Model::cross(path, shared, opening)?;
        Ok(Cross { model, specials })
    }

    /// What runs the model.
    pub fn runner(&self) -> Runner {
        self.model.runner()
    }

    /// Scores of `products` for `query`, raw logits, higher is better, one per product and in the same order.
    ///
    /// Both sides are token ids without special tokens, already cut to the bundle's limits. A score does
    /// not depend on which other products are scored with it: see [`Model::run_rows`].
    pub fn score(&self, query: &[u32], products: &[&[u32]]) -> Result<Vec<f32>> {
        let tokens = products.iter().map(|product| product.len());
        let tokens = tokens.sum::<usize>() + products.len() * (query.len() + 3);
        let mut rows = Rows::with_capacity(products.len(), tokens);
        for product in products {
            self.specials.pair(query, product, &mut rows);
        }
        let mut scores = Vec::with_capacity(products.len());
        self.model.run_rows(&rows.all(), |_, outputs| {
            scores.push(outputs.get(0, 1)?[0]);
            Ok(())
        })?;
        Ok(scores)
    }
}
