//! The bytes of a model's file.

use std::io::Read;
use std::path::Path;

use flate2::bufread::GzDecoder;

/// Size of a model after inflating that is refused, far above any model that could answer in time.
const MODEL_BYTES_MAX: u64 = 512 << 20;

/// The bytes of an ONNX file, inflated where its name ends with `.gz`. Errors: what is wrong with the file.
pub(super) fn read_model(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let stored = std::fs::read(path).map_err(|error| error.to_string())?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        inflate(&stored, MODEL_BYTES_MAX)
    } else {
        Ok(stored)
    }
}

/// What a gzip file of one member holds; refused where that is more than `bytes_max`.
pub fn inflate(stored: &[u8], bytes_max: u64) -> std::result::Result<Vec<u8>, String> {
    let mut rest = stored;
    let mut inflated = Vec::new();
    GzDecoder::new(&mut rest)
        .take(bytes_max + 1)
        .read_to_end(&mut inflated)
        .map_err(|error| format!("not a whole gzip file: {error}"))?;
    if inflated.len() as u64 > bytes_max {
        return Err(format!("inflates to more than {bytes_max} bytes"));
    }
    if !rest.is_empty() {
        return Err(format!(
            "{} bytes after the end of the gzip file",
            rest.len()
        ));
    }
    Ok(inflated)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn deflated(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_was_compressed_comes_back_up_to_the_limit() {
        let content: Vec<u8> = (0..10_000).map(|at: u32| (at % 251) as u8).collect();
        let stored = deflated(&content);
        assert_eq!(inflate(&stored, 10_000).unwrap(), content);
        assert_eq!(
            inflate(&stored, 9_999).unwrap_err(),
            "inflates to more than 9999 bytes"
        );
        assert!(inflate(&deflated(b""), 0).unwrap().is_empty());
    }

    #[test]
    fn a_small_file_that_inflates_to_much_is_given_up_at_the_limit() {
        let stored = deflated(&vec![0; 16 << 20]);
        assert!(stored.len() < 1 << 16);
        assert!(
            inflate(&stored, 1 << 16)
                .unwrap_err()
                .contains("more than 65536")
        );
    }

    #[test]
    fn a_gzip_file_that_is_cut_changed_or_continued_is_refused() {
        let whole = deflated(b"weights of a model, weights of a model");
        for length in 0..whole.len() {
            assert!(inflate(&whole[..length], 1 << 20).is_err(), "{length}");
        }
        let mut changed = whole.clone();
        let sum = whole.len() - 8;
        changed[sum] ^= 1;
        assert!(inflate(&changed, 1 << 20).is_err());
        let twice = [&whole[..], &whole[..]].concat();
        assert!(
            inflate(&twice, 1 << 20)
                .unwrap_err()
                .contains("after the end")
        );
    }
}
