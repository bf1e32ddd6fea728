//! The handle that Python holds. Attributes and operators; all other methods are Python's, in `backsweep/tensor.py`.

use super::apply::{in_place, operand, run, run_small, wrap};
use super::arrays;
use super::autograd;
use super::dtype::{PyDType, object};
use super::errors::raise;
use super::frames;
use crate::arena::ledger::Category;
use crate::dtype::DType;
use crate::error::{self, Error, Result};
use crate::graph::{Var, forecast};
use crate::ops::{OpRef, registry};
use crate::shape;
use crate::tensor::Tensor;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::sync::LazyLock;

/// An n-dimensional array with a history.
#[pyclass(name = "Tensor", module = "backsweep", subclass, frozen, weakref)]
pub struct PyTensor {
    var: Mutex<Var>,
}

impl PyTensor {
    pub fn new(var: Var) -> PyTensor {
        PyTensor { var: Mutex::new(var) }
    }
    pub fn var(&self) -> Var {
        self.var.lock().clone()
    }
    /// The value without its history.
    pub fn tensor(&self) -> Tensor {
        self.read(|v| v.tensor.clone())
    }
    pub fn set(&self, var: Var) {
        let old = std::mem::replace(&mut *self.var.lock(), var);
        drop(old);
    }
    /// The gradient that sweeps have summed up here.
    pub fn gradient(&self) -> Option<PyTensor> {
        let slot = self.read(Var::grad_slot)?;
        slot.grad.lock().clone().map(PyTensor::new)
    }
    /// Takes that gradient away.
    pub fn drop_gradient(&self) -> Result<()> {
        if let Some(slot) = self.read(Var::grad_slot) {
            forecast::note(&slot)?;
            let old = slot.grad.lock().take();
            drop(old);
        }
        Ok(())
    }
    fn read<T>(&self, f: impl FnOnce(&Var) -> T) -> T {
        f(&self.var.lock())
    }
    /// As `read`, of two, which may be one. Both are locked meanwhile, so `f` must neither run Python nor give up its lock.
    fn read_both<T>(&self, other: &PyTensor, f: impl FnOnce(&Var, &Var) -> T) -> T {
        let mine = self.var.lock();
        if std::ptr::eq(self, other) {
            return f(&mine, &mine);
        }
        f(&mine, &other.var.lock())
    }
}

/// The ops behind Python's operators, looked up once.
struct Operators {
    add: OpRef,
    sub: OpRef,
    mul: OpRef,
    div: OpRef,
    floor_divide: OpRef,
    remainder: OpRef,
    pow: OpRef,
    neg: OpRef,
    abs: OpRef,
    matmul: OpRef,
    lt: OpRef,
    le: OpRef,
    gt: OpRef,
    ge: OpRef,
    eq: OpRef,
    ne: OpRef,
    and: OpRef,
    or: OpRef,
    xor: OpRef,
    not: OpRef,
}

static OPERATORS: LazyLock<Operators> = LazyLock::new(|| {
    let op = |name| registry::build(name, &[]).expect("bug: an operator without an op");
    Operators {
        add: op("add"),
        sub: op("sub"),
        mul: op("mul"),
        div: op("div"),
        floor_divide: op("floor_divide"),
        remainder: op("remainder"),
        pow: op("pow"),
        neg: op("neg"),
        abs: op("abs"),
        matmul: op("matmul"),
        lt: op("lt"),
        le: op("le"),
        gt: op("gt"),
        ge: op("ge"),
        eq: op("eq"),
        ne: op("ne"),
        and: op("logical_and"),
        or: op("logical_or"),
        xor: op("logical_xor"),
        not: op("logical_not"),
    }
});

type Other<'a, 'py> = &'a Bound<'py, PyAny>;

fn binary(slf: &Bound<'_, PyTensor>, other: Other, op: &OpRef, reflected: bool) -> PyResult<Py<PyAny>> {
    let py = slf.py();
    if let Ok(theirs) = other.cast::<PyTensor>() {
        frames::note(py)?;
        let (a, b) = if reflected { (theirs.get(), slf.get()) } else { (slf.get(), theirs.get()) };
        if let Some(outputs) = a.read_both(b, |a, b| run_small(op, a, b)) {
            return wrap(py, outputs.map_err(raise)?);
        }
    }
    let var = slf.get().var();
    let Some(other) = operand(op.name(), other, var.tensor.dtype())? else {
        return Ok(py.NotImplemented());
    };
    let inputs = if reflected { [&other, &var] } else { [&var, &other] };
    wrap(py, run(py, op.clone(), &inputs)?)
}

fn update(slf: &Bound<'_, PyTensor>, other: Other, op: &OpRef) -> PyResult<()> {
    let Some(other) = operand(op.name(), other, slf.get().read(|v| v.tensor.dtype()))? else {
        let text =
            format!("{}_: the other side is a {}; a tensor or a number is needed", op.name(), other.get_type().name()?);
        return Err(raise(Error::dtype(text)));
    };
    in_place(slf.py(), op.clone(), slf, &[other])
}

/// Bitwise on bools only: the integer ops are not there.
fn logic(slf: &Bound<'_, PyTensor>, other: Other, op: &OpRef) -> PyResult<Py<PyAny>> {
    bools_only(slf, op)?;
    binary(slf, other, op, false)
}

fn bools_only(slf: &Bound<'_, PyTensor>, op: &OpRef) -> PyResult<()> {
    let dtype = slf.get().read(|v| v.tensor.dtype());
    if dtype == DType::Bool {
        return Ok(());
    }
    let text = format!("{}: operators & | ^ ~ on {}; bool is needed (help: compare first)", op.name(), dtype.name());
    Err(raise(Error::dtype(text)))
}

#[pymethods]
impl PyTensor {
    /// A handle on the data of another tensor, without its history. `bs.tensor` makes tensors from numbers.
    #[new]
    fn py_new(data: &Bound<'_, PyTensor>) -> PyTensor {
        PyTensor::new(data.get().var().detach())
    }

    fn __add__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.add, false)
    }
    fn __radd__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.add, true)
    }
    fn __sub__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.sub, false)
    }
    fn __rsub__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.sub, true)
    }
    fn __mul__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.mul, false)
    }
    fn __rmul__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.mul, true)
    }
    fn __truediv__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.div, false)
    }
    fn __rtruediv__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.div, true)
    }
    fn __floordiv__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.floor_divide, false)
    }
    fn __rfloordiv__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.floor_divide, true)
    }
    fn __mod__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.remainder, false)
    }
    fn __rmod__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.remainder, true)
    }
    fn __pow__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>, _modulo: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.pow, false)
    }
    fn __rpow__(
        slf: &Bound<'_, PyTensor>,
        other: &Bound<'_, PyAny>,
        _modulo: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.pow, true)
    }
    fn __matmul__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.matmul, false)
    }
    fn __neg__(slf: &Bound<'_, PyTensor>) -> PyResult<Py<PyAny>> {
        wrap(slf.py(), run(slf.py(), OPERATORS.neg.clone(), &[&slf.get().var()])?)
    }
    fn __abs__(slf: &Bound<'_, PyTensor>) -> PyResult<Py<PyAny>> {
        wrap(slf.py(), run(slf.py(), OPERATORS.abs.clone(), &[&slf.get().var()])?)
    }
    fn __and__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        logic(slf, other, &OPERATORS.and)
    }
    fn __or__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        logic(slf, other, &OPERATORS.or)
    }
    fn __xor__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        logic(slf, other, &OPERATORS.xor)
    }
    fn __invert__(slf: &Bound<'_, PyTensor>) -> PyResult<Py<PyAny>> {
        bools_only(slf, &OPERATORS.not)?;
        wrap(slf.py(), run(slf.py(), OPERATORS.not.clone(), &[&slf.get().var()])?)
    }
    fn __lt__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.lt, false)
    }
    fn __le__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.le, false)
    }
    fn __gt__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.gt, false)
    }
    fn __ge__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.ge, false)
    }
    fn __eq__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.eq, false)
    }
    fn __ne__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        binary(slf, other, &OPERATORS.ne, false)
    }
    /// By identity: `==` is elementwise.
    fn __hash__(slf: &Bound<'_, PyTensor>) -> isize {
        (slf.as_ptr() as usize >> 4) as isize
    }
    fn __iadd__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        update(slf, other, &OPERATORS.add)
    }
    fn __isub__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        update(slf, other, &OPERATORS.sub)
    }
    fn __imul__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        update(slf, other, &OPERATORS.mul)
    }
    fn __itruediv__(slf: &Bound<'_, PyTensor>, other: &Bound<'_, PyAny>) -> PyResult<()> {
        update(slf, other, &OPERATORS.div)
    }

    /// The sizes of the dims.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        // Making a tuple may collect garbage, whose finalizers may ask this very tensor.
        let layout = self.read(|v| v.tensor.layout().clone());
        PyTuple::new(py, layout.shape())
    }
    /// The number of dims.
    #[getter]
    fn ndim(&self) -> usize {
        self.read(|v| v.tensor.shape().len())
    }
    /// The element type.
    #[getter]
    fn dtype(&self, py: Python<'_>) -> PyResult<Py<PyDType>> {
        object(py, self.read(|v| v.tensor.dtype()))
    }
    /// Where the elements are.
    #[getter]
    fn device(&self) -> &'static str {
        self.read(|v| v.tensor.meta.device.name())
    }
    /// The number of elements.
    fn numel(&self) -> usize {
        self.read(|v| v.tensor.numel())
    }
    /// Bytes of one element.
    fn element_size(&self) -> usize {
        self.read(|v| v.tensor.dtype().bytes())
    }
    /// Steps between neighbours on each axis, or on one, in elements.
    #[pyo3(signature = (dim=None))]
    fn stride(&self, py: Python<'_>, dim: Option<i64>) -> PyResult<Py<PyAny>> {
        let layout = self.read(|v| v.tensor.layout().clone());
        let strides = layout.strides();
        Ok(match dim {
            None => PyTuple::new(py, strides)?.into_any().unbind(),
            Some(dim) => {
                let axis = shape::dim("stride", dim, layout.shape()).map_err(raise)?;
                let step = strides.get(axis).ok_or_else(|| raise(error::dim_out_of_range("stride", dim, &[])))?;
                step.into_pyobject(py)?.into_any().unbind()
            }
        })
    }
    /// True when the elements lie in row-major order without gaps.
    fn is_contiguous(&self) -> bool {
        self.read(|v| v.tensor.layout().is_contiguous())
    }
    /// The address of the first element.
    fn data_ptr(&self) -> usize {
        self.read(|v| v.tensor.view().bytes_ptr() as usize)
    }
    /// Writes in place since the storage was made.
    #[getter]
    fn _version(&self) -> u32 {
        self.read(|v| v.tensor.storage().version())
    }
    /// True when both look at the same memory.
    fn shares_memory(&self, other: &PyTensor) -> bool {
        let other = other.var();
        self.read(|v| v.tensor.shares_storage(&other.tensor))
    }

    /// True when gradients reach this tensor.
    #[getter]
    fn requires_grad(&self) -> bool {
        self.read(Var::requires_grad)
    }
    #[setter]
    fn set_requires_grad(&self, on: bool) -> PyResult<()> {
        let var = self.var();
        if on == var.requires_grad() {
            return Ok(());
        }
        if on {
            if !var.tensor.dtype().is_float() {
                let text = format!(
                    "requires_grad: dtype {} has no gradient; a floating dtype is needed",
                    var.tensor.dtype().name()
                );
                return Err(raise(Error::dtype(text)));
            }
            self.set(Var::leaf(var.tensor));
        } else if var.is_leaf() {
            self.set(Var::constant(var.tensor));
        } else {
            return Err(raise(Error::graph("requires_grad: only a leaf can stop requiring a gradient; use detach()")));
        }
        Ok(())
    }
    /// True for a tensor that no recorded op made.
    #[getter]
    fn is_leaf(&self) -> bool {
        self.read(Var::is_leaf)
    }
    /// The name of the op that made this tensor, or None.
    #[getter]
    fn grad_fn(&self) -> Option<&'static str> {
        self.read(Var::op_name)
    }
    /// The gradient that sweeps have summed up here, or None.
    #[getter]
    fn grad(&self) -> Option<PyTensor> {
        self.gradient()
    }
    #[setter]
    fn set_grad(&self, grad: Option<&Bound<'_, PyTensor>>) -> PyResult<()> {
        let Some(grad) = grad.map(|g| g.get().var()) else { return self.drop_gradient().map_err(raise) };
        let var = self.var();
        if grad.tensor.shape() != var.tensor.shape() || grad.tensor.dtype() != var.tensor.dtype() {
            let text = format!(
                "grad: {:?} {} for a tensor of {:?} {}; shape and dtype must be equal",
                grad.tensor.shape(),
                grad.tensor.dtype().name(),
                var.tensor.shape(),
                var.tensor.dtype().name()
            );
            return Err(raise(Error::shape(text)));
        }
        let slot = var.grad_slot().ok_or_else(|| {
            raise(Error::graph("grad: this tensor does not require a gradient; call requires_grad_() first"))
        })?;
        grad.tensor.storage().retag(Category::Gradient);
        forecast::note(&slot).map_err(raise)?;
        let old = slot.grad.lock().replace(grad);
        drop(old);
        Ok(())
    }
    /// Keep the gradient of this tensor in `.grad`, though it is no leaf.
    fn retain_grad(&self) -> PyResult<()> {
        self.var().retain_grad().map_err(raise)
    }
    /// The same memory without the history.
    fn detach(&self) -> PyTensor {
        PyTensor::new(Var::constant(self.tensor()))
    }
    fn _add_hook(&self, py: Python<'_>, hook: Py<PyAny>) -> PyResult<u64> {
        autograd::add_hook(py, &self.var(), hook)
    }
    fn _remove_hook(&self, id: u64) {
        self.var().remove_hook(id);
    }
    /// Takes over the value and history of another tensor: the target of an in-place op written in Python.
    fn _become(&self, other: &PyTensor) {
        self.set(other.var());
    }

    /// The one element, as a Python number.
    fn item(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        arrays::item(py, &self.var())
    }
    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        arrays::interface(py, &self.var())
    }
    fn __len__(&self) -> PyResult<usize> {
        self.read(|v| v.tensor.shape().first().copied())
            .ok_or_else(|| pyo3::exceptions::PyTypeError::new_err("len: a 0-d tensor has no length; use item()"))
    }
    fn __bool__(&self) -> PyResult<bool> {
        let var = self.var();
        if var.tensor.numel() != 1 {
            let text = format!(
                "bool: a tensor of shape {:?} is neither true nor false; use any() or all()",
                var.tensor.shape()
            );
            return Err(raise(Error::value(text)));
        }
        has_numbers("bool", &var.tensor).map_err(raise)?;
        Ok(var.tensor.numbers().map_err(raise)?[0] != 0.0)
    }
    fn __float__(&self) -> PyResult<f64> {
        one(&self.var(), "float").map_err(raise)
    }
    fn __int__(&self) -> PyResult<i64> {
        one(&self.var(), "int").map(|v| v as i64).map_err(raise)
    }
    fn __index__(&self) -> PyResult<i64> {
        let var = self.var();
        if var.tensor.dtype().is_float() {
            return Err(pyo3::exceptions::PyTypeError::new_err(
                "index: a floating tensor is no index; cast it to int64",
            ));
        }
        one(&var, "index").map(|v| v as i64).map_err(raise)
    }
    /// The bill's category of the memory behind this tensor, or None when it belongs to somebody else.
    #[getter]
    fn _category(&self) -> Option<&'static str> {
        self.read(|v| v.tensor.storage().category()).map(Category::name)
    }
    #[setter(_category)]
    fn set_category(&self, name: &str) -> PyResult<()> {
        let category =
            Category::from_name(name).ok_or_else(|| raise(Error::value(format!("category: '{name}' is unknown"))))?;
        self.read(|v| v.tensor.storage().retag(category));
        Ok(())
    }
}

fn one(var: &Var, op: &str) -> Result<f64> {
    if var.tensor.numel() != 1 {
        return Err(Error::value(format!(
            "{op}: a tensor of shape {:?} has {} elements; one is needed",
            var.tensor.shape(),
            var.tensor.numel()
        )));
    }
    has_numbers(op, &var.tensor)?;
    Ok(var.tensor.numbers()?[0])
}

/// Errors inside a forecast, which works with shapes alone, and for what one left behind.
pub fn has_numbers(op: &str, tensor: &Tensor) -> Result<()> {
    if !crate::arena::on_paper() && !tensor.storage().is_paper() {
        return Ok(());
    }
    Err(Error::graph(format!(
        "{op}: a forecast has shapes and no numbers; leave out of the forecast step what reads a value \
         (item(), float(), numpy(), a branch on a tensor), or make it depend on shapes alone"
    )))
}
