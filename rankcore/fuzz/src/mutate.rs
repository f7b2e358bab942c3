//! Mutations of bytes from a seeded generator: the same seed gives the same inputs on every machine.

/// A generator of numbers: SplitMix64 (Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number Generators").
pub struct Random(u64);

impl Random {
    /// The generator of that seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.draw() % end as u64) as usize
    }
}

/// Inputs grow no longer than this.
const BYTES_MAX: usize = 1 << 16;

/// Numbers at which lengths and counts tend to break.
const NUMBERS: [u64; 12] = [
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    65_535,
    i32::MAX as u64,
    u32::MAX as u64,
    i64::MAX as u64,
    u64::MAX,
];

/// What such numbers look like in text.
const WORDS: [&str; 12] = [
    "0", "-1", "1e999", "-0.0", "nan", "inf", "null", "\"\"", "[]", "{}", "\u{0}", "漢",
];

/// One to six changes of `input`; now and then a part of `other` goes into it.
#[must_use]
pub fn mutated(input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        let length = (1 + random.below(16)).min(bytes.len() - at);
        match random.below(10) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.draw() as u8,
            2 => drop(bytes.drain(at..at + length)),
            3 => bytes.truncate(at),
            4 => {
                let again = bytes[at..at + length].to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            6 => {
                let word = WORDS[random.below(WORDS.len())];
                bytes.splice(at..at + length, word.bytes());
            }
            7 if at < bytes.len() => {
                // The next run of digits becomes another number.
                let start = at
                    + bytes[at..]
                        .iter()
                        .take_while(|byte| !byte.is_ascii_digit())
                        .count();
                let end = start
                    + bytes[start..]
                        .iter()
                        .take_while(|byte| byte.is_ascii_digit())
                        .count();
                let number = NUMBERS[random.below(NUMBERS.len())].to_string();
                bytes.splice(start..end, number.bytes());
            }
            8 if !other.is_empty() => {
                let from = random.below(other.len());
                let to = (from + 1 + random.below(64)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => bytes.insert(at, random.draw() as u8),
        }
        bytes.truncate(BYTES_MAX);
    }
    bytes
}
