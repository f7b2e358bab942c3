//! Brands, category names and attribute values as numbers: rows by value for filters, values by row for
//! facet counts.
//!
//! All fields share one dictionary. In a generation its values are sorted by field, then without case,
//! then as written, so a field is one range of numbers and so are the spellings of one value; values
//! first seen in the delta are numbered after them.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;

use fixedbitset::FixedBitSet;

use crate::error::{Error, Result};
use crate::generation::files::{Mapped, Ragged, RaggedWriter, Writer};
use crate::wire;

use super::Row;

/// Values of a facet that are returned at most.
pub const COUNTS_MAX: usize = 20;

/// Prefix of the facets and fields that stand for an attribute.
pub const ATTRIBUTE_PREFIX: &str = "attributes.";

/// Number of a value in the dictionary.
type ValueId = u32;

/// A value as filters compare it.
pub fn folded(value: &str) -> String {
    value.to_lowercase()
}

/// The distinct (field, value) pairs of a product; fields are `brand`, `category`, `attributes.NAME`.
fn pairs(product: &wire::Product) -> BTreeSet<(String, &str)> {
    let mut found = BTreeSet::new();
    if !product.brand.is_empty() {
        found.insert(("brand".to_owned(), product.brand.as_str()));
    }
    for name in product.category.iter().filter(|name| !name.is_empty()) {
        found.insert(("category".to_owned(), name.as_str()));
    }
    for (name, value) in &product.attributes {
        found.insert((format!("{ATTRIBUTE_PREFIX}{name}"), value.as_str()));
    }
    found
}

/// Collects the values of a new generation.
#[derive(Debug, Default)]
pub struct KeywordWriter {
    fields: HashMap<String, u32>,
    /// Per field number: value to provisional number.
    values: Vec<HashMap<String, ValueId>>,
    count: ValueId,
    /// The values of all rows, end to end, and where each row ends.
    ids: Vec<ValueId>,
    ends: Vec<usize>,
}

impl KeywordWriter {
    /// Adds the next row.
    pub fn push(&mut self, product: &wire::Product) {
        for (field, value) in pairs(product) {
            let next = self.fields.len() as u32;
            let field = *self.fields.entry(field).or_insert(next) as usize;
            if field == self.values.len() {
                self.values.push(HashMap::new());
            }
            let id = match self.values[field].get(value) {
                Some(&id) => id,
                None => {
                    let id = self.count;
                    self.values[field].insert(value.to_owned(), id);
                    self.count += 1;
                    id
                }
            };
            self.ids.push(id);
        }
        self.ends.push(self.ids.len());
    }

    /// Writes the dictionary and both directions to `dir`.
    pub fn finish(mut self, dir: &Path) -> Result<()> {
        let mut fields: Vec<(String, u32)> = self.fields.into_iter().collect();
        fields.sort();
        let mut names = RaggedWriter::create(dir, "keyword_fields", "u8", "keyword fields")?;
        let mut carriers = Writer::create(&dir.join("keyword_carriers.u32"), "keyword carriers")?;
        let mut values = RaggedWriter::create(dir, "keyword_values", "u8", "keyword values")?;
        let mut field_ends = Writer::create(&dir.join("keyword_ends.u32"), "keyword ends")?;
        let mut renumbered = vec![0_u32; self.count as usize];
        let mut field_of = vec![0_u32; self.count as usize];
        let mut next = 0;
        for (number, (name, provisional)) in fields.iter().enumerate() {
            let mut sorted: Vec<(String, String, ValueId)> =
                std::mem::take(&mut self.values[*provisional as usize])
                    .into_iter()
                    .map(|(value, id)| (folded(&value), value, id))
                    .collect();
            sorted.sort_unstable();
            for (_, value, id) in sorted {
                values.push(value.as_bytes())?;
                renumbered[id as usize] = next;
                field_of[next as usize] = number as u32;
                next += 1;
            }
            names.push(name.as_bytes())?;
            field_ends.extend(&[next])?;
        }
        let mut carrier_counts = vec![0_u32; fields.len()];
        let mut by_row = RaggedWriter::create(dir, "keywords", "u32", "keywords")?;
        let mut sizes = vec![0_usize; self.count as usize + 1];
        let mut start = 0;
        for &end in &self.ends {
            let row = &mut self.ids[start..end];
            start = end;
            for id in row.iter_mut() {
                *id = renumbered[*id as usize];
                sizes[*id as usize + 1] += 1;
            }
            row.sort_unstable();
            let mut last = None;
            for id in row.iter() {
                let field = field_of[*id as usize];
                if last != Some(field) {
                    carrier_counts[field as usize] += 1;
                    last = Some(field);
                }
            }
            by_row.push(row)?;
        }
        for at in 1..sizes.len() {
            sizes[at] += sizes[at - 1];
        }
        let mut inverse = vec![0_u32; sizes[self.count as usize]];
        let mut places = sizes.clone();
        let mut start = 0;
        for (row, &end) in self.ends.iter().enumerate() {
            for &id in &self.ids[start..end] {
                inverse[places[id as usize]] = row as Row;
                places[id as usize] += 1;
            }
            start = end;
        }
        let mut by_value = RaggedWriter::create(dir, "keyword_rows", "u32", "keyword rows")?;
        for range in sizes.windows(2) {
            by_value.push(&inverse[range[0]..range[1]])?;
        }
        carriers.extend(&carrier_counts)?;
        names.finish()?;
        carriers.finish()?;
        values.finish()?;
        field_ends.finish()?;
        by_row.finish()?;
        by_value.finish()
    }
}

/// The values of a generation, memory-mapped.
#[derive(Debug)]
pub struct KeywordIndex {
    fields: Ragged<u8>,
    ends: Mapped<u32>,
    carriers: Mapped<u32>,
    values: Ragged<u8>,
    by_row: Ragged<u32>,
    by_value: Ragged<u32>,
}

impl KeywordIndex {
    /// Opens what [`KeywordWriter::finish`] wrote for `rows` rows.
    pub fn open(dir: &Path, rows: usize) -> Result<Self> {
        let fields = Ragged::open(dir, "keyword_fields", "u8", "keyword fields")?;
        let values = Ragged::open(dir, "keyword_values", "u8", "keyword values")?;
        let count = values.rows();
        let index = Self {
            ends: Mapped::open(&dir.join("keyword_ends.u32"), "keyword ends")?
                .expect(fields.rows())?,
            carriers: Mapped::open(&dir.join("keyword_carriers.u32"), "keyword carriers")?
                .expect(fields.rows())?,
            by_row: Ragged::open(dir, "keywords", "u32", "keywords")?.expect(rows)?,
            by_value: Ragged::open(dir, "keyword_rows", "u32", "keyword rows")?.expect(count)?,
            fields,
            values,
        };
        let refuse = |path: &Path, reason: &str| {
            Err(Error::Generation(format!("{}: {reason}", path.display())))
        };
        let ends_fit = index.ends.windows(2).all(|pair| pair[0] <= pair[1])
            && index.ends.last().copied().unwrap_or(0) as usize == count;
        if !ends_fit {
            return refuse(index.ends.path(), "fields do not fit the values");
        }
        // Both are used as places in arrays, so none may lie beyond the last.
        if (0..rows).any(|row| index.by_row.get(row).iter().any(|&id| id as usize >= count)) {
            return refuse(index.by_row.path(), "a value beyond the last");
        }
        if (0..count).any(|id| {
            index
                .by_value
                .get(id)
                .iter()
                .any(|&row| row as usize >= rows)
        }) {
            return refuse(index.by_value.path(), "a row beyond the last");
        }
        Ok(index)
    }

    fn field(&self, name: &str) -> Option<u32> {
        let at = partition(0..self.fields.rows(), |at| self.fields.text(at) < name);
        (at < self.fields.rows() && self.fields.text(at) == name).then_some(at as u32)
    }

    fn range(&self, field: u32) -> Range<usize> {
        let field = field as usize;
        let start = if field == 0 { 0 } else { self.ends[field - 1] };
        start as usize..self.ends[field] as usize
    }

    fn field_of(&self, value: ValueId) -> u32 {
        self.ends.partition_point(|&end| end <= value) as u32
    }

    fn spellings(&self, field: u32, wanted: &str) -> Range<usize> {
        let range = self.range(field);
        let start = partition(range.clone(), |at| {
            folded(self.values.text(at)).as_str() < wanted
        });
        let mut end = start;
        while end < range.end && folded(self.values.text(end)) == wanted {
            end += 1;
        }
        start..end
    }
}

/// First place of `range` where `before` no longer holds.
fn partition(range: Range<usize>, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// A value first seen in the delta.
#[derive(Debug)]
struct NewValue {
    field: u32,
    value: String,
}

/// The values of a generation and of the rows that are newer.
#[derive(Debug, Default)]
pub struct Keywords {
    index: Option<KeywordIndex>,
    indexed_rows: usize,
    new_fields: HashMap<String, u32>,
    new_values: Vec<NewValue>,
    new_ids: HashMap<(u32, String), ValueId>,
    new_spellings: HashMap<(u32, String), Vec<ValueId>>,
    new_by_row: Vec<Box<[ValueId]>>,
    /// Rows of the delta by value, also by values of the generation.
    new_by_value: HashMap<ValueId, Vec<Row>>,
    /// Live rows that carry each field.
    carriers: Vec<u32>,
}

impl Keywords {
    /// On top of a generation's values.
    pub fn new(index: Option<KeywordIndex>) -> Self {
        Self {
            indexed_rows: index.as_ref().map_or(0, |index| index.by_row.rows()),
            carriers: index
                .as_ref()
                .map_or_else(Vec::new, |index| index.carriers.to_vec()),
            index,
            ..Self::default()
        }
    }

    fn indexed_values(&self) -> ValueId {
        self.index
            .as_ref()
            .map_or(0, |index| index.values.rows() as ValueId)
    }

    fn field(&self, name: &str) -> Option<u32> {
        self.index
            .as_ref()
            .and_then(|index| index.field(name))
            .or_else(|| self.new_fields.get(name).copied())
    }

    fn field_of(&self, value: ValueId) -> u32 {
        match &self.index {
            Some(index) if value < self.indexed_values() => index.field_of(value),
            _ => self.new_values[(value - self.indexed_values()) as usize].field,
        }
    }

    fn text(&self, value: ValueId) -> &str {
        match &self.index {
            Some(index) if value < self.indexed_values() => index.values.text(value as usize),
            _ => &self.new_values[(value - self.indexed_values()) as usize].value,
        }
    }

    fn row(&self, row: Row) -> &[ValueId] {
        match &self.index {
            Some(index) if (row as usize) < self.indexed_rows => index.by_row.get(row as usize),
            _ => &self.new_by_row[row as usize - self.indexed_rows],
        }
    }

    /// Appends the next row of the delta.
    pub fn push(&mut self, product: &wire::Product) {
        let row = (self.indexed_rows + self.new_by_row.len()) as Row;
        let mut ids: Vec<ValueId> = Vec::new();
        for (name, value) in pairs(product) {
            let field = match self.field(&name) {
                Some(field) => field,
                None => {
                    let field = self.carriers.len() as u32;
                    self.carriers.push(0);
                    self.new_fields.insert(name, field);
                    field
                }
            };
            let id = self.value_id(field, value);
            ids.push(id);
            self.new_by_value.entry(id).or_default().push(row);
        }
        ids.sort_unstable();
        self.new_by_row.push(ids.into());
        for field in self.fields_of(row) {
            let carriers = &mut self.carriers[field as usize];
            *carriers = carriers.saturating_add(1);
        }
    }

    fn value_id(&mut self, field: u32, value: &str) -> ValueId {
        if let Some(index) = &self.index
            && (field as usize) < index.fields.rows()
        {
            let spellings = index.spellings(field, &folded(value));
            for at in spellings {
                if index.values.text(at) == value {
                    return at as ValueId;
                }
            }
        }
        let key = (field, value.to_owned());
        if let Some(&id) = self.new_ids.get(&key) {
            return id;
        }
        let id = self.indexed_values() + self.new_values.len() as ValueId;
        self.new_ids.insert(key, id);
        self.new_spellings
            .entry((field, folded(value)))
            .or_default()
            .push(id);
        self.new_values.push(NewValue {
            field,
            value: value.to_owned(),
        });
        id
    }

    fn fields_of(&self, row: Row) -> Vec<u32> {
        let mut fields: Vec<u32> = self.row(row).iter().map(|&id| self.field_of(id)).collect();
        fields.sort_unstable();
        fields.dedup();
        fields
    }

    /// Takes a row that became a tombstone out of the counts that tell which fields exist.
    pub fn remove(&mut self, row: Row) {
        for field in self.fields_of(row) {
            let carriers = &mut self.carriers[field as usize];
            *carriers = carriers.saturating_sub(1);
        }
    }

    /// True: a live product carries the field.
    pub fn carried(&self, name: &str) -> bool {
        self.field(name)
            .is_some_and(|field| self.carriers[field as usize] > 0)
    }

    /// Marks all rows, tombstones included, that have one of `values` in `field`, compared without case.
    pub fn mark(&self, field: &str, values: &[String], rows: &mut FixedBitSet) {
        let Some(field) = self.field(field) else {
            return;
        };
        for value in values {
            let wanted = folded(value);
            if let Some(index) = &self.index
                && (field as usize) < index.fields.rows()
            {
                for id in index.spellings(field, &wanted) {
                    for &row in index.by_value.get(id) {
                        rows.insert(row as usize);
                    }
                    self.mark_new(id as ValueId, rows);
                }
            }
            for &id in self
                .new_spellings
                .get(&(field, wanted))
                .into_iter()
                .flatten()
            {
                self.mark_new(id, rows);
            }
        }
    }

    fn mark_new(&self, id: ValueId, rows: &mut FixedBitSet) {
        for &row in self.new_by_value.get(&id).into_iter().flatten() {
            rows.insert(row as usize);
        }
    }

    /// Counts the values of `field` over `rows`: the [`COUNTS_MAX`] most frequent, ties by value.
    pub fn count(&self, field: &str, rows: &FixedBitSet) -> Vec<wire::FacetCount> {
        let Some(field) = self.field(field) else {
            return Vec::new();
        };
        let indexed = match &self.index {
            Some(index) if (field as usize) < index.fields.rows() => index.range(field),
            _ => 0..0,
        };
        let mut counts = vec![0_u64; indexed.len()];
        let mut new_counts: HashMap<ValueId, u64> = HashMap::new();
        let first_new = self.indexed_values();
        for row in rows.ones() {
            let ids = self.row(row as Row);
            let from = if ids.len() > 8 {
                ids.partition_point(|&id| (id as usize) < indexed.start)
            } else {
                0
            };
            for &id in &ids[from..] {
                if indexed.contains(&(id as usize)) {
                    counts[id as usize - indexed.start] += 1;
                } else if id >= first_new && self.field_of(id) == field {
                    *new_counts.entry(id).or_default() += 1;
                }
            }
        }
        let mut found: Vec<(u64, &str)> = counts
            .into_iter()
            .enumerate()
            .filter(|&(_, count)| count > 0)
            .map(|(at, count)| (count, self.text((indexed.start + at) as ValueId)))
            .chain(
                new_counts
                    .into_iter()
                    .map(|(id, count)| (count, self.text(id))),
            )
            .collect();
        let order = |left: &(u64, &str), right: &(u64, &str)| {
            right.0.cmp(&left.0).then_with(|| left.1.cmp(right.1))
        };
        if found.len() > COUNTS_MAX {
            found.select_nth_unstable_by(COUNTS_MAX - 1, order);
            found.truncate(COUNTS_MAX);
        }
        found.sort_unstable_by(order);
        found
            .into_iter()
            .map(|(count, value)| wire::FacetCount {
                value: value.to_owned(),
                count,
            })
            .collect()
    }
}
