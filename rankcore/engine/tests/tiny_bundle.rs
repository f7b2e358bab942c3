//! The models of a real bundle folder, end to end.
//!
//! The bundle is `MUSTER_TINY_BUNDLE` (written by `python -m tests.fixtures.tiny_bundle OUT`) with the runtime
//! `MUSTER_RUNTIME_LIBRARY` (a `libonnxruntime.so`); where these are not set, both come from the checkout's
//! `.venv`; where there is none, every test skips and says so.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use prost::Message;
use rankcore_engine::bundle::{Bundle, Tier};
use rankcore_engine::engine::{Call, Engine, Method, Settings};
use rankcore_engine::error::{Error, Result};
use rankcore_engine::rerank::cross::{PairScorer, Pairs};
use rankcore_engine::rerank::late;
use rankcore_engine::wire;

fn places() -> Option<(PathBuf, PathBuf)> {
    static PLACES: OnceLock<Option<(PathBuf, PathBuf)>> = OnceLock::new();
    let places = PLACES.get_or_init(|| {
        let variable = |name| std::env::var_os(name).map(PathBuf::from);
        match (
            variable("MUSTER_TINY_BUNDLE"),
            variable("MUSTER_RUNTIME_LIBRARY"),
        ) {
            (Some(bundle), Some(library)) => Some((bundle, library)),
            _ => from_checkout(),
        }
    });
    if places.is_none() {
        println!(
            "skipped: MUSTER_TINY_BUNDLE and MUSTER_RUNTIME_LIBRARY are not set, and there is no .venv"
        );
    }
    places.clone()
}

/// Writes the bundle with the checkout's own Python and finds the runtime that is installed there.
fn from_checkout() -> Option<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = root.join(".venv/bin/python");
    if !python.is_file() {
        return None;
    }
    let bundle = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny-bundle");
    let written = Command::new(&python)
        .args(["-m", "tests.fixtures.tiny_bundle"])
        .arg(&bundle)
        .current_dir(&root)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&written.stderr);
    assert!(
        written.status.success(),
        "the tiny bundle was not written: {complaint}"
    );
    let library = fs::read_dir(root.join(".venv/lib"))
        .unwrap()
        .filter_map(|version| {
            let capi = version.ok()?.path().join("site-packages/onnxruntime/capi");
            fs::read_dir(capi).ok()
        })
        .flatten()
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("libonnxruntime.so")
        });
    Some((bundle, library.expect("onnxruntime carries its library")))
}

fn open() -> Option<Arc<Bundle>> {
    let (bundle, library) = places()?;
    Some(Bundle::open(&bundle, &library).unwrap())
}

fn product(id: &str, title: &str) -> wire::Product {
    wire::Product {
        product_id: id.into(),
        title: title.into(),
        ..Default::default()
    }
}

fn products() -> Vec<wire::Product> {
    [
        "red running shoes",
        "black leather wallet for men with zip and coin case",
        "mug",
        "waterproof hiking boots, brown, with soft rubber sole and long cotton laces for winter travel",
        "usb-c cable 2m",
        "zzz 漢字 ???",
    ]
    .into_iter()
    .enumerate()
    .map(|(number, title)| product(&number.to_string(), title))
    .collect()
}

/// A copy of the tiny bundle in which one file is changed.
fn damaged(bundle: &Path, change: impl FnOnce(&Path)) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy(bundle, folder.path());
    change(folder.path());
    folder
}

#[test]
fn golden_cases_of_an_independent_implementation_reproduce() {
    let Some(bundle) = open() else { return };
    assert!(bundle.golden.as_ref().unwrap().cases.len() >= 4);
    assert_eq!(bundle.verify_golden().unwrap(), Vec::<String>::new());
}

#[test]
fn a_golden_case_that_differs_is_named_with_both_values() {
    let Some((bundle, library)) = places() else {
        return;
    };
    let folder = damaged(&bundle, |folder| {
        let path = folder.join("golden.json");
        let mut golden: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        golden["cases"][1]["late"] = 0.9.into();
        fs::write(path, golden.to_string()).unwrap();
    });
    let complaints = Bundle::open(folder.path(), &library)
        .unwrap()
        .verify_golden()
        .unwrap();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].starts_with("golden case 1"), "{complaints:?}");
    assert!(complaints[0].contains("late is 0.1"), "{complaints:?}");
    assert!(complaints[0].contains("expected 0.9"), "{complaints:?}");
}

#[test]
fn the_score_of_the_only_cross_encoder_of_older_bundles_is_the_small_ones() {
    let Some((bundle, library)) = places() else {
        return;
    };
    let folder = damaged(&bundle, |folder| {
        let path = folder.join("golden.json");
        let mut golden: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for (number, case) in golden["cases"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .enumerate()
        {
            let case = case.as_object_mut().unwrap();
            case.remove("cross_large");
            let score = case.remove("cross_small").unwrap().as_f64().unwrap();
            let older = match number {
                0 => (score + 1.0).into(),
                1 => score.into(),
                _ => serde_json::Value::Null,
            };
            case.insert("cross".to_owned(), older);
        }
        fs::write(path, golden.to_string()).unwrap();
    });
    let complaints = Bundle::open(folder.path(), &library)
        .unwrap()
        .verify_golden()
        .unwrap();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].contains("cross_small is"), "{complaints:?}");
}

#[test]
fn vectors_are_unit_length_and_similar_texts_are_near() {
    let Some(bundle) = open() else { return };
    let query = bundle.encoder.query("running shoes").unwrap();
    assert_eq!(query.pieces.len(), 2);
    assert_eq!(query.tokens.len(), 2);
    assert!(!query.truncated);
    let scores = bundle.pair_scores("running shoes", &products()).unwrap();
    for encoded in bundle.encoder.products(&products()).unwrap() {
        let norm: f32 = encoded.dense.iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-4, "{norm}");
        assert_eq!(encoded.dense.len(), bundle.dimension);
        assert_eq!(
            encoded.tokens.len(),
            late::packed_len(encoded.token_count, bundle.token_dimension)
        );
    }
    for other in &scores[1..] {
        assert!(scores[0].dense > other.dense);
        assert!(scores[0].late > other.late);
        assert!(scores[0].cross_small.unwrap() > other.cross_small.unwrap());
        assert!(scores[0].cross_large.unwrap() > other.cross_large.unwrap());
    }
}

#[test]
fn a_product_has_the_same_vectors_whatever_is_encoded_with_it() {
    let Some(bundle) = open() else { return };
    let together = bundle.encoder.products(&products()).unwrap();
    for (product, expected) in products().iter().zip(&together) {
        let alone = &bundle
            .encoder
            .products(std::slice::from_ref(product))
            .unwrap()[0];
        assert_eq!(alone.dense, expected.dense);
        assert_eq!(alone.tokens, expected.tokens);
        assert_eq!(alone.pieces, expected.pieces);
        assert_eq!(
            alone.pieces,
            bundle.encoder.product_pieces(product).unwrap()
        );
    }
}

#[test]
fn cross_scores_do_not_depend_on_the_chunking() {
    let Some(bundle) = open() else { return };
    let cross = bundle.cross(Tier::CrossSmall).unwrap();
    let query = bundle.encoder.query("brown hiking boots").unwrap().pieces;
    let pieces: Vec<Vec<u32>> = products()
        .iter()
        .map(|product| bundle.encoder.product_pieces(product).unwrap())
        .collect();
    let pieces: Vec<&[u32]> = pieces.iter().map(Vec::as_slice).collect();
    let together = cross.score(&query, &pieces).unwrap();
    assert!(together.iter().all(|score| score.is_finite()));
    for size in [1, 2, 4] {
        let chunked: Vec<f32> = pieces
            .chunks(size)
            .flat_map(|chunk| cross.score(&query, chunk).unwrap())
            .collect();
        assert_eq!(together, chunked, "in chunks of {size}");
    }
    assert!(cross.score(&query, &[]).unwrap().is_empty());
}

#[test]
fn long_and_wordless_texts_are_answered() {
    let Some(bundle) = open() else { return };
    let long = bundle.encoder.query(&"shoe ".repeat(200)).unwrap();
    assert!(long.truncated);
    assert_eq!(long.pieces.len(), bundle.text.query_tokens_max);
    assert_eq!(long.tokens.len(), bundle.text.query_tokens_max);
    let nothing = bundle.encoder.query("\u{200d}").unwrap();
    assert!(nothing.dense.iter().all(|value| value.is_finite()));
    let encoded = bundle
        .encoder
        .products(&[product("long", &"blue leather coat ".repeat(100))])
        .unwrap();
    assert_eq!(encoded[0].token_count, bundle.text.late_tokens_max);
    assert_eq!(encoded[0].pieces.len(), bundle.text.cross_tokens_max);
    assert!(bundle.encoder.products(&[]).unwrap().is_empty());
}

#[test]
fn many_threads_share_few_sessions_and_get_the_same_answers() {
    let Some(bundle) = open() else { return };
    let expected = bundle.encoder.query("red wool scarf").unwrap().dense;
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(
                        bundle.encoder.query("red wool scarf").unwrap().dense,
                        expected
                    );
                }
            });
        }
    });
}

#[test]
fn a_broken_bundle_is_refused_with_the_name_of_the_file() {
    let Some((bundle, library)) = places() else {
        return;
    };
    type Change = fn(&Path);
    let cases: [(&str, &str, Change); 14] = [
        ("manifest.json", "manifest.json", |path| {
            fs::remove_file(path).unwrap()
        }),
        ("manifest.json", "schema_version is 9", |path| {
            fs::write(path, r#"{"schema_version": 9, "bundle_id": "x"}"#).unwrap();
        }),
        ("text.json", "text.json", |path| {
            fs::write(path, "{}").unwrap()
        }),
        ("lexical.json", "lexical.json", |path| {
            fs::write(path, "[").unwrap()
        }),
        ("plans.json", "no plans", |path| {
            fs::write(path, r#"{"plans": []}"#).unwrap()
        }),
        ("plans.json", "unknown tier", |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replace("\"hybrid\"", "\"medium\"")).unwrap();
        }),
        (
            "cross_small/model.onnx",
            "no cross_small/model.onnx.gz",
            |path| {
                fs::remove_file(path).unwrap();
            },
        ),
        ("cross_small/model.onnx", "cross_small/model.onnx", |path| {
            fs::write(path, "not a model").unwrap();
        }),
        (
            "cross_large/model.onnx.gz",
            "cross_large/model.onnx.gz: not a whole gzip file",
            |path| {
                let whole = fs::read(path).unwrap();
                fs::write(path, &whole[..whole.len() / 2]).unwrap();
            },
        ),
        (
            "cross_large/model.onnx.gz",
            "cross_large/model.onnx.gz: not a whole gzip file",
            |path| fs::write(path, "not compressed").unwrap(),
        ),
        ("encoder/model.onnx", "encoder/model.onnx", |path| {
            fs::remove_file(path).unwrap()
        }),
        ("tokenizer.json", "tokenizer.json", |path| {
            fs::write(path, "{").unwrap()
        }),
        ("tokenizer.json", "[CLS]", |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replace("[CLS]", "[START]")).unwrap();
        }),
        ("ranker/late.txt", "ranker/late.txt", |path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, &text[..text.len() / 2]).unwrap();
        }),
    ];
    for (file, reason, change) in cases {
        let folder = damaged(&bundle, |folder| change(&folder.join(file)));
        let Err(error) = Bundle::open(folder.path(), &library) else {
            panic!("{file} was damaged and the bundle opened ({reason})");
        };
        assert!(
            error.to_string().contains(reason),
            "{reason:?} is not in {error}"
        );
    }
}

fn deflated(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn inflated(path: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    GzDecoder::new(fs::File::open(path).unwrap())
        .read_to_end(&mut content)
        .unwrap();
    content
}

#[test]
fn a_compressed_cross_encoder_scores_as_the_plain_one() {
    let Some((bundle, library)) = places() else {
        return;
    };
    let folder = damaged(&bundle, |folder| {
        let plain = folder.join("cross_small/model.onnx");
        let content = fs::read(&plain).unwrap();
        fs::write(folder.join("cross_small/model.onnx.gz"), deflated(&content)).unwrap();
        fs::remove_file(plain).unwrap();
    });
    let scores = |folder: &Path| {
        Bundle::open(folder, &library)
            .unwrap()
            .pair_scores("brown hiking boots", &products())
            .unwrap()
    };
    assert_eq!(scores(folder.path()), scores(&bundle));
}

#[test]
fn sessions_made_later_are_of_the_model_that_was_opened() {
    let Some((source, library)) = places() else {
        return;
    };
    let folder = damaged(&source, |_| ());
    let bundle = Bundle::open(folder.path(), &library).unwrap();
    let expected = bundle.pair_scores("wool scarf", &products()).unwrap();
    fs::remove_dir_all(folder.path().join("encoder")).unwrap();
    fs::remove_dir_all(folder.path().join("cross_large")).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let scores = bundle.pair_scores("wool scarf", &products()).unwrap();
                    assert_eq!(scores, expected);
                }
            });
        }
    });
}

/// Replaces a text in the compressed cross-encoder by another of the same length: the model stays well-formed.
fn replaced_in_cross_large(bundle: &Path, from: &[u8], to: &[u8]) -> tempfile::TempDir {
    assert_eq!(from.len(), to.len());
    damaged(bundle, |folder| {
        let path = folder.join("cross_large/model.onnx.gz");
        let mut content = inflated(&path);
        let at = content
            .windows(from.len())
            .position(|window| window == from)
            .expect("the text stands in the model");
        content[at..at + from.len()].copy_from_slice(to);
        fs::write(path, deflated(&content)).unwrap();
    })
}

#[test]
fn a_word_table_is_read_from_the_encoders_file_and_from_no_other() {
    let Some((bundle, library)) = places() else {
        return;
    };
    for elsewhere in [
        "../coder/model.onnx",
        "encoder/model.onny",
        "/ncoder/model.onnx",
        "tokenizer.json    ",
    ] {
        let to = &elsewhere.as_bytes()[..b"encoder/model.onnx".len()];
        let folder = replaced_in_cross_large(&bundle, b"encoder/model.onnx", to);
        let refusal = |file: &str| {
            let Err(error) = Bundle::open(folder.path(), &library) else {
                panic!("a table was read from {elsewhere}");
            };
            let error = error.to_string();
            assert!(error.contains(file), "{error}");
            assert!(error.to_lowercase().contains("external"), "{error}");
        };
        let encoder = folder.path().join("encoder/model.onnx");
        // It is there to be read, but not offered.
        fs::copy(&encoder, folder.path().join("encoder/model.onny")).unwrap();
        refusal("cross_large/model.onnx.gz");
        let cross = folder.path().join("cross_large/model.onnx.gz");
        fs::write(&encoder, inflated(&cross)).unwrap();
        refusal("encoder/model.onnx");
    }
}

#[test]
fn a_word_table_outside_the_encoders_file_is_refused_and_one_beside_the_right_place_is_noticed() {
    let Some((bundle, library)) = places() else {
        return;
    };
    let content = inflated(&bundle.join("cross_large/model.onnx.gz"));
    let name = b"offset";
    let key = content
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    // A protobuf string: its tag, its length, its text.
    let length = usize::from(content[key + name.len() + 1]);
    let offset = &content[key + name.len() + 2..][..length];
    // The digits are too few to point behind the file's end, but enough to point before its start.
    let mut before = vec![b'9'; length];
    before[0] = b'-';
    let far = replaced_in_cross_large(&bundle, offset, &before);
    let Err(error) = Bundle::open(far.path(), &library) else {
        panic!("a table was read from outside the file");
    };
    assert!(
        error.to_string().contains("cross_large/model.onnx.gz"),
        "{error}"
    );
    let mut near = offset.to_vec();
    near[length - 2] = if near[length - 2] == b'0' { b'4' } else { b'0' };
    let near = replaced_in_cross_large(&bundle, offset, &near);
    let complaints = Bundle::open(near.path(), &library)
        .unwrap()
        .verify_golden()
        .unwrap();
    assert!(
        complaints.iter().any(|one| one.contains("cross_large is")),
        "{complaints:?}"
    );
}

#[test]
fn models_of_the_wrong_shape_are_refused() {
    let Some((bundle, library)) = places() else {
        return;
    };
    // The cross-encoder in the encoder's place: other inputs, other outputs.
    let folder = damaged(&bundle, |folder| {
        fs::copy(
            folder.join("cross_small/model.onnx"),
            folder.join("encoder/model.onnx"),
        )
        .unwrap();
    });
    let Err(error) = Bundle::open(folder.path(), &library) else {
        panic!("a cross-encoder passed as an encoder");
    };
    assert!(error.to_string().contains("inputs are"), "{error}");
}

/// Gives every pair the number of its ids, or what it is told to.
struct Counting {
    answer: fn(Vec<f32>) -> Result<Option<Vec<f32>>>,
    asked: parking_lot::Mutex<Vec<Option<u64>>>,
}

impl PairScorer for Counting {
    fn score(&self, pairs: &Pairs<'_>, within_us: Option<u64>) -> Result<Option<Vec<f32>>> {
        self.asked.lock().push(within_us);
        let flat = pairs.flat()?;
        assert_eq!(flat.starts.len(), pairs.len() + 1);
        assert_eq!(flat.seconds.len(), pairs.len());
        assert_eq!(
            flat.starts.last().copied().unwrap() as usize,
            flat.ids.len()
        );
        let lengths = flat
            .starts
            .windows(2)
            .map(|ends| (ends[1] - ends[0]) as f32);
        (self.answer)(lengths.collect())
    }
}

#[test]
fn a_delegate_scores_the_pairs_and_where_it_fails_the_model_does() {
    let Some(bundle) = open() else { return };
    let cross = bundle.cross(Tier::CrossSmall).unwrap();
    let (query, one, other) = ([10, 11], [12, 13, 14], [15]);
    let products: [&[u32]; 2] = [&one, &other];
    let here = cross.score(&query, &products).unwrap();

    let told = |answer| {
        let delegate = Arc::new(Counting {
            answer,
            asked: parking_lot::Mutex::default(),
        });
        cross.delegate(Some(Arc::clone(&delegate) as Arc<dyn PairScorer>));
        delegate
    };
    let delegate = told(|lengths| Ok(Some(lengths)));
    // Three special tokens each.
    let scored = cross.score_within(&query, &products, Some(7)).unwrap();
    assert_eq!(scored.scores, Some(vec![8.0, 6.0]));
    assert!(scored.failure.is_none());
    assert_eq!(cross.score(&query, &products).unwrap(), [8.0, 6.0]);
    assert_eq!(*delegate.asked.lock(), [Some(7), None]);

    told(|_| Ok(None));
    let late = cross.score_within(&query, &products, Some(7)).unwrap();
    assert!(late.scores.is_none() && late.failure.is_none());
    assert!(cross.score(&query, &products).is_err());

    told(|_| Err(Error::Internal("lost".to_owned())));
    let fallen_back = cross.score_within(&query, &products, Some(7)).unwrap();
    assert_eq!(fallen_back.scores.as_ref(), Some(&here));
    assert!(fallen_back.failure.unwrap().to_string().contains("lost"));

    told(|lengths| Ok(Some(lengths[1..].to_vec())));
    let miscounted = cross.score_within(&query, &products, Some(7)).unwrap();
    assert_eq!(miscounted.scores.as_ref(), Some(&here));
    let complaint = miscounted.failure.unwrap().to_string();
    assert!(complaint.contains("1 scores of 2 pairs"), "{complaint}");

    // Nobody is asked once the engine goes.
    told(|_| Err(Error::Cancelled));
    assert!(matches!(
        cross.score_within(&query, &products, None),
        Err(Error::Cancelled)
    ));
    cross.delegate(None);
    assert_eq!(cross.score(&query, &products).unwrap(), here);
}

#[test]
fn engines_side_by_side_share_the_workers_and_work_behind_is_refused_while_other_work_waits() {
    let Some((bundle, library)) = places() else {
        return;
    };
    let settings = |workers| Settings {
        workers,
        ..Settings::default()
    };
    let first = Engine::new(&bundle, &library, settings(1)).unwrap();
    let second = first.beside(&bundle, &library, settings(7)).unwrap();
    assert_eq!((first.status().workers, second.status().workers), (1, 1));
    for engine in [&first, &second] {
        engine.serve(engine.empty().unwrap());
    }
    let request = wire::SearchRequest {
        query: "red shoes".into(),
        ..Default::default()
    }
    .encode_to_vec();
    let call = || Call {
        method: Method::Search,
        request: &request,
        arrived: Instant::now(),
        remaining_us: 10_000_000,
        priority: None,
        memory: None,
    };
    let behind = || {
        let (sender, receiver) = channel();
        second.submit_behind(call(), move |result| {
            sender.send(result.map(|_| ())).unwrap();
        });
        receiver.recv().unwrap()
    };

    // The only worker stays with whoever takes the first answer, and a second request waits for it.
    let ((came, comes), (go, goes_on)) = (channel(), channel::<()>());
    first.submit(call(), move |result| {
        came.send(result.is_ok()).unwrap();
        let _ = goes_on.recv();
    });
    assert!(comes.recv().unwrap());
    let (answered, answer) = channel();
    second.submit(call(), move |result| answered.send(result.is_ok()).unwrap());
    assert!(matches!(behind(), Err(Error::Overloaded { .. })));
    drop(go);
    assert!(answer.recv().unwrap());
    // Other work may be counted for a moment after it has answered.
    while behind().is_err() {
        std::thread::yield_now();
    }
    assert_eq!(
        second.status().answered["lexical"],
        1,
        "work behind is not counted"
    );

    let ask = |engine: &Engine| engine.search(&request, 10_000_000, None, None, &|| false);
    first.close();
    first.close();
    assert!(matches!(ask(&first), Err(Error::NotReady(_))));
    assert!(first.beside(&bundle, &library, settings(1)).is_err());
    ask(&second).unwrap();
    second.close();
    assert!(matches!(ask(&second), Err(Error::NotReady(_))));
}

#[test]
fn a_request_that_waits_for_a_sequence_is_refused_once_the_log_cannot_be_read() {
    let Some((bundle, library)) = places() else {
        return;
    };
    let engine = Engine::new(&bundle, &library, Settings::default()).unwrap();
    engine.serve(engine.empty().unwrap());
    let request = wire::SearchRequest {
        query: "red shoes".into(),
        min_sequence: 7,
        ..Default::default()
    }
    .encode_to_vec();
    let ask = |remaining_us| {
        let (sender, receiver) = channel();
        let call = Call {
            method: Method::Search,
            request: &request,
            arrived: Instant::now(),
            remaining_us,
            priority: None,
            memory: None,
        };
        engine.submit(call, move |result| sender.send(result.map(|_| ())).unwrap());
        receiver
    };
    let why = |receiver: std::sync::mpsc::Receiver<Result<()>>| match receiver.recv() {
        Ok(Err(Error::NotReady(why))) => why,
        other => panic!("not refused: {other:?}"),
    };

    let waiting = ask(u64::from(u32::MAX));
    assert!(waiting.try_recv().is_err(), "it waits");
    engine.lose_log();
    assert!(why(waiting).contains("the log cannot be read"));
    assert!(why(ask(u64::from(u32::MAX))).contains("the log cannot be read"));

    engine.observe(1, 7);
    assert_eq!(why(ask(20_000)), "sequence 7 has not been applied; 0 has");
}
