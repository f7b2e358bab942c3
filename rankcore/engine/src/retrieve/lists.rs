//! Inverted lists over the int8 rows of a generation: rows gathered around centroids, of which a search probes
//! those nearest to the query. The rows stay where they are; a list holds their numbers alone.

use std::path::Path;

use crate::error::{Error, Result};
use crate::generation::files::{Mapped, Ragged, RaggedWriter, Writer};

use super::Row;
use super::dense::quantise;
use super::scan::{Among, Int8Rows, Scan, has, nearest};

/// Rows of the lists probed under a filter, at most, as a multiple of those without one.
const FILTERED_WORK_MAX: usize = 16;

/// The lists of a generation, memory-mapped.
#[derive(Debug)]
pub struct Lists {
    dimension: usize,
    centroids: Mapped<i8>,
    scales: Mapped<f32>,
    rows: Ragged<u32>,
    count: usize,
}

impl Lists {
    /// Opens the lists in `dir` over `count` rows of `dimension` values.
    ///
    /// # Errors
    /// `Generation`, naming the file.
    pub fn open(dir: &Path, count: usize, dimension: usize) -> Result<Self> {
        let rows: Ragged<u32> = Ragged::open(dir, "lists", "u32", "lists")?;
        let lists = rows.rows();
        let found = Self {
            dimension,
            centroids: Mapped::open(&dir.join("list_centroids.i8"), "list centroids")?
                .expect(lists * dimension)?,
            scales: Mapped::open(&dir.join("list_scales.f32"), "list scales")?.expect(lists)?,
            rows,
            count,
        };
        let listed = (0..lists).flat_map(|list| found.rows.get(list));
        let mut total = 0;
        for &row in listed {
            if row as usize >= count {
                return Err(Error::Generation(format!(
                    "{}: a row beyond the last",
                    found.rows.path().display()
                )));
            }
            total += 1;
        }
        if total != count {
            return Err(Error::Generation(format!(
                "{}: {total} rows, expected {count}",
                found.rows.path().display()
            )));
        }
        Ok(found)
    }

    /// Number of lists.
    pub fn lists(&self) -> usize {
        self.rows.rows()
    }

    /// The `k` nearest rows in the `probes` lists nearest to the query, best first, with their cosines.
    ///
    /// bits: rows that may be returned, as in [`Among::Bits`]. Under such a filter further lists are probed until as
    /// many rows could be looked at as without it, within a bound.
    pub fn search(
        &self,
        rows: Int8Rows<'_>,
        query: &[f32],
        k: usize,
        probes: usize,
        bits: Option<&[u8]>,
    ) -> Vec<(Row, f32)> {
        let centroids = Int8Rows {
            values: &self.centroids,
            scales: &self.scales,
            dimension: self.dimension,
        };
        let most = match bits {
            None => probes,
            Some(_) => probes.saturating_mul(FILTERED_WORK_MAX),
        };
        let order = nearest(centroids, query, most, Among::All);
        let mut scan = Scan::new(rows, query, k);
        let Some(bits) = bits else {
            for (list, _) in order {
                scan.look(Among::Rows(self.rows.get(list as usize)));
            }
            return scan.finish(k);
        };
        let wanted = self.count * probes / self.lists().max(1);
        let mut looked = 0;
        let mut eligible = Vec::new();
        for (list, _) in order {
            eligible.clear();
            eligible.extend(
                self.rows
                    .get(list as usize)
                    .iter()
                    .filter(|row| has(bits, **row)),
            );
            looked += eligible.len();
            scan.look(Among::Rows(&eligible));
            if looked >= wanted {
                break;
            }
        }
        scan.finish(k)
    }
}

/// Writes lists to `dir`: centroids f32 `[lists][dimension]`, and the list of each row.
///
/// # Errors
/// `Generation` for shapes that do not fit, and where a file cannot be written.
pub fn write(dir: &Path, centroids: &[f32], dimension: usize, list_of: &[u32]) -> Result<()> {
    let refuse = |reason: String| Err(Error::Generation(format!("{}: {reason}", dir.display())));
    if dimension == 0 || !centroids.len().is_multiple_of(dimension) {
        return refuse(format!(
            "{} values are no centroids of {dimension} dimensions",
            centroids.len()
        ));
    }
    let lists = centroids.len() / dimension;
    if let Some(list) = list_of.iter().find(|list| **list as usize >= lists) {
        return refuse(format!("list {list} of {lists}"));
    }
    let mut values = Vec::with_capacity(centroids.len());
    let scales: Vec<f32> = centroids
        .chunks_exact(dimension)
        .map(|centroid| quantise(centroid, &mut values))
        .collect();
    // Counting sort: list by list, rows rising.
    let mut ends = vec![0_usize; lists + 1];
    for &list in list_of {
        ends[list as usize + 1] += 1;
    }
    for at in 1..ends.len() {
        ends[at] += ends[at - 1];
    }
    let mut places = ends.clone();
    let mut sorted = vec![0_u32; list_of.len()];
    for (row, &list) in list_of.iter().enumerate() {
        sorted[places[list as usize]] = row as Row;
        places[list as usize] += 1;
    }
    let mut rows = RaggedWriter::create(dir, "lists", "u32", "lists")?;
    for range in ends.windows(2) {
        rows.push(&sorted[range[0]..range[1]])?;
    }
    rows.finish()?;
    let mut file = Writer::create(&dir.join("list_centroids.i8"), "list centroids")?;
    file.extend(&values)?;
    file.finish()?;
    let mut file = Writer::create(&dir.join("list_scales.f32"), "list scales")?;
    file.extend(&scales)?;
    file.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIMENSION: usize = 8;

    /// 40 rows around four axes, ten each, in turn, and the lists of those axes.
    fn four(dir: &Path) -> (Vec<i8>, Vec<f32>, Lists) {
        let mut values = Vec::new();
        let mut scales = Vec::new();
        for row in 0..40 {
            let mut vector = [0.0; DIMENSION];
            vector[row % 4] = 1.0;
            vector[4] = row as f32 / 100.0;
            scales.push(quantise(&vector, &mut values));
        }
        let mut centroids = vec![0.0; 4 * DIMENSION];
        for list in 0..4 {
            centroids[list * DIMENSION + list] = 1.0;
        }
        let list_of: Vec<u32> = (0..40).map(|row| row % 4).collect();
        write(dir, &centroids, DIMENSION, &list_of).unwrap();
        let lists = Lists::open(dir, 40, DIMENSION).unwrap();
        (values, scales, lists)
    }

    #[test]
    fn the_nearest_lists_are_probed_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let (values, scales, lists) = four(dir.path());
        let rows = Int8Rows {
            values: &values,
            scales: &scales,
            dimension: DIMENSION,
        };
        let query = [0.8, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let found = |k, probes, bits| -> Vec<Row> {
            let found = lists.search(rows, &query, k, probes, bits);
            found.into_iter().map(|(row, _)| row).collect()
        };
        let first = found(40, 1, None);
        assert_eq!(first.len(), 10);
        assert!(first.iter().all(|row| row % 4 == 0));
        assert!(found(40, 2, None)[10..].iter().all(|row| row % 4 == 1));
        assert_eq!(found(40, 4, None).len(), 40);
        // Rows 1, 5 and 9 are all in the second list, which a filter makes the search go on to.
        assert_eq!(found(40, 1, Some(&[0b0010_0010, 0b10])).len(), 3);
    }

    #[test]
    fn lists_that_do_not_fit_the_rows_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        four(dir.path());
        for (count, dimension) in [(39, DIMENSION), (41, DIMENSION), (40, DIMENSION + 1)] {
            assert!(Lists::open(dir.path(), count, dimension).is_err());
        }
        assert!(write(dir.path(), &[1.0; 8], 8, &[0, 1]).is_err());
        assert!(write(dir.path(), &[1.0; 9], 8, &[0]).is_err());
    }
}
