//! Text to token ids to vectors: the tokeniser, and the encoder behind it.

use std::path::Path;

use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::model::{ENCODER_FILE, Model, Opening, Outputs, Rows, Runner, Shared};
use crate::rerank::late;
use crate::text::{TextConfig, product_text};
use crate::wire;

/// A query as the models see it.
#[derive(Debug, Clone)]
pub struct EncodedQuery {
    /// Token ids without special tokens, cut to `query_tokens_max`.
    pub pieces: Vec<u32>,
    /// True: the query was longer than `query_tokens_max`.
    pub truncated: bool,
    /// L2-normalised, `[dimension]`.
    pub dense: Vec<f32>,
    /// Token vectors, quantised.
    pub tokens: late::QueryTokens,
}

/// A product as the models see it.
#[derive(Debug, Clone)]
pub struct EncodedProduct {
    /// L2-normalised, `[dimension]`.
    pub dense: Vec<f32>,
    /// Token vectors in the layout of [`late::pack`].
    pub tokens: Vec<i8>,
    /// Number of token vectors, at most `late_tokens_max`.
    pub token_count: usize,
    /// Token ids for a cross-encoder, without special tokens, cut to `cross_tokens_max`.
    pub pieces: Vec<u32>,
}

/// Ids of the tokens that frame a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Specials {
    cls: u32,
    sep: u32,
}

impl Specials {
    fn of(tokenizer: &Tokenizer) -> Result<Specials> {
        let id = |token: &str| {
            tokenizer
                .token_to_id(token)
                .ok_or_else(|| Error::Bundle(format!("tokenizer.json: no {token} token")))
        };
        Ok(Specials {
            cls: id("[CLS]")?,
            sep: id("[SEP]")?,
        })
    }

    /// `[CLS]` and `[SEP]`.
    pub(crate) fn ids(self) -> (u32, u32) {
        (self.cls, self.sep)
    }

    /// Adds `[CLS] pieces [SEP]`.
    fn single(&self, pieces: &[u32], rows: &mut Rows) {
        rows.push(self.framed(pieces), pieces.len() + 2);
    }

    /// Adds `[CLS] first [SEP] second [SEP]`.
    pub(crate) fn pair(&self, first: &[u32], second: &[u32], rows: &mut Rows) {
        let after = second.iter().map(|piece| i64::from(*piece));
        let sep = i64::from(self.sep);
        rows.push(
            self.framed(first).chain(after).chain([sep]),
            first.len() + 2,
        );
    }

    fn framed(&self, pieces: &[u32]) -> impl Iterator<Item = i64> {
        let (cls, sep) = (i64::from(self.cls), i64::from(self.sep));
        [cls]
            .into_iter()
            .chain(pieces.iter().map(|piece| i64::from(*piece)))
            .chain([sep])
    }
}

/// The tokeniser of a bundle: text to token ids. Shared by many threads.
pub struct Pieces {
    tokenizer: Tokenizer,
    specials: Specials,
}

impl Pieces {
    /// Reads the content of `tokenizer.json`, a WordPiece model. Errors: [`Error::Bundle`].
    ///
    /// Of the file only what turns text into ids is read: frames, decoding, cutting and padding are ours or not needed.
    pub fn parse(content: &[u8]) -> Result<Pieces> {
        let refuse =
            |reason: &dyn std::fmt::Display| Error::Bundle(format!("tokenizer.json: {reason}"));
        // Parsed here first, because the library panics on some files that are no JSON.
        let mut file: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(content).map_err(|error| refuse(&error))?;
        let kind = file.get("model").and_then(|model| model.get("type"));
        if kind.and_then(serde_json::Value::as_str) != Some("WordPiece") {
            return Err(refuse(
                &"its model is not of the type WordPiece, the only one that is read",
            ));
        }
        for unread in ["decoder", "post_processor", "truncation", "padding"] {
            file.remove(unread);
        }
        let read = serde_json::to_vec(&file).map_err(|error| refuse(&error))?;
        let tokenizer = Tokenizer::from_bytes(read).map_err(|error| refuse(&error))?;
        let specials = Specials::of(&tokenizer)?;
        Ok(Pieces {
            tokenizer,
            specials,
        })
    }

    /// Token ids of a text without special tokens, uncut.
    pub fn of(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|error| Error::Internal(format!("tokeniser: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// The encoder of a bundle and its tokeniser. Shared by many threads.
pub struct Encoder {
    tokeniser: Pieces,
    model: Model,
    text: TextConfig,
    dimension: usize,
    token_dimension: usize,
}

impl Encoder {
    /// Opens `tokenizer.json` and `encoder/model.onnx` of the bundle in `dir`, and runs the model once. Returns: the
    /// encoder, and what cross-encoders may take from it.
    pub(crate) fn open(
        dir: &Path,
        text: &TextConfig,
        opening: Opening<'_>,
    ) -> Result<(Encoder, Shared)> {
        let content = std::fs::read(dir.join("tokenizer.json"))
            .map_err(|error| Error::Bundle(format!("tokenizer.json: {error}")))?;
        let tokeniser = Pieces::parse(&content)?;
        let (model, shared) = Model::encoder(dir.join(ENCODER_FILE), opening)?;
        let mut widths = (0, 0);
        let mut empty = Rows::default();
        tokeniser.specials.single(&[], &mut empty);
        model.run_rows(&empty.all(), |_, outputs| {
            // Two rows of token vectors: `[CLS]` and `[SEP]`.
            widths = (outputs.len(0), outputs.len(1) / 2);
            Ok(())
        })?;
        let (dimension, token_dimension) = widths;
        if token_dimension < 4
            || !token_dimension.is_multiple_of(4)
            || token_dimension > late::DIMENSION_MAX
            || dimension == 0
        {
            return Err(Error::Bundle(format!(
                "{ENCODER_FILE}: {dimension} dense and {token_dimension} token dimensions; a token \
                 dimension must be a multiple of 4 up to {}",
                late::DIMENSION_MAX
            )));
        }
        let encoder = Encoder {
            tokeniser,
            model,
            text: text.clone(),
            dimension,
            token_dimension,
        };
        Ok((encoder, shared))
    }

    /// Dimensions of a dense vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Dimensions of a token vector.
    pub fn token_dimension(&self) -> usize {
        self.token_dimension
    }

    /// What runs the model.
    pub fn runner(&self) -> Runner {
        self.model.runner()
    }

    pub(crate) fn specials(&self) -> Specials {
        self.tokeniser.specials
    }

    /// Token ids of a text without special tokens, uncut.
    pub fn pieces(&self, text: &str) -> Result<Vec<u32>> {
        self.tokeniser.of(text)
    }

    /// Tokenises and encodes a query.
    pub fn query(&self, text: &str) -> Result<EncodedQuery> {
        let mut pieces = self.pieces(text)?;
        let truncated = pieces.len() > self.text.query_tokens_max;
        pieces.truncate(self.text.query_tokens_max);
        let mut dense = Vec::new();
        let mut tokens = late::QueryTokens::new(&[], self.token_dimension);
        let mut rows = Rows::with_capacity(1, pieces.len() + 2);
        self.tokeniser.specials.single(&pieces, &mut rows);
        self.model.run_rows(&rows.all(), |_, outputs| {
            dense = outputs.get(0, self.dimension)?.to_vec();
            let vectors = self.token_vectors(outputs, pieces.len(), pieces.len())?;
            tokens = late::QueryTokens::new(vectors, self.token_dimension);
            Ok(())
        })?;
        Ok(EncodedQuery {
            pieces,
            truncated,
            dense,
            tokens,
        })
    }

    /// Token ids of a product for a cross-encoder, without special tokens, cut to `cross_tokens_max`.
    pub fn product_pieces(&self, product: &wire::Product) -> Result<Vec<u32>> {
        let mut pieces = self.pieces(&product_text(product, &self.text.product.cross_fields))?;
        pieces.truncate(self.text.cross_tokens_max);
        Ok(pieces)
    }

    /// Encodes products, in the order given. The vectors of a product do not depend on the others.
    pub fn products(&self, products: &[wire::Product]) -> Result<Vec<EncodedProduct>> {
        let shared = self.text.product.cross_fields == self.text.product.dense_fields;
        let mut rows = Rows::with_capacity(products.len(), 0);
        let mut read = Vec::with_capacity(products.len());
        let mut encoded = Vec::with_capacity(products.len());
        for product in products {
            let mut pieces =
                self.pieces(&product_text(product, &self.text.product.dense_fields))?;
            let cross = if shared {
                pieces[..pieces.len().min(self.text.cross_tokens_max)].to_vec()
            } else {
                self.product_pieces(product)?
            };
            pieces.truncate(self.text.dense_tokens_max);
            self.tokeniser.specials.single(&pieces, &mut rows);
            read.push(pieces.len());
            encoded.push(EncodedProduct {
                dense: Vec::new(),
                tokens: Vec::new(),
                token_count: pieces.len().min(self.text.late_tokens_max),
                pieces: cross,
            });
        }
        self.model.run_rows(&rows.all(), |number, outputs| {
            let product: &mut EncodedProduct = &mut encoded[number];
            product.dense = outputs.get(0, self.dimension)?.to_vec();
            let vectors = self.token_vectors(outputs, read[number], product.token_count)?;
            product.tokens = late::pack(vectors, self.token_dimension);
            Ok(())
        })?;
        Ok(encoded)
    }

    /// Vectors of the first `kept` of the `read` pieces; the first row of the output is the one of `[CLS]`.
    fn token_vectors<'a>(
        &self,
        outputs: &Outputs<'a>,
        read: usize,
        kept: usize,
    ) -> Result<&'a [f32]> {
        let width = self.token_dimension;
        let rows = outputs.get(1, (read + 2) * width)?;
        Ok(&rows[width..(kept + 1) * width])
    }
}
