//! Running totals along an axis: floats in float32, integers in 64 bits.

use super::Gpu;
use super::element::{Number, reader};
use super::kernel::{Grid, index, params};
use super::pointwise::Buffer;
use crate::error::Result;

params!(Params { lines: u32, n: u32, inner: u32, x_at: u32, factor_at: u32, y_at: u32 });

/// Tells these texts apart from other generated ones.
const TEXT: u32 = 4;

/// Elements of a line that a group is worth, and lines that are enough for threads.
const LONG: usize = 1024;
const MANY: usize = 4096;

#[derive(Clone, Copy)]
pub enum How<'a> {
    Sum,
    Product,
    /// yₖ = xₖ + factorₖ · yₖ₋₁
    Linear(Buffer<'a>),
}

impl How<'_> {
    fn code(self) -> u32 {
        match self {
            How::Sum => 0,
            How::Product => 1,
            How::Linear(_) => 2,
        }
    }

    /// T, and WGSL of the parts.
    fn parts(self, number: Number) -> (&'static str, &'static str) {
        match (self, number) {
            // With what rounding took, so that long sums keep their digits.
            (How::Sum, Number::Float) => (
                "vec2<f32>",
                "fn join(a: T, b: T) -> T {
    let sum = a.x + b.x;
    let part = sum - a.x;
    let rest = (a.x - (sum - part)) + (b.x - part);
    return T(sum, select(0.0f, rest + a.y + b.y, m_is_finite(sum)));
}
fn first() -> T {
    return T(0.0f, 0.0f);
}
fn next(total: T, at: u32, factor: u32, alone: bool) -> T {
    return join(total, T(x_at(p.x_at + at), 0.0f));
}
fn result(total: T) -> f32 {
    return total.x + total.y;
}
",
            ),
            (How::Sum, Number::Wide) => (
                "vec2<u32>",
                "fn join(a: T, b: T) -> T {
    return i_wide_add(a, b);
}
fn first() -> T {
    return T(0u, 0u);
}
fn next(total: T, at: u32, factor: u32, alone: bool) -> T {
    return i_wide_add(total, x_at(p.x_at + at));
}
fn result(total: T) -> T {
    return total;
}
",
            ),
            // The exponent apart, so that a total may leave the range and come back.
            (How::Product, Number::Float) => (
                "vec2<f32>",
                "fn join(a: T, b: T) -> T {
    let size = a.x * b.x;
    let bits = bitcast<u32>(size);
    let own = (bits >> 23u) & 0xffu;
    let usual = own != 0u && own != 255u;
    let mantissa = bitcast<f32>((bits & 0x807fffffu) | 0x3f800000u);
    return T(select(size, mantissa, usual), a.y + b.y + select(0.0f, f32(own) - 127.0f, usual));
}
fn first() -> T {
    return T(1.0f, 0.0f);
}
fn next(total: T, at: u32, factor: u32, alone: bool) -> T {
    return join(total, join(first(), T(x_at(p.x_at + at), 0.0f)));
}
fn result(total: T) -> f32 {
    return m_scale(total.x, i32(clamp(total.y, -252.0f, 254.0f)));
}
",
            ),
            (How::Product, Number::Wide) => (
                "vec2<u32>",
                "fn join(a: T, b: T) -> T {
    return i_wide_mul(a, b);
}
fn first() -> T {
    return T(1u, 0u);
}
fn next(total: T, at: u32, factor: u32, alone: bool) -> T {
    return i_wide_mul(total, x_at(p.x_at + at));
}
fn result(total: T) -> T {
    return total;
}
",
            ),
            (How::Linear(_), _) => (
                "f32",
                "fn join(a: T, b: T) -> T {
    return b;
}
fn first() -> T {
    return 0.0f;
}
fn next(total: T, at: u32, factor: u32, alone: bool) -> T {
    if (alone) {
        return x_at(p.x_at + at);
    }
    return x_at(p.x_at + at) + factors[p.factor_at + factor] * total;
}
fn result(total: T) -> T {
    return total;
}
",
            ),
        }
    }
}

/// y from x, and from factors where there are some, all contiguous, along the middle of [outer, n, inner]. y is float32,
/// or int64 for integers.
pub fn scan(
    gpu: &Gpu,
    op: &'static str,
    how: How,
    x: &Buffer,
    [outer, n, inner]: [usize; 3],
    reverse: bool,
    y: &Buffer,
) -> Result<()> {
    let lines = outer * inner;
    let factors = if let How::Linear(factors) = how { Some(factors) } else { None };
    if lines * n == 0 {
        return Ok(());
    }
    let at = |v: usize| index(op, v);
    at(x.layout.numel())?;
    let params = Params {
        lines: at(lines)?,
        n: at(n)?,
        inner: at(inner)?,
        x_at: at(x.offset)?,
        factor_at: at(factors.map_or(0, |b| b.offset))?,
        y_at: at(y.offset)?,
    };
    let shared = matches!(how, How::Sum) && n >= LONG && lines < MANY;
    gpu.expect_rounds(op, if shared { n / 64 } else { n })?;
    let number = Number::of(x.dtype);
    let text = || {
        let (total, parts) = how.parts(number);
        let mut text =
            format!("const SHARED: u32 = {}u;\nconst REVERSE: u32 = {}u;\n", u32::from(shared), u32::from(reverse));
        text += Params::WGSL;
        text += &reader("x", 0, x.dtype);
        text += "@group(0) @binding(1) var<storage, read_write> factors: array<f32>;\n";
        text += &format!("@group(0) @binding(2) var<storage, read_write> y: array<{}>;\n", number.wgsl());
        text += &format!("alias T = {total};\n{parts}");
        text + include_str!("scan.wgsl")
    };
    let key = [u32::MAX, TEXT, how.code(), x.dtype as u32, u32::from(shared), u32::from(reverse)];
    let grid = if shared { Grid::groups(lines) } else { Grid::threads(lines) };
    gpu.run_text(op, &key, &text, &[x.place, factors.map_or(y.place, |b| b.place), y.place], &params, grid)
}
