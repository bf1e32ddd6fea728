//! Element types as Python objects, one each.

use crate::dtype::DType;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// An element type, such as `bs.float32`.
#[pyclass(name = "dtype", module = "backsweep", frozen, eq, hash)]
#[derive(PartialEq, Hash)]
pub struct PyDType(pub DType);

#[pymethods]
impl PyDType {
    /// What it is called: "float32".
    #[getter]
    fn name(&self) -> &'static str {
        self.0.name()
    }
    /// Bytes an element.
    #[getter]
    fn itemsize(&self) -> usize {
        self.0.bytes()
    }
    /// True for float16, bfloat16, float32 and float64.
    #[getter]
    fn is_floating_point(&self) -> bool {
        self.0.is_float()
    }
    fn __repr__(&self) -> String {
        format!("backsweep.{}", self.0.name())
    }
    fn __reduce__(&self) -> String {
        self.0.name().to_string()
    }
}

static OBJECTS: [PyOnceLock<Py<PyDType>>; 8] = [const { PyOnceLock::new() }; 8];

pub fn object(py: Python<'_>, dtype: DType) -> PyResult<Py<PyDType>> {
    OBJECTS[dtype as usize].get_or_try_init(py, || Py::new(py, PyDType(dtype))).map(|o| o.clone_ref(py))
}

/// The type that an operation on two types has.
#[pyfunction]
fn promote_types(py: Python<'_>, type1: &PyDType, type2: &PyDType) -> PyResult<Py<PyDType>> {
    object(py, DType::promote(type1.0, type2.0))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    for dtype in DType::ALL {
        m.add(dtype.name(), object(m.py(), dtype)?)?;
    }
    m.add_function(wrap_pyfunction!(promote_types, m)?)
}
