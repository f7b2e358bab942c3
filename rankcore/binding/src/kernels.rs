//! The core's parts on their own: for parity tests, for the exporter's golden cases, for measurements.

use std::path::PathBuf;
use std::sync::Arc;

use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use rankcore_engine::bundle::Bundle;
use rankcore_engine::model::{self, Single};
use rankcore_engine::rerank::forest::Forest;
use rankcore_engine::rerank::late;
use rankcore_engine::text;
use rankcore_engine::wire;

use crate::convert;
use crate::errors::raise;

/// float32 `[n, d]` as a slice, with d; refuses other layouts and dimensions.
fn tokens<'a>(array: &'a PyReadonlyArray2<'_, f32>) -> PyResult<(&'a [f32], usize)> {
    let dimension = array.shape()[1];
    if dimension == 0 || !dimension.is_multiple_of(4) || dimension > late::DIMENSION_MAX {
        return Err(PyValueError::new_err(format!(
            "a token dimension must be a multiple of 4 up to {}, not {dimension}",
            late::DIMENSION_MAX
        )));
    }
    let values = array
        .as_slice()
        .map_err(|_| PyValueError::new_err("tokens must be C-contiguous"))?;
    Ok((values, dimension))
}

/// Token vectors of many products, quantised and packed as a generation stores them.
#[pyclass(frozen, module = "rankcore")]
pub struct PackedTokens {
    dimension: usize,
    /// All products, one after the other.
    bytes: Vec<i8>,
    /// Per product: where its bytes start, and its tokens.
    products: Vec<(usize, usize)>,
}

#[pymethods]
impl PackedTokens {
    /// Packs one float32 array `[tokens, d]` of L2-normalised rows per product.
    #[new]
    fn new(products: Vec<PyReadonlyArray2<'_, f32>>) -> PyResult<Self> {
        let mut packed = PackedTokens {
            dimension: 0,
            bytes: Vec::new(),
            products: Vec::with_capacity(products.len()),
        };
        for product in &products {
            let (values, dimension) = tokens(product)?;
            if packed.dimension != 0 && packed.dimension != dimension {
                return Err(PyValueError::new_err("products differ in their dimension"));
            }
            packed.dimension = dimension;
            packed
                .products
                .push((packed.bytes.len(), values.len() / dimension));
            packed.bytes.extend(late::pack(values, dimension));
        }
        Ok(packed)
    }

    fn __len__(&self) -> usize {
        self.products.len()
    }

    /// Bytes that the packed vectors take.
    #[getter]
    fn nbytes(&self) -> usize {
        self.bytes.len()
    }
}

type MaxSim = fn(&late::QueryTokens, &[i8], usize) -> f32;

fn score<'py>(
    py: Python<'py>,
    query: &PyReadonlyArray2<'py, f32>,
    products: &PackedTokens,
    maxsim: MaxSim,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let (values, dimension) = tokens(query)?;
    if products.dimension != dimension && !products.products.is_empty() {
        return Err(PyValueError::new_err(format!(
            "the query has {dimension} dimensions, the products {}",
            products.dimension
        )));
    }
    let scores: Vec<f32> = py.detach(|| {
        let query = late::QueryTokens::new(values, dimension);
        products
            .products
            .iter()
            .map(|&(start, count)| maxsim(&query, &products.bytes[start..], count))
            .collect()
    });
    Ok(scores.into_pyarray(py))
}

/// Late-interaction scores float32 `[len(products)]` of a query, float32 `[t, d]` of L2-normalised rows.
#[pyfunction]
fn maxsim<'py>(
    py: Python<'py>,
    query: PyReadonlyArray2<'py, f32>,
    products: &PackedTokens,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    score(py, &query, products, late::maxsim)
}

/// As `maxsim`, by the plain loop that the fast kernels must equal bit for bit.
#[pyfunction]
fn maxsim_reference<'py>(
    py: Python<'py>,
    query: PyReadonlyArray2<'py, f32>,
    products: &PackedTokens,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    score(py, &query, products, late::maxsim_reference)
}

/// Name of the kernel that `maxsim` uses on this machine.
#[pyfunction]
fn maxsim_kernel() -> &'static str {
    late::kernel()
}

/// Raw scores float64 `[n]` of a LightGBM text model for rows float64 `[n, features]`; NaN: unknown.
#[pyfunction]
fn forest_score<'py>(
    py: Python<'py>,
    model_text: &str,
    rows: PyReadonlyArray2<'py, f64>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let forest = Forest::parse(model_text).map_err(|error| raise(py, error))?;
    let [count, width] = [rows.shape()[0], rows.shape()[1]];
    if width != forest.feature_names().len() {
        return Err(PyValueError::new_err(format!(
            "rows have {width} columns, the model {} features",
            forest.feature_names().len()
        )));
    }
    let values = rows
        .as_slice()
        .map_err(|_| PyValueError::new_err("rows must be C-contiguous"))?;
    let mut scores = vec![0.0; count];
    py.detach(|| forest.score_rows(values, &mut scores));
    Ok(scores.into_pyarray(py))
}

/// The text of a serialised Product as the models read it; fields as in text.json.
#[pyfunction]
fn product_text(py: Python<'_>, product: &[u8], fields: Vec<String>) -> PyResult<String> {
    let product = wire::decode_product(product).map_err(|error| raise(py, error))?;
    Ok(text::product_text(&product, &fields))
}

/// Dense, late, and the logits of the small and the larger cross-encoder.
type Pair = (f64, f64, Option<f64>, Option<f64>);

/// The models of a bundle on their own, without a generation.
#[pyclass(frozen, module = "rankcore")]
pub struct Models {
    bundle: Arc<Bundle>,
}

type Encoded<'py> = (Vec<u32>, bool, Bound<'py, PyArray1<f32>>);

#[pymethods]
impl Models {
    #[new]
    #[pyo3(signature = (bundle, *, runtime_library, kernels="auto"))]
    fn new(
        py: Python<'_>,
        bundle: PathBuf,
        runtime_library: PathBuf,
        kernels: &str,
    ) -> PyResult<Self> {
        let kernels = convert::kernels(kernels)?;
        let bundle = py
            .detach(|| Bundle::open_with(&bundle, &runtime_library, kernels))
            .map_err(|error| raise(py, error))?;
        Ok(Models { bundle })
    }

    /// What runs each model: its folder in the bundle, the runner, and why it is not our own kernels (None: it is, or
    /// they were not asked for).
    #[getter]
    fn models(&self) -> Vec<convert::Model> {
        convert::models(&self.bundle)
    }

    /// Token ids of a text without special tokens, uncut.
    fn pieces(&self, py: Python<'_>, text: &str) -> PyResult<Vec<u32>> {
        self.bundle
            .encoder
            .pieces(text)
            .map_err(|error| raise(py, error))
    }

    /// Token ids as the models see them, whether the query was cut, and the dense vector float32 `[D]`.
    fn query<'py>(&self, py: Python<'py>, text: &str) -> PyResult<Encoded<'py>> {
        let query = py
            .detach(|| self.bundle.encoder.query(text))
            .map_err(|error| raise(py, error))?;
        Ok((query.pieces, query.truncated, query.dense.into_pyarray(py)))
    }

    /// Dense vectors float32 `[len(products), D]` of serialised Products.
    fn products<'py>(
        &self,
        py: Python<'py>,
        products: Vec<Vec<u8>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let encoded = py
            .detach(|| {
                let products = decode(&products)?;
                self.bundle.encoder.products(&products)
            })
            .map_err(|error| raise(py, error))?;
        let shape = (encoded.len(), self.bundle.dimension);
        let values = encoded.into_iter().flat_map(|one| one.dense).collect();
        let array = Array2::from_shape_vec(shape, values)
            .map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
        Ok(array.into_pyarray(py))
    }

    /// Per serialised Product: dense cosine, late-interaction score, and the logits of the small and of the larger
    /// cross-encoder, None where the bundle has no such model.
    ///
    /// What golden.json records.
    fn pair_scores(
        &self,
        py: Python<'_>,
        query: &str,
        products: Vec<Vec<u8>>,
    ) -> PyResult<Vec<Pair>> {
        let scores = py
            .detach(|| {
                let products = decode(&products)?;
                self.bundle.pair_scores(query, &products)
            })
            .map_err(|error| raise(py, error))?;
        Ok(scores
            .into_iter()
            .map(|pair| (pair.dense, pair.late, pair.cross_small, pair.cross_large))
            .collect())
    }
}

/// A network by itself, outside a bundle: an ONNX file whose tensors are all in it.
#[pyclass(frozen, module = "rankcore")]
pub struct Network {
    single: Single,
}

/// Token ids with special tokens, and where the second text starts.
type NetworkRow = (Vec<i64>, usize);

#[pymethods]
impl Network {
    /// cross: it is a cross-encoder. kernels: as for an engine, or the name of instructions of this machine.
    #[new]
    #[pyo3(signature = (path, *, cross, runtime_library, kernels="auto"))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        cross: bool,
        runtime_library: PathBuf,
        kernels: &str,
    ) -> PyResult<Self> {
        let kernels = convert::kernels(kernels)?;
        let single = py
            .detach(|| Single::open(&path, cross, &runtime_library, kernels))
            .map_err(|error| raise(py, error))?;
        Ok(Network { single })
    }

    /// What runs it.
    #[getter]
    fn runner(&self) -> String {
        self.single.runner().to_string()
    }

    /// Multiplications and additions of 8-bit numbers that one token takes; None: ONNX Runtime runs it.
    #[getter]
    fn int8_operations_per_token(&self) -> Option<usize> {
        self.single.int8_operations_per_token()
    }

    /// Per row a list of its outputs, float32 and flat: of an encoder dense `[D]` and tokens `[T * d]`, of a
    /// cross-encoder the score `[1]`. rows: token ids with special tokens, and where the second text starts (the
    /// number of ids for one text).
    fn run<'py>(
        &self,
        py: Python<'py>,
        rows: Vec<NetworkRow>,
    ) -> PyResult<Vec<Vec<Bound<'py, PyArray1<f32>>>>> {
        let found = py
            .detach(|| self.single.run(rows))
            .map_err(|error| raise(py, error))?;
        Ok(found
            .into_iter()
            .map(|outputs| {
                outputs
                    .into_iter()
                    .map(|one| one.into_pyarray(py))
                    .collect()
            })
            .collect())
    }
}

/// Keeps the 8-bit multiply-add unit of this core busy and nothing else: multiplications and additions done; None
/// without AVX-512 VNNI.
#[pyfunction]
fn int8_limit(py: Python<'_>, rounds: usize) -> Option<u64> {
    py.detach(|| model::int8_limit(rounds))
}

fn decode(products: &[Vec<u8>]) -> rankcore_engine::error::Result<Vec<wire::Product>> {
    products
        .iter()
        .map(|product| wire::decode_product(product))
        .collect()
}

/// Adds everything here to the native module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PackedTokens>()?;
    module.add_class::<Models>()?;
    module.add_class::<Network>()?;
    module.add_function(wrap_pyfunction!(maxsim, module)?)?;
    module.add_function(wrap_pyfunction!(maxsim_reference, module)?)?;
    module.add_function(wrap_pyfunction!(maxsim_kernel, module)?)?;
    module.add_function(wrap_pyfunction!(int8_limit, module)?)?;
    module.add_function(wrap_pyfunction!(forest_score, module)?)?;
    module.add_function(wrap_pyfunction!(product_text, module)?)?;
    Ok(())
}
