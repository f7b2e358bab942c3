//! Golden cases: scores computed when the bundle was exported, reproduced before it serves.

use std::collections::HashMap;

use serde::{Deserialize, Deserializer};

use crate::bundle::{Bundle, Tier, parse_json};
use crate::error::Result;
use crate::rerank::late;
use crate::wire;

/// `golden.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Golden {
    /// Largest accepted absolute difference per score.
    pub tolerance: Tolerance,
    /// The cases.
    pub cases: Vec<Case>,
}

impl Golden {
    /// Reads the text of `golden.json`.
    pub fn parse(text: &str) -> Result<Golden> {
        parse_json("golden.json", text)
    }
}

/// Largest accepted absolute differences.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Tolerance {
    /// Of the dense cosine.
    pub dense: f64,
    /// Of the late-interaction score.
    pub late: f64,
    /// Of the logit of either cross-encoder.
    pub cross: f64,
}

/// One query, one product, and their scores.
#[derive(Debug, Clone, Deserialize)]
pub struct Case {
    /// Query text.
    pub query: String,
    /// The product, in the protobuf JSON form.
    #[serde(deserialize_with = "product")]
    pub product: wire::Product,
    /// Cosine of the dense vectors.
    pub dense: f64,
    /// Late-interaction score.
    pub late: f64,
    /// Logit of the small cross-encoder, where the bundle has one. `cross`: its name when there was no other.
    #[serde(default, alias = "cross")]
    pub cross_small: Option<f64>,
    /// Logit of the larger cross-encoder, where the bundle has one.
    #[serde(default)]
    pub cross_large: Option<f64>,
}

/// The protobuf JSON form of a product: either spelling of a name, 64-bit integers as numbers or strings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonProduct {
    #[serde(alias = "productId")]
    product_id: String,
    title: String,
    #[serde(default)]
    brand: String,
    #[serde(default)]
    category: Vec<String>,
    #[serde(default)]
    bullets: Vec<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    attributes: HashMap<String, String>,
    price: Option<f64>,
    stock: Option<Integer>,
    rating: Option<f64>,
    #[serde(alias = "ratingCount")]
    rating_count: Option<Integer>,
    popularity: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Integer {
    Number(i64),
    Text(String),
}

impl Integer {
    fn value<E: serde::de::Error>(self) -> std::result::Result<i64, E> {
        match self {
            Integer::Number(value) => Ok(value),
            Integer::Text(text) => text
                .parse()
                .map_err(|_| E::custom(format!("{text:?} is not an integer"))),
        }
    }
}

fn product<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<wire::Product, D::Error> {
    let json = JsonProduct::deserialize(deserializer)?;
    Ok(wire::Product {
        product_id: json.product_id,
        title: json.title,
        brand: json.brand,
        category: json.category,
        bullets: json.bullets,
        description: json.description,
        attributes: json.attributes.into_iter().collect(),
        price: json.price,
        stock: json.stock.map(Integer::value).transpose()?,
        rating: json.rating,
        rating_count: json.rating_count.map(Integer::value).transpose()?,
        popularity: json.popularity,
    })
}

/// The scores of one pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairScores {
    /// Cosine of the dense vectors.
    pub dense: f64,
    /// Late-interaction score.
    pub late: f64,
    /// Logit of the small cross-encoder, where the bundle has one.
    pub cross_small: Option<f64>,
    /// Logit of the larger cross-encoder, where the bundle has one.
    pub cross_large: Option<f64>,
}

impl Bundle {
    /// Scores one query against products, every model on its own; what `golden.json` records.
    pub fn pair_scores(&self, query: &str, products: &[wire::Product]) -> Result<Vec<PairScores>> {
        let query = self.encoder.query(query)?;
        let products = self.encoder.products(products)?;
        let pieces: Vec<&[u32]> = products.iter().map(|one| &one.pieces[..]).collect();
        let crosses = |tier: Tier| {
            self.cross(tier)
                .map(|cross| cross.score(&query.pieces, &pieces))
                .transpose()
        };
        let (small, large) = (crosses(Tier::CrossSmall)?, crosses(Tier::CrossLarge)?);
        let logit = |scores: &Option<Vec<f32>>, at: usize| {
            scores.as_ref().map(|scores| f64::from(scores[at]))
        };
        Ok(products
            .iter()
            .enumerate()
            .map(|(at, product)| PairScores {
                dense: query
                    .dense
                    .iter()
                    .zip(&product.dense)
                    .map(|(left, right)| f64::from(*left) * f64::from(*right))
                    .sum(),
                late: late::maxsim(&query.tokens, &product.tokens, product.token_count).into(),
                cross_small: logit(&small, at),
                cross_large: logit(&large, at),
            })
            .collect())
    }

    /// Replays the golden cases. Empty: all reproduce. Otherwise sentences naming case, expected and got.
    pub fn verify_golden(&self) -> Result<Vec<String>> {
        let Some(golden) = &self.golden else {
            return Ok(Vec::new());
        };
        let mut complaints = Vec::new();
        for (number, case) in golden.cases.iter().enumerate() {
            let got = self.pair_scores(&case.query, std::slice::from_ref(&case.product))?[0];
            let mut compare = |name: &str, expected: f64, got: f64, tolerance: f64| {
                // Written so that NaN on either side is a complaint.
                let close = (expected - got).abs() <= tolerance;
                if !close {
                    complaints.push(format!(
                        "golden case {number} (query {:?}, product {:?}): {name} is {got:.4}, expected \
                         {expected:.4} within {tolerance}",
                        case.query, case.product.product_id
                    ));
                }
            };
            compare("dense", case.dense, got.dense, golden.tolerance.dense);
            compare("late", case.late, got.late, golden.tolerance.late);
            for (name, expected, got) in [
                ("cross_small", case.cross_small, got.cross_small),
                ("cross_large", case.cross_large, got.cross_large),
            ] {
                if let Some(expected) = expected {
                    let got = got.unwrap_or(f64::NAN);
                    compare(name, expected, got, golden.tolerance.cross);
                }
            }
        }
        Ok(complaints)
    }
}
