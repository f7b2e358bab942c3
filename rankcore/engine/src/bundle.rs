//! One immutable folder with everything a generation and a request need: models, text rules, plans.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::encode::Encoder;
use crate::error::{Error, Result};
use crate::golden::Golden;
use crate::model::{Choice, ENCODER_FILE, Opening, Runner};
use crate::recommend::section::Section;
use crate::rerank::cross::Cross;
use crate::rerank::forest::Forest;
use crate::text::TextConfig;
use crate::wire;

/// Version of the folder's layout that this code reads.
pub const SCHEMA_VERSION: u32 = 1;

/// A way to rank, from cheap to dear.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Tier {
    /// BM25F.
    Lexical,
    /// Lexical and dense retrieval, fused.
    Hybrid,
    /// Late interaction.
    Late,
    /// A small cross-encoder.
    CrossSmall,
    /// A larger cross-encoder.
    CrossLarge,
}

impl Tier {
    /// All tiers, cheap to dear.
    pub const ALL: [Tier; 5] = [
        Tier::Lexical,
        Tier::Hybrid,
        Tier::Late,
        Tier::CrossSmall,
        Tier::CrossLarge,
    ];

    /// The tier's name in files and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Lexical => "lexical",
            Tier::Hybrid => "hybrid",
            Tier::Late => "late",
            Tier::CrossSmall => "cross_small",
            Tier::CrossLarge => "cross_large",
        }
    }

    /// The tier named so, if any.
    pub fn parse(name: &str) -> Option<Tier> {
        Tier::ALL.into_iter().find(|tier| tier.as_str() == name)
    }

    /// The tier on the wire.
    pub fn to_wire(self) -> wire::Tier {
        match self {
            Tier::Lexical => wire::Tier::Lexical,
            Tier::Hybrid => wire::Tier::Hybrid,
            Tier::Late => wire::Tier::Late,
            Tier::CrossSmall => wire::Tier::CrossSmall,
            Tier::CrossLarge => wire::Tier::CrossLarge,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Tier {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Tier, String> {
        Tier::parse(name).ok_or_else(|| {
            let known: Vec<&str> = Tier::ALL.into_iter().map(Tier::as_str).collect();
            format!("unknown tier {name:?}; accepted: {}", known.join(", "))
        })
    }
}

impl<'de> Deserialize<'de> for Tier {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Tier, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Factor of the occurrences in each text field, before they saturate together in BM25F; 0: not searched.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Boosts {
    /// Of the title.
    pub title: f32,
    /// Of the brand.
    pub brand: f32,
    /// Of the category path.
    pub category: f32,
    /// Of the bullets.
    pub bullets: f32,
    /// Of the description.
    pub description: f32,
    /// Of the attributes' values.
    pub attributes: f32,
}

/// How lexical and dense results become one order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FusionKind {
    /// Reciprocal ranks.
    Rrf,
    /// Scores scaled to 0..1, weighted.
    Weighted,
}

/// Weight of each way to retrieve.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct FusionWeights {
    /// Of the lexical results.
    pub lexical: f64,
    /// Of the dense results.
    pub dense: f64,
}

/// The `fusion` part of `lexical.json`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Fusion {
    /// Which formula.
    pub kind: FusionKind,
    /// The constant of reciprocal rank fusion.
    #[serde(default = "rrf_k")]
    pub rrf_k: f64,
    /// Weights of both sides.
    pub weights: FusionWeights,
}

fn rrf_k() -> f64 {
    60.0
}

/// `lexical.json`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct LexicalConfig {
    /// BM25F field weights.
    pub boosts: Boosts,
    /// Fusion with the dense results.
    pub fusion: Fusion,
}

impl LexicalConfig {
    /// Reads and checks the text of `lexical.json`.
    pub fn parse(text: &str) -> Result<LexicalConfig> {
        let config: LexicalConfig = parse_json("lexical.json", text)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        let boosts = &self.boosts;
        let weights = &self.fusion.weights;
        for (name, value) in [
            ("boosts.title", f64::from(boosts.title)),
            ("boosts.brand", f64::from(boosts.brand)),
            ("boosts.category", f64::from(boosts.category)),
            ("boosts.bullets", f64::from(boosts.bullets)),
            ("boosts.description", f64::from(boosts.description)),
            ("boosts.attributes", f64::from(boosts.attributes)),
            ("fusion.rrf_k", self.fusion.rrf_k),
            ("fusion.weights.lexical", weights.lexical),
            ("fusion.weights.dense", weights.dense),
        ] {
            if !value.is_finite() || value < 0.0 {
                return Err(Error::Bundle(format!(
                    "lexical.json: {name} is {value}; accepted: finite, at least 0"
                )));
            }
        }
        Ok(())
    }
}

/// One plan the planner may choose.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PlanSpec {
    /// Tier that gives the final order.
    pub tier: Tier,
    /// Candidates re-ranked by the tier; 0 for lexical and hybrid.
    pub depth: usize,
    /// Candidates retrieved from each of lexical and dense.
    pub width: usize,
    /// Expected nDCG@10 on unseen queries.
    pub expected_ndcg: f64,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end of its interval.
    pub high: f64,
    /// Cost on an idle core of the calibrating machine, milliseconds.
    pub cost_ms: f64,
    /// Of a cross-encoder: it stops once so many candidates in a row have not reached the page; 0: never.
    #[serde(default)]
    pub settled_pairs: usize,
}

#[derive(Deserialize)]
struct Plans {
    plans: Vec<PlanSpec>,
}

impl PlanSpec {
    /// Reads and checks the text of `plans.json`; whether the bundle holds the models that they need is not its business.
    pub fn parse_all(text: &str) -> Result<Vec<PlanSpec>> {
        let plans = parse_json::<Plans>("plans.json", text)?.plans;
        if plans.is_empty() {
            return Err(Error::Bundle("plans.json: no plans".into()));
        }
        for plan in &plans {
            plan.validate()
                .map_err(|reason| Error::Bundle(format!("plans.json: {reason}")))?;
        }
        Ok(plans)
    }

    fn validate(&self) -> std::result::Result<(), String> {
        let tier = self.tier;
        let reranks = tier >= Tier::Late;
        if reranks != (self.depth > 0) {
            return Err(format!("a {tier} plan has depth {}", self.depth));
        }
        if !(1..=10_000).contains(&self.width) {
            return Err(format!(
                "a {tier} plan has width {}; accepted: 1 to 10,000",
                self.width
            ));
        }
        let numbers = [self.expected_ndcg, self.low, self.high];
        if numbers.iter().any(|number| !(0.0..=1.0).contains(number)) {
            return Err(format!("a {tier} plan has an nDCG outside 0 to 1"));
        }
        if !self.cost_ms.is_finite() || self.cost_ms < 0.0 {
            return Err(format!("a {tier} plan has cost_ms {}", self.cost_ms));
        }
        if self.settled_pairs > 0 && tier < Tier::CrossSmall {
            return Err(format!("a {tier} plan has settled_pairs"));
        }
        Ok(())
    }
}

/// The parts of `manifest.json` that the core reads.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    /// Version of the folder's layout.
    pub schema_version: u32,
    /// The bundle's name.
    pub bundle_id: String,
}

impl Manifest {
    /// Reads and checks the text of `manifest.json`.
    pub fn parse(text: &str) -> Result<Manifest> {
        let manifest: Manifest = parse_json("manifest.json", text)?;
        if manifest.schema_version != SCHEMA_VERSION {
            return Err(Error::Bundle(format!(
                "manifest.json: schema_version is {}; this version reads {SCHEMA_VERSION}",
                manifest.schema_version
            )));
        }
        Ok(manifest)
    }
}

/// An opened bundle. Shared by every generation and request that uses it.
pub struct Bundle {
    /// `<name>-<12 hex digits>`.
    pub id: String,
    /// How products become text.
    pub text: TextConfig,
    /// BM25F field weights and fusion.
    pub lexical: LexicalConfig,
    /// Plans whose tiers earned their place, in the order of the file.
    pub plans: Vec<PlanSpec>,
    /// Scores to reproduce before serving.
    pub golden: Option<Golden>,
    /// Tokeniser and encoder.
    pub encoder: Encoder,
    /// The small cross-encoder.
    pub cross_small: Option<Cross>,
    /// The larger cross-encoder.
    pub cross_large: Option<Cross>,
    /// Final order per tier.
    pub rankers: HashMap<Tier, Forest>,
    /// What says which product a shopper takes next.
    pub recommend: Option<Section>,
    /// Dimensions of a dense vector.
    pub dimension: usize,
    /// Dimensions of a token vector.
    pub token_dimension: usize,
}

impl Bundle {
    /// Opens the bundle in `dir`; `runtime_library` is the path of `libonnxruntime.so`, loaded once a process where a
    /// model needs it.
    ///
    /// Checksums are the caller's business. Errors: [`Error::Bundle`], naming the file.
    pub fn open(dir: &Path, runtime_library: &Path) -> Result<Arc<Bundle>> {
        Bundle::open_with(dir, runtime_library, Choice::Auto)
    }

    /// As [`Bundle::open`]; `kernels`: what the models are to be run by.
    pub fn open_with(dir: &Path, runtime_library: &Path, kernels: Choice) -> Result<Arc<Bundle>> {
        let manifest = Manifest::parse(&read(dir, "manifest.json")?)?;
        let text = TextConfig::parse(&read(dir, "text.json")?)?;
        let lexical = LexicalConfig::parse(&read(dir, "lexical.json")?)?;
        let plans = PlanSpec::parse_all(&read(dir, "plans.json")?)?;
        let golden = optional(dir, "golden.json", || {
            Golden::parse(&read(dir, "golden.json")?)
        })?;
        let opening = Opening {
            choice: kernels,
            library: runtime_library,
        };
        let (encoder, shared) = Encoder::open(dir, &text, opening)?;
        let cross = |tier: Tier| {
            for name in [
                format!("{tier}/model.onnx.gz"),
                format!("{tier}/model.onnx"),
            ] {
                let found = optional(dir, &name, || {
                    Cross::open(dir.join(&name), &shared, encoder.specials(), opening)
                })?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        };
        let (cross_small, cross_large) = (cross(Tier::CrossSmall)?, cross(Tier::CrossLarge)?);
        let mut rankers = HashMap::new();
        for tier in Tier::ALL {
            let name = format!("ranker/{tier}.txt");
            let forest = optional(dir, &name, || {
                Forest::parse(&read(dir, &name)?)
                    .map_err(|error| Error::Bundle(format!("{name}: {error}")))
            })?;
            if let Some(forest) = forest {
                rankers.insert(tier, forest);
            }
        }
        let recommend = optional(dir, "recommend/section.json", || {
            Section::open(&dir.join("recommend"), runtime_library)
        })?;
        let bundle = Bundle {
            recommend,
            id: manifest.bundle_id,
            text,
            lexical,
            plans,
            golden,
            dimension: encoder.dimension(),
            token_dimension: encoder.token_dimension(),
            encoder,
            cross_small,
            cross_large,
            rankers,
        };
        bundle.validate_plans()?;
        Ok(Arc::new(bundle))
    }

    /// The cross-encoder of a tier; `None` for other tiers and where the bundle has none.
    pub fn cross(&self, tier: Tier) -> Option<&Cross> {
        match tier {
            Tier::CrossSmall => self.cross_small.as_ref(),
            Tier::CrossLarge => self.cross_large.as_ref(),
            _ => None,
        }
    }

    /// What runs each model, by the model's folder.
    pub fn runners(&self) -> Vec<(&'static str, Runner)> {
        let folder = ENCODER_FILE.split('/').next().unwrap_or_default();
        let mut runners = vec![(folder, self.encoder.runner())];
        for tier in [Tier::CrossSmall, Tier::CrossLarge] {
            runners.extend(
                self.cross(tier)
                    .map(|cross| (tier.as_str(), cross.runner())),
            );
        }
        runners
    }

    fn validate_plans(&self) -> Result<()> {
        for tier in self.plans.iter().map(|plan| plan.tier) {
            if tier >= Tier::CrossSmall && self.cross(tier).is_none() {
                return Err(Error::Bundle(format!(
                    "plans.json: a {tier} plan, but no {tier}/model.onnx.gz"
                )));
            }
        }
        Ok(())
    }
}

fn read(dir: &Path, name: &str) -> Result<String> {
    std::fs::read_to_string(dir.join(name))
        .map_err(|error| Error::Bundle(format!("{name}: {error}")))
}

/// Reads the text of a bundle's JSON file. Errors: [`Error::Bundle`], naming the file.
pub(crate) fn parse_json<T: DeserializeOwned>(name: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::Bundle(format!("{name}: {error}")))
}

fn optional<T>(dir: &Path, name: &str, open: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    if dir.join(name).is_file() {
        open().map(Some)
    } else {
        Ok(None)
    }
}
