//! Text to words: English stems, and pairs of neighbouring characters where a script sets no spaces.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer,
    TextAnalyzer, Token, TokenStream, Tokenizer,
};

const WORD_BYTES_MAX: usize = 100;
const KNOWN_STEMS_MAX: usize = 1 << 16;
/// Name of the rules by which text becomes words: English stems, pairs of CJK characters. An index written under
/// another name is refused, so the name changes with the rules.
pub const ANALYSER: &str = "muster_en_cjk";

/// Turns one word into its stem.
fn analyser() -> TextAnalyzer {
    TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(WORD_BYTES_MAX))
        .filter(LowerCaser)
        .filter(AsciiFoldingFilter)
        .filter(Stemmer::new(Language::English))
        .build()
}

/// Stems of the words a thread has met: a catalogue repeats its words, and stemming one takes longer than
/// looking it up.
struct Stems {
    analyser: TextAnalyzer,
    /// By the hash of the word.
    known: HashMap<u64, Known, Hashed>,
}

/// A stem and its key.
struct Known {
    stem: Box<str>,
    key: u64,
}

static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Stands for a word or a stem inside this process: 64 bits, keyed at random, so that two of a million
/// coincide once in ten million runs and nobody can make them.
pub(super) fn key(text: &str) -> u64 {
    KEYS.hash_one(text)
}

/// Hashes what is a hash already.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hashed(u64);

impl BuildHasher for Hashed {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for Hashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are numbers");
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Stems {
    /// Calls `each` with the stem of `word` and its key, unless it is too long to be one.
    fn stem(&mut self, word: &str, each: &mut impl FnMut(&str, u64)) {
        let hash = key(word);
        if let Some(known) = self.known.get(&hash) {
            return each(&known.stem, known.key);
        }
        let mut stream = self.analyser.token_stream(word);
        while stream.advance() {
            let stem = &stream.token().text;
            let known = Known {
                stem: stem.as_str().into(),
                key: key(stem),
            };
            each(&known.stem, known.key);
            if self.known.len() >= KNOWN_STEMS_MAX {
                self.known.clear();
            }
            self.known.insert(hash, known);
        }
    }
}

thread_local! {
    static STEMS: RefCell<Stems> = RefCell::new(Stems {
        analyser: analyser(),
        known: HashMap::default(),
    });
}

/// Calls `each` with the stem of every word of `text`, in order: runs of alphanumeric characters,
/// lower-cased, accents folded, stemmed as English. Words of 100 bytes and more are left out. Of a run of
/// Chinese, Japanese or Korean characters each two neighbours are a word, and a character alone is one.
pub fn for_each_stem(text: &str, mut each: impl FnMut(&str)) {
    for_each_key(text, |stem, _| each(stem));
}

pub(super) fn for_each_key(text: &str, mut each: impl FnMut(&str, u64)) {
    if text.is_empty() {
        return;
    }
    STEMS.with_borrow_mut(|stems| {
        for word in text.split(|character: char| !character.is_alphanumeric()) {
            if word.is_ascii() {
                if !word.is_empty() {
                    stems.stem(word, &mut each);
                }
            } else {
                for run in runs(word) {
                    if run.starts_with(is_cjk) {
                        for_each_pair(run, |pair| each(pair, key(pair)));
                    } else {
                        stems.stem(run, &mut each);
                    }
                }
            }
        }
    });
}

/// Splits a word where it passes from CJK characters to others and back. The runs are not empty.
fn runs(word: &str) -> impl Iterator<Item = &str> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let cjk = is_cjk(rest.chars().next()?);
        let end = rest
            .find(|character| is_cjk(character) != cjk)
            .unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        Some(run)
    })
}

/// Calls `each` with every two neighbouring characters of `run`, and with the one where it is alone.
fn for_each_pair<'a>(run: &'a str, mut each: impl FnMut(&'a str)) {
    let seconds = run.char_indices().map(|(at, _)| at).skip(1);
    let ends = run.char_indices().map(|(at, _)| at).skip(2);
    let mut start = 0;
    for (next, end) in seconds.zip(ends.chain([run.len()])) {
        each(&run[start..end]);
        start = next;
    }
    if start == 0 {
        each(run);
    }
}

/// Whether a letter belongs to a script that is written without spaces, or to Hangul, whose words come with endings
/// attached: Han, Hiragana, Katakana and Hangul, as in Lucene's `CJKBigramFilter`.
fn is_cjk(character: char) -> bool {
    matches!(character,
        '\u{1100}'..='\u{11ff}'        // Hangul, in letters
        | '\u{2e80}'..='\u{2fd5}'      // radicals
        | '\u{3005}'..='\u{3007}'      // the sign that repeats a character, zero
        | '\u{3021}'..='\u{3029}'      // numerals
        | '\u{3031}'..='\u{303c}'      // signs that repeat Kana, more numerals
        | '\u{3041}'..='\u{30ff}'      // Hiragana and Katakana
        | '\u{3131}'..='\u{318e}'      // Hangul, in letters
        | '\u{31f0}'..='\u{31ff}'      // small Katakana
        | '\u{3400}'..='\u{4dbf}'      // Han
        | '\u{4e00}'..='\u{9fff}'      // Han
        | '\u{a960}'..='\u{a97c}'      // Hangul, in letters
        | '\u{ac00}'..='\u{d7fb}'      // Hangul
        | '\u{f900}'..='\u{faff}'      // Han, for other encodings
        | '\u{ff66}'..='\u{ffdc}'      // Katakana and Hangul of half width
        | '\u{1aff0}'..='\u{1b16f}'    // Kana, rare
        | '\u{20000}'..='\u{3ffff}'    // Han, rare
    )
}

/// [`for_each_stem`] as tantivy wants it, so that the index and the delta cannot differ.
#[derive(Clone)]
pub(super) struct StemTokenizer;

/// The stems of one text, end to end, and where each ends.
pub(super) struct StemStream {
    stems: String,
    ends: Vec<usize>,
    at: usize,
    token: Token,
}

impl Tokenizer for StemTokenizer {
    type TokenStream<'a> = StemStream;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> StemStream {
        let mut stems = String::with_capacity(text.len());
        let mut ends = Vec::new();
        for_each_stem(text, |stem| {
            stems.push_str(stem);
            ends.push(stems.len());
        });
        StemStream {
            stems,
            ends,
            at: 0,
            token: Token::default(),
        }
    }
}

impl TokenStream for StemStream {
    fn advance(&mut self) -> bool {
        let Some(&end) = self.ends.get(self.at) else {
            return false;
        };
        let start = match self.at {
            0 => 0,
            at => self.ends[at - 1],
        };
        self.token.position = self.at;
        self.token.text.clear();
        self.token.text.push_str(&self.stems[start..end]);
        self.at += 1;
        true
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

/// Distinct stems of a query, in order of appearance.
pub fn query_stems(query: &str) -> Vec<String> {
    let mut stems: Vec<String> = Vec::new();
    for_each_stem(query, |stem| {
        if !stems.iter().any(|known| known == stem) {
            stems.push(stem.to_owned());
        }
    });
    stems
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words_of(text: &str) -> Vec<String> {
        let mut words = Vec::new();
        for_each_stem(text, |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn neighbouring_characters_of_scripts_without_spaces_are_words() {
        for (text, expected) in [
            ("保温杯", &["保温", "温杯"][..]),
            ("保温", &["保温"]),
            ("杯", &["杯"]),
            ("杯 子", &["杯", "子"]),
            ("お茶のカップ", &["お茶", "茶の", "のカ", "カッ", "ップ"]),
            ("コーヒー・人々", &["コー", "ーヒ", "ヒー", "人々"]),
            ("무선 이어폰", &["무선", "이어", "어폰"]),
            ("𠮷野家", &["𠮷野", "野家"]),
        ] {
            assert_eq!(words_of(text), expected, "{text}");
        }
    }

    #[test]
    fn a_word_is_split_where_its_script_changes() {
        for (text, expected) in [
            ("iPhone手机壳15Pro", &["iphon", "手机", "机壳", "15pro"][..]),
            ("500毫升", &["500", "毫升"]),
            ("Café杯tables", &["cafe", "杯", "tabl"]),
            ("Café Ünal", &["cafe", "unal"]),
            ("ｕｓｂ线", &["usb", "线"]),
        ] {
            assert_eq!(words_of(text), expected, "{text}");
        }
    }

    #[test]
    fn a_run_longer_than_a_word_may_be_keeps_its_pairs() {
        assert_eq!(words_of(&"杯子".repeat(100)).len(), 199);
        assert!(words_of(&"e".repeat(100)).is_empty());
    }

    proptest! {
        #[test]
        fn ascii_words_are_the_stems_of_the_analyser(text in "[ -~]{0,60}") {
            let mut expected = Vec::new();
            for word in text.split(|character: char| !character.is_alphanumeric()) {
                let mut analyser = analyser();
                let mut stream = analyser.token_stream(word);
                while stream.advance() {
                    expected.push(stream.token().text.clone());
                }
            }
            prop_assert_eq!(words_of(&text), expected);
        }

        #[test]
        fn words_of_a_part_of_a_run_are_words_of_the_whole(
            run in prop::collection::vec(prop::char::range('\u{4e00}', '\u{9fff}'), 2..20),
            from in 0_usize..20,
            length in 2_usize..20,
        ) {
            let from = from.min(run.len() - 2);
            let part: String = run[from..(from + length).min(run.len())].iter().collect();
            let whole = words_of(&run.iter().collect::<String>());
            prop_assert_eq!(whole.len(), run.len() - 1);
            prop_assert!(words_of(&part).iter().all(|word| whole.contains(word)));
        }

        #[test]
        fn any_text_becomes_the_same_words_for_the_index_and_for_the_delta(text in any::<String>()) {
            let mut keys = Vec::new();
            for_each_key(&text, |word, found| keys.push((word.to_owned(), found)));
            let mut tokenizer = StemTokenizer;
            let mut stream = tokenizer.token_stream(&text);
            for (word, found) in keys {
                prop_assert!(!word.is_empty());
                prop_assert_eq!(found, key(&word));
                prop_assert!(stream.advance());
                prop_assert_eq!(&stream.token().text, &word);
            }
            prop_assert!(!stream.advance());
        }
    }
}
