//! Names answers, so that feedback on them is told from feedback on answers that nobody gave.
//!
//! An id is 40 hex digits: four bytes of time (seconds since the Unix epoch), eight of a number that no other answer of this
//! process has, and the first eight bytes of keyed BLAKE2s (RFC 7693) over those twelve. Whoever has the key recognises one,
//! of whichever replica, so nobody has to remember the answers given. `server/feedback/receipts.py` is the other end.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use blake2::Blake2sMac;
use blake2::digest::consts::U8;
use blake2::digest::{FixedOutput, KeyInit, Update};

/// Bytes of the key.
pub const KEY_BYTES: usize = 32;

/// Time and number, then the tag.
const SIGNED_BYTES: usize = 12;
const ID_BYTES: usize = SIGNED_BYTES + 8;

/// `Receipt { receipt_id }` as the field 2 that every ranking answer has for its receipt. A message that comes in two parts
/// is one to its reader, so the id is put behind the encoded answer, which stays the same whoever gives it.
const FIELD: [u8; 5] = [
    0x12,                     // field 2, with a length
    (3 + 2 * ID_BYTES) as u8, // of that many bytes
    0x92,                     // field 18, with a length,
    0x01,                     // in two bytes
    (2 * ID_BYTES) as u8,
];

/// Bytes that are put behind an answer.
pub type Ending = [u8; FIELD.len() + 2 * ID_BYTES];

/// Makes the ids of one process.
pub struct Receipts {
    key: [u8; KEY_BYTES],
    numbers: AtomicU64,
}

impl Receipts {
    /// Signs with this key.
    #[must_use]
    pub fn new(key: [u8; KEY_BYTES]) -> Self {
        // Keyed at random for each process: replicas do not count the same numbers.
        let first = RandomState::new().build_hasher().finish();
        Self {
            key,
            numbers: AtomicU64::new(first),
        }
    }

    /// What is put behind the next answer.
    #[must_use]
    pub fn ending(&self) -> Ending {
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let id = self.id(u32::try_from(seconds).unwrap_or(u32::MAX), number);
        let mut ending = [0; FIELD.len() + 2 * ID_BYTES];
        ending[..FIELD.len()].copy_from_slice(&FIELD);
        for (digits, byte) in ending[FIELD.len()..].chunks_exact_mut(2).zip(id) {
            digits[0] = digit(byte >> 4);
            digits[1] = digit(byte & 15);
        }
        ending
    }

    fn id(&self, seconds: u32, number: u64) -> [u8; ID_BYTES] {
        let mut id = [0; ID_BYTES];
        id[..4].copy_from_slice(&seconds.to_be_bytes());
        id[4..SIGNED_BYTES].copy_from_slice(&number.to_be_bytes());
        let mut tag = Blake2sMac::<U8>::new(&self.key.into());
        tag.update(&id[..SIGNED_BYTES]);
        id[SIGNED_BYTES..].copy_from_slice(&tag.finalize_fixed());
        id
    }
}

fn digit(value: u8) -> u8 {
    match value {
        0..=9 => b'0' + value,
        _ => b'a' + value - 10,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use rankcore_engine::wire;

    use super::*;

    fn read(receipts: &Receipts, answer: &wire::SearchResponse) -> wire::SearchResponse {
        let mut bytes = answer.encode_to_vec();
        bytes.extend_from_slice(&receipts.ending());
        wire::SearchResponse::decode(&bytes[..]).expect("a search response")
    }

    #[test]
    fn an_answer_has_its_own_id_and_is_otherwise_as_it_was() {
        let receipts = Receipts::new([7; KEY_BYTES]);
        let mut answer = wire::SearchResponse {
            receipt: Some(wire::Receipt {
                bundle_id: "b".to_owned(),
                applied_sequence: 9,
                ..Default::default()
            }),
            ..Default::default()
        };
        let (one, other) = (read(&receipts, &answer), read(&receipts, &answer));
        let id = one.receipt.as_ref().expect("a receipt").receipt_id.clone();
        assert_eq!(id.len(), 2 * ID_BYTES);
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(other.receipt.as_ref().expect("a receipt").receipt_id, id);
        answer.receipt.as_mut().expect("a receipt").receipt_id = id;
        assert_eq!(one, answer);
    }

    #[test]
    fn a_rerank_answer_takes_the_same_ending() {
        let receipts = Receipts::new([7; KEY_BYTES]);
        let answer = wire::RerankResponse::decode(&receipts.ending()[..]).expect("an answer");
        assert!(!answer.receipt.expect("a receipt").receipt_id.is_empty());
    }

    #[test]
    fn the_tag_is_that_of_the_key_as_another_implementation_computes_it() {
        // hashlib.blake2s(bytes(12), digest_size=8, key=bytes(range(32))).hexdigest()
        let key: [u8; KEY_BYTES] = std::array::from_fn(|at| u8::try_from(at).expect("small"));
        let id = Receipts::new(key).id(0, 0);
        let tag: String = id[SIGNED_BYTES..]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(tag, "0e4c93d5a13b3997");
    }
}
