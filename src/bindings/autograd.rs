//! The sweep, hooks, grad mode and user-defined gradients, as Python sees them.

use super::arrays::filled;
use super::errors::{carry, raise};
use super::frames;
use super::tensor::PyTensor;
use crate::device::cpu::pool;
use crate::error::{Error, Kind, Result};
use crate::graph::{self, CustomVjp, Request, Var};
use crate::tensor::Meta;
use pyo3::prelude::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a sweep looks whether Ctrl-C was pressed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Asks Python for pending signals.
fn look() -> Result<()> {
    Python::attach(|py| py.check_signals()).map_err(|e| carry(e, Kind::Interrupted))
}

/// As `look`, not more often than `LOOK_EVERY`.
fn signals() -> impl FnMut() -> Result<()> {
    let mut last = Instant::now();
    move || {
        if last.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        last = Instant::now();
        look()
    }
}

/// What a sweep starts with where no gradient is given: 1, for a tensor of one element.
fn weight(root: &Var) -> Result<Var> {
    let tensor = &root.tensor;
    if tensor.numel() != 1 {
        return Err(Error::graph(format!(
            "backward: a tensor of shape {:?} has {} elements, and a sweep starts from one; pass gradient= of this shape, \
             or reduce it first (help: loss.mean().backward())",
            tensor.shape(),
            tensor.numel()
        )));
    }
    filled(Meta::contiguous("full", tensor.shape(), tensor.dtype(), tensor.device())?, 1.0)
}

/// Runs one sweep from `roots` with their gradients, 1 where there is none. With targets, returns theirs; else adds to the
/// `.grad` of the leaves.
#[pyfunction]
fn sweep(
    py: Python<'_>,
    roots: Vec<PyRef<'_, PyTensor>>,
    gradients: Vec<Option<PyRef<'_, PyTensor>>>,
    targets: Option<Vec<PyRef<'_, PyTensor>>>,
    retain_graph: bool,
    create_graph: bool,
) -> PyResult<Vec<Option<PyTensor>>> {
    // The op that makes a gradient where none is given; each visit sets its own.
    frames::note_as(py, "full")?;
    let pair = |(root, dy): (&PyRef<PyTensor>, &Option<PyRef<PyTensor>>)| {
        let root = root.var();
        let dy = dy.as_ref().map_or_else(|| weight(&root), |dy| Ok(dy.var()))?;
        Ok((root, dy))
    };
    let roots = roots.iter().zip(&gradients).map(pair).collect::<Result<Vec<(Var, Var)>>>().map_err(raise)?;
    let targets: Option<Vec<Var>> = targets.map(|list| list.iter().map(|t| t.var()).collect());
    let found = py.detach(|| {
        let mut check = signals();
        graph::sweep(Request {
            roots: &roots,
            targets: targets.as_deref(),
            retain_graph,
            create_graph,
            check: &mut check,
        })
    });
    Ok(found.map_err(raise)?.into_iter().map(|v| v.map(PyTensor::new)).collect())
}

pub fn add_hook(_py: Python<'_>, var: &Var, hook: Py<PyAny>) -> PyResult<u64> {
    let call = move |dy: &Var| {
        Python::attach(|py| -> PyResult<Option<Var>> {
            let replaced = hook.call1(py, (PyTensor::new(dy.clone()),))?;
            let replaced: Option<PyRef<PyTensor>> = replaced.extract(py)?;
            Ok(replaced.map(|t| t.var()))
        })
        .map_err(|e| carry(e, Kind::Foreign))
    };
    var.add_hook(Arc::new(call)).map_err(raise)
}

/// True where what is computed on this thread is recorded.
#[pyfunction]
fn is_grad_enabled() -> bool {
    graph::grad_enabled()
}

/// Turns recording on or off for this thread; returns what it was.
#[pyfunction]
fn set_grad_enabled(on: bool) -> bool {
    graph::set_grad_enabled(on)
}

/// A gradient written in Python: `backward(saved, gradients)` returns one gradient, or None, for each input.
struct PythonVjp(Py<PyAny>);

impl CustomVjp for PythonVjp {
    fn vjp(&self, saved: Vec<Var>, dy: Vec<Option<Var>>) -> Result<Vec<Option<Var>>> {
        Python::attach(|py| -> PyResult<_> {
            let saved: Vec<PyTensor> = saved.into_iter().map(PyTensor::new).collect();
            let dy: Vec<Option<PyTensor>> = dy.into_iter().map(|v| v.map(PyTensor::new)).collect();
            let given: Vec<Option<PyRef<PyTensor>>> = self.0.call1(py, (saved, dy))?.extract(py)?;
            Ok(given.into_iter().map(|g| g.map(|t| t.var())).collect())
        })
        .map_err(|e| carry(e, Kind::Foreign))
    }
}

/// Records a user-defined op: `outputs`, computed without recording, get a history that calls `backward`.
#[pyfunction]
fn record_custom(
    py: Python<'_>,
    name: &str,
    inputs: Vec<PyRef<'_, PyTensor>>,
    outputs: Vec<PyRef<'_, PyTensor>>,
    saved: Vec<PyRef<'_, PyTensor>>,
    backward: Py<PyAny>,
) -> PyResult<Vec<PyTensor>> {
    frames::note(py)?;
    let vars = |list: Vec<PyRef<'_, PyTensor>>| list.iter().map(|t| t.var()).collect::<Vec<Var>>();
    let made = graph::record_custom(name, &vars(inputs), &vars(outputs), &vars(saved), Arc::new(PythonVjp(backward)));
    Ok(made.map_err(raise)?.into_iter().map(PyTensor::new).collect())
}

/// Drops the saved values behind `root` that can be made again, as a budget would. For tests of replay.
#[pyfunction]
fn drop_saved(root: &PyTensor) -> usize {
    graph::resident::drop_saved(&root.var())
}

/// Lets nodes recorded on this thread keep what their replay needs; returns what it was.
#[pyfunction]
fn set_replayable(on: bool) -> bool {
    graph::resident::set_tracking(on)
}

#[pyfunction]
fn live_nodes() -> usize {
    graph::live_nodes()
}

/// The saved values of the node that made `tensor`, as (name, tensor) for inspection.
#[pyfunction]
fn saved_values(tensor: &PyTensor) -> PyResult<Vec<(String, PyTensor)>> {
    let var = tensor.var();
    if var.node().is_none() {
        return Err(raise(Error::graph(
            "saved_values: this tensor has no history; make it from one that requires a gradient",
        )));
    }
    Ok(graph::saved_values(&var).into_iter().map(|(name, v)| (name, PyTensor::new(v))).collect())
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    pool::set_look(look);
    m.add_function(wrap_pyfunction!(sweep, m)?)?;
    m.add_function(wrap_pyfunction!(is_grad_enabled, m)?)?;
    m.add_function(wrap_pyfunction!(set_grad_enabled, m)?)?;
    m.add_function(wrap_pyfunction!(record_custom, m)?)?;
    m.add_function(wrap_pyfunction!(drop_saved, m)?)?;
    m.add_function(wrap_pyfunction!(set_replayable, m)?)?;
    m.add_function(wrap_pyfunction!(saved_values, m)?)?;
    m.add_function(wrap_pyfunction!(live_nodes, m)?)
}
