//! From a graph to a network, if it is one that our exporter writes (`training/quantise.py`).
//!
//! The whole graph is compared, from its outputs back to its inputs, so that a network is only taken for what it
//! is. What is not recognised is not an error: ONNX Runtime runs it.

use std::sync::Arc;

use super::gemm::{INPUTS_MAX, Packed};
use super::lanes::LANES;
use super::linear::Linear;
use super::network::{Head, Layer, Network, Words};
use super::onnx::{Attribute, Graph, Tensor, Values};
use super::pattern::{Kept, Pattern, Patterns};
use super::rows::Norm;

/// Why a graph is not run by our own kernels.
type Reason = String;

/// Layers of a graph that is refused; a graph that goes round has no end of them.
const LAYERS_MAX: usize = 256;

const PRODUCT: &str = "
    Mul(
        Cast{to=1}(MatMulInteger(
            DynamicQuantizeLinear.0($input), #weight, DynamicQuantizeLinear.2($input), #zero)),
        Mul(DynamicQuantizeLinear.1($input), #scale))";

const SIZES: &str = "
    Unsqueeze(Gather{axis=0}(Shape($states), 0), 0),
    Unsqueeze(Gather{axis=0}(Shape($states), 1), 0)";

const UNIT: &str = "Sqrt(Add(ReduceSum{keepdims=1}(Mul($x, $x), -1), 1e-12))";

/// Parts of a graph, read once.
struct Parts {
    norm: Pattern,
    sum: Pattern,
    product: Pattern,
    biased: Pattern,
    gelu: Pattern,
    context: Pattern,
    split: Pattern,
    split_keys: Pattern,
    together: Pattern,
    apart: Pattern,
    words: Pattern,
    words_apart: Pattern,
    tokens: Pattern,
    dense: Pattern,
    score: Pattern,
}

impl Parts {
    fn new() -> Parts {
        let mut patterns = Patterns::default();
        let mut define = |name: &str, text: &str| patterns.define(name, text);
        define("mask", "Cast{to=1}(attention_mask)");
        define("types", "Cast{to=1}(token_type_ids)");
        define("product", PRODUCT);
        define(
            "together",
            "Mul(Sub(1, Cast{to=1}(Unsqueeze(Unsqueeze(attention_mask, 1), 2))), -10000)",
        );
        define(
            "words",
            "Mul(Cast{to=1}(Gather{axis=0}(#words, input_ids)), Gather{axis=0}(#scales, input_ids))",
        );
        // The mean of all states, which have a mask of ones.
        define(
            "mean",
            "Div(
                ReduceSum{keepdims=0}(Mul($states, Unsqueeze(@mask, 2)), 1),
                ReduceSum{keepdims=0}(Unsqueeze(@mask, 2), 1))",
        );
        // Of a cross-encoder: which tokens belong to which text.
        define(
            "last",
            "Concat{axis=1}(
                Slice(@mask, 1, max, 1, 1), ConstantOfShape{value=0}(Shape(Slice(@mask, 0, 1, 1, 1))))",
        );
        define("of_product", "Mul(Mul(@types, @mask), @last)");
        define(
            "following",
            "Concat{axis=1}(
                Slice(token_type_ids, 1, max, 1, 1),
                ConstantOfShape{value=1}(Shape(Slice(token_type_ids, 0, 1, 1, 1))))",
        );
        define(
            "before_following",
            "Mul(Mul(Sub(1, @types), @mask), Sub(1, Cast{to=1}(@following)))",
        );
        define(
            "of_query",
            "Concat{axis=1}(
                ConstantOfShape{value=0}(Shape(Slice(@before_following, 0, 1, 1, 1))),
                Slice(@before_following, 1, max, 1, 1))",
        );
        define(
            "unit",
            &format!("Div($states, {})", UNIT.replace("$x", "$states")),
        );
        define(
            "best",
            "ReduceMax{axes=[2], keepdims=0}(Add(
                MatMul(@unit, Transpose{perm=[0,2,1]}(@unit)), Mul(Sub(Unsqueeze(@of_product, 1), 1), 4)))",
        );
        define(
            "late",
            "Div(
                ReduceSum{keepdims=0}(Mul(@best, @of_query), 1),
                Clip(ReduceSum{keepdims=0}(@of_query, 1), 1, -))",
        );
        for text in ["query", "product"] {
            define(
                &format!("mean_of_{text}"),
                &format!(
                    "Div(
                        ReduceSum{{keepdims=0}}(Mul($states, Unsqueeze(@of_{text}, 2)), 1),
                        Unsqueeze(Clip(ReduceSum{{keepdims=0}}(@of_{text}, 1), 1, -), 1))"
                ),
            );
            let mean = format!("@mean_of_{text}");
            define(
                &format!("unit_of_{text}"),
                &format!("Div({mean}, {})", UNIT.replace("$x", &mean)),
            );
        }
        define("first", "Gather{axis=1}($states, 0)");
        define(
            "head",
            &format!(
                "Squeeze(Add({}, #bias), 1)",
                PRODUCT.replace("$input", "@first")
            ),
        );
        Parts {
            norm: patterns.read("LayerNormalization{axis=-1, epsilon=?}($sum, #gain, #shift)"),
            sum: patterns.read("Add($before, $added)"),
            product: patterns.read("@product"),
            biased: patterns.read(&format!("Add(#bias, {PRODUCT})")),
            gelu: patterns.read("Mul(Mul($wide, Add(Erf(Div($wide, 1.4142135)), 1)), 0.5)"),
            context: patterns.read(&format!(
                "Reshape(
                    Transpose{{perm=[0,2,1,3]}}(MatMul(
                        Softmax{{axis=-1}}(Add(Mul(MatMul($queries, $keys), #root), $bias)), $values)),
                    Concat{{axis=0}}({SIZES}, #attended))"
            )),
            split: patterns.read(&format!(
                "Transpose{{perm=[0,2,1,3]}}(Reshape($linear, Concat{{axis=0}}({SIZES}, #heads, #width)))"
            )),
            split_keys: patterns.read(&format!(
                "Transpose{{perm=[0,2,3,1]}}(Reshape($linear, Concat{{axis=0}}({SIZES}, #heads, #width)))"
            )),
            together: patterns.read("@together"),
            apart: patterns.read(
                "Add(@together, Mul(Cast{to=1}(Abs(Sub(
                    Unsqueeze(Unsqueeze(token_type_ids, 1), 3),
                    Unsqueeze(Unsqueeze(token_type_ids, 1), 2)))), -10000))",
            ),
            words: patterns.read(
                "Add(Add(@words, Slice(
                    #positions, 0, Unsqueeze(Gather{axis=0}(Shape(input_ids), 1), 0), 0, 1)), #kind)",
            ),
            words_apart: patterns.read(
                "Add(Add(@words, Gather(#positions, Where(
                    Greater(token_type_ids, 0),
                    CumSum(token_type_ids, 1),
                    Sub(CumSum(ConstantOfShape{value=1}(Shape(token_type_ids)), 1), 1)))), #kind)",
            ),
            tokens: patterns.read(&format!("Div($x, {UNIT})")),
            dense: patterns.read(&format!("Div(@mean, {})", UNIT.replace("$x", "@mean"))),
            score: patterns.read(
                "Add(
                    Add(
                        Mul(#late, @late),
                        Mul(#whole, ReduceSum{keepdims=0}(Mul(@unit_of_query, @unit_of_product), 1))),
                    @head)",
            ),
        }
    }
}

/// What a network is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `input_ids`, `attention_mask` to `dense`, `tokens`.
    Encoder,
    /// The same and `token_type_ids` to `score`.
    Cross,
}

/// The network in an ONNX file.
///
/// external: see [`Graph::read`]. known: words that another network of the process holds already; where these are
/// the same they are shared. Errors: why it is not one of ours.
pub(super) fn network(
    file: &[u8],
    external: (&str, &[u8]),
    kind: Kind,
    known: Option<&Arc<Words>>,
) -> Result<Network, Reason> {
    let graph = Graph::read(file, external)?;
    let read = Reading {
        parts: Parts::new(),
        graph: &graph,
    };
    let mut expected = vec!["attention_mask", "input_ids"];
    if kind == Kind::Cross {
        expected.push("token_type_ids");
    }
    let mut inputs: Vec<&str> = graph.inputs.iter().map(String::as_str).collect();
    inputs.sort_unstable();
    if inputs != expected {
        return Err(format!("inputs are {inputs:?}, expected {expected:?}"));
    }
    match kind {
        Kind::Encoder => read.encoder(known),
        Kind::Cross => read.cross(known),
    }
}

struct Reading<'a> {
    parts: Parts,
    graph: &'a Graph,
}

impl Reading<'_> {
    fn encoder(&self, known: Option<&Arc<Words>>) -> Result<Network, Reason> {
        self.outputs(&["dense", "tokens"])?;
        let mut kept = self.expect(&self.parts.tokens, "tokens", "vectors of length 1")?;
        let projected = kept.remove("x").unwrap_or_default();
        let kept = self.expect(&self.parts.dense, "dense", "the mean of all states")?;
        let states = &kept["states"];
        let (input, project) = self.linear(&projected, false, 1.0)?;
        if input != *states {
            return Err("token vectors are not made of the last states".into());
        }
        let (inputs, token_dimension) = self.shape_of(&projected)?;
        let network = self.stack(states, known)?;
        if inputs != network.width {
            return Err("token vectors are not made of whole states".into());
        }
        if !token_dimension.is_multiple_of(LANES) {
            return Err(format!(
                "token vectors of {token_dimension} dimensions; a multiple of {LANES} is needed"
            ));
        }
        Ok(Network {
            head: Head::Encoder {
                project,
                token_dimension,
            },
            ..network
        })
    }

    fn cross(&self, known: Option<&Arc<Words>>) -> Result<Network, Reason> {
        self.outputs(&["score"])?;
        let kept = self.expect(
            &self.parts.score,
            "score",
            "late interaction, means and a head",
        )?;
        let network = self.stack(&kept["states"], known)?;
        let scalar = |name: &str| {
            let found = self.constant(&kept[name])?.scalar();
            found
                .map(|value| value as f32)
                .filter(|value| value.is_finite())
                .ok_or_else(|| format!("{name} is not one number"))
        };
        let (weights, inputs, outputs) = self.weights(&kept)?;
        if inputs != network.width || outputs != 1 {
            return Err(format!("a head from {inputs} to {outputs} numbers"));
        }
        let scale = scalar("scale")?;
        Ok(Network {
            head: Head::Cross {
                late: scalar("late")?,
                whole: scalar("whole")?,
                weights: weights
                    .iter()
                    .map(|weight| f32::from(*weight) * scale)
                    .collect(),
                bias: scalar("bias")?,
            },
            ..network
        })
    }

    /// All layers below `states`; the head is not set yet.
    fn stack(&self, states: &str, known: Option<&Arc<Words>>) -> Result<Network, Reason> {
        let mut layers = Vec::new();
        let mut apart = 0;
        let mut states = states.to_owned();
        // From the last layer down: those that read texts apart must come last here.
        while let Some((below, layer, read_apart)) = self.layer(&states)? {
            if read_apart {
                apart += 1;
            } else if apart > 0 {
                return Err("texts are read apart above a layer that reads them together".into());
            }
            if layers.len() == LAYERS_MAX {
                return Err(format!("more than {LAYERS_MAX} layers"));
            }
            layers.push(layer);
            states = below;
        }
        layers.reverse();
        let words = if apart > 0 {
            &self.parts.words_apart
        } else {
            &self.parts.words
        };
        let (sum, norm) = self.norm(&states)?;
        let kept = self.expect(words, &sum, "words, positions and a kind")?;
        let table = self.constant(&kept["words"])?;
        let (&[count, width], Values::I8(values)) = (&table.dims[..], &table.values) else {
            return Err("the word table is not int8 with two dimensions".into());
        };
        let scales = self.floats(&kept["scales"], count)?;
        let positions = self.constant(&kept["positions"])?;
        let &[places, position_width] = &positions.dims[..] else {
            return Err("positions do not have two dimensions".into());
        };
        if position_width != width || places == 0 || count == 0 {
            return Err(format!(
                "{count} words of {width} and {places} positions of {position_width}"
            ));
        }
        let positions = self.floats(&kept["positions"], places * width)?;
        let words = Words {
            values: values.clone(),
            scales,
        };
        let network = Network {
            width,
            words: match known {
                Some(known) if **known == words => known.clone(),
                _ => Arc::new(words),
            },
            positions,
            kind: self.floats(&kept["kind"], width)?,
            norm,
            layers,
            apart,
            head: Head::Cross {
                late: 0.0,
                whole: 0.0,
                weights: Vec::new(),
                bias: 0.0,
            },
        };
        self.check(&network)?;
        Ok(network)
    }

    /// Sizes that fit each other and the kernels.
    fn check(&self, network: &Network) -> Result<(), Reason> {
        let width = network.width;
        if width == 0 || !width.is_multiple_of(LANES) {
            return Err(format!(
                "a width of {width}; a multiple of {LANES} is needed"
            ));
        }
        if network.norm.gain.len() != width {
            return Err("the first normalisation is not as wide as the words".into());
        }
        for layer in &network.layers {
            if layer.mix_norm.gain.len() != width || layer.norm.gain.len() != width {
                return Err("a normalisation is not as wide as the words".into());
            }
            if !layer.head_width.is_multiple_of(LANES) {
                return Err(format!(
                    "heads of {}; a multiple of {LANES} is needed",
                    layer.head_width
                ));
            }
        }
        Ok(())
    }

    /// The layer that makes `states`: what it reads, itself, and whether it reads the texts apart; `None`: there is none.
    fn layer(&self, states: &str) -> Result<Option<(String, Layer, bool)>, Reason> {
        let (sum, norm) = self.norm(states)?;
        let kept = self.expect(&self.parts.sum, &sum, "a sum")?;
        // The first normalisation is of words, whose last summand is a constant.
        if self.graph.constant(&kept["added"]).is_some() {
            return Ok(None);
        }
        let (middle, narrowed) = (&kept["before"], &kept["added"]);
        let (inner, narrow) = self.linear(narrowed, true, 1.0)?;
        let wide = self
            .expect(&self.parts.gelu, &inner, "GELU")?
            .remove("wide")
            .unwrap_or_default();
        let (from, widen) = self.linear(&wide, true, 1.0)?;
        if from != *middle {
            return Err("a feed-forward pair does not read the states that it is added to".into());
        }
        let (sum, mix_norm) = self.norm(middle)?;
        let kept = self.expect(&self.parts.sum, &sum, "a sum")?;
        let (below, mixed) = (&kept["before"], &kept["added"]);
        let (context, mix) = self.linear(mixed, true, 1.0)?;
        let attention = self.expect(&self.parts.context, &context, "attention")?;
        let root = self
            .constant(&attention["root"])?
            .scalar()
            .filter(|root| root.is_finite())
            .ok_or("the factor of the scores is not one number")? as f32;
        let width = mix_norm.gain.len();
        // Of queries, keys and values: heads, their width, what says how long the text is, and the layer's place.
        let mut parts = Vec::new();
        let mut part = |name: &str, pattern: &Pattern, factor: f32| -> Result<Linear, Reason> {
            let mut kept = self.expect(pattern, &attention[name], "heads side by side")?;
            let (heads, width) = (self.size(&kept["heads"])?, self.size(&kept["width"])?);
            let (from, linear) = self.linear(&kept["linear"], true, factor)?;
            let shape = self.shape_of(&kept["linear"])?;
            let lengths = kept.remove("states").unwrap_or_default();
            parts.push((heads, width, lengths, from, shape));
            Ok(linear)
        };
        let query = part("queries", &self.parts.split, root)?;
        let key = part("keys", &self.parts.split_keys, 1.0)?;
        let value = part("values", &self.parts.split, 1.0)?;
        let (heads, head_width) = (parts[0].0, parts[0].1);
        let attended = heads * head_width;
        let fits = parts.iter().all(|part| {
            let (lengths, from, shape) = (&part.2, &part.3, part.4);
            (part.0, part.1) == (heads, head_width)
                && (lengths, from, shape) == (below, below, (width, attended))
        });
        if !fits
            || self.size(&attention["attended"])? != attended
            || attention["states"] != *below
            || self.shape_of(mixed)? != (attended, width)
        {
            return Err("the parts of an attention do not fit each other".into());
        }
        let inner = self.shape_of(&wide)?.1;
        if self.shape_of(&wide)? != (width, inner) || self.shape_of(narrowed)? != (inner, width) {
            return Err("the parts of a feed-forward pair do not fit each other".into());
        }
        let mut kept = Kept::new();
        let apart = self
            .graph
            .matches(&self.parts.apart, &attention["bias"], &mut kept);
        if !apart
            && !self
                .graph
                .matches(&self.parts.together, &attention["bias"], &mut kept)
        {
            return Err("which tokens attend to which is not known".into());
        }
        let layer = Layer {
            query,
            key,
            value,
            mix,
            mix_norm,
            widen,
            narrow,
            norm,
            heads,
            head_width,
        };
        Ok(Some((below.clone(), layer, apart)))
    }

    /// The layer normalisation that makes `value`: what it normalises, and itself.
    fn norm(&self, value: &str) -> Result<(String, Norm), Reason> {
        let mut kept = self.expect(&self.parts.norm, value, "a layer normalisation")?;
        let epsilon = match self
            .graph
            .maker(value)
            .and_then(|node| node.attributes.get("epsilon"))
        {
            Some(Attribute::Float(epsilon)) if *epsilon > 0.0 && *epsilon < 1.0 => *epsilon,
            _ => return Err("a layer normalisation has no epsilon".into()),
        };
        let width = self.constant(&kept["gain"])?.dims.iter().product();
        let norm = Norm {
            gain: self.floats(&kept["gain"], width)?,
            shift: self.floats(&kept["shift"], width)?,
            epsilon,
        };
        Ok((kept.remove("sum").unwrap_or_default(), norm))
    }

    /// The linear layer that makes `value`: what it reads, and itself, all outputs times `factor`.
    fn linear(&self, value: &str, biased: bool, factor: f32) -> Result<(String, Linear), Reason> {
        let pattern = if biased {
            &self.parts.biased
        } else {
            &self.parts.product
        };
        let mut kept = self.expect(pattern, value, "an int8 linear layer")?;
        let (weights, inputs, outputs) = self.weights(&kept)?;
        let weights = Packed::new(weights, inputs, outputs);
        let padded = |name: &str| -> Result<Vec<f32>, Reason> {
            let mut values = self.floats(&kept[name], outputs)?;
            for value in &mut values {
                *value *= factor;
            }
            values.resize(weights.outputs, 0.0);
            Ok(values)
        };
        let scales = padded("scale")?;
        let bias = if biased {
            padded("bias")?
        } else {
            vec![0.0; weights.outputs]
        };
        let linear = Linear {
            weights,
            scales,
            bias,
        };
        Ok((kept.remove("input").unwrap_or_default(), linear))
    }

    /// The int8 weights of a linear layer, `[inputs][outputs]`, their inputs and outputs.
    fn weights(&self, kept: &Kept) -> Result<(&[i8], usize, usize), Reason> {
        let tensor = self.constant(&kept["weight"])?;
        let (&[inputs, outputs], Values::I8(weights)) = (&tensor.dims[..], &tensor.values) else {
            return Err("weights are not int8 with two dimensions".into());
        };
        if inputs == 0 || outputs == 0 || inputs > INPUTS_MAX {
            return Err(format!("a layer from {inputs} to {outputs} numbers"));
        }
        match &self.constant(&kept["zero"])?.values {
            Values::I8(zeros) if zeros.iter().all(|zero| *zero == 0) => {}
            _ => return Err("weights are not symmetric".into()),
        }
        Ok((weights, inputs, outputs))
    }

    fn shape_of(&self, linear: &str) -> Result<(usize, usize), Reason> {
        for pattern in [&self.parts.biased, &self.parts.product] {
            let mut kept = Kept::new();
            if self.graph.matches(pattern, linear, &mut kept) {
                let (_, inputs, outputs) = self.weights(&kept)?;
                return Ok((inputs, outputs));
            }
        }
        Err("an int8 linear layer was expected".into())
    }

    /// A constant that is one size.
    fn size(&self, name: &str) -> Result<usize, Reason> {
        self.constant(name)?
            .scalar()
            .filter(|size| (1.0..=65_536.0).contains(size))
            .map(|size| size as usize)
            .ok_or_else(|| format!("{name:?} is not a size"))
    }

    fn outputs(&self, expected: &[&str]) -> Result<(), Reason> {
        let missing = expected
            .iter()
            .find(|name| !self.graph.outputs.iter().any(|found| found == *name));
        match missing {
            Some(name) => Err(format!("no output {name:?}, only {:?}", self.graph.outputs)),
            None => Ok(()),
        }
    }

    fn expect(&self, pattern: &Pattern, value: &str, what: &str) -> Result<Kept, Reason> {
        let mut kept = Kept::new();
        if self.graph.matches(pattern, value, &mut kept) {
            Ok(kept)
        } else {
            let made = self
                .graph
                .maker(value)
                .map_or("nothing", |node| &node.operation);
            Err(format!(
                "{value:?}, made by {made}, is not {what} as our exporter writes it"
            ))
        }
    }

    fn constant(&self, name: &str) -> Result<&Tensor, Reason> {
        self.graph
            .constant(name)
            .ok_or_else(|| format!("constant {name:?} is missing"))
    }

    /// A constant of `count` finite numbers.
    fn floats(&self, name: &str, count: usize) -> Result<Vec<f32>, Reason> {
        match &self.constant(name)?.values {
            Values::F32(values) if values.len() != count => Err(format!(
                "{name:?} has {} numbers, expected {count}",
                values.len()
            )),
            Values::F32(values) if values.iter().all(|value| value.is_finite()) => {
                Ok(values.clone())
            }
            Values::F32(_) => Err(format!("{name:?} has numbers that are not finite")),
            _ => Err(format!("{name:?} is not float32")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed() -> Vec<u8> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../models/muster-base/encoder/model.onnx"
        );
        std::fs::read(path).unwrap()
    }

    fn encoder(file: &[u8]) -> Result<Network, Reason> {
        network(file, ("", &[]), Kind::Encoder, None)
    }

    #[test]
    fn the_committed_encoder_is_recognised_with_all_of_its_layers() {
        let found = encoder(&committed()).unwrap();
        assert_eq!((found.layers.len(), found.width, found.apart), (6, 384, 0));
        assert!(
            found
                .layers
                .iter()
                .all(|layer| (layer.heads, layer.head_width) == (12, 32))
        );
        assert!(matches!(
            found.head,
            Head::Encoder {
                token_dimension: 64,
                ..
            }
        ));
        // Words that are known already are not kept twice.
        let again = network(&committed(), ("", &[]), Kind::Encoder, Some(&found.words)).unwrap();
        assert!(Arc::ptr_eq(&again.words, &found.words));
        assert!(network(&committed(), ("", &[]), Kind::Cross, None).is_err());
    }

    #[test]
    fn a_graph_that_computes_something_else_is_not_recognised() {
        let file = committed();
        // Operations and names of the same length, so that the file stays whole; the last of each in the file.
        for (old, new) in [
            (&b"Softmax"[..], &b"Hardmax"[..]),
            (b"Erf", b"Exp"),
            (b"Sqrt", b"Tanh"),
            (b"LayerNormalization", b"BatchNormalizations"),
            (b"MatMulInteger", b"MatMulIntegre"),
            (b"ReduceSum", b"ReduceMax"),
            (b"Transpose", b"Transpots"),
            (b"attention_mask", b"attention_task"),
            (b"tokens", b"tolens"),
        ] {
            let new = &new[..old.len()];
            let mut changed = file.clone();
            // Values are named after operations; only what stands alone behind its length is one.
            let places: Vec<usize> = changed
                .windows(old.len() + 1)
                .enumerate()
                .filter(|(_, window)| window[0] as usize == old.len() && &window[1..] == old)
                .map(|(at, _)| at + 1)
                .collect();
            let last = *places.last().unwrap();
            changed[last..last + old.len()].copy_from_slice(new);
            let refused = encoder(&changed);
            assert!(
                refused.is_err(),
                "{} for {}",
                String::from_utf8_lossy(new),
                String::from_utf8_lossy(old)
            );
        }
    }

    #[test]
    fn damaged_files_are_refused_or_read_but_never_crash() {
        let file = committed();
        for part in [0, 1, 100, file.len() / 3, file.len() - 1] {
            assert!(encoder(&file[..part]).is_err(), "{part} bytes");
        }
        let mut state = 7_u64;
        for _ in 0..12 {
            let mut changed = file.clone();
            for _ in 0..3 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                // Most of the file are weights; what describes them is at its ends.
                let place = (state >> 33) as usize % 60_000;
                let at = if state & 1 == 0 {
                    place
                } else {
                    changed.len() - 1 - place
                };
                changed[at] ^= 1 << (state >> 29 & 7);
            }
            let _ = encoder(&changed);
        }
    }
}
