//! Files that may change while the front runs: certificates, keys, lists. Each is read again once it has changed; what
//! cannot be used leaves what was read before in force.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

/// No file of this kind is larger.
pub const BYTES_MAX: u64 = 16 << 20;

/// The contents of one. Symbolic links are followed, as secrets are often mounted through them.
///
/// # Errors
/// One sentence that names the file.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error: std::io::Error| format!("{}: cannot be read: {error}", path.display());
    let mut data = Vec::new();
    let file = fs::File::open(path).map_err(told)?;
    file.take(BYTES_MAX + 1)
        .read_to_end(&mut data)
        .map_err(told)?;
    if data.len() as u64 > BYTES_MAX {
        return Err(format!("{}: larger than {BYTES_MAX} bytes", path.display()));
    }
    Ok(data)
}

/// Tells two states of one path apart: where it leads to, and when that was last written.
type Mark = Option<(u64, u64, u64, i64, i64, i64, i64)>;

fn mark(path: &Path) -> Mark {
    let found = fs::metadata(path).ok()?;
    Some((
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec(),
    ))
}

type Load<T> = Box<dyn Fn() -> Result<T, String> + Send + Sync>;

/// What was last read of some files.
pub struct Kept<T> {
    what: &'static str,
    paths: Vec<PathBuf>,
    load: Load<T>,
    now: ArcSwap<T>,
    seen: Mutex<Vec<Mark>>,
    reloads: AtomicU64,
    failures: AtomicU64,
}

/// What became of a look at files that had changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Their new contents are in force.
    Taken(&'static str),
    /// What was read before stays in force; why.
    Kept(&'static str, String),
}

impl<T> Kept<T> {
    /// Reads for the first time. `what`: how the log and the metrics name it. `load` reads `paths`.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn open(
        what: &'static str,
        paths: Vec<PathBuf>,
        load: impl Fn() -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        // Before they are read: what changes meanwhile is seen by the next look.
        let seen = paths.iter().map(|path| mark(path)).collect();
        let first = load()?;
        Ok(Self {
            what,
            paths,
            load: Box::new(load),
            now: ArcSwap::from_pointee(first),
            seen: Mutex::new(seen),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// What is in force.
    pub fn get(&self) -> Guard<Arc<T>> {
        self.now.load()
    }

    /// Name, files taken anew, and looks at changed files that could not be used.
    pub fn counted(&self) -> (&'static str, u64, u64) {
        let (reloads, failures) = (&self.reloads, &self.failures);
        (
            self.what,
            reloads.load(Ordering::Relaxed),
            failures.load(Ordering::Relaxed),
        )
    }

    /// Reads the files again if one has changed since the last look.
    pub fn look(&self) -> Option<Look> {
        let mut seen = self.seen.lock();
        let now: Vec<Mark> = self.paths.iter().map(|path| mark(path)).collect();
        if *seen == now {
            return None;
        }
        *seen = now;
        Some(match (self.load)() {
            Ok(loaded) => {
                self.now.store(Arc::new(loaded));
                self.reloads.fetch_add(1, Ordering::Relaxed);
                Look::Taken(self.what)
            }
            Err(why) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                Look::Kept(self.what, why)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(path: &Path) -> Result<u32, String> {
        let text = String::from_utf8(read(path)?).map_err(|error| error.to_string())?;
        text.trim()
            .parse()
            .map_err(|_| format!("not a number: {text}"))
    }

    #[test]
    fn a_changed_file_is_taken_and_a_broken_one_leaves_what_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("number");
        fs::write(&path, "1").expect("room");
        let read_from = path.clone();
        let kept = Kept::open("numbers", vec![path.clone()], move || number(&read_from));
        let kept = kept.expect("a number");
        assert_eq!((**kept.get(), kept.look()), (1, None));
        for (text, want, told) in [
            ("22", 22, Look::Taken("numbers")),
            (
                "two",
                22,
                Look::Kept("numbers", "not a number: two".to_owned()),
            ),
            ("3", 3, Look::Taken("numbers")),
        ] {
            let draft = folder.path().join("draft");
            fs::write(&draft, text).expect("room");
            fs::rename(&draft, &path).expect("one folder");
            assert_eq!(kept.look(), Some(told));
            assert_eq!((**kept.get(), kept.look()), (want, None));
        }
        fs::remove_file(&path).expect("it is there");
        assert!(matches!(kept.look(), Some(Look::Kept(_, why)) if why.contains("cannot be read")));
        assert_eq!((**kept.get(), kept.counted()), (3, ("numbers", 2, 2)));
    }

    #[test]
    fn what_cannot_be_read_at_first_is_an_error() {
        let path = PathBuf::from("/nowhere/at/all");
        let read_from = path.clone();
        let kept = Kept::open("numbers", vec![path], move || number(&read_from));
        assert!(
            kept.err()
                .is_some_and(|why| why.contains("/nowhere/at/all"))
        );
    }
}
