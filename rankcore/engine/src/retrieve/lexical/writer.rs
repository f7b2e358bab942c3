//! Writes the lexical index of a generation.

use std::path::{Path, PathBuf};

use tantivy::directory::MmapDirectory;
use tantivy::schema::{Field, TantivyDocument};
use tantivy::tokenizer::TextAnalyzer;
use tantivy::{Index, SingleSegmentIndexWriter};

use super::words::{ANALYSER, StemTokenizer};
use super::{FIELD_COUNT, field_texts, schema};
use crate::error::{Error, Result};
use crate::wire;

/// Memory of the postings that are gathered before they are written as a part.
const PART_BYTES: usize = 128 << 20;

/// Writes the lexical index of a generation: one segment whose document numbers are the rows.
///
/// Postings are gathered in memory up to a bound, then written as a part; at the end the parts are merged in
/// order, which reads them word by word.
pub struct LexicalWriter {
    dir: PathBuf,
    part_bytes: usize,
    parts: Vec<PathBuf>,
    /// Of the last part; none: it is written.
    writer: Option<SingleSegmentIndexWriter>,
    fields: [Field; FIELD_COUNT],
}

impl LexicalWriter {
    /// Starts an index in `dir`, an empty folder; parts are written beside it.
    pub fn create(dir: &Path) -> Result<Self> {
        let (_, fields) = schema();
        let mut writer = Self {
            dir: dir.to_owned(),
            part_bytes: PART_BYTES,
            parts: Vec::new(),
            writer: None,
            fields,
        };
        writer.start_part()?;
        Ok(writer)
    }

    fn refuse(&self, error: &dyn std::fmt::Display) -> Error {
        Error::Generation(format!("{}: {error}", self.dir.display()))
    }

    fn start_part(&mut self) -> Result<()> {
        let part = self.dir.with_extension(format!("part{}", self.parts.len()));
        std::fs::create_dir(&part).map_err(|error| self.refuse(&error))?;
        let directory = MmapDirectory::open(&part).map_err(|error| self.refuse(&error))?;
        let tokenizers = tantivy::tokenizer::TokenizerManager::default();
        tokenizers.register(ANALYSER, TextAnalyzer::from(StemTokenizer));
        let writer = Index::builder()
            .schema(schema().0)
            .tokenizers(tokenizers)
            .single_segment_index_writer(directory, 64 << 20)
            .map_err(|error| self.refuse(&error))?;
        self.writer = Some(writer);
        self.parts.push(part);
        Ok(())
    }

    fn end_part(&mut self) -> Result<()> {
        match self.writer.take() {
            None => Ok(()),
            Some(writer) => match writer.finalize() {
                Ok(_) => Ok(()),
                Err(error) => Err(self.refuse(&error)),
            },
        }
    }

    /// Adds the next row.
    pub fn push(&mut self, product: &wire::Product) -> Result<()> {
        let mut document = TantivyDocument::new();
        for (field, text) in self.fields.iter().zip(field_texts(product)) {
            if !text.is_empty() {
                document.add_text(*field, text);
            }
        }
        let full = |writer: &SingleSegmentIndexWriter| writer.mem_usage() > self.part_bytes;
        if self.writer.as_ref().is_none_or(full) {
            self.end_part()?;
            self.start_part()?;
        }
        let writer = self.writer.as_mut().expect("a part was started");
        writer
            .add_document(document)
            .map_err(|error| Error::Generation(format!("{}: {error}", self.dir.display())))
    }

    /// Makes the index readable.
    pub fn finish(mut self) -> Result<()> {
        self.end_part()?;
        if let [only] = &self.parts[..] {
            // An empty folder is replaced in one step.
            return std::fs::rename(only, &self.dir).map_err(|error| self.refuse(&error));
        }
        let merged = || -> tantivy::Result<()> {
            let parts = self
                .parts
                .iter()
                .map(Index::open_in_dir)
                .collect::<tantivy::Result<Vec<_>>>()?;
            tantivy::indexer::merge_indices(&parts, MmapDirectory::open(&self.dir)?)?;
            Ok(())
        };
        merged().map_err(|error| self.refuse(&error))?;
        for part in &self.parts {
            std::fs::remove_dir_all(part).map_err(|error| self.refuse(&error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fixedbitset::FixedBitSet;

    use super::super::{Lexical, LexicalDelta, LexicalIndex};
    use super::*;

    #[test]
    fn an_index_merged_from_parts_scores_as_one_written_at_once() {
        let root = tempfile::tempdir().unwrap();
        let product = |row: usize| wire::Product {
            title: format!("shoe{} red {}", row % 7, "boot ".repeat(row % 3)),
            brand: if row.is_multiple_of(2) {
                "acme".into()
            } else {
                String::new()
            },
            ..Default::default()
        };
        let count = 300;
        let written = |name: &str, cuts: &[usize]| {
            let dir = root.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            let mut writer = LexicalWriter::create(&dir).unwrap();
            for row in 0..count {
                // The bound is looked at before each row.
                writer.part_bytes = if cuts.contains(&row) { 0 } else { usize::MAX };
                writer.push(&product(row)).unwrap();
            }
            assert_eq!(writer.parts.len(), 1 + cuts.len());
            writer.finish().unwrap();
            LexicalIndex::open(&dir, count).unwrap()
        };
        let whole = written("whole", &[]);
        let merged = written("merged", &[100, 101, 250]);
        let names: Vec<_> = std::fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "no part is left: {names:?}");
        let delta = LexicalDelta::default();
        let live = FixedBitSet::from_iter(0..count);
        for query in [
            "red shoe3",
            "boot acme",
            "boot",
            "shoe6 boot acme red",
            "none",
        ] {
            let found = |index| {
                let lexical = Lexical {
                    index: Some(index),
                    delta: &delta,
                    boosts: &[3.0, 2.0, 1.0, 1.0, 1.0, 1.0],
                };
                lexical.search(query, 50, &live, None).unwrap()
            };
            assert_eq!(found(&whole), found(&merged), "{query}");
        }
    }
}
