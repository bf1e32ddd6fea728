//! From a Python call to an op: tensors in, attributes in order, numbers as weakly typed 0-d tensors.

use super::dtype::PyDType;
use super::errors::raise;
use super::frames;
use super::tensor::PyTensor;
use crate::device::cpu::pool;
use crate::dtype::DType;
use crate::error::{self, Error};
use crate::graph::record::Vars;
use crate::graph::{self, Var};
use crate::ops::args::{Args, Attribute};
use crate::ops::registry::{self, Entry};
use crate::ops::{OpRef, args};
use crate::tensor::Tensor;
use pyo3::Borrowed;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyList, PyString, PyTuple};
use smallvec::SmallVec;

/// Elements above which other Python threads may run meanwhile: giving up the lock and taking it back costs about as much
/// as a kernel on this many.
const RELEASE_ABOVE: usize = 16 * 1024;

enum Argument {
    Value(Var),
    Number(Attribute),
    Other(Attribute),
}

fn argument(value: &Bound<'_, PyAny>) -> PyResult<Argument> {
    if let Ok(tensor) = value.cast::<PyTensor>() {
        return Ok(Argument::Value(tensor.get().var()));
    }
    if let Some(number) = number(value)? {
        return Ok(Argument::Number(number));
    }
    let other = if value.is_none() {
        Attribute::None
    } else if let Ok(text) = value.cast::<PyString>() {
        Attribute::Text(text.to_str()?.to_string())
    } else if let Ok(dtype) = value.cast::<PyDType>() {
        args::text(dtype.get().0.name())
    } else if value.is_instance_of::<PyTuple>() || value.is_instance_of::<PyList>() {
        let mut ints = SmallVec::new();
        for int in value.try_iter()? {
            ints.push(int?.extract::<i64>()?);
        }
        Attribute::Ints(ints)
    } else if let Ok(int) = value.extract::<i64>() {
        // NumPy's integers, and anything with __index__.
        return Ok(Argument::Number(Attribute::Int(int)));
    } else if let Ok(float) = value.extract::<f64>() {
        return Ok(Argument::Number(Attribute::Float(float)));
    } else {
        let text = format!(
            "apply: an argument of type {}; tensors, numbers, tuples of integers and words are taken",
            value.get_type().name()?
        );
        return Err(raise(Error::dtype(text)));
    };
    Ok(Argument::Other(other))
}

/// A Python bool, int or float.
fn number(value: &Bound<'_, PyAny>) -> PyResult<Option<Attribute>> {
    Ok(if let Ok(float) = value.cast::<PyFloat>() {
        Some(Attribute::Float(float.value()))
    } else if let Ok(flag) = value.cast::<PyBool>() {
        Some(Attribute::Flag(flag.is_true()))
    } else if value.is_instance_of::<PyInt>() {
        let wide = |_| {
            let text = "number: an integer of more than 64 bits; -2^63 to 2^63 - 1 is needed (help: float(n))";
            raise(Error::value(text))
        };
        Some(Attribute::Int(value.extract().map_err(wide)?))
    } else {
        None
    })
}

/// A number as a tensor that does not widen the others: an int takes their type, a float their float type.
///
/// An int that their type cannot hold is an error: wrapped around, it would be silently another number.
fn weak(op: &str, number: &Attribute, others: Option<DType>) -> Result<Tensor, Error> {
    if let (Attribute::Int(v), Some(d)) = (number, others)
        && let Some((least, greatest)) = d.range()
        && !(least..=greatest).contains(v)
    {
        return Err(error::number_out_of_range(op, *v, d.name(), (least, greatest)));
    }
    let (value, dtype) = match (number, others) {
        (Attribute::Float(v), Some(d)) => (*v, d.to_float()),
        (Attribute::Float(v), None) => (*v, DType::F32),
        (Attribute::Int(v), Some(DType::Bool) | None) => {
            return Tensor::from_slice("number", &[], &[*v], crate::arena::ledger::Category::Temporary);
        }
        (Attribute::Int(v), Some(DType::I64)) => {
            return Tensor::from_slice("number", &[], &[*v], crate::arena::ledger::Category::Temporary);
        }
        (Attribute::Int(v), Some(d)) => (*v as f64, d),
        (Attribute::Flag(v), Some(d)) => (f64::from(*v), d),
        (Attribute::Flag(v), None) => (f64::from(*v), DType::Bool),
        _ => return Err(Error::internal("bug: not a number")),
    };
    Tensor::scalar(value, dtype)
}

struct Call {
    op: OpRef,
    inputs: SmallVec<[Var; 4]>,
}

fn read<'a, 'py: 'a>(
    (entry, elementwise): (&'static Entry, bool),
    arguments: impl Iterator<Item = Borrowed<'a, 'py, PyAny>>,
) -> PyResult<Call> {
    let mut inputs: SmallVec<[Var; 4]> = SmallVec::new();
    let mut attributes: SmallVec<[Attribute; 4]> = SmallVec::new();
    // Numbers among the operands of an elementwise op, and their places: they take the type of the tensors.
    let mut numbers: SmallVec<[(usize, Attribute); 2]> = SmallVec::new();
    for value in arguments {
        match argument(&value)? {
            Argument::Value(v) => inputs.push(v),
            Argument::Number(n) if elementwise => numbers.push((inputs.len() + numbers.len(), n)),
            Argument::Other(other) if elementwise => {
                let other = match other {
                    Attribute::Text(text) => format!("'{text}'"),
                    Attribute::Ints(list) => format!("{list:?}"),
                    _ => "None".to_string(),
                };
                let text = format!("{}: {other} among its operands; tensors and numbers are needed", entry.name);
                return Err(raise(Error::dtype(text)));
            }
            Argument::Number(n) | Argument::Other(n) => attributes.push(n),
        }
    }
    if !numbers.is_empty() {
        let dtype = inputs.iter().map(|v| v.tensor.dtype()).reduce(DType::promote);
        for (place, number) in numbers {
            inputs.insert(place, Var::constant(weak(entry.name, &number, dtype).map_err(raise)?));
        }
    }
    let op = (entry.build)(&mut Args::new(entry.name, &attributes)).map_err(raise)?;
    Ok(Call { op, inputs })
}

/// Runs an op on values, letting other threads run when it is long.
pub fn run(py: Python<'_>, op: OpRef, inputs: &[&Var]) -> PyResult<Vars> {
    frames::note(py)?;
    let work: usize = inputs.iter().map(|v| v.tensor.numel()).sum();
    let result = if work > RELEASE_ABOVE {
        py.detach(|| pool::watched(|| graph::apply(op, inputs)))
    } else {
        graph::apply(op, inputs)
    };
    result.map_err(raise)
}

/// As `run` for two values on which other threads need not run meanwhile, already noted; `None` when they should.
pub fn run_small(op: &OpRef, a: &Var, b: &Var) -> Option<Result<Vars, Error>> {
    (a.tensor.numel() + b.tensor.numel() <= RELEASE_ABOVE).then(|| graph::apply(op.clone(), &[a, b]))
}

pub fn wrap(py: Python<'_>, mut outputs: Vars) -> PyResult<Py<PyAny>> {
    if outputs.len() == 1 {
        return Ok(Py::new(py, PyTensor::new(outputs.swap_remove(0)))?.into_any());
    }
    let list = outputs.into_iter().map(|v| Py::new(py, PyTensor::new(v))).collect::<PyResult<Vec<_>>>()?;
    Ok(PyTuple::new(py, list)?.into_any().unbind())
}

/// Applies the op `name`: tensors are its inputs, the rest its attributes, in order. Returns a tensor or a tuple.
#[pyfunction]
#[pyo3(signature = (name, *arguments))]
fn apply(py: Python<'_>, name: &Bound<'_, PyString>, arguments: &Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
    let entry = registry::entry(name.to_str()?).map_err(raise)?;
    let call = read(entry, arguments.iter_borrowed())?;
    let inputs: SmallVec<[&Var; 4]> = call.inputs.iter().collect();
    wrap(py, run(py, call.op, &inputs)?)
}

/// As `apply`, written into the memory of the first tensor, which is returned.
#[pyfunction]
#[pyo3(signature = (name, target, *arguments))]
fn apply_<'py>(
    py: Python<'py>,
    name: &Bound<'py, PyString>,
    target: Bound<'py, PyTensor>,
    arguments: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyTensor>> {
    let entry = registry::entry(name.to_str()?).map_err(raise)?;
    let call = read(entry, std::iter::once(target.as_any().as_borrowed()).chain(arguments.iter_borrowed()))?;
    in_place(py, call.op, &target, &call.inputs[1..])?;
    Ok(target)
}

pub fn in_place(py: Python<'_>, op: OpRef, target: &Bound<'_, PyTensor>, others: &[Var]) -> PyResult<()> {
    frames::note(py)?;
    let var = target.get().var();
    let others: SmallVec<[&Var; 4]> = others.iter().collect();
    let changed = if var.tensor.numel() > RELEASE_ABOVE {
        py.detach(|| graph::apply_in_place(op, &var, &others))
    } else {
        graph::apply_in_place(op, &var, &others)
    };
    target.get().set(changed.map_err(raise)?);
    Ok(())
}

/// A binary operator's other side: a tensor, a number or a NumPy array; `None` for what the operator does not take.
pub fn operand(op: &str, other: &Bound<'_, PyAny>, with: DType) -> PyResult<Option<Var>> {
    if let Ok(tensor) = other.cast::<PyTensor>() {
        return Ok(Some(tensor.get().var()));
    }
    let number = match number(other)? {
        Some(number) => number,
        None => {
            let Ok(interface) = other.getattr(pyo3::intern!(other.py(), "__array_interface__")) else {
                return Ok(None);
            };
            if !interface.get_item("shape")?.is_empty()? {
                return Ok(Some(super::arrays::from_array(other, false)?.var()));
            }
            // NumPy's scalars are numbers like any other.
            match other.extract::<i64>() {
                Ok(int) => Attribute::Int(int),
                Err(_) => Attribute::Float(other.extract()?),
            }
        }
    };
    Ok(Some(Var::constant(weak(op, &number, Some(with)).map_err(raise)?)))
}

/// The indices of the elements that are not zero. Its shape depends on the values, so it is no op.
#[pyfunction]
fn nonzero(py: Python<'_>, tensor: &PyTensor) -> PyResult<PyTensor> {
    frames::note(py)?;
    let value = tensor.var().tensor;
    super::tensor::has_numbers("nonzero", &value).map_err(raise)?;
    let places = py.detach(|| crate::ops::index::nonzero(&value)).map_err(raise)?;
    Ok(PyTensor::new(Var::constant(places)))
}

/// The names of all ops.
#[pyfunction]
fn op_names() -> Vec<&'static str> {
    registry::entries().iter().map(|e| e.name).collect()
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(apply, m)?)?;
    m.add_function(wrap_pyfunction!(apply_, m)?)?;
    m.add_function(wrap_pyfunction!(op_names, m)?)?;
    m.add_function(wrap_pyfunction!(nonzero, m)?)
}
