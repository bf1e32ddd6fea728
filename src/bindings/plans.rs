//! Steps as tapes, and plans for them, as Python sees them.

use super::errors::raise;
use super::memory::space;
use crate::error::Error;
use crate::graph::budget::{self, Before};
use crate::graph::session;
use crate::plan::gaps::Gaps;
use crate::plan::simulate::{Limit, Script, Simulator, State};
use crate::plan::tape::{Tape, ValueId};
use crate::plan::{self, Plan, Search, Summary};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::Arc;

/// The plan that the latest step under a budget followed to its end; None when it followed none.
#[pyfunction]
fn current_plan() -> Option<PyPlan> {
    session::current_plan().map(PyPlan)
}

/// Steps of this thread are taken down until `end`.
#[pyclass(frozen, module = "backsweep._core")]
struct Watch {
    before: Mutex<Option<Before>>,
    steps: usize,
}

#[pymethods]
impl Watch {
    /// The latest step that has ended since; None when there was none.
    fn end(&self) -> PyResult<Option<PyTape>> {
        let Some(before) = self.before.lock().take() else { return Ok(None) };
        session::pause();
        before.restore().map_err(raise)?;
        Ok(if session::steps() > self.steps { session::tapes().into_iter().next().map(PyTape) } else { None })
    }
}

/// Begins to take steps down, with the bytes of one device.
#[pyfunction]
#[pyo3(signature = (device = None))]
fn watch_steps(device: Option<&str>) -> PyResult<Watch> {
    let before = budget::watch(space("memory.capture", device)?).map_err(raise)?;
    Ok(Watch { steps: session::steps(), before: Mutex::new(Some(before)) })
}

/// Steps seen to their end since the process began.
#[pyfunction]
fn steps_seen() -> usize {
    session::steps()
}

/// The device whose bytes are on the tapes.
#[pyfunction]
fn steps_device() -> &'static str {
    session::space().name()
}

/// The latest step that was taken down, whoever asked for it; None when there is none after the first `seen`.
#[pyfunction]
fn latest_tape(seen: usize) -> Option<PyTape> {
    if session::steps() > seen { session::tapes().into_iter().next().map(PyTape) } else { None }
}

/// A step as the planner sees it: which ops ran, what they allocated, and which values could have been dropped meanwhile.
#[pyclass(frozen, name = "Tape", module = "backsweep._core")]
struct PyTape(Arc<Tape>);

impl PyTape {
    fn simulate(&self, state: State) -> PyResult<Summary> {
        let script = Script::of(&self.0).map_err(raise)?;
        let states = vec![state; script.gaps.len()];
        let outcome = Simulator::default().run(&script, &states, false, Limit::NONE);
        Ok(Summary { peak: outcome.peak, recompute: outcome.recompute, base: script.base_cost })
    }
}

#[pymethods]
impl PyTape {
    /// Reads what `json` wrote.
    #[staticmethod]
    fn from_json(text: &str) -> PyResult<PyTape> {
        Tape::from_json(text).map(|tape| PyTape(Arc::new(tape))).map_err(raise)
    }

    /// As text that `from_json` reads.
    fn json(&self) -> String {
        self.0.to_json()
    }

    /// Ops and visits of the sweep.
    fn __len__(&self) -> usize {
        self.0.ops.len()
    }

    fn __repr__(&self) -> PyResult<String> {
        let (ops, values) = (self.0.ops.len(), self.0.values.len());
        Ok(format!("Tape({ops} ops, {values} values, base={} bytes, peak={} bytes)", self.0.base, self.peak()?))
    }

    /// Bytes alive when the step begins.
    #[getter]
    fn base(&self) -> u64 {
        self.0.base
    }

    /// The peak in bytes when nothing is dropped.
    #[getter]
    fn peak(&self) -> PyResult<u64> {
        Ok(self.simulate(State::KEEP)?.peak)
    }

    /// Seconds of the step by the cost model.
    #[getter]
    fn seconds(&self) -> PyResult<f64> {
        Ok(self.simulate(State::KEEP)?.base)
    }

    /// The cheapest plan found for a budget in bytes. With `quick`, the first that is soon found.
    ///
    /// Raises: OutOfMemoryError when there is none; it says what would be possible.
    #[pyo3(signature = (budget, quick = false))]
    fn plan(&self, py: Python<'_>, budget: u64, quick: bool) -> PyResult<PyPlan> {
        let how = Search { quick, ..Search::default() };
        let found = py.detach(|| plan::plan(&self.0, budget, &how));
        found.map(PyPlan).map_err(|offer| raise(session::refusal(budget, &offer)))
    }

    /// The values that a plan drops: op and module that make each, its bytes, the seconds of making it, and whether it
    /// stays away to the end of each gap or comes back earlier ("late").
    fn dropped<'py>(&self, py: Python<'py>, plan: &PyPlan) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let gaps = Gaps::of(&self.0).map_err(raise)?;
        if gaps.len() != plan.0.states.len() {
            let (own, given) = (gaps.len(), plan.0.states.len());
            return Err(raise(Error::value(format!(
                "tape.dropped: a plan with {given} gaps for a tape with {own}; a plan of this tape is needed"
            ))));
        }
        let mut rows = vec![];
        for (v, value) in self.0.values.iter().enumerate() {
            let states = &plan.0.states[gaps.of_value(ValueId(v as u32))];
            if states.iter().all(|s| *s == State::KEEP) {
                continue;
            }
            let maker = &self.0.ops[value.maker as usize];
            let late = states.iter().any(|s| *s != State::KEEP && *s != State::DROP);
            let row = PyDict::new(py);
            row.set_item("value", v)?;
            row.set_item("op", &maker.name)?;
            row.set_item("module", &maker.module)?;
            row.set_item("bytes", value.bytes)?;
            row.set_item("seconds", maker.cost)?;
            row.set_item("state", if late { "late" } else { "drop" })?;
            rows.push(row);
        }
        Ok(rows)
    }

    /// The plan with the lowest peak found.
    fn least(&self, py: Python<'_>) -> PyPlan {
        PyPlan(py.detach(|| plan::least(&self.0)))
    }

    /// No plan has a lower peak, in bytes.
    fn bound(&self) -> u64 {
        plan::bound(&self.0)
    }

    /// A plan for each budget in bytes, None where there is none. More bytes never cost more time.
    fn ladder(&self, py: Python<'_>, budgets: Vec<u64>) -> Vec<Option<PyPlan>> {
        let rungs = py.detach(|| plan::ladder(&self.0, &budgets));
        rungs.into_iter().map(|(_, plan)| plan.map(PyPlan)).collect()
    }

    /// What each known method, or each of those named, by itself makes of a budget: name → (peak, recomputed seconds), or None.
    #[pyo3(signature = (budget, names = None))]
    fn methods<'py>(&self, py: Python<'py>, budget: u64, names: Option<Vec<String>>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        let asked = |name: &str| names.as_ref().is_none_or(|names| names.iter().any(|n| n == name));
        let run = || {
            let methods = plan::methods().into_iter().filter(|(name, _)| asked(name));
            methods.map(|(name, method)| (name, method(&self.0, budget))).collect()
        };
        let found: Vec<(&str, Option<Summary>)> = py.detach(run);
        for (name, summary) in found {
            dict.set_item(name, summary.map(|s| (s.peak, s.recompute)))?;
        }
        Ok(dict)
    }
}

/// What to drop and when, and what comes of it by exact simulation.
#[pyclass(frozen, name = "Plan", module = "backsweep._core")]
struct PyPlan(Plan);

#[pymethods]
impl PyPlan {
    #[staticmethod]
    fn from_json(text: &str) -> PyResult<PyPlan> {
        Plan::from_json(text).map(PyPlan).map_err(raise)
    }

    /// As text that `from_json` reads.
    fn json(&self) -> String {
        self.0.to_json()
    }

    fn __repr__(&self) -> String {
        let Plan { peak, method, .. } = &self.0;
        let share = 100.0 * self.0.recompute / self.0.base.max(f64::MIN_POSITIVE);
        format!("Plan(peak={peak} bytes, {share:.2} % more computing, found by {method})")
    }

    /// Bytes at the peak of the step.
    #[getter]
    fn peak(&self) -> u64 {
        self.0.peak
    }

    /// Seconds of forwards run again, by the cost model.
    #[getter]
    fn recompute(&self) -> f64 {
        self.0.recompute
    }

    /// Seconds of the step without them.
    #[getter]
    fn base(&self) -> f64 {
        self.0.base
    }

    /// Replays hold no more than the path they are on.
    #[getter]
    fn lean(&self) -> bool {
        self.0.lean
    }

    #[getter]
    fn method(&self) -> &'static str {
        self.0.method
    }

    /// Values dropped, over all gaps.
    #[getter]
    fn drops(&self) -> usize {
        let steps = self.0.steps.iter().filter(|step| !step.make).count();
        self.0.states.iter().filter(|s| **s != State::KEEP).count() + steps
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Watch>()?;
    m.add_class::<PyTape>()?;
    m.add_class::<PyPlan>()?;
    m.add_function(wrap_pyfunction!(watch_steps, m)?)?;
    m.add_function(wrap_pyfunction!(steps_seen, m)?)?;
    m.add_function(wrap_pyfunction!(steps_device, m)?)?;
    m.add_function(wrap_pyfunction!(latest_tape, m)?)?;
    m.add_function(wrap_pyfunction!(current_plan, m)?)
}
