//! What is running: threads, instruction set, what the two can do at most, and the GPUs there are.

use super::errors::raise;
use crate::device::cpu::{pool, roofline, simd};
use crate::device::{Device, gpu};
use crate::error::Error;
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

/// The name that a device answers to; an error when it is not there.
#[pyfunction]
fn device_name(op: &str, name: &str) -> PyResult<&'static str> {
    Device::from_name(op, name).map(Device::name).map_err(raise)
}

/// The GPUs of this machine as their drivers describe them.
#[pyfunction]
fn devices(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    let list = py.detach(gpu::list);
    let row = |(n, info): (usize, &gpu::Info)| {
        let row = PyDict::new(py);
        row.set_item("name", Device::Gpu(n as u8).name())?;
        row.set_item("adapter", &info.name)?;
        row.set_item("kind", info.kind)?;
        row.set_item("backend", &info.backend)?;
        row.set_item("driver", &info.driver)?;
        Ok(row)
    };
    list.iter().enumerate().map(row).collect()
}

/// Why there is no GPU, as far as that can be known.
#[pyfunction]
fn why_no_gpu() -> String {
    gpu::why_none()
}

fn opened(device: &str) -> PyResult<&'static gpu::Gpu> {
    match Device::from_name("gpu", device).map_err(raise)? {
        Device::Gpu(number) => gpu::open(number).map_err(raise),
        Device::Cpu => Err(raise(Error::device("gpu: 'cpu' is no GPU; 'gpu' or 'gpu:1' … is needed"))),
    }
}

/// What has been sent to a GPU since it was opened.
#[pyfunction]
fn gpu_counts<'py>(py: Python<'py>, device: &str) -> PyResult<Bound<'py, PyDict>> {
    let counts = opened(device)?.counts().map_err(raise)?;
    let dict = PyDict::new(py);
    dict.set_item("dispatches", counts.dispatches)?;
    dict.set_item("submissions", counts.submissions)?;
    dict.set_item("pipelines", counts.pipelines)?;
    dict.set_item("bind_groups", counts.bind_groups)?;
    dict.set_item("param_bytes", counts.param_bytes)?;
    dict.set_item("uploaded_bytes", counts.uploaded_bytes)?;
    dict.set_item("downloaded_bytes", counts.downloaded_bytes)?;
    Ok(dict)
}

/// Waits until a GPU has done all it was asked to.
#[pyfunction]
fn gpu_wait(py: Python<'_>, device: &str) -> PyResult<()> {
    let gpu = opened(device)?;
    py.detach(|| gpu.wait()).map_err(raise)
}

/// Says whether a GPU's elementwise ops are joined with their neighbours; returns what was said before. For tests.
#[pyfunction]
fn gpu_join(device: &str, on: bool) -> PyResult<bool> {
    Ok(opened(device)?.join_ops(on))
}

/// Gives a GPU up for the rest of this process, as a driver does that crashes. For tests of what follows.
#[pyfunction]
fn gpu_lose(py: Python<'_>, device: &str) -> PyResult<()> {
    let gpu = opened(device)?;
    py.detach(|| gpu.lose());
    Ok(())
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(cpu_info, m)?)?;
    m.add_function(wrap_pyfunction!(device_name, m)?)?;
    m.add_function(wrap_pyfunction!(devices, m)?)?;
    m.add_function(wrap_pyfunction!(why_no_gpu, m)?)?;
    m.add_function(wrap_pyfunction!(gpu_counts, m)?)?;
    m.add_function(wrap_pyfunction!(gpu_wait, m)?)?;
    m.add_function(wrap_pyfunction!(gpu_join, m)?)?;
    m.add_function(wrap_pyfunction!(gpu_lose, m)?)?;
    m.add_function(wrap_pyfunction!(measure, m)?)
}
