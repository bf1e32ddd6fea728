//! The only place that knows Python: handles, arguments, exceptions, arrays. No numbers are computed here.

mod apply;
mod arrays;
mod autograd;
mod dtype;
mod errors;
mod frames;
mod machine;
mod memory;
mod plans;
mod profiler;
mod random;
mod tensor;
mod training;

use pyo3::prelude::*;

/// The private native module. Python code under `backsweep` is its face.
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<tensor::PyTensor>()?;
    m.add_class::<dtype::PyDType>()?;
    dtype::register(m)?;
    apply::register(m)?;
    arrays::register(m)?;
    autograd::register(m)?;
    frames::register(m)?;
    machine::register(m)?;
    memory::register(m)?;
    plans::register(m)?;
    profiler::register(m)?;
    random::register(m)?;
    training::register(m)?;
    Ok(())
}
