//! What is running: threads, instruction set, and what the two can do at most.

use super::errors::raise;
use crate::device::cpu::{pool, roofline, simd};
use crate::ops::run::workspace;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Elements of each array of the triad: 64 MiB, beyond any cache.
const TRIAD: usize = 16 << 20;

/// Threads and instruction set in use.
#[pyfunction]
fn cpu_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("threads", pool::threads())?;
    info.set_item("simd", format!("{:?}", simd::level()).to_lowercase())?;
    Ok(info)
}

/// Measured in about a second: float32 operations a second, two for each multiply-add, and bytes a second from memory.
#[pyfunction(name = "roofline")]
fn measure(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let arrays = [workspace::<f32>(TRIAD), workspace::<f32>(TRIAD), workspace::<f32>(TRIAD)];
    let [a, b, c] = arrays.map(|array| array.map_err(raise));
    let (a, b, c) = (a?, b?, c?);
    let (flops, bytes) = py.detach(|| {
        let bytes = roofline::triad_bytes(a.view().out(), b.view().out(), c.view().out());
        (roofline::fma_flops(), bytes)
    });
    let peaks = PyDict::new(py);
    peaks.set_item("fma_flops", flops)?;
    peaks.set_item("triad_bytes", bytes)?;
    Ok(peaks)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(cpu_info, m)?)?;
    m.add_function(wrap_pyfunction!(measure, m)?)
}
