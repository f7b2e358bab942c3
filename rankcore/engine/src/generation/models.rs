//! What a generation needs of a bundle.

use crate::bundle::{Bundle, LexicalConfig};
use crate::encode::EncodedProduct;
use crate::error::Result;
use crate::text::TextConfig;
use crate::wire;

/// What a generation needs of a bundle.
pub trait Models: Send + Sync {
    /// The bundle's name.
    fn bundle_id(&self) -> &str;
    /// How products become text.
    fn text(&self) -> &TextConfig;
    /// BM25F field weights.
    fn lexical(&self) -> &LexicalConfig;
    /// Dimensions of a dense vector.
    fn dimension(&self) -> usize;
    /// Dimensions of a token vector.
    fn token_dimension(&self) -> usize;
    /// Vectors and token ids of products, in the order given.
    fn encode(&self, products: &[wire::Product]) -> Result<Vec<EncodedProduct>>;
    /// Token ids of one product for a cross-encoder.
    fn pieces(&self, product: &wire::Product) -> Result<Vec<u32>>;
}

impl Models for Bundle {
    fn bundle_id(&self) -> &str {
        &self.id
    }

    fn text(&self) -> &TextConfig {
        &self.text
    }

    fn lexical(&self) -> &LexicalConfig {
        &self.lexical
    }

    fn dimension(&self) -> usize {
        self.dimension
    }

    fn token_dimension(&self) -> usize {
        self.token_dimension
    }

    fn encode(&self, products: &[wire::Product]) -> Result<Vec<EncodedProduct>> {
        self.encoder.products(products)
    }

    fn pieces(&self, product: &wire::Product) -> Result<Vec<u32>> {
        self.encoder.product_pieces(product)
    }
}
