//! Which line of the user's code is running, and inside which module: what every byte is tagged with.
//!
//! A line is looked up by code object and instruction, so that a repeated call costs two attribute reads and a hash.

use crate::arena::Context;
use crate::arena::names::Name;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};

/// Frames of our own package looked through before the line of the enclosing module call is taken instead.
const DEEPEST: usize = 3;
/// The same where no module call encloses them.
const DEEPEST_OUTSIDE: usize = 12;

/// A code object by its address, the instruction in it, and the line that they stand for.
type Place = (usize, i32, Name);

#[derive(Default)]
struct Seen {
    /// Code objects by address, kept alive so that an address keeps its meaning. True for code of our own package.
    codes: FxHashMap<usize, (bool, Py<PyAny>)>,
    lines: FxHashMap<(usize, i32), Name>,
    package: String,
}

// Never borrowed across a call into Python: that may collect garbage, and a finalizer may well run an op.
thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
    /// The latest place: most ops are called from where the last one was.
    static LATEST: Cell<Option<Place>> = const { Cell::new(None) };
    /// The module path and calling line of each module call in progress.
    static MODULES: RefCell<Vec<(Name, Name)>> = const { RefCell::new(vec![]) };
}

static GET_FRAME: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// The frame that is running, or one so many calls further out.
fn frame(py: Python<'_>, out: usize) -> PyResult<Bound<'_, PyAny>> {
    let get = GET_FRAME.get_or_try_init(py, || py.import("sys")?.getattr("_getframe").map(Bound::unbind))?.bind(py);
    if out == 0 { get.call0() } else { get.call1((out,)) }
}

/// True for code of our own package.
fn is_ours(py: Python<'_>, code: &Bound<'_, PyAny>) -> PyResult<bool> {
    let key = code.as_ptr() as usize;
    if let Some(ours) = SEEN.with_borrow(|seen| seen.codes.get(&key).map(|(ours, _)| *ours)) {
        return Ok(ours);
    }
    if SEEN.with_borrow(|seen| seen.package.is_empty()) {
        let file: String = py.import("backsweep")?.getattr("__file__")?.extract()?;
        SEEN.with_borrow_mut(|seen| seen.package = file.trim_end_matches("__init__.py").to_string());
    }
    let file: String = code.getattr("co_filename")?.extract()?;
    SEEN.with_borrow_mut(|seen| {
        let ours = file.starts_with(&seen.package);
        seen.codes.insert(key, (ours, code.clone().unbind()));
        Ok(ours)
    })
}

/// The line in the user's code that is running, looked for in the frames from number `first` to `deepest`.
fn user_line(py: Python<'_>, first: usize, deepest: usize) -> PyResult<Option<Name>> {
    let mut at = frame(py, first)?;
    let latest = LATEST.get();
    for _ in first..deepest {
        let code = at.getattr(pyo3::intern!(py, "f_code"))?;
        let key = code.as_ptr() as usize;
        let same = latest.filter(|latest| latest.0 == key);
        if same.is_some() || !is_ours(py, &code)? {
            let instruction: i32 = at.getattr(pyo3::intern!(py, "f_lasti"))?.extract()?;
            if let Some((_, _, name)) = same.filter(|latest| latest.1 == instruction) {
                return Ok(Some(name));
            }
            let known = SEEN.with_borrow(|seen| seen.lines.get(&(key, instruction)).copied());
            let name = match known {
                Some(name) => name,
                None => line_of(&at, &code)?,
            };
            if known.is_none() {
                SEEN.with_borrow_mut(|seen| seen.lines.insert((key, instruction), name));
            }
            LATEST.set(Some((key, instruction, name)));
            return Ok(Some(name));
        }
        let back = at.getattr(pyo3::intern!(py, "f_back"))?;
        if back.is_none() {
            return Ok(None);
        }
        at = back;
    }
    Ok(None)
}

fn line_of(frame: &Bound<'_, PyAny>, code: &Bound<'_, PyAny>) -> PyResult<Name> {
    let file: String = code.getattr("co_filename")?.extract()?;
    let line: Option<usize> = frame.getattr("f_lineno")?.extract()?;
    let file = file.rsplit(['/', '\\']).next().unwrap_or(&file).to_string();
    Ok(Name::intern(&format!("{file}:{}", line.unwrap_or(0))))
}

/// The module call in progress, and how many frames are looked through inside it.
fn module() -> ((Name, Name), usize) {
    let last = MODULES.with_borrow(|modules| modules.last().copied());
    (last.unwrap_or((Name::NONE, Name::NONE)), if last.is_some() { DEEPEST } else { DEEPEST_OUTSIDE })
}

/// Sets the context of this thread to the user's line and the module call in progress; the op names itself later.
pub fn note(py: Python<'_>) -> PyResult<()> {
    note_as(py, "")
}

/// As `note`, for what is made without an op.
pub fn note_as(py: Python<'_>, op: &'static str) -> PyResult<()> {
    let ((module, call), deepest) = module();
    let line = user_line(py, 0, deepest)?.unwrap_or(call);
    Context { op, module, line }.set();
    Ok(())
}

/// Enters a module call: what is computed until `pop_module` belongs to `path`.
#[pyfunction]
fn push_module(py: Python<'_>, path: &str) -> PyResult<()> {
    let ((_, call), deepest) = module();
    // The innermost frame is that of the module's own `__call__`.
    let line = user_line(py, 1, deepest)?.unwrap_or(call);
    MODULES.with_borrow_mut(|modules| modules.push((Name::intern(path), line)));
    Ok(())
}

#[pyfunction]
fn pop_module() {
    MODULES.with_borrow_mut(|modules| {
        modules.pop();
    });
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(push_module, m)?)?;
    m.add_function(wrap_pyfunction!(pop_module, m)?)
}
