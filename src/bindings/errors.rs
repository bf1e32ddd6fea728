//! Our errors as Python exceptions, and back. The classes are Python's own, in `backsweep.errors`.

use crate::error::{Error, Kind};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyModule;
use std::cell::RefCell;

thread_local! {
    /// The exception behind an `Error` of kind `Foreign`, on its way through the engine.
    static FOREIGN: RefCell<Option<PyErr>> = const { RefCell::new(None) };
}

fn class_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Shape => "ShapeError",
        Kind::DType => "DTypeError",
        Kind::Index => "IndexError",
        Kind::Value => "ValueError",
        Kind::Device => "DeviceError",
        Kind::Graph => "GraphError",
        Kind::OutOfMemory => "OutOfMemoryError",
        Kind::Interrupted | Kind::Internal | Kind::Foreign => "InternalError",
    }
}

/// The Python exception of an error.
pub fn raise(error: Error) -> PyErr {
    if matches!(error.kind(), Kind::Foreign | Kind::Interrupted)
        && let Some(original) = FOREIGN.take()
    {
        return original;
    }
    Python::attach(|py| {
        static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
        let class = MODULE
            .get_or_try_init(py, || PyModule::import(py, "backsweep.errors").map(Bound::unbind))
            .and_then(|m| m.bind(py).getattr(class_name(error.kind())));
        match class.and_then(|class| class.call1((error.text(),))) {
            Ok(exception) => PyErr::from_value(exception),
            Err(failure) => failure,
        }
    })
}

/// Carries an exception of the user's code through the engine.
pub fn carry(original: PyErr, kind: Kind) -> Error {
    let text = original.to_string();
    FOREIGN.set(Some(original));
    Error::new(kind, text)
}
