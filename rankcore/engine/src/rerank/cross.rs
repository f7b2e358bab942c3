//! Cross-encoders: a query and a product read together by one model.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::encode::Specials;
use crate::error::{Error, Result};
use crate::model::{Model, Opening, Rows, Runner, Shared};

/// A query with products, as token ids without special tokens, already cut to the bundle's limits.
pub struct Pairs<'a> {
    query: &'a [u32],
    products: &'a [&'a [u32]],
    specials: Specials,
}

/// Pairs as one run of ids: pair `i` is `ids[starts[i]..starts[i + 1]]`, `[CLS] query [SEP] product [SEP]`.
pub struct FlatPairs {
    /// Token ids of all pairs.
    pub ids: Vec<i32>,
    /// Where each pair starts, and after the last one where it ends.
    pub starts: Vec<i32>,
    /// Of each pair, how many ids come before its product's.
    pub seconds: Vec<i32>,
}

impl Pairs<'_> {
    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.products.len()
    }

    /// True: there is not one.
    pub fn is_empty(&self) -> bool {
        self.products.is_empty()
    }

    fn rows(&self) -> Rows {
        let tokens = self.products.iter().map(|product| product.len());
        let tokens = tokens.sum::<usize>() + self.len() * (self.query.len() + 3);
        let mut rows = Rows::with_capacity(self.len(), tokens);
        for product in self.products {
            self.specials.pair(self.query, product, &mut rows);
        }
        rows
    }

    /// All pairs in one run, framed by the special tokens.
    pub fn flat(&self) -> Result<FlatPairs> {
        let (cls, sep) = self.specials.ids();
        let second = self.query.len() + 2;
        let tokens: usize = self.products.iter().map(|product| product.len() + 1).sum();
        let mut flat = FlatPairs {
            ids: Vec::with_capacity(tokens + second * self.len()),
            starts: vec![0],
            seconds: vec![narrow(second)?; self.len()],
        };
        for product in self.products {
            let framed = [&[cls], self.query, &[sep], product, &[sep]];
            for id in framed.into_iter().flatten() {
                flat.ids.push(narrow(*id)?);
            }
            flat.starts.push(narrow(flat.ids.len())?);
        }
        Ok(flat)
    }
}

fn narrow(value: impl TryInto<i32>) -> Result<i32> {
    value
        .try_into()
        .map_err(|_| Error::Internal("more tokens than 32 bits can count".to_owned()))
}

/// Where a cross-encoder's pairs are scored. Shared by many threads.
pub trait PairScorer: Send + Sync {
    /// Raw logits, higher is better, one per pair and in the same order; what a pair gets does not depend on the others,
    /// but for rounding.
    ///
    /// within_us: how long from now scores are still of use, microseconds; `None`: for ever. `Ok(None)`: they would have
    /// come later, and were not computed.
    fn score(&self, pairs: &Pairs<'_>, within_us: Option<u64>) -> Result<Option<Vec<f32>>>;
}

/// The model run by the thread that asks.
struct Here(Model);

impl PairScorer for Here {
    /// Takes the time it takes: whether there is enough was decided before.
    fn score(&self, pairs: &Pairs<'_>, _within_us: Option<u64>) -> Result<Option<Vec<f32>>> {
        let mut scores = Vec::with_capacity(pairs.len());
        self.0.run_rows(&pairs.rows().all(), |_, outputs| {
            scores.push(outputs.get(0, 1)?[0]);
            Ok(())
        })?;
        Ok(Some(scores))
    }
}

/// What became of a call.
#[derive(Debug)]
pub struct Scored {
    /// One logit per product; `None`: they would have come too late.
    pub scores: Option<Vec<f32>>,
    /// Why the delegate did not give them, and the model was run here.
    pub failure: Option<Error>,
}

/// A cross-encoder over token ids. Shared by many threads.
pub struct Cross {
    here: Here,
    specials: Specials,
    /// Asked first, where there is one.
    delegate: RwLock<Option<Arc<dyn PairScorer>>>,
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
        Ok(Cross {
            here: Here(model),
            specials,
            delegate: RwLock::new(None),
        })
    }

    /// Has pairs scored by `delegate` from now on, and by the model here where that fails; `None`: here always.
    pub fn delegate(&self, delegate: Option<Arc<dyn PairScorer>>) {
        // The one before is let go of outside the lock: its end may take time.
        let before = std::mem::replace(&mut *self.delegate.write(), delegate);
        drop(before);
    }

    /// True: another place is asked first, and several workers at a time would only wait for it.
    pub fn delegated(&self) -> bool {
        self.delegate.read().is_some()
    }

    /// What runs the model.
    pub fn runner(&self) -> Runner {
        self.here.0.runner()
    }

    /// Scores of `products` for `query`, raw logits, higher is better, one per product and in the same order.
    ///
    /// Both sides are token ids without special tokens, already cut to the bundle's limits. A score does
    /// not depend on which other products are scored with it: see [`Model::run_rows`].
    pub fn score(&self, query: &[u32], products: &[&[u32]]) -> Result<Vec<f32>> {
        self.score_within(query, products, None)?
            .scores
            .ok_or_else(|| Error::Internal("scores without a deadline came too late".to_owned()))
    }

    /// As [`Cross::score`], for scores that are of use for `within_us` microseconds from now; `None`: for ever.
    pub fn score_within(
        &self,
        query: &[u32],
        products: &[&[u32]],
        within_us: Option<u64>,
    ) -> Result<Scored> {
        let pairs = Pairs {
            query,
            products,
            specials: self.specials,
        };
        let mut failure = None;
        let delegate = self.delegate.read().clone();
        if let Some(delegate) = delegate {
            match delegate.score(&pairs, within_us) {
                Ok(Some(scores)) if scores.len() != pairs.len() => {
                    failure = Some(Error::Internal(format!(
                        "{} scores of {} pairs from the delegate of a cross-encoder",
                        scores.len(),
                        pairs.len()
                    )));
                }
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => failure = Some(error),
                Ok(scores) => {
                    return Ok(Scored {
                        scores,
                        failure: None,
                    });
                }
            }
        }
        let scores = self.here.score(&pairs, within_us)?;
        Ok(Scored { scores, failure })
    }
}
