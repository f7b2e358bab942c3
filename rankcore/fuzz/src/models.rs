//! Models whose vectors follow from the text alone, and arbitrary vectors for what quantises them.

use rankcore_engine::bundle::{Boosts, Fusion, FusionKind, FusionWeights, LexicalConfig};
use rankcore_engine::encode::EncodedProduct;
use rankcore_engine::error::Result;
use rankcore_engine::generation::Models;
use rankcore_engine::rerank::late::{self, QueryTokens};
use rankcore_engine::retrieve::dense;
use rankcore_engine::text::{ProductFields, TextConfig, product_text, words};
use rankcore_engine::wire;

/// Dimensions of a dense vector.
pub const DIMENSION: usize = 16;
/// Dimensions of a token vector.
pub const TOKEN_DIMENSION: usize = 8;
/// The bundle that generations here belong to.
pub const BUNDLE_ID: &str = "fuzz-0123456789ab";

/// A bundle without a file.
pub struct Hashed {
    text: TextConfig,
    lexical: LexicalConfig,
}

impl Hashed {
    /// Reads every field but the description.
    pub fn new() -> Self {
        let fields = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            text: TextConfig {
                product: ProductFields {
                    dense_fields: fields(&["title", "brand", "category", "bullets"]),
                    token_fields: fields(&["title", "brand", "category", "bullets"]),
                    cross_fields: fields(&["title", "attributes"]),
                },
                dense_tokens_max: 64,
                late_tokens_max: 40,
                cross_tokens_max: 32,
                query_tokens_max: 16,
            },
            lexical: LexicalConfig {
                boosts: Boosts {
                    title: 3.0,
                    brand: 2.0,
                    category: 1.0,
                    bullets: 1.0,
                    description: 0.5,
                    attributes: 0.0,
                },
                fusion: Fusion {
                    kind: FusionKind::Rrf,
                    rrf_k: 60.0,
                    weights: FusionWeights {
                        lexical: 1.0,
                        dense: 1.0,
                    },
                },
            },
        }
    }
}

/// A unit vector that follows from the bytes of `text`.
pub fn unit(text: &str, dimension: usize) -> Vec<f32> {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let mut vector: Vec<f32> = (0..dimension)
        .map(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 40) as f32 / (1_u32 << 24) as f32 - 0.5
        })
        .collect();
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    for value in &mut vector {
        *value /= norm.max(1e-6);
    }
    vector
}

impl Models for Hashed {
    fn bundle_id(&self) -> &str {
        BUNDLE_ID
    }

    fn text(&self) -> &TextConfig {
        &self.text
    }

    fn lexical(&self) -> &LexicalConfig {
        &self.lexical
    }

    fn dimension(&self) -> usize {
        DIMENSION
    }

    fn token_dimension(&self) -> usize {
        TOKEN_DIMENSION
    }

    fn encode(&self, products: &[wire::Product]) -> Result<Vec<EncodedProduct>> {
        products
            .iter()
            .map(|product| {
                let text = product_text(product, &self.text.product.dense_fields);
                let mut kept = words(&text);
                kept.truncate(self.text.late_tokens_max);
                let tokens: Vec<f32> = kept
                    .iter()
                    .flat_map(|word| unit(word, TOKEN_DIMENSION))
                    .collect();
                Ok(EncodedProduct {
                    dense: unit(&text, DIMENSION),
                    tokens: late::pack(&tokens, TOKEN_DIMENSION),
                    token_count: kept.len(),
                    pieces: self.pieces(product)?,
                })
            })
            .collect()
    }

    fn pieces(&self, product: &wire::Product) -> Result<Vec<u32>> {
        let text = product_text(product, &self.text.product.cross_fields);
        let mut pieces: Vec<u32> = words(&text).iter().map(|word| word.len() as u32).collect();
        pieces.truncate(self.text.cross_tokens_max);
        Ok(pieces)
    }
}

/// Four bytes a number, any bit pattern: what a broken model may put out.
fn numbers(data: &[u8]) -> Vec<f32> {
    data.chunks_exact(4)
        .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        .collect()
}

/// The first two bytes are the dimension and the query's tokens, then come the values: the query's, the product's.
pub fn vectors(data: &[u8]) {
    let [dimension, query_tokens, values @ ..] = data else {
        return;
    };
    let dimension = 4 * (1 + usize::from(*dimension) % (late::DIMENSION_MAX / 4));
    let values = numbers(values);
    let rows = values.len() / dimension;
    let (query, product) = values[..rows * dimension]
        .split_at((usize::from(*query_tokens) % (rows + 1)).min(rows) * dimension);
    let tokens = QueryTokens::new(query, dimension);
    assert_eq!(tokens.len(), query.len() / dimension);
    let packed = late::pack(product, dimension);
    let count = product.len() / dimension;
    assert_eq!(packed.len(), late::packed_len(count, dimension));
    for token in 0..count {
        assert!(
            late::unpack(&packed, token, count, dimension)
                .iter()
                .all(|value| *value > i8::MIN)
        );
    }
    let score = late::maxsim(&tokens, &packed, count);
    assert_eq!(
        score.to_bits(),
        late::maxsim_reference(&tokens, &packed, count).to_bits()
    );
    assert!((-1.1..=1.1).contains(&score), "{score}");
    let mut row = Vec::new();
    let scale = dense::quantise(&values, &mut row);
    assert!(scale.is_finite() && scale >= 0.0, "{scale}");
    assert_eq!(row.len(), values.len());
    let query = vec![0.25_f32; row.len()];
    assert!(dense::dot(&query, &row).is_finite());
}
