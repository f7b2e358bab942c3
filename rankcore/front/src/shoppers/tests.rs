use prost::Message;
use rankcore_engine::wire;

use super::*;

const NOW_US: u64 = 1_700_000_000_000_000;

fn shoppers(erased: PathBuf) -> Shoppers {
    let bounds = Bounds {
        products_max: 3,
        shoppers_max: 10,
        age_max_us: 3_600_000_000,
    };
    let keys = Keys {
        secrets: vec![("0a0b0c0d".to_owned(), [7; 32])],
        period_days: 30,
        mark: [9; 32],
    };
    Shoppers::new(bounds, keys, erased)
}

fn click(shopper: &str, session: &str, product_id: &str) -> Vec<u8> {
    let feedback = wire::Feedback {
        kind: wire::FeedbackKind::Click.into(),
        product_id: product_id.to_owned(),
        shopper: shopper.to_owned(),
        session: session.to_owned(),
        ..Default::default()
    };
    wire::SequencedEvent {
        committed_unix_us: NOW_US,
        event: Some(wire::Event {
            change: Some(wire::event::Change::Feedback(feedback)),
            ..Default::default()
        }),
        ..Default::default()
    }
    .encode_to_vec()
}

fn told(items: &[HistoryItem]) -> Vec<&str> {
    items.iter().map(|item| item.product_id.as_str()).collect()
}

#[test]
fn a_name_is_known_by_its_pseudonyms_and_no_other_name_is() {
    let shoppers = shoppers(PathBuf::from("/nowhere/erased.jsonl"));
    let ada = shoppers.pseudonyms(SHOPPER, "ada", NOW_US);
    let visit = shoppers.pseudonyms(SESSION, "ada", NOW_US);
    assert_ne!(ada, visit);
    let events = [click(&ada[0], "", "a"), click("", &visit[0], "v")];
    shoppers.follow(events.iter().map(Vec::as_slice));
    assert_eq!(told(&shoppers.recall("ada", "", NOW_US)), ["a"]);
    assert_eq!(told(&shoppers.recall("", "ada", NOW_US)), ["v"]);
    assert!(shoppers.recall("eve", "eve", NOW_US).is_empty());
    assert!(shoppers.recall(&"a".repeat(257), "", NOW_US).is_empty());
}

#[test]
fn whoever_was_erased_is_told_of_no_more_from_the_mark_on_and_their_visits_neither() {
    let folder = tempfile::tempdir().expect("a folder");
    let marks = folder.path().join("erased.jsonl");
    let shoppers = shoppers(marks.clone());
    let ada = shoppers.pseudonyms(SHOPPER, "ada", NOW_US);
    let visit = shoppers.pseudonyms(SESSION, "v", NOW_US);
    let event = click(&ada[0], &visit[0], "a");
    shoppers.follow([event.as_slice()]);
    assert_eq!(told(&shoppers.recall("ada", "v", NOW_US)), ["a"]);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[9; 32]);
    let mark = hex(hmac::sign(&key, ada[0].as_bytes()).as_ref());
    std::fs::write(&marks, format!("{{\"mark\": \"{mark}\"}}\n{{\"mar")).expect("written");
    assert!(shoppers.recall("", "v", NOW_US).is_empty());
    assert!(shoppers.recall("ada", "", NOW_US).is_empty());
    assert_eq!(shoppers.count(), 0);
}

#[test]
fn nothing_is_told_where_nobody_can_know_who_was_erased() {
    let folder = tempfile::tempdir().expect("a folder");
    // A folder in the file's place can be looked at, but not read.
    let shoppers = shoppers(folder.path().to_owned());
    let ada = shoppers.pseudonyms(SHOPPER, "ada", NOW_US);
    let event = click(&ada[0], "", "a");
    shoppers.follow([event.as_slice()]);
    assert!(shoppers.recall("ada", "", NOW_US).is_empty());
}

#[test]
fn what_is_shown_of_it_names_nobody() {
    let shown = format!("{:?}", shoppers(PathBuf::new()));
    assert_eq!(shown, "Shoppers { .. }");
}
