//! Vectors for measurements of size: a sample of the products is encoded, and the vectors of all products are
//! drawn around the sample's. To encode a million texts takes an hour and more on a small machine; how
//! searches grow with the catalogue can be seen without. A generation made so says so, and is not served.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::bundle::LexicalConfig;
use crate::encode::EncodedProduct;
use crate::error::{Error, Result};
use crate::rerank::late;
use crate::text::TextConfig;
use crate::wire;

use super::Models;

/// Least share of the nearer of the two sampled vectors that are mixed.
const SHARE_MIN: f32 = 0.7;
/// Length of the noise added to a mixed dense vector of length 1, and to a token vector.
const DENSE_NOISE: f32 = 0.35;
const TOKEN_NOISE: f32 = 0.25;

/// What is kept of a sampled product.
struct Sampled {
    dense: Vec<f32>,
    /// In 127ths, `[tokens][token dimension]`.
    tokens: Vec<i8>,
}

/// Models whose product vectors are drawn from a sample; tokens and texts are the real models'.
pub struct Drawn<'a> {
    models: &'a dyn Models,
    sample: Vec<Sampled>,
    /// Places in the sample by the last name of the category path.
    by_category: HashMap<String, Vec<usize>>,
}

/// Random numbers of one seed (xorshift).
struct Random(u64);

impl Random {
    fn of(product_id: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        product_id.hash(&mut hasher);
        Self(hasher.finish() | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() >> 33) as usize % most
    }

    /// 0 up to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u64 << 24) as f32
    }

    /// Adds noise of about the given length to a vector.
    fn disturb(&mut self, vector: &mut [f32], length: f32) {
        // A uniform number of -1 to 1 has a variance of a third.
        let factor = length * (3.0 / vector.len() as f32).sqrt();
        for value in vector {
            *value += factor * (2.0 * self.unit() - 1.0);
        }
    }
}

fn leaf(product: &wire::Product) -> &str {
    product.category.last().map_or("", String::as_str)
}

fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    for value in vector {
        *value /= norm.max(1e-9);
    }
}

impl<'a> Drawn<'a> {
    /// products: the sample, in order; encoded: their vectors, from `models`.
    ///
    /// # Errors
    /// `Generation` where the sample is empty.
    pub fn new(
        models: &'a dyn Models,
        products: &[wire::Product],
        encoded: Vec<EncodedProduct>,
    ) -> Result<Self> {
        if encoded.is_empty() || products.len() != encoded.len() {
            return Err(Error::Generation(
                "vectors are drawn from a sample of at least one product".into(),
            ));
        }
        let width = models.token_dimension();
        let mut by_category: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, product) in products.iter().enumerate() {
            by_category
                .entry(leaf(product).to_owned())
                .or_default()
                .push(place);
        }
        let sample = encoded
            .into_iter()
            .map(|product| Sampled {
                tokens: (0..product.token_count)
                    .flat_map(|token| {
                        late::unpack(&product.tokens, token, product.token_count, width)
                    })
                    .collect(),
                dense: product.dense,
            })
            .collect();
        Ok(Self {
            models,
            sample,
            by_category,
        })
    }

    fn draw(&self, product: &wire::Product) -> Result<EncodedProduct> {
        let mut random = Random::of(&product.product_id);
        let width = self.models.token_dimension();
        let near = match self.by_category.get(leaf(product)) {
            Some(places) => &self.sample[places[random.below(places.len())]],
            None => &self.sample[random.below(self.sample.len())],
        };
        let far = &self.sample[random.below(self.sample.len())];
        let share = SHARE_MIN + (1.0 - SHARE_MIN) * random.unit();
        let mut dense: Vec<f32> = near
            .dense
            .iter()
            .zip(&far.dense)
            .map(|(near, far)| share * near + (1.0 - share) * far)
            .collect();
        normalise(&mut dense);
        random.disturb(&mut dense, DENSE_NOISE);
        normalise(&mut dense);
        let pieces = self.models.pieces(product)?;
        let token_count = pieces.len().min(self.models.text().late_tokens_max);
        let mut tokens = Vec::with_capacity(token_count * width);
        for token in 0..token_count {
            let from = if random.unit() < share { near } else { far };
            let count = from.tokens.len() / width;
            let start = tokens.len();
            if count == 0 {
                tokens.resize(start + width, 0.0);
            } else {
                let at = token % count * width;
                let values = &from.tokens[at..at + width];
                tokens.extend(values.iter().map(|value| f32::from(*value) / 127.0));
            }
            random.disturb(&mut tokens[start..], TOKEN_NOISE);
            normalise(&mut tokens[start..]);
        }
        Ok(EncodedProduct {
            dense,
            tokens: late::pack(&tokens, width),
            token_count,
            pieces,
        })
    }
}

impl Models for Drawn<'_> {
    fn bundle_id(&self) -> &str {
        self.models.bundle_id()
    }

    fn text(&self) -> &TextConfig {
        self.models.text()
    }

    fn lexical(&self) -> &LexicalConfig {
        self.models.lexical()
    }

    fn dimension(&self) -> usize {
        self.models.dimension()
    }

    fn token_dimension(&self) -> usize {
        self.models.token_dimension()
    }

    fn encode(&self, products: &[wire::Product]) -> Result<Vec<EncodedProduct>> {
        products.iter().map(|product| self.draw(product)).collect()
    }

    fn pieces(&self, product: &wire::Product) -> Result<Vec<u32>> {
        self.models.pieces(product)
    }
}
