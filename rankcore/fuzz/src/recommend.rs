//! Requests for recommendations, and the section of a bundle that answers them.

use std::fs;
use std::path::Path;

use rankcore_engine::error::Error;
use rankcore_engine::recommend::Tier;
use rankcore_engine::recommend::answer::{Known, Maker};
use rankcore_engine::recommend::ask::Ask;
use rankcore_engine::recommend::mixture::{Extent, Scored};
use rankcore_engine::recommend::section::Section;

use crate::catalogue::asked;

const NOW_UNIX_US: u64 = 1_700_000_000_000_000;
const ITEMS: usize = 5;

thread_local! {
    static SCRATCH: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder");
}

/// A serialised `RecommendRequest`, answered from a small catalogue without a section.
pub fn request(data: &[u8]) {
    let ask = match Ask::decoded(data) {
        Ok(request) => Ask::of(request, NOW_UNIX_US, None),
        Err(Error::InvalidRequest(violations)) => {
            assert!(!violations.is_empty());
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert!((1..=100).contains(&ask.page) && (0.0..=1.0).contains(&ask.diversity));
    let generation = asked();
    let known = Known::new(&ask.history, None, &generation);
    for tier in known.tiers(None, &generation) {
        let maker = Maker {
            section: None,
            generation: &generation,
            ask: &ask,
            known: &known,
        };
        let found = match maker.make(tier) {
            Ok(found) => found,
            Err(Error::InvalidRequest(_)) => return,
            Err(error) => panic!("{error}"),
        };
        assert!(found.results.len() <= ask.page);
        for result in &found.results {
            assert!(result.score.is_finite());
            assert!(ask.repeats || !ask.history.contains(&result.product_id));
        }
        if ask.diversity == 0.0 {
            assert!(
                found
                    .results
                    .windows(2)
                    .all(|pair| pair[0].score >= pair[1].score)
            );
        }
    }
    assert!(known.tiers(None, &generation).contains(&Tier::Popularity));
}

/// Two bytes with the length of `section.json`, that file, and the table `next` of five items.
pub fn section(data: &[u8]) {
    let [low, high, rest @ ..] = data else {
        return;
    };
    let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (described, table) = rest.split_at(length);
    SCRATCH.with(|folder| {
        let write = |name: &str, content: &[u8]| {
            fs::write(folder.path().join(name), content)
                .expect("the temporary folder takes a file");
        };
        fs::create_dir_all(folder.path().join("tables")).expect("a folder");
        write("section.json", described);
        write("items.json", br#"{"item_ids": ["a", "b", "c", "d", "e"]}"#);
        write("card.json", b"{}");
        write("tables/next.bin", table);
        let popularity: Vec<u8> = (0..ITEMS).flat_map(|_| 1.5_f32.to_le_bytes()).collect();
        write("popularity.bin", &popularity);
        let section = match Section::open(folder.path(), Path::new("absent")) {
            Ok(section) => section,
            Err(Error::Bundle(_)) => return,
            Err(error) => panic!("{error}"),
        };
        for repeats in [false, true] {
            let extent = Extent {
                repeats,
                network: true,
                kept: ITEMS,
            };
            let scored = Scored::new(&section, &[4, 0, 2], extent).expect("there is no network");
            for (item, score) in &scored.ranked {
                assert!(*score > 0.0 && (*item as usize) < ITEMS);
                assert!(repeats || ![4, 0, 2].contains(item));
                assert_eq!(scored.shares(*item).len(), section.sources.len());
            }
        }
    });
}
