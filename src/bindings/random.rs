//! Fresh random tensors, and the state of their generator.

use super::dtype::PyDType;
use super::errors::raise;
use super::frames;
use super::tensor::PyTensor;
use crate::arena;
use crate::arena::ledger::Category;
use crate::device::cpu::random::{self, Stream};
use crate::device::gpu::pointwise::Buffer;
use crate::device::gpu::random as on_gpu;
use crate::device::{Device, gpu};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::ops::run;
use crate::tensor::{Meta, Tensor};
use parking_lot::Mutex;
use pyo3::prelude::*;

/// The process's generator: a key from the seed, and how many words have been drawn.
static STATE: Mutex<Stream> = Mutex::new(Stream { key: 0x5EED, offset: 0 });

/// The stream of the next `n` words.
fn draw(n: u64) -> Stream {
    let mut state = STATE.lock();
    let stream = *state;
    state.offset += n.next_multiple_of(4);
    stream
}

/// How float32 numbers are drawn on the CPU, and on a GPU.
struct Fill {
    near: fn(&mut [f32], Stream),
    there: fn(&gpu::Gpu, &Buffer, Stream) -> Result<()>,
}

const UNIFORM: Fill = Fill { near: random::uniform, there: on_gpu::uniform };
const NORMAL: Fill = Fill { near: random::normal, there: on_gpu::normal };

fn filled(op: &str, shape: &[usize], dtype: DType, device: Option<&str>, fill: Fill) -> Result<Tensor> {
    if !dtype.is_float() {
        return Err(Error::dtype(format!("{op}: dtype {}; a floating dtype is needed", dtype.name())));
    }
    let device = device.map_or(Ok(Device::Cpu), |name| Device::from_name(op, name))?;
    if device != Device::Cpu && dtype == DType::F64 {
        return Err(gpu::no_float64(op));
    }
    let meta = Meta::contiguous(op, shape, DType::F32, device)?;
    let tensor = Tensor::empty(meta.clone(), Category::Temporary)?;
    let stream = draw(meta.numel() as u64);
    if !arena::on_paper() {
        match device {
            Device::Cpu => (fill.near)(tensor.view().out(), stream),
            Device::Gpu(number) => (fill.there)(gpu::open(number)?, &tensor.buffer(), stream)?,
        }
    }
    if dtype == DType::F32 { Ok(tensor) } else { run::converted(&tensor, Meta { dtype, ..meta }, Category::Temporary) }
}

/// Numbers in [0, 1), 24 bits each.
#[pyfunction]
#[pyo3(signature = (shape, dtype, device=None))]
fn uniform(py: Python<'_>, shape: Vec<usize>, dtype: &PyDType, device: Option<&str>) -> PyResult<PyTensor> {
    frames::note_as(py, "rand")?;
    Ok(PyTensor::new(Var::constant(filled("rand", &shape, dtype.0, device, UNIFORM).map_err(raise)?)))
}

/// Standard normal numbers.
#[pyfunction]
#[pyo3(signature = (shape, dtype, device=None))]
fn normal(py: Python<'_>, shape: Vec<usize>, dtype: &PyDType, device: Option<&str>) -> PyResult<PyTensor> {
    frames::note_as(py, "randn")?;
    Ok(PyTensor::new(Var::constant(filled("randn", &shape, dtype.0, device, NORMAL).map_err(raise)?)))
}

/// int64 numbers in low..high.
#[pyfunction]
#[pyo3(signature = (low, high, shape, device=None))]
fn randint(py: Python<'_>, low: i64, high: i64, shape: Vec<usize>, device: Option<&str>) -> PyResult<PyTensor> {
    frames::note_as(py, "randint")?;
    if low >= high {
        return Err(raise(Error::value(format!("randint: low {low} and high {high}; low must be below high"))));
    }
    let device = device.map_or(Ok(Device::Cpu), |name| Device::from_name("randint", name)).map_err(raise)?;
    let meta = Meta::contiguous("randint", &shape, DType::I64, device).map_err(raise)?;
    let tensor = Tensor::empty(meta, Category::Temporary).map_err(raise)?;
    let (stream, span) = (draw(2 * tensor.numel() as u64), high.abs_diff(low));
    if arena::on_paper() {
        return Ok(PyTensor::new(Var::constant(tensor)));
    }
    if let Device::Gpu(number) = device {
        let filled = gpu::open(number).and_then(|gpu| on_gpu::integers(gpu, &tensor.buffer(), stream, low, span));
        return filled.map(|()| PyTensor::new(Var::constant(tensor))).map_err(raise);
    }
    for (i, v) in tensor.view().out::<i64>().iter_mut().enumerate() {
        *v = low.wrapping_add(stream.below(span, 2 * i as u64) as i64);
    }
    Ok(PyTensor::new(Var::constant(tensor)))
}

/// 0..n in random order (Fisher and Yates).
#[pyfunction]
fn randperm(py: Python<'_>, n: usize) -> PyResult<PyTensor> {
    frames::note_as(py, "randperm")?;
    let meta = Meta::contiguous("randperm", &[n], DType::I64, Device::Cpu).map_err(raise)?;
    let tensor = Tensor::empty(meta, Category::Temporary).map_err(raise)?;
    let (stream, list) = (draw(2 * n as u64), tensor.view().out::<i64>());
    if arena::on_paper() {
        return Ok(PyTensor::new(Var::constant(tensor)));
    }
    list.iter_mut().enumerate().for_each(|(i, v)| *v = i as i64);
    for i in (1..n).rev() {
        list.swap(i, stream.below(i as u64 + 1, 2 * i as u64) as usize);
    }
    Ok(PyTensor::new(Var::constant(tensor)))
}

/// Places along the last dim, drawn in proportion to whole weights of which these are the running totals, int64.
#[pyfunction]
fn choose(py: Python<'_>, ends: &PyTensor, samples: usize) -> PyResult<PyTensor> {
    frames::note_as(py, "multinomial")?;
    let ends = ends.tensor();
    let (&n, outer) = ends.shape().split_last().expect("bug: totals of a number");
    assert!(ends.dtype() == DType::I64 && ends.layout().is_contiguous() && n > 0, "bug: these are no totals");
    let shape: Vec<usize> = outer.iter().copied().chain([samples]).collect();
    let meta = Meta::contiguous("multinomial", &shape, DType::I64, ends.device()).map_err(raise)?;
    let y = Tensor::empty(meta, Category::Temporary).map_err(raise)?;
    let stream = draw(2 * y.numel() as u64);
    if !arena::on_paper() {
        match ends.device() {
            Device::Cpu => random::choose(ends.view().slice(), n, samples, y.view().out(), stream),
            Device::Gpu(number) => gpu::open(number)
                .and_then(|gpu| on_gpu::choose(gpu, &ends.buffer(), &y.buffer(), samples, stream))
                .map_err(raise)?,
        }
    }
    Ok(PyTensor::new(Var::constant(y)))
}

/// Starts the generator again from a seed.
#[pyfunction]
fn manual_seed(seed: i64) {
    *STATE.lock() = Stream { key: seed as u64, offset: 0 };
}

/// Key and offset of the next `n` words, which are taken.
#[pyfunction]
fn next_stream(n: u64) -> (i64, i64) {
    let stream = draw(n);
    (stream.key as i64, stream.offset as i64)
}

/// Key and offset: all there is to know of the generator.
#[pyfunction]
fn rng_state() -> (i64, i64) {
    let state = STATE.lock();
    (state.key as i64, state.offset as i64)
}

#[pyfunction]
fn set_rng_state(key: i64, offset: i64) {
    *STATE.lock() = Stream { key: key as u64, offset: offset as u64 };
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(uniform, m)?)?;
    m.add_function(wrap_pyfunction!(normal, m)?)?;
    m.add_function(wrap_pyfunction!(randint, m)?)?;
    m.add_function(wrap_pyfunction!(randperm, m)?)?;
    m.add_function(wrap_pyfunction!(choose, m)?)?;
    m.add_function(wrap_pyfunction!(manual_seed, m)?)?;
    m.add_function(wrap_pyfunction!(next_stream, m)?)?;
    m.add_function(wrap_pyfunction!(rng_state, m)?)?;
    m.add_function(wrap_pyfunction!(set_rng_state, m)?)
}
