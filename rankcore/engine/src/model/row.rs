//! What a model reads of one text or pair, and what it says of it.

use crate::error::{Error, Result};

/// One input of a model: ids, and where the second text starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row<'a> {
    pub(crate) ids: &'a [i64],
    pub(crate) second: usize,
}

/// Rows one after the other, so that none needs memory of its own.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    ids: Vec<i64>,
    /// Per row where it ends in `ids`, and where its second text starts in the row.
    marks: Vec<(usize, usize)>,
}

impl Rows {
    /// Room for so many rows, and tokens in all of them; more may be added.
    pub(crate) fn with_capacity(rows: usize, tokens: usize) -> Rows {
        Rows {
            ids: Vec::with_capacity(tokens),
            marks: Vec::with_capacity(rows),
        }
    }

    /// Adds a row of these ids. second: where its second text starts; its length where there is none.
    pub(crate) fn push(&mut self, ids: impl IntoIterator<Item = i64>, second: usize) {
        self.ids.extend(ids);
        self.marks.push((self.ids.len(), second));
    }

    /// All rows, in the order in which they were added.
    pub(crate) fn all(&self) -> Vec<Row<'_>> {
        let mut start = 0;
        self.marks
            .iter()
            .map(|&(end, second)| {
                let ids = &self.ids[start..end];
                start = end;
                Row { ids, second }
            })
            .collect()
    }
}

/// Outputs of one row, f32, in the order of the model's kind; an encoder has two, a cross-encoder one.
pub(crate) struct Outputs<'a> {
    pub(crate) tensors: [&'a [f32]; 2],
}

impl<'a> Outputs<'a> {
    /// Values of one output.
    ///
    /// Errors where there are not exactly `expected` of them: the model is not what its bundle says.
    pub(crate) fn get(&self, output: usize, expected: usize) -> Result<&'a [f32]> {
        let values = self.tensors[output];
        if values.len() != expected {
            return Err(Error::Internal(format!(
                "output {output} of a model has {} values, expected {expected}",
                values.len()
            )));
        }
        Ok(values)
    }

    /// Number of values of one output.
    pub(crate) fn len(&self, output: usize) -> usize {
        self.tensors[output].len()
    }
}
