//! Captures, as Python sees them.

use super::memory::space;
use super::tensor::PyTensor;
use crate::arena::names::Name;
use crate::arena::trace::{self, Options, Span, Work};
use crate::device::gpu;
use crate::graph;
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::cell::RefCell;

thread_local! {
    static OPEN: RefCell<Vec<Span>> = const { RefCell::new(vec![]) };
}

/// Begins a capture, into a file or in memory.
#[pyfunction]
#[pyo3(signature = (path, most_events, automatic_steps))]
fn trace_start(path: Option<String>, most_events: u64, automatic_steps: bool) -> PyResult<()> {
    // What an earlier capture timed is none of this one's.
    gpu::settle_clocks();
    let named = path.clone().unwrap_or_default();
    let begun = trace::start(Options { path, most_events, automatic_steps })
        .map_err(|e| PyOSError::new_err(format!("profile: '{named}' cannot be written: {e}")))?;
    if !begun {
        return Err(PyRuntimeError::new_err("profile: a capture is running already; end that one first"));
    }
    // A graph made before the capture keeps its blocks alive as well.
    for (block, list) in graph::needs() {
        list.iter().for_each(|facts| trace::need(block, facts.id.number(), facts.context));
    }
    Ok(())
}

/// Ends the capture; returns its log, empty when it went to a file, None when none ran.
#[pyfunction]
fn trace_stop(py: Python<'_>) -> PyResult<Option<Bound<'_, PyBytes>>> {
    py.detach(gpu::settle_clocks);
    let log = trace::stop().map_err(|e| PyOSError::new_err(format!("profile: the capture is not whole: {e}")))?;
    Ok(log.map(|log| PyBytes::new(py, &log)))
}

#[pyfunction]
fn trace_on() -> bool {
    trace::on()
}

/// Adds facts, a JSON object, to the capture.
#[pyfunction]
fn trace_facts(json: &str) {
    trace::facts(json);
}

/// Ends a step.
#[pyfunction]
fn trace_step(automatic: bool) {
    trace::step(automatic);
}

/// Begins an optimizer's work on this thread, which is not recorded; `optimizer_end` must follow. Returns the grad mode before.
#[pyfunction]
fn optimizer_begin(name: &str) -> bool {
    OPEN.with_borrow_mut(|open| open.push(Span::named(Work::Optimizer, name)));
    graph::set_grad_enabled(false)
}

/// Ends it, and goes back to the grad mode that was before.
#[pyfunction]
fn optimizer_end(before: bool) {
    graph::set_grad_enabled(before);
    drop(OPEN.with_borrow_mut(Vec::pop));
}

/// For each live block of a device that the graph needs: the nodes whose vjp reads it, the next one first.
#[pyfunction]
#[pyo3(signature = (device = None))]
fn memory_needs<'py>(py: Python<'py>, device: Option<&str>) -> PyResult<Bound<'py, PyDict>> {
    let (dict, space) = (PyDict::new(py), space("memory.needs", device)?);
    for ((_, block), list) in graph::needs().into_iter().filter(|((own, _), _)| *own == space) {
        let rows = list.iter().map(|facts| {
            let row = PyDict::new(py);
            row.set_item("node", facts.id.number())?;
            row.set_item("op", facts.context.op)?;
            row.set_item("module", &*facts.context.module.text())?;
            row.set_item("line", &*facts.context.line.text())?;
            row.set_item("visits_away", facts.visits_away)?;
            Ok(row)
        });
        dict.set_item(block, rows.collect::<PyResult<Vec<_>>>()?)?;
    }
    Ok(dict)
}

/// Says in the ledger which module a tensor's memory belongs to: a path, or the one of another tensor.
#[pyfunction]
fn place(tensor: &PyTensor, module: &Bound<'_, PyAny>) -> PyResult<()> {
    let module = match module.cast::<PyTensor>() {
        Ok(other) => other.get().var().tensor.storage().module(),
        Err(_) => Name::intern(&module.extract::<String>()?),
    };
    tensor.var().tensor.storage().place(module);
    Ok(())
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(trace_start, m)?)?;
    m.add_function(wrap_pyfunction!(trace_stop, m)?)?;
    m.add_function(wrap_pyfunction!(trace_on, m)?)?;
    m.add_function(wrap_pyfunction!(trace_facts, m)?)?;
    m.add_function(wrap_pyfunction!(trace_step, m)?)?;
    m.add_function(wrap_pyfunction!(optimizer_begin, m)?)?;
    m.add_function(wrap_pyfunction!(optimizer_end, m)?)?;
    m.add_function(wrap_pyfunction!(memory_needs, m)?)?;
    m.add_function(wrap_pyfunction!(place, m)?)
}
