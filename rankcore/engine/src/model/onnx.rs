//! The part of the ONNX format that our exporter writes, read with care: a bundle may come from anywhere.
//!
//! Field numbers are those of `onnx.proto3` (ONNX IR version 8). Unknown fields are skipped. Nothing here panics or
//! reserves memory that the file's own size does not cover.

use std::collections::HashMap;

use prost::Message;

/// Nodes of a graph that is refused; the largest that our exporter makes has a few thousand.
const NODES_MAX: usize = 100_000;

const FLOAT: i32 = 1;
const INT8: i32 = 3;
const INT32: i32 = 6;
const INT64: i32 = 7;

const EXTERNAL: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueProto>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueProto>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueProto {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(string, tag = "7")]
    domain: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<AttributeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(float, tag = "2")]
    f: f32,
    #[prost(int64, tag = "3")]
    i: i64,
    #[prost(message, optional, tag = "5")]
    t: Option<TensorProto>,
    #[prost(int64, repeated, tag = "8")]
    ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<EntryProto>,
    #[prost(int32, tag = "14")]
    data_location: i32,
}

#[derive(Clone, PartialEq, Message)]
struct EntryProto {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// Values of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Values {
    F32(Vec<f32>),
    I8(Vec<i8>),
    I64(Vec<i64>),
}

/// A constant of the graph: as many values as its dimensions say.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) dims: Vec<usize>,
    pub(super) values: Values,
}

/// An attribute of a node.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Attribute {
    Float(f32),
    Int(i64),
    Ints(Vec<i64>),
    /// A tensor of one value.
    Scalar(f64),
    /// Of a kind that our exporter does not use.
    Other,
}

/// A node that is neither a constant nor an alias.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) operation: String,
    /// Empty: left out.
    pub(super) inputs: Vec<String>,
    pub(super) attributes: HashMap<String, Attribute>,
}

/// A graph by the names of its values.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    /// Value to the node that makes it, and which of its outputs.
    pub(super) makers: HashMap<String, (usize, usize)>,
    pub(super) constants: HashMap<String, Tensor>,
    /// Another name to the name of a value.
    pub(super) aliases: HashMap<String, String>,
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
}

impl Tensor {
    /// The only value, as a number; `None`: there are more, or none.
    pub(super) fn scalar(&self) -> Option<f64> {
        match &self.values {
            Values::F32(values) if values.len() == 1 => Some(f64::from(values[0])),
            Values::I8(values) if values.len() == 1 => Some(f64::from(values[0])),
            Values::I64(values) if values.len() == 1 => Some(values[0] as f64),
            _ => None,
        }
    }
}

impl Graph {
    /// Reads an ONNX file. external: what tensors that are stored outside the file are read from, by their location.
    ///
    /// Errors: what is wrong with the file, as a sentence without its name.
    pub(super) fn read(file: &[u8], external: (&str, &[u8])) -> Result<Graph, String> {
        let graph = ModelProto::decode(file)
            .map_err(|error| format!("not an ONNX file: {error}"))?
            .graph
            .ok_or("the ONNX file has no graph")?;
        if graph.node.len() > NODES_MAX {
            return Err(format!(
                "a graph of {} nodes; at most {NODES_MAX}",
                graph.node.len()
            ));
        }
        let mut read = Graph {
            nodes: Vec::new(),
            makers: HashMap::new(),
            constants: HashMap::new(),
            aliases: HashMap::new(),
            inputs: graph.input.into_iter().map(|value| value.name).collect(),
            outputs: graph.output.into_iter().map(|value| value.name).collect(),
        };
        for mut tensor in graph.initializer {
            let name = std::mem::take(&mut tensor.name);
            if let Some(tensor) = tensor
                .read(external)
                .map_err(|reason| format!("tensor {name:?}: {reason}"))?
            {
                read.constants.insert(name, tensor);
            }
        }
        for node in graph.node {
            read.add(node, external)?;
        }
        Ok(read)
    }

    fn add(&mut self, mut node: NodeProto, external: (&str, &[u8])) -> Result<(), String> {
        match (&node.op_type[..], &node.output[..], &node.input[..]) {
            ("Constant", [output], []) => {
                let output = output.clone();
                let tensor = match &mut node.attribute[..] {
                    [attribute] if attribute.name == "value" => attribute.t.take(),
                    _ => None,
                };
                if let Some(tensor) = tensor
                    && let Some(tensor) = tensor
                        .read(external)
                        .map_err(|reason| format!("constant {output:?}: {reason}"))?
                {
                    self.constants.insert(output, tensor);
                }
            }
            ("Identity", [output], [input]) => {
                self.aliases.insert(output.clone(), input.clone());
            }
            _ => {
                let number = self.nodes.len();
                for (at, output) in node.output.into_iter().enumerate() {
                    self.makers.insert(output, (number, at));
                }
                let mut attributes = HashMap::new();
                for attribute in node.attribute {
                    let (name, value) = attribute.read();
                    attributes.insert(name, value);
                }
                let domain = if node.domain.is_empty() { "" } else { "." };
                self.nodes.push(Node {
                    // An operation of another domain is another operation.
                    operation: format!("{}{domain}{}", node.domain, node.op_type),
                    inputs: node.input,
                    attributes,
                });
            }
        }
        Ok(())
    }
}

impl AttributeProto {
    fn read(self) -> (String, Attribute) {
        let value = match (self.kind, self.t) {
            (1, _) => Attribute::Float(self.f),
            (2, _) => Attribute::Int(self.i),
            (4, Some(tensor)) => tensor
                .read(("", &[]))
                .ok()
                .flatten()
                .and_then(|tensor| tensor.scalar())
                .map_or(Attribute::Other, Attribute::Scalar),
            (7, _) => Attribute::Ints(self.ints),
            _ => Attribute::Other,
        };
        (self.name, value)
    }
}

impl TensorProto {
    /// `None`: of a type that our exporter does not use for constants.
    fn read(self, external: (&str, &[u8])) -> Result<Option<Tensor>, String> {
        let mut count = 1_usize;
        let mut dims = Vec::with_capacity(self.dims.len());
        for dim in &self.dims {
            let dim = usize::try_from(*dim).map_err(|_| format!("a dimension of {dim}"))?;
            count = count
                .checked_mul(dim)
                .ok_or("its dimensions exceed all memory")?;
            dims.push(dim);
        }
        let width = match self.data_type {
            FLOAT | INT32 => 4,
            INT8 => 1,
            INT64 => 8,
            _ => return Ok(None),
        };
        let outside = if self.data_location == EXTERNAL {
            Some(self.outside(external, count.saturating_mul(width))?)
        } else {
            None
        };
        let raw = outside.unwrap_or(&self.raw_data);
        let values = if outside.is_some() || !raw.is_empty() {
            if Some(raw.len()) != count.checked_mul(width) {
                return Err(format!(
                    "{} bytes for {count} values of {width} bytes",
                    raw.len()
                ));
            }
            match self.data_type {
                FLOAT => Values::F32(chunks(raw).map(f32::from_le_bytes).collect()),
                INT8 => Values::I8(raw.iter().map(|byte| *byte as i8).collect()),
                INT32 => Values::I64(
                    chunks(raw)
                        .map(|four| i32::from_le_bytes(four).into())
                        .collect(),
                ),
                _ => Values::I64(chunks(raw).map(i64::from_le_bytes).collect()),
            }
        } else {
            match self.data_type {
                FLOAT => Values::F32(self.float_data),
                INT8 => Values::I8(self.int32_data.iter().map(|value| *value as i8).collect()),
                INT32 => Values::I64(
                    self.int32_data
                        .iter()
                        .map(|value| i64::from(*value))
                        .collect(),
                ),
                _ => Values::I64(self.int64_data),
            }
        };
        let found = match &values {
            Values::F32(values) => values.len(),
            Values::I8(values) => values.len(),
            Values::I64(values) => values.len(),
        };
        if found != count {
            return Err(format!("{found} values, but its dimensions say {count}"));
        }
        Ok(Some(Tensor { dims, values }))
    }

    /// The bytes of a tensor that is stored outside the model's file.
    fn outside<'a>(&self, external: (&str, &'a [u8]), bytes: usize) -> Result<&'a [u8], String> {
        let entry = |key: &str| {
            self.external_data
                .iter()
                .find(|entry| entry.key == key)
                .map(|entry| &entry.value[..])
        };
        let number = |key: &str, absent: usize| match entry(key) {
            None => Ok(absent),
            Some(text) => text
                .parse::<usize>()
                .map_err(|_| format!("its {key} is {text:?}")),
        };
        let (location, file) = external;
        let found = entry("location").unwrap_or_default();
        if found != location || location.is_empty() {
            return Err(format!("stored in {found:?}, which no model may read"));
        }
        let (offset, length) = (number("offset", 0)?, number("length", bytes)?);
        offset
            .checked_add(length)
            .and_then(|end| file.get(offset..end))
            .ok_or_else(|| format!("bytes {offset} and {length} more are not all in {location}"))
    }
}

fn chunks<const N: usize>(raw: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    raw.chunks_exact(N).map(|chunk| {
        let mut bytes = [0; N];
        bytes.copy_from_slice(chunk);
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dims: &[i64], data_type: i32, raw: &[u8]) -> TensorProto {
        TensorProto {
            dims: dims.to_vec(),
            data_type,
            raw_data: raw.to_vec(),
            ..Default::default()
        }
    }

    fn entries(pairs: &[(&str, &str)]) -> Vec<EntryProto> {
        pairs
            .iter()
            .map(|(key, value)| EntryProto {
                key: (*key).into(),
                value: (*value).into(),
            })
            .collect()
    }

    #[test]
    fn tensors_are_read_from_raw_bytes_and_from_lists() {
        let raw = tensor(&[2], FLOAT, &[0, 0, 128, 63, 0, 0, 0, 192]);
        let expected = Tensor {
            dims: vec![2],
            values: Values::F32(vec![1.0, -2.0]),
        };
        assert_eq!(raw.read(("", &[])).unwrap().unwrap(), expected);
        let listed = TensorProto {
            float_data: vec![1.0, -2.0],
            ..tensor(&[2], FLOAT, &[])
        };
        assert_eq!(listed.read(("", &[])).unwrap().unwrap(), expected);
        let scalar = tensor(&[], INT64, &7_i64.to_le_bytes());
        assert_eq!(scalar.read(("", &[])).unwrap().unwrap().scalar(), Some(7.0));
    }

    #[test]
    fn a_tensor_of_the_wrong_size_is_refused() {
        for (dims, data_type, raw) in [
            (&[3][..], INT8, &[0; 2][..]),
            (&[-1], INT8, &[0; 2]),
            (&[1 << 40, 1 << 40], FLOAT, &[0; 4]),
            (&[i64::MAX], FLOAT, &[0; 4]),
            (&[2], FLOAT, &[0; 9]),
            (&[2], FLOAT, &[]),
        ] {
            let found = tensor(dims, data_type, raw).read(("", &[]));
            assert!(
                found.is_err(),
                "{dims:?} of type {data_type} with {} bytes",
                raw.len()
            );
        }
    }

    #[test]
    fn a_tensor_outside_is_read_where_it_stands_and_nowhere_else() {
        let outside = |pairs: &[(&str, &str)]| {
            TensorProto {
                external_data: entries(pairs),
                data_location: EXTERNAL,
                ..tensor(&[3], INT8, &[])
            }
            .read(("encoder", &[1, 2, 3, 4, 5]))
        };
        let found = outside(&[("location", "encoder"), ("offset", "2"), ("length", "3")]);
        assert_eq!(found.unwrap().unwrap().values, Values::I8(vec![3, 4, 5]));
        for refused in [
            &[("location", "/etc/passwd")][..],
            &[("location", "encoder"), ("offset", "3"), ("length", "3")],
            &[
                ("location", "encoder"),
                ("offset", "18446744073709551615"),
                ("length", "3"),
            ],
            &[("location", "encoder"), ("offset", "-1")],
            &[("location", "encoder"), ("length", "2")],
            &[("offset", "0"), ("length", "3")],
        ] {
            assert!(outside(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_model_are_refused_with_a_reason() {
        for (file, reason) in [
            (&b"not a protobuf at all"[..], "not an ONNX file"),
            (b"", "no graph"),
        ] {
            assert!(Graph::read(file, ("", &[])).unwrap_err().contains(reason));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(file in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let _ = Graph::read(&file, ("encoder/model.onnx", &[0; 16]));
        }
    }
}
