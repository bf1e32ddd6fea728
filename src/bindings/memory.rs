//! The bill, as Python sees it.

use super::errors::raise;
use super::tensor::PyTensor;
use crate::arena::ledger::{Category, Event, Ledger, Record, Recording, Stats};
use crate::arena::space::Space;
use crate::arena::{self, Context};
use crate::device::Device;
use crate::error::Error;
use crate::graph;
use crate::graph::budget::{self, Before};
use crate::graph::forecast;
use crate::graph::frugal;
use crate::graph::region::{self, Entered};
use crate::graph::resident::{self, Hint};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The memory of a device; the host's when none is named.
pub fn space(op: &str, device: Option<&str>) -> PyResult<Space> {
    let device = device.map_or(Ok(Device::Cpu), |name| Device::from_name(op, name));
    device.map(Device::space).map_err(raise)
}

/// Bytes live, at the peak and reserved, by category, and the counts of nodes and blocks.
#[pyfunction]
#[pyo3(signature = (device=None))]
fn memory_stats<'py>(py: Python<'py>, device: Option<&str>) -> PyResult<Bound<'py, PyDict>> {
    let space = space("memory.stats", device)?;
    let stats = arena::stats_of(space);
    let dict = PyDict::new(py);
    dict.set_item("live", stats.live)?;
    dict.set_item("peak", stats.peak)?;
    dict.set_item("reserved", arena::reserved_bytes(space))?;
    dict.set_item("limit", arena::limit(space))?;
    dict.set_item("budget", arena::budget(space))?;
    let counts = budget::counts();
    dict.set_item("evicted", counts.evicted)?;
    dict.set_item("replayed", counts.replayed)?;
    dict.set_item("replayed_seconds", counts.replayed_nanos as f64 / 1e9)?;
    for category in Category::ALL {
        dict.set_item(category.name(), stats.by_category[category as usize])?;
    }
    let at_peak = PyDict::new(py);
    for category in Category::ALL {
        at_peak.set_item(category.name(), stats.peak_by_category[category as usize])?;
    }
    dict.set_item("at_peak", at_peak)?;
    dict.set_item("nodes", graph::live_nodes())?;
    dict.set_item("blocks", stats.blocks)?;
    dict.set_item("allocations", stats.allocations)?;
    Ok(dict)
}

/// The devices whose memory has been used, the CPU first, with the bytes that were ever asked for.
#[pyfunction]
fn memory_devices() -> Vec<(&'static str, u64)> {
    let used = Space::all().map(|space| (space.name(), arena::stats_of(space).allocated));
    used.filter(|(name, allocated)| *allocated > 0 || *name == Space::HOST.name()).collect()
}

fn row<'py>(py: Python<'py>, id: u32, record: &Record) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("id", id)?;
    dict.set_item("bytes", record.bytes)?;
    dict.set_item("category", record.tag.category.name())?;
    dict.set_item("op", record.tag.op)?;
    dict.set_item("module", &*record.tag.module.text())?;
    dict.set_item("line", &*record.tag.line.text())?;
    Ok(dict)
}

/// Every live block: bytes, category, op, module, line.
#[pyfunction]
#[pyo3(signature = (device=None))]
fn memory_snapshot<'py>(py: Python<'py>, device: Option<&str>) -> PyResult<Vec<Bound<'py, PyDict>>> {
    arena::snapshot(space("memory.snapshot", device)?).iter().map(|(id, record)| row(py, *id, record)).collect()
}

#[pyfunction]
#[pyo3(signature = (device=None))]
fn reset_peak(device: Option<&str>) -> PyResult<()> {
    arena::reset_peak(space("memory.reset_peak", device)?);
    Ok(())
}

/// Sets the hard cap in bytes, None for no cap; returns the one before.
#[pyfunction]
#[pyo3(signature = (limit, device=None))]
fn set_limit(limit: Option<usize>, device: Option<&str>) -> PyResult<Option<usize>> {
    arena::set_limit(space("memory.limit", device)?, limit).map_err(raise)
}

/// A budget in force, until `restore`.
#[pyclass(frozen, module = "backsweep._core")]
struct Budget(Mutex<Option<Before>>);

#[pymethods]
impl Budget {
    /// Goes back to what was in force before.
    fn restore(&self) -> PyResult<()> {
        let before = self.0.lock().take();
        before.map_or(Ok(()), |before| before.restore().map_err(raise))
    }
}

/// Caps the live bytes of a device, kept by dropping values that can be made again; None lifts the cap. On trial it is lifted,
/// without an error, where it cannot be kept.
#[pyfunction]
#[pyo3(signature = (bytes, device = None, on_trial = false))]
fn set_budget(bytes: Option<usize>, device: Option<&str>, on_trial: bool) -> PyResult<Budget> {
    let space = space("memory.budget", device)?;
    if arena::on_paper() {
        return Err(raise(Error::graph(
            "memory.budget: a forecast says what a step needs without a budget; take the budget out of the step",
        )));
    }
    let before = budget::set(space, bytes).map_err(raise)?;
    if on_trial {
        arena::set_trial(space, bytes);
    }
    Ok(Budget(Mutex::new(Some(before))))
}

/// A checkpointed region of this thread, until `leave`.
#[pyclass(frozen, module = "backsweep._core")]
struct Region(Mutex<Option<Entered>>);

#[pymethods]
impl Region {
    /// Ends the region; `drop_values` drops what it recorded and only saved slots hold.
    fn leave(&self, drop_values: bool) {
        if let Some(entered) = self.0.lock().take() {
            entered.leave(drop_values);
        }
    }
}

#[pyfunction]
fn enter_region() -> Region {
    Region(Mutex::new(Some(region::enter())))
}

/// A forecast of this thread, until `end`; with what each memory space had before.
#[pyclass(frozen, module = "backsweep._core")]
struct Forecast(Mutex<Option<Vec<(Space, Stats)>>>);

/// Of a device: its name, the peak, the bytes asked for, and what was alive at the peak.
type Foretold<'py> = (&'static str, usize, usize, Vec<Bound<'py, PyDict>>);

#[pymethods]
impl Forecast {
    /// Puts gradients, random numbers and the peaks back as they were; returns what each device would have held.
    fn end<'py>(&self, py: Python<'py>) -> PyResult<Vec<Foretold<'py>>> {
        let Some(before) = self.0.lock().take() else { return Ok(vec![]) };
        let peaks: Vec<usize> = before.iter().map(|(space, _)| arena::stats_of(*space).peak).collect();
        let recordings: Vec<Recording> =
            before.iter().map(|(space, _)| arena::record_stop_in(*space).unwrap_or_default()).collect();
        forecast::end();
        restore_peaks(&before);
        let mut devices = vec![];
        for (((space, _), peak), recording) in before.iter().zip(peaks).zip(recordings) {
            let asked = |e: &Event| if let Event::Alloc { record, .. } = e { record.bytes } else { 0 };
            let rows = recording.at_peak().iter().map(|(id, record)| row(py, *id, record)).collect::<PyResult<_>>()?;
            devices.push((space.name(), peak, recording.events.iter().map(asked).sum(), rows));
        }
        // Of GPUs that are not there, nothing is to be said.
        devices.retain(|(name, peak, ..)| *peak > 0 || *name == Space::HOST.name());
        Ok(devices)
    }
}

/// Begins a forecast: until it ends, this thread counts bytes and computes nothing.
#[pyfunction]
fn begin_forecast() -> PyResult<Forecast> {
    let refuse = |why: &str| Err(raise(Error::graph(format!("memory.forecast: {why}"))));
    if arena::on_paper() {
        return refuse("a forecast is under way already; take the inner one out");
    }
    if Space::all().any(arena::recording) {
        return refuse("memory.record() is under way, and would record bytes that are not there; end it first");
    }
    if Space::all().any(|space| arena::budget(space).is_some()) {
        return refuse("a budget is in force, and is the peak; ask outside of the memory.budget block");
    }
    let before: Vec<(Space, Stats)> = Space::all().map(|space| (space, arena::stats_of(space))).collect();
    for space in Space::all() {
        arena::reset_peak(space);
        arena::record_start_in(space);
    }
    if let Err(error) = forecast::begin() {
        Space::all().for_each(|space| drop(arena::record_stop_in(space)));
        restore_peaks(&before);
        return Err(raise(error));
    }
    Ok(Forecast(Mutex::new(Some(before))))
}

fn restore_peaks(before: &[(Space, Stats)]) {
    before.iter().for_each(|(space, stats)| arena::restore_peak(*space, stats));
}

/// Sets up to which share of the forward that reads it a value is made again rather than kept; returns the share before.
#[pyfunction]
fn set_lean_share(share: f64) -> f64 {
    frugal::set_share(share)
}

/// Seconds that entering so many blocks into a ledger and striking them out again takes, for measuring.
#[pyfunction]
fn ledger_seconds(py: Python<'_>, blocks: usize) -> f64 {
    py.detach(|| Ledger::seconds(blocks, Context::get().tag(Category::Temporary)))
}

/// Says that the value of a tensor must be kept (True) or should be dropped first (False); False when it is not tracked.
#[pyfunction]
fn hint_value(tensor: &PyTensor, keep: bool) -> bool {
    resident::hint(&tensor.var(), if keep { Hint::Keep } else { Hint::Drop })
}

/// Starts to keep every block event.
#[pyfunction]
#[pyo3(signature = (device=None))]
fn record_start(device: Option<&str>) -> PyResult<()> {
    arena::record_start_in(space("memory.record", device)?);
    Ok(())
}

/// Ends the recording; returns the blocks alive at its peak, and all events as (kind, block, bytes, category).
#[pyfunction]
#[pyo3(signature = (device=None))]
fn record_stop<'py>(
    py: Python<'py>,
    device: Option<&str>,
) -> PyResult<(Vec<Bound<'py, PyDict>>, Vec<(&'static str, u32, usize, &'static str)>)> {
    let recording = arena::record_stop_in(space("memory.record", device)?).unwrap_or_default();
    let peak = recording.at_peak().iter().map(|(id, record)| row(py, *id, record)).collect::<PyResult<_>>()?;
    let event = |e: &Event| match e {
        Event::Alloc { id, record } => ("alloc", *id, record.bytes, record.tag.category.name()),
        Event::Free { id } => ("free", *id, 0, ""),
        Event::Retag { id, category } => ("retag", *id, 0, category.name()),
    };
    Ok((peak, recording.events.iter().map(event).collect()))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(memory_stats, m)?)?;
    m.add_function(wrap_pyfunction!(memory_devices, m)?)?;
    m.add_function(wrap_pyfunction!(memory_snapshot, m)?)?;
    m.add_function(wrap_pyfunction!(reset_peak, m)?)?;
    m.add_function(wrap_pyfunction!(set_limit, m)?)?;
    m.add_class::<Budget>()?;
    m.add_class::<Forecast>()?;
    m.add_function(wrap_pyfunction!(begin_forecast, m)?)?;
    m.add_class::<Region>()?;
    m.add_function(wrap_pyfunction!(set_budget, m)?)?;
    m.add_function(wrap_pyfunction!(enter_region, m)?)?;
    m.add_function(wrap_pyfunction!(hint_value, m)?)?;
    m.add_function(wrap_pyfunction!(set_lean_share, m)?)?;
    m.add_function(wrap_pyfunction!(ledger_seconds, m)?)?;
    m.add_function(wrap_pyfunction!(record_start, m)?)?;
    m.add_function(wrap_pyfunction!(record_stop, m)?)
}
