//! Memory-mapped files of a generation: typed, bounds-checked, refused when truncated or foreign.
//!
//! Layout of each file: a 64-byte header, then the elements, little-endian.
//!
//! | bytes | header field |
//! |---|---|
//! | 0..8 | magic `MUSTERG1` |
//! | 8..24 | kind: what the file holds, ASCII, zero padded |
//! | 24..28 | version of the layout |
//! | 28..32 | bytes of one element |
//! | 32..40 | number of elements |
//! | 40..64 | zero |
//!
//! The header is written last, so a file whose writer died is foreign, never short of data. Rows of
//! varying length are a pair of files: `NAME.EXT` with all elements and `NAME.idx` with the `u64`
//! offset of each row's first element and, at the end, the total.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"MUSTERG1";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 64;
const KIND_BYTES: usize = 16;

#[cfg(target_endian = "big")]
compile_error!("generation files are little-endian");

mod sealed {
    pub trait Sealed {}
}

/// Numbers that may be read straight from a mapped file: no padding, each bit pattern valid.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {}

macro_rules! elements {
    ($($element:ty),*) => {$(
        impl sealed::Sealed for $element {}
        impl Element for $element {}
    )*};
}
elements!(u8, i8, u32, i32, f32, u64, i64, f64);

fn refuse(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Generation(format!("{}: {reason}", path.display()))
}

fn bytes_of<T: Element>(elements: &[T]) -> &[u8] {
    // SAFETY: `Element` is sealed to plain numbers without padding, so every byte is initialised, and
    // the length in bytes is that of the slice itself.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements)) }
}

/// Writes one file, element by element; nothing is valid before [`Writer::finish`].
#[derive(Debug)]
pub struct Writer<T: Element> {
    path: PathBuf,
    kind: &'static str,
    file: BufWriter<File>,
    count: u64,
    element: PhantomData<T>,
}

impl<T: Element> Writer<T> {
    /// Creates or replaces `path`. kind: at most 16 ASCII characters, checked on reading.
    pub fn create(path: &Path, kind: &'static str) -> Result<Self> {
        assert!(kind.len() <= KIND_BYTES, "kind {kind:?} is too long");
        let file = File::create(path).map_err(|error| refuse(path, error))?;
        let mut writer = Self {
            path: path.to_owned(),
            kind,
            file: BufWriter::with_capacity(1 << 18, file),
            count: 0,
            element: PhantomData,
        };
        writer
            .file
            .write_all(&[0; HEADER_BYTES])
            .map_err(|error| refuse(path, error))?;
        Ok(writer)
    }

    /// Appends elements.
    pub fn extend(&mut self, elements: &[T]) -> Result<()> {
        self.file
            .write_all(bytes_of(elements))
            .map_err(|error| refuse(&self.path, error))?;
        self.count += elements.len() as u64;
        Ok(())
    }

    /// Elements written so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Writes the header and makes the file durable.
    pub fn finish(mut self) -> Result<()> {
        let mut header = [0_u8; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..8 + self.kind.len()].copy_from_slice(self.kind.as_bytes());
        header[24..28].copy_from_slice(&VERSION.to_le_bytes());
        header[28..32].copy_from_slice(&(size_of::<T>() as u32).to_le_bytes());
        header[32..40].copy_from_slice(&self.count.to_le_bytes());
        let mut write = || -> std::io::Result<()> {
            self.file.flush()?;
            let file = self.file.get_mut();
            file.sync_data()?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header)?;
            file.sync_all()
        };
        write().map_err(|error| refuse(&self.path, error))
    }
}

/// One mapped file, read as a slice of `T`. Processes that map the same file share its pages.
#[derive(Debug)]
pub struct Mapped<T: Element> {
    path: PathBuf,
    map: Mmap,
    count: usize,
    element: PhantomData<T>,
}

impl<T: Element> Mapped<T> {
    /// Maps `path`. Refused, with the file's name: absent, shorter or longer than its header says, or
    /// not of this kind, version and element size.
    pub fn open(path: &Path, kind: &str) -> Result<Self> {
        let file = File::open(path).map_err(|error| refuse(path, error))?;
        let length = file.metadata().map_err(|error| refuse(path, error))?.len();
        if length < HEADER_BYTES as u64 {
            return Err(refuse(
                path,
                format!("truncated: {length} bytes hold no header"),
            ));
        }
        // SAFETY: files of a generation are never changed after their header is written, only unlinked;
        // the length was checked on the open file.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| refuse(path, error))?;
        let number =
            |at: usize| u32::from_le_bytes([map[at], map[at + 1], map[at + 2], map[at + 3]]);
        if &map[..8] != MAGIC {
            return Err(refuse(
                path,
                "not a generation file, or its build did not finish",
            ));
        }
        let found = &map[8..8 + KIND_BYTES];
        let mut expected = [0_u8; KIND_BYTES];
        expected[..kind.len()].copy_from_slice(kind.as_bytes());
        if found != expected {
            let found = String::from_utf8_lossy(found);
            let found = found.trim_end_matches('\0');
            return Err(refuse(path, format!("holds {found:?}, expected {kind:?}")));
        }
        let version = number(24);
        if version != VERSION {
            return Err(refuse(
                path,
                format!("layout version {version}, expected {VERSION}"),
            ));
        }
        let element_bytes = number(28) as usize;
        if element_bytes != size_of::<T>() {
            return Err(refuse(
                path,
                format!(
                    "elements of {element_bytes} bytes, expected {}",
                    size_of::<T>()
                ),
            ));
        }
        let count = u64::from(number(32)) | u64::from(number(36)) << 32;
        let payload = map.len() - HEADER_BYTES;
        if count.checked_mul(element_bytes as u64) != Some(payload as u64) {
            return Err(refuse(
                path,
                format!(
                    "truncated or damaged: {payload} bytes for {count} elements of {element_bytes}"
                ),
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            map,
            count: count as usize,
            element: PhantomData,
        })
    }

    /// Refuses any other number of elements.
    pub fn expect(self, count: usize) -> Result<Self> {
        if self.count == count {
            return Ok(self);
        }
        Err(refuse(
            &self.path,
            format!("{} elements, expected {count}", self.count),
        ))
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl<T: Element> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `open` checked that `count` elements follow the header; a mapping is page aligned and
        // the header is 64 bytes, so elements of up to 8 bytes are aligned; any bit pattern is valid.
        unsafe {
            std::slice::from_raw_parts(self.map.as_ptr().add(HEADER_BYTES).cast::<T>(), self.count)
        }
    }
}

/// Writes rows of varying length.
#[derive(Debug)]
pub struct RaggedWriter<T: Element> {
    elements: Writer<T>,
    index: Writer<u64>,
}

impl<T: Element> RaggedWriter<T> {
    /// Creates `DIR/NAME.EXT` and `DIR/NAME.idx`.
    pub fn create(dir: &Path, name: &str, extension: &str, kind: &'static str) -> Result<Self> {
        let mut index = Writer::create(&dir.join(format!("{name}.idx")), kind)?;
        index.extend(&[0])?;
        Ok(Self {
            elements: Writer::create(&dir.join(format!("{name}.{extension}")), kind)?,
            index,
        })
    }

    /// Appends one row.
    pub fn push(&mut self, row: &[T]) -> Result<()> {
        self.elements.extend(row)?;
        self.index.extend(&[self.elements.count()])
    }

    /// Rows written so far.
    pub fn rows(&self) -> usize {
        self.index.count() as usize - 1
    }

    /// Makes both files valid and durable.
    pub fn finish(self) -> Result<()> {
        self.elements.finish()?;
        self.index.finish()
    }
}

/// Mapped rows of varying length.
#[derive(Debug)]
pub struct Ragged<T: Element> {
    elements: Mapped<T>,
    index: Mapped<u64>,
}

impl<T: Element> Ragged<T> {
    /// Maps `DIR/NAME.EXT` and `DIR/NAME.idx`, which must agree.
    pub fn open(dir: &Path, name: &str, extension: &str, kind: &str) -> Result<Self> {
        let elements = Mapped::open(&dir.join(format!("{name}.{extension}")), kind)?;
        let index: Mapped<u64> = Mapped::open(&dir.join(format!("{name}.idx")), kind)?;
        let ordered = index.windows(2).all(|pair| pair[0] <= pair[1]);
        if index.first() != Some(&0) || index.last() != Some(&(elements.len() as u64)) || !ordered {
            return Err(refuse(index.path(), "offsets do not fit the elements"));
        }
        Ok(Self { elements, index })
    }

    /// Refuses any other number of rows.
    pub fn expect(self, rows: usize) -> Result<Self> {
        if self.rows() == rows {
            return Ok(self);
        }
        Err(refuse(
            self.index.path(),
            format!("{} rows, expected {rows}", self.rows()),
        ))
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.index.len() - 1
    }

    /// One row. Panics beyond the last.
    pub fn get(&self, row: usize) -> &[T] {
        &self.elements[self.index[row] as usize..self.index[row + 1] as usize]
    }

    /// Where the elements lie.
    pub fn path(&self) -> &Path {
        self.elements.path()
    }
}

impl Ragged<u8> {
    /// One row as text; damaged bytes read as empty.
    pub fn text(&self, row: usize) -> &str {
        std::str::from_utf8(self.get(row)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(dir: &Path, elements: &[u32]) -> PathBuf {
        let path = dir.join("numbers.u32");
        let mut writer = Writer::create(&path, "numbers").unwrap();
        writer.extend(elements).unwrap();
        writer.finish().unwrap();
        path
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(rows in prop::collection::vec(prop::collection::vec(any::<i8>(), 0..20), 0..20)) {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = RaggedWriter::create(dir.path(), "rows", "i8", "rows").unwrap();
            for row in &rows {
                writer.push(row).unwrap();
            }
            prop_assert_eq!(writer.rows(), rows.len());
            writer.finish().unwrap();
            let read: Ragged<i8> = Ragged::open(dir.path(), "rows", "i8", "rows").unwrap().expect(rows.len()).unwrap();
            for (at, row) in rows.iter().enumerate() {
                prop_assert_eq!(read.get(at), &row[..]);
            }
        }

        #[test]
        fn a_file_cut_anywhere_is_refused_by_name(cut in 0_usize..104) {
            let dir = tempfile::tempdir().unwrap();
            let path = written(dir.path(), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
            let bytes = std::fs::read(&path).unwrap();
            prop_assert_eq!(bytes.len(), 104);
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let error = Mapped::<u32>::open(&path, "numbers").unwrap_err().to_string();
            prop_assert!(error.contains("numbers.u32"), "{}", error);
        }

        #[test]
        fn a_header_with_any_changed_byte_is_refused(at in 0_usize..40, flip in 1_u8..) {
            let dir = tempfile::tempdir().unwrap();
            let path = written(dir.path(), &[7; 3]);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[at] ^= flip;
            std::fs::write(&path, &bytes).unwrap();
            prop_assert!(Mapped::<u32>::open(&path, "numbers").is_err());
        }
    }

    #[test]
    fn an_unfinished_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("numbers.u32");
        let mut writer = Writer::create(&path, "numbers").unwrap();
        writer.extend(&[1_u32, 2]).unwrap();
        drop(writer);
        assert!(Mapped::<u32>::open(&path, "numbers").is_err());
    }

    #[test]
    fn another_kind_element_or_count_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), &[1, 2]);
        assert!(Mapped::<u32>::open(&path, "letters").is_err());
        assert!(Mapped::<u64>::open(&path, "numbers").is_err());
        let right = Mapped::<u32>::open(&path, "numbers").unwrap();
        assert_eq!(&right[..], [1, 2]);
        assert!(right.expect(3).is_err());
    }

    #[test]
    fn offsets_that_do_not_fit_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for wrong in [&[0_u64, 2, 1, 3][..], &[0, 4], &[1, 3], &[]] {
            let mut elements = Writer::create(&dir.path().join("rows.u8"), "rows").unwrap();
            elements.extend(b"abc").unwrap();
            elements.finish().unwrap();
            let mut index = Writer::create(&dir.path().join("rows.idx"), "rows").unwrap();
            index.extend(wrong).unwrap();
            index.finish().unwrap();
            let error = Ragged::<u8>::open(dir.path(), "rows", "u8", "rows").unwrap_err();
            assert!(error.to_string().contains("rows.idx"), "{error}");
        }
    }
}
