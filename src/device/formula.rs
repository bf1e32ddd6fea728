//! An elementwise function, whatever reads it: SIMD lanes on the CPU, WGSL text for a GPU.

use crate::real::Real;

/// The most operands a formula may read: three inputs, the output and its gradient, and one to spare.
pub const MOST: usize = 6;

/// An elementwise function. Reads the first `ARITY` entries.
pub trait Formula: Sized + 'static {
    const ARITY: usize;
    /// True when it is ever evaluated in integers.
    const INTEGERS: bool;
    fn eval<R: Real>(x: [R; MOST]) -> R;
}
