//! Every error the engine can return. Texts follow one form: `op: what is wrong, with the values; what would be right`.
//!
//! Imports nothing. Deliberately holds no source of panic: a panic is a bug of ours.

use std::fmt::{self, Display, Write};

/// What went wrong, as a class that callers can match on. Each has an exception of the same name in Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Shape,
    DType,
    Index,
    Value,
    Device,
    Graph,
    OutOfMemory,
    Interrupted,
    Internal,
    /// An exception raised by the user's own code (a hook, a custom function), kept by the bindings.
    Foreign,
}

#[derive(Clone, Debug)]
pub struct Error(Box<(Kind, String)>);

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Error(Box::new((kind, text.into())))
    }
    pub fn shape(text: impl Into<String>) -> Self {
        Self::new(Kind::Shape, text)
    }
    pub fn dtype(text: impl Into<String>) -> Self {
        Self::new(Kind::DType, text)
    }
    pub fn index(text: impl Into<String>) -> Self {
        Self::new(Kind::Index, text)
    }
    pub fn value(text: impl Into<String>) -> Self {
        Self::new(Kind::Value, text)
    }
    pub fn device(text: impl Into<String>) -> Self {
        Self::new(Kind::Device, text)
    }
    pub fn graph(text: impl Into<String>) -> Self {
        Self::new(Kind::Graph, text)
    }
    pub fn internal(text: impl Into<String>) -> Self {
        Self::new(Kind::Internal, text)
    }
    pub fn kind(&self) -> Kind {
        self.0.0
    }
    pub fn text(&self) -> &str {
        &self.0.1
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Error {}

/// `[2, 3]`
pub fn dims(shape: &[usize]) -> String {
    format!("{shape:?}")
}

/// `1.5 GiB`, with at most one decimal.
pub fn size(bytes: usize) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let mut text = String::new();
    let whole = unit == 0 || value.fract() == 0.0;
    let _ = if whole { write!(text, "{value:.0} {}", UNITS[unit]) } else { write!(text, "{value:.1} {}", UNITS[unit]) };
    text
}

pub fn broadcast(op: &str, a: &[usize], b: &[usize]) -> Error {
    Error::shape(format!("{op}: shapes {a:?} and {b:?} do not broadcast; from the right, sizes must be equal or 1"))
}

pub fn dim_out_of_range(op: &str, dim: i64, shape: &[usize]) -> Error {
    let rank = shape.len() as i64;
    if rank == 0 {
        return Error::index(format!("{op}: dim {dim} is out of range for a 0-d tensor; valid dims are -1 and 0"));
    }
    Error::index(format!("{op}: dim {dim} is out of range for {shape:?}; valid dims are {} to {}", -rank, rank - 1))
}

pub fn too_large(op: &str, shape: &[usize]) -> Error {
    Error::shape(format!("{op}: a tensor of shape {shape:?} has more elements than memory can address"))
}

pub fn index_out_of_range(op: &str, index: i64, size: usize) -> Error {
    let size = size as i64;
    let valid =
        if size == 0 { "there are none".to_string() } else { format!("valid indices are {} to {}", -size, size - 1) };
    Error::index(format!("{op}: index {index} is out of range for size {size}; {valid}"))
}

/// For indices that do not count from the end.
pub fn index_not_below(op: &str, index: i64, size: usize) -> Error {
    let valid = match size {
        0 => "there are none".to_string(),
        _ => format!("valid indices are 0 to {}", size - 1),
    };
    Error::index(format!("{op}: index {index} is out of range for size {size}; {valid}"))
}

pub fn class_out_of_range(op: &str, class: i64, classes: usize) -> Error {
    let last = classes as i64 - 1;
    Error::index(format!("{op}: class {class} of {classes} classes; classes are 0 to {last}"))
}

/// Of class numbers and one that is passed over.
pub fn target_out_of_range(op: &str, target: i64, classes: usize, ignore: i64) -> Error {
    let last = classes as i64 - 1;
    Error::index(format!(
        "{op}: target {target} with {classes} classes; 0 to {last} or ignore_index {ignore} is needed"
    ))
}

pub fn number_out_of_range(op: &str, number: i64, dtype: &str, (least, greatest): (i64, i64)) -> Error {
    Error::value(format!("{op}: the number {number} is out of range; {dtype} holds {least} to {greatest}"))
}

pub fn arity(op: &str, given: usize, wanted: &str) -> Error {
    Error::value(format!("{op}: {given} tensors were given; {wanted} are needed"))
}

pub fn wants_float(op: &str, dtype: &str) -> Error {
    Error::dtype(format!(
        "{op}: dtype {dtype} has no gradient or fraction; a floating dtype is needed (help: x.float())"
    ))
}

pub fn not_differentiable(op: &str) -> Error {
    Error::graph(format!("{op}: has no derivative; detach its input, or use a differentiable op"))
}

pub fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "interrupted")
}
