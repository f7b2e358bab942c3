//! The words of a product's short fields as numbers, for the signals that compare them with the query.

use super::lexical::{FIELDS, field_texts, for_each_stem};
use crate::wire;

/// Number of a word: FNV-1a over its stem, 32 bits. Two words of one product collide about once in 2^32.
fn key(stem: &str) -> u32 {
    stem.bytes().fold(0x811c_9dc5, |hash: u32, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

fn keys(text: &str, into: &mut Vec<u32>) {
    for_each_stem(text, |stem| into.push(key(stem)));
}

/// The words of a query, in order, repeats kept, as the keys that [`MatchText`] holds: lower-cased,
/// accents folded, stemmed as English, so `Running shoes` matches `running shoe`; Chinese, Japanese and Korean in pairs
/// of characters.
pub fn query_keys(query: &str) -> Vec<u32> {
    let mut found = Vec::new();
    keys(query, &mut found);
    found
}

/// The words of one product, in order, repeats kept, as keys; compare with [`query_keys`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MatchText {
    /// Words of the title, of the brand, then of attributes and category.
    keys: Box<[u32]>,
    title: usize,
    brand: usize,
}

impl MatchText {
    /// The words of `product`.
    pub fn of(product: &wire::Product) -> Self {
        let texts = field_texts(product);
        let text = |name: &str| {
            let at = FIELDS.iter().position(|field| *field == name);
            &texts[at.expect("a field of products")]
        };
        let mut found = Vec::new();
        keys(text("title"), &mut found);
        let title = found.len();
        keys(text("brand"), &mut found);
        let brand = found.len() - title;
        keys(text("attributes"), &mut found);
        keys(text("category"), &mut found);
        Self {
            keys: found.into(),
            title,
            brand,
        }
    }

    /// One row of numbers: words of the title, words of the brand, then all keys.
    pub fn encode(&self) -> Vec<u32> {
        let mut row = Vec::with_capacity(self.keys.len() + 2);
        row.extend([self.title as u32, self.brand as u32]);
        row.extend_from_slice(&self.keys);
        row
    }

    /// Reads what [`MatchText::encode`] wrote; damaged rows read as empty.
    pub fn decode(row: &[u32]) -> Self {
        let [title, brand, keys @ ..] = row else {
            return Self::default();
        };
        let (title, brand) = (*title as usize, *brand as usize);
        if title.saturating_add(brand) > keys.len() {
            return Self::default();
        }
        Self {
            keys: keys.into(),
            title,
            brand,
        }
    }

    /// Words of the title.
    pub fn title(&self) -> &[u32] {
        &self.keys[..self.title]
    }

    /// Words of the brand; empty: no brand.
    pub fn brand(&self) -> &[u32] {
        &self.keys[self.title..self.title + self.brand]
    }

    /// Words of attributes and category.
    pub fn attributes_and_category(&self) -> &[u32] {
        &self.keys[self.title + self.brand..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn product(title: &str, brand: &str, category: &str, attribute: (&str, &str)) -> wire::Product {
        wire::Product {
            product_id: "p".into(),
            title: title.into(),
            brand: brand.into(),
            category: vec![category.into()],
            attributes: [(attribute.0.to_owned(), attribute.1.to_owned())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn words_are_found_without_case_accents_and_plural() {
        let words = MatchText::of(&product(
            "Café Tables, black",
            "Möbel",
            "Indoor",
            ("Wood", "Oak"),
        ));
        assert_eq!(words.title(), query_keys("cafe TABLE Black"));
        assert_eq!(words.brand(), query_keys("mobel"));
        assert_eq!(
            words.attributes_and_category(),
            query_keys("wood oak indoor")
        );
        assert_ne!(words.title(), query_keys("cafe chair black"));
    }

    #[test]
    fn a_chinese_word_inside_a_title_is_found() {
        let words = MatchText::of(&product(
            "苹果手机壳 透明",
            "苹果",
            "配件",
            ("材质", "硅胶"),
        ));
        let query = query_keys("手机壳");
        assert!(words.title().windows(query.len()).any(|part| part == query));
        assert!(
            words
                .brand()
                .iter()
                .all(|word| query_keys("苹果手机").contains(word))
        );
        assert_ne!(words.title(), query_keys("苹果手机套 透明"));
    }

    #[test]
    fn damaged_rows_read_as_empty() {
        for row in [&[][..], &[1], &[3, 0, 7], &[u32::MAX, u32::MAX, 1]] {
            assert_eq!(MatchText::decode(row), MatchText::default());
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(title in ".{0,40}", brand in ".{0,20}", category in ".{0,20}", value in ".{0,20}") {
            let words = MatchText::of(&product(&title, &brand, &category, ("name", &value)));
            prop_assert_eq!(MatchText::decode(&words.encode()), words);
        }
    }
}
