//! The networks of a bundle: read from its ONNX files, run by kernels of our own or by ONNX Runtime.
//!
//! | file | answers |
//! |---|---|
//! | `file`, `onnx` | what is in a model's file? |
//! | `pattern`, `recognise` | is the graph one of ours, and what are its weights? |
//! | `network` | in which order is what computed? |
//! | `linear`, `attention`, `rows` | how is one step computed? |
//! | `gemm`, `lanes`, `kernels` | with which instructions? |
//! | `runtime` | how does ONNX Runtime run what is not recognised? |

mod attention;
mod file;
mod gemm;
mod kernels;
mod lanes;
mod linear;
mod network;
mod onnx;
mod pattern;
mod recognise;
mod row;
mod rows;
mod runtime;

pub use file::inflate;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

pub use kernels::Instructions;
use network::{Network, Words};
use recognise::Kind;
pub(crate) use row::{Outputs, Row, Rows};

use crate::error::{Error, Result};

/// The encoder's file, and the only one that other models of a bundle may take tensors from.
pub(crate) const ENCODER_FILE: &str = "encoder/model.onnx";

/// What the models of a bundle are to be run by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// Our own kernels where the model is recognised and the machine has AVX2, otherwise ONNX Runtime.
    #[default]
    Auto,
    /// Our own kernels, or an error that says why not.
    Own,
    /// ONNX Runtime.
    OnnxRuntime,
    /// Our own kernels with these instructions, for measuring and tests.
    Only(Instructions),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Choice, String> {
        let instructions = Instructions::all();
        match name {
            "auto" => Ok(Choice::Auto),
            "own" => Ok(Choice::Own),
            "onnxruntime" => Ok(Choice::OnnxRuntime),
            _ => instructions
                .iter()
                .find(|one| one.as_str() == name)
                .map(|one| Choice::Only(*one))
                .ok_or_else(|| {
                    let known: Vec<&str> = instructions.iter().map(|one| one.as_str()).collect();
                    format!(
                        "unknown kernels {name:?}; accepted: auto, own, onnxruntime, and on this machine {}",
                        known.join(", ")
                    )
                }),
        }
    }
}

/// How models are opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening<'a> {
    pub(crate) choice: Choice,
    /// Path of `libonnxruntime.so`, which is only loaded where it is needed.
    pub(crate) library: &'a Path,
}

/// What a cross-encoder may take from the encoder: the bytes of its file, and its words where they were read.
pub(crate) struct Shared {
    bytes: Arc<[u8]>,
    words: Option<Arc<Words>>,
}

/// What runs a model, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runner {
    /// `own` with the instructions, or `onnxruntime`.
    pub name: String,
    /// Why it is not our own kernels that run it, where they were not ruled out by the choice.
    pub reason: Option<String>,
}

impl fmt::Display for Runner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(formatter, "{} ({reason})", self.name),
            None => formatter.write_str(&self.name),
        }
    }
}

enum Engine {
    Own(Box<Network>, Instructions),
    Runtime(Box<runtime::Model>),
}

/// A model of a bundle. Shared by many threads.
pub(crate) struct Model {
    engine: Engine,
    reason: Option<String>,
}

impl Model {
    /// Opens the encoder: `input_ids`, `attention_mask` int64 `[B, T]` to `dense`, `tokens`.
    ///
    /// Errors: [`Error::Bundle`], naming the file.
    pub(crate) fn encoder(path: PathBuf, opening: Opening<'_>) -> Result<(Model, Shared)> {
        let bytes = read(&path)?;
        let (inputs, outputs) = (&["input_ids", "attention_mask"], &["dense", "tokens"]);
        let own = own(&bytes, ("", &[]), Kind::Encoder, None, opening.choice);
        let model = Model::made(own, opening, &path, || {
            runtime::Model::open(path.clone(), bytes.clone(), bytes.clone(), inputs, outputs)
        })?;
        let words = match &model.engine {
            Engine::Own(network, _) => Some(network.words.clone()),
            Engine::Runtime(_) => None,
        };
        Ok((model, Shared { bytes, words }))
    }

    /// Opens a cross-encoder: the same and `token_type_ids` to `score`. path: of an ONNX file, compressed where its
    /// name ends with `.gz`.
    ///
    /// Errors: [`Error::Bundle`], naming the file.
    pub(crate) fn cross(path: PathBuf, shared: &Shared, opening: Opening<'_>) -> Result<Model> {
        let bytes = read(&path)?;
        let inputs = &["input_ids", "attention_mask", "token_type_ids"];
        let external = (ENCODER_FILE, &shared.bytes[..]);
        let own = own(
            &bytes,
            external,
            Kind::Cross,
            shared.words.as_ref(),
            opening.choice,
        );
        Model::made(own, opening, &path, || {
            let encoder = shared.bytes.clone();
            runtime::Model::open(path.clone(), bytes.clone(), encoder, inputs, &["score"])
        })
    }

    fn made(
        own: std::result::Result<(Network, Instructions), String>,
        opening: Opening<'_>,
        path: &Path,
        runtime: impl FnOnce() -> Result<runtime::Model>,
    ) -> Result<Model> {
        let reason = match own {
            Ok((network, instructions)) => {
                return Ok(Model {
                    engine: Engine::Own(Box::new(network), instructions),
                    reason: None,
                });
            }
            Err(reason) => reason,
        };
        if matches!(opening.choice, Choice::Own | Choice::Only(_)) {
            return Err(Error::Bundle(format!(
                "{}: our own kernels cannot run it: {reason}; set the kernels to auto or onnxruntime",
                path.display()
            )));
        }
        runtime::load(opening.library)?;
        Ok(Model {
            engine: Engine::Runtime(Box::new(runtime()?)),
            reason: (opening.choice == Choice::Auto).then_some(reason),
        })
    }

    /// What runs it.
    pub(crate) fn runner(&self) -> Runner {
        Runner {
            name: match &self.engine {
                Engine::Own(_, instructions) => format!("own {}", instructions.as_str()),
                Engine::Runtime(_) => "onnxruntime".to_owned(),
            },
            reason: self.reason.clone(),
        }
    }

    /// Runs `rows` and gives each one's outputs to `take`, with its place in `rows`. Outputs of a row do not depend
    /// on the others.
    pub(crate) fn run_rows(
        &self,
        rows: &[Row<'_>],
        take: impl FnMut(usize, &Outputs) -> Result<()>,
    ) -> Result<()> {
        match &self.engine {
            Engine::Own(network, instructions) => network.run(*instructions, rows, take),
            Engine::Runtime(model) => model.run_rows(rows, take),
        }
    }
}

/// A sequence model: `vectors` f32 `[1, T, H]` of a history's items, oldest first, to `state` f32 `[1, H]`. Run by ONNX Runtime.
pub(crate) struct Sequence {
    model: runtime::Model,
    width: usize,
}

impl Sequence {
    /// Opens the model in `path`. width: H.
    ///
    /// Errors: [`Error::Bundle`], naming the file.
    pub(crate) fn open(path: PathBuf, library: &Path, width: usize) -> Result<Sequence> {
        let bytes = read(&path)?;
        runtime::load(library)?;
        let model = runtime::Model::open(path, bytes.clone(), bytes, &["vectors"], &["state"])?;
        Ok(Sequence { model, width })
    }

    /// The state after the vectors, `[T * H]` with T at least 1: `[H]`.
    pub(crate) fn state(&self, vectors: &[f32]) -> Result<Vec<f32>> {
        let state = self.model.run_vectors(vectors, self.width)?;
        if state.len() == self.width && state.iter().all(|value| value.is_finite()) {
            return Ok(state);
        }
        Err(Error::Internal(format!(
            "the sequence model gave {} numbers, or some that are none",
            state.len()
        )))
    }
}

/// A model by itself, outside a bundle: for measuring, and for tests against other implementations.
pub struct Single {
    model: Model,
    outputs: usize,
}

impl Single {
    /// Opens an ONNX file whose tensors are all in it. cross: it is a cross-encoder.
    ///
    /// Errors: [`Error::Bundle`], naming the file.
    pub fn open(path: &Path, cross: bool, library: &Path, kernels: Choice) -> Result<Single> {
        let opening = Opening {
            choice: kernels,
            library,
        };
        let alone = Shared {
            bytes: Vec::new().into(),
            words: None,
        };
        let model = if cross {
            Model::cross(path.to_owned(), &alone, opening)?
        } else {
            Model::encoder(path.to_owned(), opening)?.0
        };
        let outputs = if cross { 1 } else { 2 };
        Ok(Single { model, outputs })
    }

    /// Outputs of each row, in the order of the model's kind. rows: token ids with special tokens, and where the
    /// second text starts (its length for a single text).
    pub fn run(&self, rows: Vec<(Vec<i64>, usize)>) -> Result<Vec<Vec<Vec<f32>>>> {
        let rows: Vec<Row<'_>> = rows
            .iter()
            .map(|(ids, second)| Row {
                ids,
                second: *second,
            })
            .collect();
        let mut found = Vec::with_capacity(rows.len());
        self.model.run_rows(&rows, |_, outputs| {
            let tensors = &outputs.tensors[..self.outputs];
            found.push(tensors.iter().map(|tensor| tensor.to_vec()).collect());
            Ok(())
        })?;
        Ok(found)
    }

    /// What runs it.
    pub fn runner(&self) -> Runner {
        self.model.runner()
    }

    /// Multiplications and additions of 8-bit numbers that one token takes; `None`: ONNX Runtime runs it.
    pub fn int8_operations_per_token(&self) -> Option<usize> {
        match &self.model.engine {
            Engine::Own(network, _) => Some(network.operations_per_token()),
            Engine::Runtime(_) => None,
        }
    }
}

/// Keeps the processor's 8-bit multiply-add unit busy and nothing else: the measure of what a core can do.
///
/// Returns: multiplications and additions done; `None`: the machine has no AVX-512 VNNI.
pub fn int8_limit(rounds: usize) -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    if Instructions::best() == Instructions::Avx512Vnni {
        // SAFETY: the machine has the instructions.
        std::hint::black_box(unsafe { gemm::limit_rounds(rounds) });
        return Some(rounds as u64 * gemm::LIMIT_OPERATIONS);
    }
    let _ = rounds;
    None
}

fn read(path: &Path) -> Result<Arc<[u8]>> {
    let bytes = file::read_model(path)
        .map_err(|reason| Error::Bundle(format!("{}: {reason}", path.display())))?;
    Ok(bytes.into())
}

/// The network of a file for our own kernels, and their instructions. Errors: why not.
fn own(
    bytes: &[u8],
    external: (&str, &[u8]),
    kind: Kind,
    words: Option<&Arc<Words>>,
    choice: Choice,
) -> std::result::Result<(Network, Instructions), String> {
    let instructions = match choice {
        Choice::OnnxRuntime => return Err("ONNX Runtime was chosen".to_owned()),
        Choice::Only(instructions) => instructions,
        Choice::Auto | Choice::Own => Instructions::best(),
    };
    if !Instructions::all().contains(&instructions) {
        return Err(format!("this machine has no {}", instructions.as_str()));
    }
    if choice == Choice::Auto && instructions == Instructions::Portable {
        return Err("the processor has no AVX2".to_owned());
    }
    Ok((
        recognise::network(bytes, external, kind, words)?,
        instructions,
    ))
}

/// Reads a graph as a model of a bundle is read; for fuzzing. Returns: whether our own kernels would run it.
pub fn reads(bytes: &[u8], encoder: &[u8]) -> bool {
    recognise::network(bytes, ("", &[]), Kind::Encoder, None).is_ok()
        || recognise::network(bytes, (ENCODER_FILE, encoder), Kind::Cross, None).is_ok()
}
