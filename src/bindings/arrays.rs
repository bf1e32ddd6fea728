//! NumPy in and out, through the array interface: shared memory where the owner allows it, copies where not.

use super::dtype::PyDType;
use super::errors::raise;
use super::frames;
use super::tensor::{PyTensor, has_numbers};
use crate::arena::ledger::Category;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{self, Error};
use crate::graph::Var;
use crate::ops::run;
use crate::shape::Layout;
use crate::tensor::{Foreign, Meta, Tensor};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

fn type_string(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::Bool => "|b1",
        DType::U8 => "|u1",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::BF16 => return None,
    })
}

/// The dict by which NumPy looks at a tensor's memory. Read-only while a sweep still needs the bytes.
pub fn interface<'py>(py: Python<'py>, var: &Var) -> PyResult<Bound<'py, PyDict>> {
    if var.requires_grad() {
        return Err(raise(Error::graph(
            "numpy: this tensor has a history that an array cannot carry; call detach() first",
        )));
    }
    has_numbers("numpy", &var.tensor).map_err(raise)?;
    let tensor = &var.tensor;
    if tensor.device() != Device::Cpu {
        return Err(raise(Error::device(format!(
            "numpy: the tensor is on {}, and an array is in the memory of the CPU; copy it there first (help: x.cpu())",
            tensor.device().name()
        ))));
    }
    let typestr = type_string(tensor.dtype())
        .ok_or_else(|| raise(Error::dtype("numpy: NumPy has no bfloat16; convert first (help: x.float())")))?;
    let layout = tensor.layout();
    let broadcast = layout.strides().iter().zip(layout.shape()).any(|(&s, &d)| s == 0 && d > 1);
    let read_only = tensor.storage().is_saved() || broadcast;
    let bytes = tensor.dtype().bytes() as isize;
    let dict = PyDict::new(py);
    dict.set_item("version", 3)?;
    dict.set_item("typestr", typestr)?;
    dict.set_item("shape", PyTuple::new(py, layout.shape())?)?;
    dict.set_item("strides", PyTuple::new(py, layout.strides().iter().map(|s| s * bytes))?)?;
    dict.set_item("data", (tensor.view().bytes_ptr() as usize, read_only))?;
    Ok(dict)
}

/// A tensor on the memory of a NumPy array, or a copy of it: of another type's array, a read-only or an unaligned one.
#[pyfunction]
#[pyo3(signature = (array, copy))]
pub fn from_array(array: &Bound<'_, PyAny>, copy: bool) -> PyResult<PyTensor> {
    frames::note_as(array.py(), "from_numpy")?;
    let interface = array.getattr("__array_interface__")?;
    let typestr: String = interface.get_item("typestr")?.extract()?;
    let dtype = DType::ALL.into_iter().find(|d| type_string(*d) == Some(typestr.as_str())).ok_or_else(|| {
        let text = format!(
            "from_numpy: elements of type {typestr}; bool, uint8, int32, int64, float16, float32 and float64 are taken"
        );
        raise(Error::dtype(text))
    })?;
    let shape: Vec<usize> = interface.get_item("shape")?.extract()?;
    let (address, read_only): (usize, bool) = interface.get_item("data")?.extract()?;
    let strides: Option<Vec<isize>> = interface.get_item("strides")?.extract()?;
    let bytes = dtype.bytes();
    let layout = match strides {
        None => Layout::contiguous("from_numpy", &shape).map_err(raise)?,
        Some(strides) if strides.iter().all(|s| s % bytes as isize == 0) => {
            let steps: Vec<isize> = strides.iter().map(|s| s / bytes as isize).collect();
            Layout::strided(&shape, &steps)
        }
        Some(_) => {
            let text = "from_numpy: strides that are no multiple of the element size; copy the array first";
            return Err(raise(Error::value(text)));
        }
    };
    if !address.is_multiple_of(bytes) {
        return Err(raise(Error::value("from_numpy: elements at odd addresses; copy the array first")));
    }
    let meta = Meta { layout, dtype, device: Device::Cpu };
    // That of a NumPy scalar shows an array made for the asking, which it alone keeps alive.
    let owner = Box::new((array.clone().unbind(), interface.unbind()));
    let total = meta.bytes();
    let shared = Tensor::foreign(meta, Foreign { address, bytes: total, owner });
    if !copy && !read_only && total > 0 {
        return Ok(PyTensor::new(Var::constant(shared)));
    }
    let layout = Layout::contiguous("from_numpy", &shape).map_err(raise)?;
    let own = run::relaid(&shared, layout, Category::Input).map_err(raise)?;
    Ok(PyTensor::new(Var::constant(own)))
}

/// The device of a new tensor: the CPU when none is named.
fn on(op: &str, device: Option<&str>, dtype: DType) -> PyResult<Device> {
    let device = device.map_or(Ok(Device::Cpu), |name| Device::from_name(op, name)).map_err(raise)?;
    if device != Device::Cpu && dtype == DType::F64 {
        return Err(raise(crate::device::gpu::no_float64(op)));
    }
    Ok(device)
}

/// A tensor filled with one number.
#[pyfunction]
#[pyo3(signature = (shape, value, dtype, device=None))]
fn full(py: Python<'_>, shape: Vec<usize>, value: f64, dtype: &PyDType, device: Option<&str>) -> PyResult<PyTensor> {
    frames::note_as(py, "full")?;
    let meta = Meta::contiguous("full", &shape, dtype.0, on("full", device, dtype.0)?).map_err(raise)?;
    filled(meta, value).map(PyTensor::new).map_err(raise)
}

/// Every element one number, under the thread's context.
pub fn filled(meta: Meta, value: f64) -> Result<Var, Error> {
    let number = Tensor::scalar(value, meta.dtype)?;
    let tensor = Tensor::empty(meta, Category::Temporary)?;
    crate::ops::pointwise::copy_into(&number, &tensor)?;
    Ok(Var::constant(tensor))
}

/// A tensor of whatever the memory holds.
#[pyfunction]
#[pyo3(signature = (shape, dtype, device=None))]
fn empty(py: Python<'_>, shape: Vec<usize>, dtype: &PyDType, device: Option<&str>) -> PyResult<PyTensor> {
    frames::note_as(py, "empty")?;
    let meta = Meta::contiguous("empty", &shape, dtype.0, on("empty", device, dtype.0)?).map_err(raise)?;
    Ok(PyTensor::new(Var::constant(Tensor::empty(meta, Category::Temporary).map_err(raise)?)))
}

/// The bytes of a tensor in row-major order, of any type: what a weight file holds.
#[pyfunction]
fn to_bytes<'py>(py: Python<'py>, tensor: &PyTensor) -> PyResult<Bound<'py, pyo3::types::PyBytes>> {
    let tensor = tensor.var().tensor;
    has_numbers("to_bytes", &tensor).map_err(raise)?;
    let tensor = py.detach(|| tensor.to_host()).map_err(raise)?;
    let layout = Layout::contiguous("to_bytes", tensor.shape()).map_err(raise)?;
    let flat = if tensor.layout().is_contiguous() {
        tensor
    } else {
        run::relaid(&tensor, layout, Category::Workspace).map_err(raise)?
    };
    Ok(pyo3::types::PyBytes::new(py, flat.view().raw()))
}

/// A tensor from the bytes of its elements in row-major order.
#[pyfunction]
fn from_bytes(py: Python<'_>, data: &[u8], shape: Vec<usize>, dtype: &PyDType) -> PyResult<PyTensor> {
    frames::note_as(py, "from_bytes")?;
    let meta = Meta::contiguous("from_bytes", &shape, dtype.0, Device::Cpu).map_err(raise)?;
    if meta.bytes() != data.len() {
        let text = format!(
            "from_bytes: {} bytes for shape {shape:?} of {}; {} are needed",
            data.len(),
            dtype.0.name(),
            meta.bytes()
        );
        return Err(raise(Error::value(text)));
    }
    let tensor = Tensor::empty(meta, Category::Temporary).map_err(raise)?;
    if !crate::arena::on_paper() {
        tensor.view().raw_out().copy_from_slice(data);
    }
    Ok(PyTensor::new(Var::constant(tensor)))
}

pub fn item(py: Python<'_>, var: &Var) -> PyResult<Py<PyAny>> {
    let tensor = &var.tensor;
    if tensor.numel() != 1 {
        let text =
            format!("item: a tensor of shape {:?} has {} elements; one is needed", tensor.shape(), tensor.numel());
        return Err(raise(Error::new(error::Kind::Value, text)));
    }
    has_numbers("item", tensor).map_err(raise)?;
    let near = if tensor.device() == Device::Cpu { Ok(tensor.clone()) } else { py.detach(|| tensor.to_host()) };
    let tensor = &near.map_err(raise)?;
    let value = tensor.to_f64()[0];
    Ok(match tensor.dtype() {
        d if d.is_float() => value.into_pyobject(py)?.into_any().unbind(),
        DType::Bool => (value != 0.0).into_pyobject(py)?.to_owned().into_any().unbind(),
        DType::I64 => tensor.view().first_i64().into_pyobject(py)?.into_any().unbind(),
        _ => (value as i64).into_pyobject(py)?.into_any().unbind(),
    })
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(from_array, m)?)?;
    m.add_function(wrap_pyfunction!(full, m)?)?;
    m.add_function(wrap_pyfunction!(empty, m)?)?;
    m.add_function(wrap_pyfunction!(to_bytes, m)?)?;
    m.add_function(wrap_pyfunction!(from_bytes, m)?)
}
