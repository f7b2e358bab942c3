//! What a model reads of one text or pair, and what it says of it.

use crate::error::{Error, Result};

/// One input of a model: ids, and where the second text starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) ids: Vec<i64>,
    pub(crate) second: usize,
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
