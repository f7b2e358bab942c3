//! Filters: which live rows satisfy a request's conditions.

use fixedbitset::FixedBitSet;

use crate::error::{Error, Result, Violation};
use crate::wire;

pub use super::limits::validate_filter;

use super::columns::Columns;
use super::facets::{ATTRIBUTE_PREFIX, Keywords};

/// True: the filter has no condition, so every live row is eligible.
pub fn is_empty(filter: &wire::Filter) -> bool {
    filter.brands.is_empty()
        && filter.categories.is_empty()
        && filter.price_min.is_none()
        && filter.price_max.is_none()
        && !filter.in_stock
        && filter.attributes.is_empty()
}

/// The live rows that satisfy `filter`; absent: it has no condition.
///
/// Errors: [`Error::InvalidRequest`] for attributes that no live product carries.
pub fn eligible(
    filter: &wire::Filter,
    live: &FixedBitSet,
    keywords: &Keywords,
    columns: &Columns,
) -> Result<Option<FixedBitSet>> {
    let unknown: Vec<Violation> = filter
        .attributes
        .iter()
        .enumerate()
        .filter(|(_, condition)| {
            !keywords.carried(&format!("{ATTRIBUTE_PREFIX}{}", condition.name))
        })
        .map(|(at, condition)| Violation {
            field: format!("filter.attributes[{at}].name"),
            description: format!("no product carries the attribute {:?}", condition.name),
        })
        .collect();
    if !unknown.is_empty() {
        return Err(Error::InvalidRequest(unknown));
    }
    if is_empty(filter) {
        return Ok(None);
    }
    let mut rows = live.clone();
    let mut marked = FixedBitSet::with_capacity(live.len());
    let mut restrict = |field: &str, values: &[String]| {
        marked.clear();
        keywords.mark(field, values, &mut marked);
        rows.intersect_with(&marked);
    };
    if !filter.brands.is_empty() {
        restrict("brand", &filter.brands);
    }
    if !filter.categories.is_empty() {
        restrict("category", &filter.categories);
    }
    for condition in &filter.attributes {
        restrict(
            &format!("{ATTRIBUTE_PREFIX}{}", condition.name),
            &condition.values,
        );
    }
    if filter.price_min.is_some() || filter.price_max.is_some() {
        // An unknown price is NaN, which no comparison admits.
        let least = filter.price_min.unwrap_or(0.0);
        let most = filter.price_max.unwrap_or(f64::INFINITY);
        let prices = columns.prices();
        keep(&mut rows, |row| prices[row] >= least && prices[row] <= most);
    }
    if filter.in_stock {
        let stocks = columns.stocks();
        keep(&mut rows, |row| stocks[row] != 0);
    }
    Ok(Some(rows))
}

fn keep(rows: &mut FixedBitSet, mut condition: impl FnMut(usize) -> bool) {
    for (block, bits) in rows.as_mut_slice().iter_mut().enumerate() {
        let mut left = *bits;
        while left != 0 {
            let bit = left.trailing_zeros() as usize;
            left &= left - 1;
            if !condition(block * usize::BITS as usize + bit) {
                *bits &= !(1 << bit);
            }
        }
    }
}
