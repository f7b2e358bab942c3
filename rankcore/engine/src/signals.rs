//! The numbers that enter the final order, by name, and the rankers that read them.
//!
//! Every signal is f64; NaN means unknown, or not computed by the executed tier. Names are stable: rankers in bundles
//! refer to them.

use crate::bundle::{Bundle, Tier};
use crate::error::{Error, Result};
use crate::rerank::forest::Forest;
use crate::retrieve::MatchText;
use crate::retrieve::columns::Values;

/// Declares the signals: constant for the column, name.
macro_rules! signals {
    ($($(#[$doc:meta])* $column:ident = $name:literal),+ $(,)?) => {
        /// Column of each signal in a [`Matrix`] row.
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Column { $($(#[$doc])* $column),+ }

        /// Names of all signals, in column order.
        pub const NAMES: &[&str] = &[$($name),+];
    };
}

signals! {
    /// BM25F score over the boosted text fields; 0 where no word matches.
    Bm25 = "bm25",
    /// BM25F as a share of the best candidate's.
    Bm25Share = "bm25_share",
    /// 1 / place in the lexical list; 0 if not on it.
    Bm25Rank = "bm25_rank",
    /// Cosine of the query's and the product's dense vectors.
    Dense = "dense",
    /// 1 / place in the dense list; 0 if not on it.
    DenseRank = "dense_rank",
    /// Score of the fusion of both lists.
    Fused = "fused",
    /// Late interaction score.
    Late = "late",
    /// Late interaction as a share of the best candidate's.
    LateShare = "late_share",
    /// Best candidate's late interaction minus this one's.
    LateMaxGap = "late_max_gap",
    /// Cross-encoder score.
    Cross = "cross",
    /// Share of the query's words that the title has.
    TitleMatch = "title_match",
    /// 1 if the query has all words of the brand, else 0; unknown without a brand.
    BrandMatch = "brand_match",
    /// 1 if the query's words stand in the title in that order without a gap, else 0.
    ExactTitle = "exact_title",
    /// Share of the query's words that attributes or category have.
    AttributeMatch = "attribute_match",
    /// Words of the query.
    QueryWords = "query_words",
    /// Words of the title.
    TitleWords = "title_words",
    /// ln(1 + price).
    PriceLog = "price_log",
    /// 1 if the product is known to be out of stock, else 0.
    StockKnownOut = "stock_known_out",
    /// Mean rating, 0 to 5.
    Rating = "rating",
    /// ln(1 + number of ratings).
    RatingCountLog = "rating_count_log",
    /// ln(1 + popularity).
    PopularityLog = "popularity_log",
}

/// Number of signals.
pub const COUNT: usize = NAMES.len();

/// Signals of candidates, row-major `[candidates][COUNT]`; NaN until set.
#[derive(Debug, Clone, Default)]
pub struct Matrix {
    values: Vec<f64>,
}

impl Matrix {
    /// All unknown.
    #[must_use]
    pub fn unknown(candidates: usize) -> Self {
        Self {
            values: vec![f64::NAN; candidates * COUNT],
        }
    }

    /// All signals of one candidate.
    #[must_use]
    pub fn row(&self, candidate: usize) -> &[f64] {
        &self.values[candidate * COUNT..(candidate + 1) * COUNT]
    }

    /// All signals of one candidate, to be set.
    pub fn row_mut(&mut self, candidate: usize) -> &mut [f64] {
        &mut self.values[candidate * COUNT..(candidate + 1) * COUNT]
    }

    /// One signal of one candidate.
    #[must_use]
    pub fn get(&self, candidate: usize, column: Column) -> f64 {
        self.values[candidate * COUNT + column as usize]
    }

    /// Sets one signal of one candidate.
    pub fn set(&mut self, candidate: usize, column: Column, value: f64) {
        self.values[candidate * COUNT + column as usize] = value;
    }

    /// Keeps the first `candidates` rows.
    pub fn truncate(&mut self, candidates: usize) {
        self.values.truncate(candidates * COUNT);
    }

    /// The values, row-major, for a caller that wants them all.
    #[must_use]
    pub fn into_values(self) -> Vec<f64> {
        self.values
    }
}

/// Sets the signals that compare the query's words, as [`crate::retrieve::query_keys`] gives them, with the product's.
pub fn describe_text(row: &mut [f64], query: &[u32], product: &MatchText) {
    let title = product.title();
    let mut set = |column: Column, value: f64| row[column as usize] = value;
    let share = |within: &[u32]| {
        if query.is_empty() {
            return 0.0;
        }
        count(query.iter().filter(|word| within.contains(word)).count()) / count(query.len())
    };
    set(Column::TitleMatch, share(title));
    let exact = !query.is_empty() && title.windows(query.len()).any(|window| window == query);
    set(Column::ExactTitle, f64::from(u8::from(exact)));
    let brand = product.brand();
    if !brand.is_empty() {
        let whole = brand.iter().all(|word| query.contains(word));
        set(Column::BrandMatch, f64::from(u8::from(whole)));
    }
    set(
        Column::AttributeMatch,
        share(product.attributes_and_category()),
    );
    set(Column::QueryWords, count(query.len()));
    set(Column::TitleWords, count(title.len()));
}

/// Sets the signals of live columns.
pub fn describe_live(row: &mut [f64], values: &Values) {
    #[allow(clippy::cast_precision_loss)]
    let rating_count = if values.rating_count < 0 {
        f64::NAN
    } else {
        values.rating_count as f64
    };
    row[Column::PriceLog as usize] = values.price.ln_1p();
    row[Column::StockKnownOut as usize] = f64::from(u8::from(values.stock == 0));
    row[Column::Rating as usize] = values.rating;
    row[Column::RatingCountLog as usize] = rating_count.ln_1p();
    row[Column::PopularityLog as usize] = values.popularity.ln_1p();
}

#[allow(clippy::cast_precision_loss)]
fn count(value: usize) -> f64 {
    value as f64
}

/// What a tier's ranker reads.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Column of each feature, in the ranker's order.
    columns: Vec<usize>,
    /// It reads a signal that compares words.
    pub text: bool,
    /// It reads a live column.
    pub live: bool,
    /// It reads BM25F of candidates that need not be on the lexical list.
    pub bm25: bool,
}

impl Reading {
    /// Reads everything, as for an explanation.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            columns: Vec::new(),
            text: true,
            live: true,
            bm25: true,
        }
    }

    fn of(tier: Tier, forest: &Forest) -> Result<Self> {
        let mut columns = Vec::new();
        for name in forest.feature_names() {
            let name: &str = name.as_ref();
            let column = NAMES.iter().position(|known| *known == name);
            columns.push(column.ok_or_else(|| {
                Error::Bundle(format!(
                    "ranker/{}.txt: unknown signal {name:?}; known are {}",
                    tier.as_str(),
                    NAMES.join(", ")
                ))
            })?);
        }
        let reads = |range: std::ops::RangeInclusive<usize>| {
            columns.iter().any(|column| range.contains(column))
        };
        Ok(Self {
            text: reads(Column::TitleMatch as usize..=Column::TitleWords as usize),
            live: reads(Column::PriceLog as usize..=Column::PopularityLog as usize),
            bm25: reads(Column::Bm25 as usize..=Column::Bm25Share as usize),
            columns,
        })
    }
}

/// How each tier's ranker reads a [`Matrix`].
#[derive(Debug, Clone)]
pub struct Readings(Vec<Option<Reading>>);

impl Readings {
    /// Resolves the feature names of the bundle's rankers.
    ///
    /// # Errors
    /// `Bundle` if a ranker names an unknown signal.
    pub fn new(bundle: &Bundle) -> Result<Self> {
        Tier::ALL
            .into_iter()
            .map(|tier| {
                bundle
                    .rankers
                    .get(&tier)
                    .map(|forest| Reading::of(tier, forest))
                    .transpose()
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// How the tier's ranker reads; `None` where the tier has no ranker.
    #[must_use]
    pub fn of(&self, tier: Tier) -> Option<&Reading> {
        self.0[tier as usize].as_ref()
    }
}

/// Scores one candidate; `scratch` is reused between calls.
#[must_use]
pub fn score(forest: &Forest, reading: &Reading, row: &[f64], scratch: &mut Vec<f64>) -> f64 {
    scratch.clear();
    scratch.extend(reading.columns.iter().map(|column| row[*column]));
    forest.score(scratch)
}

/// What each signal adds to the score that [`score`] gives, `COUNT` long, NaN where the ranker does not read it; `None`
/// where the ranker cannot say. What is missing to the score is the ranker's score of a product of which nothing is known.
#[must_use]
pub fn contributions(forest: &Forest, reading: &Reading, row: &[f64]) -> Option<Vec<f64>> {
    let features: Vec<f64> = reading.columns.iter().map(|column| row[*column]).collect();
    let mut parts = vec![0.0; features.len()];
    forest.contributions(&features, &mut parts)?;
    let mut all = vec![f64::NAN; COUNT];
    for (column, part) in reading.columns.iter().zip(parts) {
        all[*column] = part;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retrieve::query_keys;
    use crate::wire;

    fn describe(query: &str, title: &str, brand: &str, category: &str) -> Matrix {
        let mut matrix = Matrix::unknown(1);
        describe_text(
            matrix.row_mut(0),
            &query_keys(query),
            &MatchText::of(&wire::Product {
                title: title.to_owned(),
                brand: brand.to_owned(),
                category: vec![category.to_owned()],
                ..Default::default()
            }),
        );
        matrix
    }

    #[test]
    fn match_signals_follow_their_definitions() {
        let row = describe(
            "Acme red shoes",
            "Red shoes, size 42",
            "ACME",
            "colour red category footwear",
        );
        let table = [
            (Column::TitleMatch, 2.0 / 3.0),
            (Column::ExactTitle, 0.0),
            (Column::BrandMatch, 1.0),
            (Column::AttributeMatch, 1.0 / 3.0),
            (Column::QueryWords, 3.0),
            (Column::TitleWords, 4.0),
        ];
        for (column, expected) in table {
            assert!(
                (row.get(0, column) - expected).abs() < 1e-12,
                "{column:?} is {}",
                row.get(0, column)
            );
        }
    }

    #[test]
    fn a_phrase_must_stand_together_and_in_order() {
        let exact = |query, title| describe(query, title, "", "").get(0, Column::ExactTitle);
        assert_eq!(exact("red shoes", "the RED shoes"), 1.0);
        assert_eq!(exact("red shoes", "shoes red"), 0.0);
        assert_eq!(exact("red shoes", "red suede shoes"), 0.0);
        assert_eq!(exact("red shoes", "shoes"), 0.0);
    }

    #[test]
    fn an_unknown_brand_is_unknown_and_a_partial_one_no_match() {
        assert!(
            describe("red", "red", "", "")
                .get(0, Column::BrandMatch)
                .is_nan()
        );
        assert_eq!(
            describe("red acme", "red", "Acme Tools", "").get(0, Column::BrandMatch),
            0.0
        );
    }

    #[test]
    fn unknown_live_columns_stay_unknown_but_stock_counts_only_when_known() {
        let mut matrix = Matrix::unknown(1);
        describe_live(
            matrix.row_mut(0),
            &Values::of(&wire::Product {
                rating: Some(4.5),
                rating_count: Some(0),
                ..Default::default()
            }),
        );
        assert!(matrix.get(0, Column::PriceLog).is_nan());
        assert!(matrix.get(0, Column::PopularityLog).is_nan());
        assert_eq!(matrix.get(0, Column::StockKnownOut), 0.0);
        assert_eq!(matrix.get(0, Column::Rating), 4.5);
        assert_eq!(matrix.get(0, Column::RatingCountLog), 0.0);
    }
}
