//! Which line of the user's code is running, and inside which module: what every byte is tagged with.
//!
//! A line is looked up by code object and instruction, so that a repeated call costs two attribute reads and a hash.

use crate::arena::Context;
use crate::arena::names::Name;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use rustc_hash::FxHashMap;
use std::cell::RefCell;

/// Frames of our own package looked through before the line of the enclosing module call is taken instead.
const DEEPEST: usize = 3;
/// The same where no module call encloses them.
const DEEPEST_OUTSIDE: usize = 12;

#[derive(Default)]
struct Seen {
    /// Code objects by address, kept alive so that an address keeps its meaning. True for code of our own package.
    codes: FxHashMap<usize, (bool, Py<PyAny>)>,
    lines: FxHashMap<(usize, i32), Name>,
    package: String,
    /// The module path and calling line of each module call in progress.
    modules: Vec<(Name, Name)>,
}

thread_local! {
    static SEEN: RefCell<Seen> = RefCell::default();
}

static GET_FRAME: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

fn frame(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let get = GET_FRAME.get_or_try_init(py, || py.import("sys")?.getattr("_getframe").map(Bound::unbind))?;
    get.bind(py).call0()
}

fn user_line(py: Python<'_>, seen: &mut Seen) -> PyResult<Option<Name>> {
    let mut at = frame(py)?;
    for _ in 0..if seen.modules.is_empty() { DEEPEST_OUTSIDE } else { DEEPEST } {
        let code = at.getattr(pyo3::intern!(py, "f_code"))?;
        let key = code.as_ptr() as usize;
        let ours = match seen.codes.get(&key) {
            Some((ours, _)) => *ours,
            None => {
                if seen.package.is_empty() {
                    let file: String = py.import("backsweep")?.getattr("__file__")?.extract()?;
                    seen.package = file.trim_end_matches("__init__.py").to_string();
                }
                let file: String = code.getattr("co_filename")?.extract()?;
                let ours = file.starts_with(&seen.package);
                seen.codes.insert(key, (ours, code.unbind()));
                ours
            }
        };
        if !ours {
            let instruction: i32 = at.getattr(pyo3::intern!(py, "f_lasti"))?.extract()?;
            if let Some(name) = seen.lines.get(&(key, instruction)) {
                return Ok(Some(*name));
            }
            let code = at.getattr("f_code")?;
            let file: String = code.getattr("co_filename")?.extract()?;
            let line: Option<usize> = at.getattr("f_lineno")?.extract()?;
            let file = file.rsplit(['/', '\\']).next().unwrap_or(&file).to_string();
            let name = Name::intern(&format!("{file}:{}", line.unwrap_or(0)));
            seen.lines.insert((key, instruction), name);
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

/// Sets the context of this thread to the user's line and the module call in progress; the op names itself later.
pub fn note(py: Python<'_>) -> PyResult<()> {
    note_as(py, "")
}

/// As `note`, for what is made without an op.
pub fn note_as(py: Python<'_>, op: &'static str) -> PyResult<()> {
    SEEN.with_borrow_mut(|seen| {
        let (module, call) = seen.modules.last().copied().unwrap_or((Name::NONE, Name::NONE));
        let line = user_line(py, seen)?.unwrap_or(call);
        Context { op, module, line }.set();
        Ok(())
    })
}

/// Enters a module call: what is computed until `pop_module` belongs to `path`.
#[pyfunction]
fn push_module(py: Python<'_>, path: &str) -> PyResult<()> {
    SEEN.with_borrow_mut(|seen| {
        let outer = seen.modules.last().map_or(Name::NONE, |m| m.1);
        let line = user_line(py, seen)?.unwrap_or(outer);
        seen.modules.push((Name::intern(path), line));
        Ok(())
    })
}

#[pyfunction]
fn pop_module() {
    SEEN.with_borrow_mut(|seen| {
        seen.modules.pop();
    });
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(push_module, m)?)?;
    m.add_function(wrap_pyfunction!(pop_module, m)?)
}
