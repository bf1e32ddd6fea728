//! What a kernel is: WGSL text, the numbers it is given, and how many threads it runs.
//!
//! ```ignore
//! // scale.wgsl                                       // scale.rs
//! @group(0) @binding(0)                               params!(Params { n: u32, factor: f32 });
//! var<storage, read_write> x: array<f32>;             static SCALE: Kernel =
//! @compute @workgroup_size(256)                           Kernel::new("scale", include_str!("scale.wgsl"), Params::WGSL);
//! fn main(@builtin(global_invocation_id) id: vec3<u32>,
//!         @builtin(num_workgroups) groups: vec3<u32>) {
//!     let i = thread(id, groups);                     gpu.run(&SCALE, &[], &[x.place()], &Params { n, factor },
//!     if (i < p.n) { x[i] = m_exp(x[i]) * p.factor; }         Grid::threads(n))?;
//! }
//! ```
//!
//! - `params!` writes the struct once: Rust fills it, and WGSL sees it as the uniform `p`.
//! - Bindings are whole storage blocks, in the order of `@binding`, all `read_write` (see `queue`); a tensor begins at its
//!   `offset()`, in elements, which goes into the params.
//! - A grid is flat: `thread(id, groups)` and `group(wid, groups)` number threads and groups, whatever the folding.
//! - Constants, such as a tile's size, are `const` lines in front of the text; each set of values is a pipeline of its own.
//! - Functions of `math.wgsl` (`m_exp`, `s_from_f16` …) are there when they are called.

use crate::arena::space::Place;
use crate::error::{Error, Result};
use smallvec::SmallVec;

/// A kernel of the source tree.
pub struct Kernel {
    pub name: &'static str,
    pub source: &'static str,
    /// The declaration of its params: `Params::WGSL`.
    pub params: &'static str,
}

impl Kernel {
    pub const fn new(name: &'static str, source: &'static str, params: &'static str) -> Kernel {
        Kernel { name, source, params }
    }
}

/// What a kernel sees, in the order of `@binding`.
#[derive(Clone, Copy)]
pub struct Bindings<'a> {
    pub all: &'a [Place],
    /// How many of them, from the first on, are only read.
    pub reads: usize,
}

impl<'a> Bindings<'a> {
    pub fn reading(reads: usize, all: &'a [Place]) -> Bindings<'a> {
        Bindings { all, reads }
    }
}

impl<'a> From<&'a [Place]> for Bindings<'a> {
    fn from(all: &'a [Place]) -> Bindings<'a> {
        Bindings { all, reads: 0 }
    }
}

impl<'a, const N: usize> From<&'a [Place; N]> for Bindings<'a> {
    fn from(all: &'a [Place; N]) -> Bindings<'a> {
        Bindings { all, reads: 0 }
    }
}

impl<'a, const N: usize> From<&'a SmallVec<[Place; N]>> for Bindings<'a> {
    fn from(all: &'a SmallVec<[Place; N]>) -> Bindings<'a> {
        Bindings { all, reads: 0 }
    }
}

/// Numbers that a kernel is given, four bytes each, in the order of its struct.
pub trait Params {
    fn words(&self) -> Words;
}

pub type Words = SmallVec<[u32; 32]>;

/// Room for the params of one kernel.
pub const PARAM_BYTES: usize = 512;

/// A number that stands in four bytes.
pub trait Number {
    fn word(self) -> u32;
}

impl Number for u32 {
    fn word(self) -> u32 {
        self
    }
}
impl Number for i32 {
    fn word(self) -> u32 {
        self as u32
    }
}
impl Number for f32 {
    fn word(self) -> u32 {
        self.to_bits()
    }
}

/// Params that are made at run time, for generated text.
impl Params for Words {
    fn words(&self) -> Words {
        self.clone()
    }
}

/// Declares the params of a kernel, for both sides.
#[macro_export]
macro_rules! params {
    ($name:ident { $($field:ident: $type:ident),* $(,)? }) => {
        #[derive(Clone, Copy, Debug)]
        struct $name { $($field: $type),* }
        impl $name {
            const WGSL: &'static str = concat!(
                "struct Params { ", $(stringify!($field), ": ", stringify!($type), ", "),*, "}\n",
                "@group(1) @binding(0) var<uniform> p: Params;\n"
            );
        }
        impl $crate::device::gpu::kernel::Params for $name {
            fn words(&self) -> $crate::device::gpu::kernel::Words {
                smallvec::SmallVec::from_slice(&[$($crate::device::gpu::kernel::Number::word(self.$field)),*])
            }
        }
    };
}
pub use crate::params;

/// Threads a group of kernels that count by threads.
pub const GROUP: u32 = 256;
/// The most groups along one axis of a dispatch.
const MOST_GROUPS: u64 = 65_535;

/// How many groups run, folded into two axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    pub x: u32,
    pub y: u32,
}

impl Grid {
    /// At least `n` threads, in groups of 256; the kernel returns at once in those beyond.
    pub fn threads(n: usize) -> Grid {
        Grid::groups(n.div_ceil(GROUP as usize))
    }

    /// At least `n` groups of the kernel's own size; the kernel returns at once in those beyond.
    pub fn groups(n: usize) -> Grid {
        let n = n as u64;
        let rows = n.div_ceil(MOST_GROUPS).max(1);
        // Even rows, so that few groups are too many.
        Grid { x: n.div_ceil(rows) as u32, y: rows as u32 }
    }

    pub fn is_empty(self) -> bool {
        self.x == 0 || self.y == 0
    }
}

/// An index or a count as a kernel takes it.
pub fn index(op: &str, n: usize) -> Result<u32> {
    match i32::try_from(n) {
        Ok(n) => Ok(n as u32),
        Err(_) => Err(Error::device(format!(
            "{op}: {n} elements; kernels of a GPU count to 2147483647; split the tensor (help: x.cpu() for this op)"
        ))),
    }
}

const PRELUDE: &str = include_str!("prelude.wgsl");
const MATH: &str = include_str!("math.wgsl");

/// A text behind its constants.
pub fn with_constants(constants: &[(&str, u32)], text: &str) -> String {
    let lines = constants.iter().map(|(name, value)| format!("const {name}: u32 = {value}u;\n"));
    lines.collect::<String>() + text
}

/// The whole text of a kernel: constants, params, and what it calls of the library.
pub fn assemble(constants: &[(&str, u32)], params: &str, source: &str) -> String {
    let mut text = with_constants(constants, params);
    text += PRELUDE;
    text += &library(source);
    text += source;
    text
}

/// The names among `text` that look like calls of the library; an error for one that it has not.
pub fn call_names(text: &str) -> Result<Vec<&str>> {
    let mut names: Vec<&str> = vec![];
    for (at, _) in text.match_indices('(') {
        let head = &text[..at];
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = &head[head.trim_end_matches(word).len()..];
        let ours = ["m_", "i_", "s_"].iter().any(|p| name.starts_with(p));
        if ours && !names.contains(&name) {
            names.push(name);
        }
    }
    match names.iter().find(|n| !text.contains(&format!("fn {n}(")) && piece(n).is_none()) {
        None => Ok(names),
        Some(name) => Err(Error::internal(format!("bug: there is no {name} in math.wgsl"))),
    }
}

/// A function of the library, from its `fn` to its closing brace.
fn piece(name: &str) -> Option<&'static str> {
    let start = MATH.find(&format!("\nfn {name}("))? + 1;
    let end = start + MATH[start..].find("\n}\n")? + 3;
    Some(&MATH[start..end])
}

/// The functions of the library that a text calls, directly or not, and the variables of the library they read.
fn library(source: &str) -> String {
    let mut pieces: Vec<&str> = vec![];
    let mut open: Vec<&str> = vec![source];
    let mut known: Vec<&str> = vec![];
    while let Some(text) = open.pop() {
        for name in call_names(text).unwrap_or_default() {
            if let (false, Some(piece)) = (known.contains(&name), piece(name)) {
                known.push(name);
                pieces.push(piece);
                open.push(piece);
            }
        }
    }
    let mut text = String::new();
    for start in MATH.match_indices("\nvar<private> ").map(|(at, _)| at + 1) {
        let end = start + MATH[start..].find(";\n").expect("bug: an unfinished line in math.wgsl") + 2;
        let variable = &MATH[start..end];
        let name = variable["var<private> ".len()..].split(':').next().unwrap_or_default();
        if pieces.iter().any(|p| p.contains(name)) {
            text += variable;
        }
    }
    pieces.iter().for_each(|p| text += p);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_folded_and_cover_what_was_asked() {
        assert!(Grid::threads(0).is_empty());
        assert_eq!(Grid::threads(257), Grid { x: 2, y: 1 });
        for n in [65_535usize, 65_536, 1_000_000, 123_456_789] {
            let grid = Grid::groups(n);
            assert!(u64::from(grid.x) * u64::from(grid.y) >= n as u64 && u64::from(grid.x) <= MOST_GROUPS);
            assert!(u64::from(grid.x) * u64::from(grid.y) < n as u64 + u64::from(grid.y));
        }
    }

    #[test]
    fn only_what_is_called_is_compiled() {
        let text = library("fn main() { x = m_sigmoid(y); }");
        assert!(text.contains("fn m_sigmoid(") && text.contains("fn m_exp(") && text.contains("fn m_octaves("));
        assert!(!text.contains("fn m_sin(") && !text.contains("m_two_over_pi"));
        assert!(call_names("m_nothing(x)").is_err());
    }
}
