//! The files of a generation: one at a time with any content, and a whole folder with a few bytes changed.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use rankcore_engine::error::Error;
use rankcore_engine::generation::files::{Element, Mapped, Ragged};
use rankcore_engine::retrieve::MatchText;
use rankcore_engine::wire::{self, event::Change};

use crate::catalogue::{SEQUENCE, build, events, exercise, open, products};

/// Bytes of a file's header; see the engine's `generation/files.rs`.
const HEADER_BYTES: usize = 64;

thread_local! {
    static SCRATCH: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder");
    static FOLDER: RefCell<Option<Folder>> = const { RefCell::new(None) };
}

/// The kind that a file's header claims, so that the rest of the header is read too.
fn claimed_kind(file: &[u8]) -> &str {
    let kind = file.get(8..24).unwrap_or_default();
    std::str::from_utf8(kind)
        .unwrap_or_default()
        .trim_end_matches('\0')
}

fn read_all<T: Element + PartialEq>(path: &Path, kind: &str) {
    match Mapped::<T>::open(path, kind) {
        Ok(file) => {
            let bytes = fs::metadata(path).expect("just written").len() as usize;
            assert_eq!(file.len() * size_of::<T>(), bytes - HEADER_BYTES);
            let equal = file.iter().filter(|value| **value == file[0]).count();
            assert!(equal <= file.len());
        }
        Err(Error::Generation(reason)) => assert!(reason.contains("rows."), "{reason}"),
        Err(error) => panic!("{error}"),
    }
}

/// Two bytes with the length of the first file, the first file (elements), the second file (offsets of rows).
pub fn one(data: &[u8]) {
    let [low, high, rest @ ..] = data else {
        return;
    };
    let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (elements, index) = rest.split_at(length);
    SCRATCH.with(|dir| {
        let path = dir.path().join("rows.bin");
        fs::write(&path, elements).expect("the temporary folder takes a file");
        fs::write(dir.path().join("rows.idx"), index).expect("the temporary folder takes a file");
        let kind = claimed_kind(elements);
        read_all::<u8>(&path, kind);
        read_all::<i8>(&path, kind);
        read_all::<u32>(&path, kind);
        read_all::<f32>(&path, kind);
        read_all::<u64>(&path, kind);
        read_all::<i64>(&path, kind);
        read_all::<f64>(&path, kind);
        if let Ok(rows) = Ragged::<u8>::open(dir.path(), "rows", "bin", kind) {
            let total: usize = (0..rows.rows()).map(|row| rows.get(row).len()).sum();
            assert!(total <= elements.len());
            assert!((0..rows.rows()).all(|row| rows.text(row).len() <= rows.get(row).len()));
        }
        if let Ok(rows) = Ragged::<u32>::open(dir.path(), "rows", "bin", kind) {
            for row in 0..rows.rows() {
                let words = MatchText::decode(rows.get(row));
                let parts = [
                    words.title(),
                    words.brand(),
                    words.attributes_and_category(),
                ];
                assert!(parts.map(<[u32]>::len).iter().sum::<usize>() <= rows.get(row).len());
            }
        }
    });
}

/// A generation that can be damaged and mended again.
struct Folder {
    dir: tempfile::TempDir,
    /// Every file, in the order of their names, and what it should hold.
    files: Vec<(PathBuf, Vec<u8>)>,
}

fn list(dir: &Path, into: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(dir).expect("a folder that was just built") {
        let path = entry.expect("a folder that was just built").path();
        if path.is_dir() {
            list(&path, into);
        } else if !path.ends_with("dense.f32") {
            let content = fs::read(&path).expect("a file that was just built");
            into.push((path, content));
        }
    }
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        build(dir.path()).expect("the catalogue here is valid");
        let mut files = Vec::new();
        list(dir.path(), &mut files);
        files.sort();
        Self { dir, files }
    }

    /// Changes files as `data` says, and returns which.
    ///
    /// Records of: number of the file, what to do, two bytes of offset, number of bytes, those bytes.
    fn damage(&self, mut data: &[u8]) -> Vec<usize> {
        let mut damaged: Vec<(usize, Vec<u8>)> = Vec::new();
        while let [file, what, low, high, count, rest @ ..] = data {
            let file = usize::from(*file) % self.files.len();
            let (bytes, after) = rest.split_at(usize::from(*count).min(rest.len()));
            data = after;
            let at = match damaged.iter().position(|(known, _)| *known == file) {
                Some(at) => at,
                None => {
                    damaged.push((file, self.files[file].1.clone()));
                    damaged.len() - 1
                }
            };
            let content = &mut damaged[at].1;
            let offset = usize::from(u16::from_le_bytes([*low, *high]));
            let from = offset.min(content.len());
            match what % 6 {
                0 => {
                    let to = (from + bytes.len()).min(content.len());
                    content[from..to].copy_from_slice(&bytes[..to - from]);
                }
                1 => content.truncate(from),
                2 => drop(content.splice(from..from, bytes.iter().copied())),
                // Elements changed and the header with them: only what the elements mean is wrong.
                3 | 4 => {
                    let start = (HEADER_BYTES + offset).min(content.len());
                    let end = if what % 6 == 3 {
                        (start + bytes.len()).min(content.len())
                    } else {
                        start
                    };
                    content.splice(start..end, bytes.iter().copied());
                    if content.len() >= HEADER_BYTES && content.starts_with(b"MUSTERG1") {
                        let size = u64::from(content[28]).max(1);
                        let whole = (content.len() - HEADER_BYTES) as u64 / size;
                        content.truncate(HEADER_BYTES + (whole * size) as usize);
                        content[32..40].copy_from_slice(&whole.to_le_bytes());
                    }
                }
                _ => *content = bytes.to_vec(),
            }
        }
        for (file, content) in &damaged {
            // A new file, as the old one may still be mapped.
            let path = &self.files[*file].0;
            let _ = fs::remove_file(path);
            fs::write(path, content).expect("the temporary folder takes a file");
        }
        damaged.into_iter().map(|(file, _)| file).collect()
    }

    fn mend(&self, damaged: &[usize]) {
        for &file in damaged {
            let (path, content) = &self.files[file];
            let _ = fs::remove_file(path);
            fs::write(path, content).expect("the temporary folder takes a file");
        }
    }
}

/// A generation with a few bytes changed: refused, or every question is answered and every change taken.
pub fn generation(data: &[u8]) {
    FOLDER.with_borrow_mut(|folder| {
        // A run that panicked left its damage behind, so the folder is put back only after a run that did not.
        let held = folder.take().unwrap_or_else(Folder::new);
        let damaged = held.damage(data);
        match open(held.dir.path()) {
            Ok(generation) => {
                exercise(&generation);
                let mut changes = Vec::new();
                for mut product in products() {
                    product.title.push_str(" again");
                    changes.push(Change::Upsert(product));
                    changes.push(Change::Delete(wire::Delete {
                        product_id: format!("p{}", 1 + changes.len() / 2),
                    }));
                }
                generation
                    .apply(&events(SEQUENCE.max(generation.sequence()) + 1, changes))
                    .expect("events of our own");
                let _ = generation.encode_pending(100);
                exercise(&generation);
            }
            Err(Error::Generation(reason)) => assert!(!reason.is_empty()),
            Err(error) => panic!("{error}"),
        }
        held.mend(&damaged);
        *folder = Some(held);
    });
}
