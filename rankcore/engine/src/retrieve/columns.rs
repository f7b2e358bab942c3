//! Live columns: the numbers of a product that change often, one array each.

use crate::error::Result;
use crate::generation::files::{Mapped, Writer};
use crate::wire;
use std::path::Path;

use super::Row;

/// The live columns of one row. NaN, or -1 for counts: unknown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Values {
    /// In the catalogue's currency.
    pub price: f64,
    /// Units.
    pub stock: i64,
    /// Mean rating, 0 to 5.
    pub rating: f64,
    /// Ratings.
    pub rating_count: i64,
    /// Any non-negative measure of demand.
    pub popularity: f64,
}

const UNKNOWN: i64 = -1;

fn number(value: Option<f64>) -> f64 {
    value.unwrap_or(f64::NAN)
}

fn known(value: f64) -> Option<f64> {
    (!value.is_nan()).then_some(value)
}

fn known_count(value: i64) -> Option<i64> {
    (value >= 0).then_some(value)
}

impl Values {
    /// The columns of `product`.
    pub fn of(product: &wire::Product) -> Self {
        Self {
            price: number(product.price),
            stock: product.stock.unwrap_or(UNKNOWN),
            rating: number(product.rating),
            rating_count: product.rating_count.unwrap_or(UNKNOWN),
            popularity: number(product.popularity),
        }
    }

    /// Takes the values that `patch` has.
    pub fn patch(&mut self, patch: &wire::Patch) {
        self.price = patch.price.unwrap_or(self.price);
        self.stock = patch.stock.unwrap_or(self.stock);
        self.rating = patch.rating.unwrap_or(self.rating);
        self.rating_count = patch.rating_count.unwrap_or(self.rating_count);
        self.popularity = patch.popularity.unwrap_or(self.popularity);
    }

    /// Price, if known.
    pub fn price(&self) -> Option<f64> {
        known(self.price)
    }

    /// Units in stock, if known.
    pub fn stock(&self) -> Option<i64> {
        known_count(self.stock)
    }

    /// Writes the columns into `product`.
    pub fn write_to(&self, product: &mut wire::Product) {
        product.price = self.price();
        product.stock = self.stock();
        product.rating = known(self.rating);
        product.rating_count = known_count(self.rating_count);
        product.popularity = known(self.popularity);
    }
}

/// A row with its live columns, as the signals read them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The row.
    pub row: Row,
    /// Its columns.
    pub values: Values,
}

/// Columns of all rows.
#[derive(Debug, Default)]
pub struct Columns {
    price: Vec<f64>,
    stock: Vec<i64>,
    rating: Vec<f64>,
    rating_count: Vec<i64>,
    popularity: Vec<f64>,
}

impl Columns {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.price.len()
    }

    /// Appends a row.
    pub fn push(&mut self, values: &Values) {
        self.price.push(values.price);
        self.stock.push(values.stock);
        self.rating.push(values.rating);
        self.rating_count.push(values.rating_count);
        self.popularity.push(values.popularity);
    }

    /// One row. Panics beyond the last.
    pub fn get(&self, row: Row) -> Values {
        let row = row as usize;
        Values {
            price: self.price[row],
            stock: self.stock[row],
            rating: self.rating[row],
            rating_count: self.rating_count[row],
            popularity: self.popularity[row],
        }
    }

    /// Replaces one row. Panics beyond the last.
    pub fn set(&mut self, row: Row, values: &Values) {
        let row = row as usize;
        self.price[row] = values.price;
        self.stock[row] = values.stock;
        self.rating[row] = values.rating;
        self.rating_count[row] = values.rating_count;
        self.popularity[row] = values.popularity;
    }

    /// Prices of all rows; NaN: unknown.
    pub fn prices(&self) -> &[f64] {
        &self.price
    }

    /// Stocks of all rows; below 0: unknown.
    pub fn stocks(&self) -> &[i64] {
        &self.stock
    }

    /// Writes all rows to `DIR/columns.f64` and `DIR/columns.i64`, column after column.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let mut numbers = Writer::create(&dir.join("columns.f64"), "columns")?;
        for column in [&self.price, &self.rating, &self.popularity] {
            numbers.extend(column)?;
        }
        numbers.finish()?;
        let mut counts = Writer::create(&dir.join("columns.i64"), "columns")?;
        for column in [&self.stock, &self.rating_count] {
            counts.extend(column)?;
        }
        counts.finish()
    }

    /// Reads what [`Columns::write`] wrote for `rows` rows.
    pub fn read(dir: &Path, rows: usize) -> Result<Self> {
        let numbers: Mapped<f64> =
            Mapped::open(&dir.join("columns.f64"), "columns")?.expect(3 * rows)?;
        let counts: Mapped<i64> =
            Mapped::open(&dir.join("columns.i64"), "columns")?.expect(2 * rows)?;
        Ok(Self {
            price: numbers[..rows].to_vec(),
            rating: numbers[rows..2 * rows].to_vec(),
            popularity: numbers[2 * rows..].to_vec(),
            stock: counts[..rows].to_vec(),
            rating_count: counts[rows..].to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn product() -> impl Strategy<Value = wire::Product> {
        (
            prop::option::of(0.0..1e6_f64),
            prop::option::of(0..1_000_000_i64),
            prop::option::of(0.0..5.0_f64),
            prop::option::of(0..1_000_000_i64),
            prop::option::of(0.0..1e6_f64),
        )
            .prop_map(
                |(price, stock, rating, rating_count, popularity)| wire::Product {
                    price,
                    stock,
                    rating,
                    rating_count,
                    popularity,
                    ..Default::default()
                },
            )
    }

    proptest! {
        #[test]
        fn columns_come_back_from_files_as_they_were(products in prop::collection::vec(product(), 0..20)) {
            let mut columns = Columns::default();
            for product in &products {
                columns.push(&Values::of(product));
            }
            let dir = tempfile::tempdir().unwrap();
            columns.write(dir.path()).unwrap();
            let read = Columns::read(dir.path(), products.len()).unwrap();
            for (row, product) in products.iter().enumerate() {
                let mut back = wire::Product::default();
                read.get(row as Row).write_to(&mut back);
                prop_assert_eq!(&back, product);
            }
            prop_assert!(Columns::read(dir.path(), products.len() + 1).is_err());
        }

        #[test]
        fn a_patch_changes_what_it_has_and_nothing_else(before in product(), change in product()) {
            let patch = wire::Patch {
                product_id: String::new(),
                price: change.price,
                stock: change.stock,
                rating: change.rating,
                rating_count: change.rating_count,
                popularity: change.popularity,
            };
            let mut values = Values::of(&before);
            values.patch(&patch);
            let mut after = wire::Product::default();
            values.write_to(&mut after);
            prop_assert_eq!(after.price, change.price.or(before.price));
            prop_assert_eq!(after.stock, change.stock.or(before.stock));
            prop_assert_eq!(after.rating, change.rating.or(before.rating));
            prop_assert_eq!(after.rating_count, change.rating_count.or(before.rating_count));
            prop_assert_eq!(after.popularity, change.popularity.or(before.popularity));
        }
    }
}
