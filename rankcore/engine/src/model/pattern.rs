//! Patterns of expressions in a graph: what must be computed, with names for what may differ.
//!
//! | written | matches |
//! |---|---|
//! | `Op(a, b)`, `Op.1(a)` | a node's first output, or its second; all inputs, no attributes |
//! | `Op{axis=-1, perm=[0,1]}(a)` | the same with exactly these attributes; `epsilon=?` is any number |
//! | `#name` | a constant, kept under the name |
//! | `$name` | any value, kept under the name; where the name is known already, that value |
//! | `@name` | what the definition of the name matches |
//! | `0.5`, `max` | a constant of one number, the largest int64 |
//! | `-` | an input that is left out |
//! | `name` | an input of the graph |

use std::collections::HashMap;

use super::onnx::{Attribute, Graph, Node, Tensor};

/// A pattern, read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Pattern {
    Node {
        operation: String,
        output: usize,
        attributes: HashMap<String, Expected>,
        inputs: Vec<Pattern>,
    },
    Constant(String),
    Value(String),
    Number(f64),
    Absent,
    Input(String),
}

/// What an attribute must be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expected {
    Number(f64),
    Numbers(Vec<i64>),
    AnyNumber,
}

/// What a match kept: names to values of the graph.
pub(super) type Kept = HashMap<String, String>;

/// Reads patterns; `@` refers to what was defined before.
#[derive(Default)]
pub(super) struct Patterns {
    defined: HashMap<String, Pattern>,
}

impl Patterns {
    /// Defines `@name`. Panics where the pattern, which is a literal of this crate, is not one.
    pub(super) fn define(&mut self, name: &str, text: &str) {
        let pattern = self.read(text);
        self.defined.insert(name.to_owned(), pattern);
    }

    /// Reads a pattern. Panics where the text, which is a literal of this crate, is not one.
    pub(super) fn read(&self, text: &str) -> Pattern {
        let mut reader = Reader {
            rest: text.trim(),
            defined: &self.defined,
        };
        let pattern = reader.pattern();
        assert!(reader.rest.is_empty(), "after a pattern: {:?}", reader.rest);
        pattern
    }
}

struct Reader<'a> {
    rest: &'a str,
    defined: &'a HashMap<String, Pattern>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, wanted: &str) -> bool {
        let found = self.rest.strip_prefix(wanted);
        if let Some(rest) = found {
            self.rest = rest.trim_start();
        }
        found.is_some()
    }

    fn expect(&mut self, wanted: &str) {
        assert!(
            self.take(wanted),
            "{wanted:?} expected before {:?}",
            self.rest
        );
    }

    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|one: char| !one.is_ascii_alphanumeric() && !"_.-+".contains(one))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        assert!(!word.is_empty(), "a word expected before {rest:?}");
        self.rest = rest.trim_start();
        word
    }

    fn pattern(&mut self) -> Pattern {
        if self.take("#") {
            return Pattern::Constant(self.word().to_owned());
        }
        if self.take("$") {
            return Pattern::Value(self.word().to_owned());
        }
        if self.take("@") {
            let name = self.word();
            return self
                .defined
                .get(name)
                .unwrap_or_else(|| panic!("@{name} is not defined"))
                .clone();
        }
        let word = self.word();
        let mut attributes = HashMap::new();
        if self.take("{") {
            loop {
                let name = self.word().to_owned();
                self.expect("=");
                let expected = self.expected();
                attributes.insert(name, expected);
                if self.take("}") {
                    break;
                }
                self.expect(",");
            }
        }
        if self.take("(") {
            let mut inputs = Vec::new();
            while !self.take(")") {
                inputs.push(self.pattern());
                if !self.take(",") {
                    self.expect(")");
                    break;
                }
            }
            let (operation, output) = match word.split_once('.') {
                Some((operation, output)) => (operation, output.parse().expect("a number")),
                None => (word, 0),
            };
            return Pattern::Node {
                operation: operation.to_owned(),
                output,
                attributes,
                inputs,
            };
        }
        match word {
            "-" => Pattern::Absent,
            "max" => Pattern::Number(i64::MAX as f64),
            _ => match word.parse() {
                Ok(number) => Pattern::Number(number),
                Err(_) => Pattern::Input(word.to_owned()),
            },
        }
    }

    fn expected(&mut self) -> Expected {
        if self.take("?") {
            return Expected::AnyNumber;
        }
        if self.take("[") {
            let mut numbers = Vec::new();
            while !self.take("]") {
                numbers.push(self.word().parse().expect("an integer"));
                self.take(",");
            }
            return Expected::Numbers(numbers);
        }
        Expected::Number(self.word().parse().expect("a number"))
    }
}

impl Graph {
    /// The value itself, where `name` is another name for it.
    pub(super) fn value<'a>(&'a self, name: &'a str) -> &'a str {
        // An alias of an alias... cannot go round more often than there are aliases.
        let mut name = name;
        for _ in 0..=self.aliases.len() {
            match self.aliases.get(name) {
                Some(other) => name = other,
                None => break,
            }
        }
        name
    }

    /// The constant of that name.
    pub(super) fn constant(&self, name: &str) -> Option<&Tensor> {
        self.constants.get(self.value(name))
    }

    /// The node that makes a value.
    pub(super) fn maker(&self, name: &str) -> Option<&Node> {
        self.makers
            .get(self.value(name))
            .map(|(node, _)| &self.nodes[*node])
    }

    /// Whether `value` is computed as the pattern says; what the pattern names is kept in `kept`.
    pub(super) fn matches(&self, pattern: &Pattern, value: &str, kept: &mut Kept) -> bool {
        let value = self.value(value);
        match pattern {
            Pattern::Constant(name) => {
                self.constants.contains_key(value) && keep(kept, name, value)
            }
            Pattern::Value(name) => !value.is_empty() && keep(kept, name, value),
            Pattern::Number(number) => self
                .constants
                .get(value)
                .and_then(Tensor::scalar)
                .is_some_and(|found| same(found, *number)),
            Pattern::Absent => value.is_empty(),
            Pattern::Input(name) => value == name && self.inputs.iter().any(|input| input == name),
            Pattern::Node {
                operation,
                output,
                attributes,
                inputs,
            } => {
                let Some((number, made)) = self.makers.get(value) else {
                    return false;
                };
                let node = &self.nodes[*number];
                node.operation == *operation
                    && made == output
                    && node.inputs.len() == inputs.len()
                    && has(node, attributes)
                    && inputs
                        .iter()
                        .zip(&node.inputs)
                        .all(|(pattern, input)| self.matches(pattern, input, kept))
            }
        }
    }
}

fn keep(kept: &mut Kept, name: &str, value: &str) -> bool {
    match kept.get(name) {
        Some(known) => known == value,
        None => {
            kept.insert(name.to_owned(), value.to_owned());
            true
        }
    }
}

/// Equal but for the rounding of a decimal to f32.
fn same(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= expected.abs() * 1e-6
}

fn has(node: &Node, expected: &HashMap<String, Expected>) -> bool {
    // Says how a 0 among the sizes of a reshape is read; ours have none.
    let counted = node
        .attributes
        .keys()
        .filter(|name| *name != "allowzero")
        .count();
    counted == expected.len()
        && expected.iter().all(
            |(name, expected)| match (node.attributes.get(name), expected) {
                (Some(Attribute::Float(found)), Expected::Number(number)) => {
                    same(f64::from(*found), *number)
                }
                (Some(Attribute::Int(found)), Expected::Number(number)) => *found as f64 == *number,
                (Some(Attribute::Scalar(found)), Expected::Number(number)) => found == number,
                (Some(Attribute::Ints(found)), Expected::Numbers(numbers)) => found == numbers,
                (Some(Attribute::Float(_) | Attribute::Int(_)), Expected::AnyNumber) => true,
                _ => false,
            },
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(operation: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> Node {
        Node {
            operation: operation.into(),
            inputs: inputs.iter().map(|one| (*one).to_owned()).collect(),
            attributes: attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        }
    }

    /// `out = Softmax{axis=-1}(Mul(x, half))`, where `half` is another name for a constant of 0.5.
    fn graph() -> Graph {
        let scalar = Tensor {
            dims: vec![],
            values: super::super::onnx::Values::F32(vec![0.5]),
        };
        Graph {
            nodes: vec![
                node("Mul", &["x", "half"], &[]),
                node("Softmax", &["product"], &[("axis", Attribute::Int(-1))]),
            ],
            makers: [("product".to_owned(), (0, 0)), ("out".to_owned(), (1, 0))].into(),
            constants: [("c".to_owned(), scalar)].into(),
            aliases: [("half".to_owned(), "c".to_owned())].into(),
            inputs: vec!["x".into()],
            outputs: vec!["out".into()],
        }
    }

    #[test]
    fn what_is_computed_is_told_from_what_is_not() {
        let mut patterns = Patterns::default();
        patterns.define("half", "Mul(x, 0.5)");
        for (text, expected) in [
            ("Softmax{axis=-1}(Mul(x, 0.5))", true),
            ("Softmax{axis=-1}(@half)", true),
            ("Softmax{axis=?}($any)", true),
            ("Softmax{axis=-1}(Mul($x, #half))", true),
            ("Softmax{axis=0}(@half)", false),
            ("Softmax(@half)", false),
            ("Softmax.1{axis=-1}(@half)", false),
            ("Softmax{axis=-1}(Mul(x, 0.25))", false),
            ("Softmax{axis=-1}(Mul(0.5, x))", false),
            ("Softmax{axis=-1}(Mul(x, x))", false),
            ("Softmax{axis=-1}(Mul($same, $same))", false),
            ("Softmax{axis=-1}(Mul(x, 0.5, -))", false),
            ("Softmax{axis=-1}(Mul(#x, 0.5))", false),
            ("Softmax{axis=-1}(Mul(y, 0.5))", false),
        ] {
            let found = graph().matches(&patterns.read(text), "out", &mut Kept::new());
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn names_are_kept_as_the_values_they_stand_for() {
        let mut kept = Kept::new();
        let pattern = Patterns::default().read("Softmax{axis=-1}($in)");
        assert!(graph().matches(&pattern, "out", &mut kept));
        assert!(graph().matches(
            &Patterns::default().read("Mul($x, #w)"),
            &kept["in"].clone(),
            &mut kept
        ));
        assert_eq!((&kept["x"][..], &kept["w"][..]), ("x", "c"));
    }

    #[test]
    fn aliases_that_go_round_end() {
        let mut graph = graph();
        graph.aliases = [
            ("a".to_owned(), "b".to_owned()),
            ("b".to_owned(), "a".to_owned()),
        ]
        .into();
        assert!(!graph.matches(&Patterns::default().read("0.5"), "a", &mut Kept::new()));
    }
}
