//! Random numbers, and dropout: the streams of `cpu/random`, bit for bit.

use super::Gpu;
use super::element::{reader, writer};
use super::kernel::{Bindings, Grid, Kernel, index, params, with_constants};
use super::pointwise::Buffer;
use crate::device::cpu::random::Stream;
use crate::dtype::DType;
use crate::error::Result;

params!(Params {
    n: u32,
    threads: u32,
    x_at: u32,
    key_low: u32,
    key_high: u32,
    offset_low: u32,
    offset_high: u32,
    least: u32,
    scale: f32,
    low_low: u32,
    low_high: u32,
    span_low: u32,
    span_high: u32,
});

const RANDOM: &str = concat!(include_str!("philox.wgsl"), include_str!("normal.wgsl"), include_str!("random.wgsl"));
/// Tells these texts apart from other generated ones.
const TEXT: u32 = 16;

pub(super) fn words(v: u64) -> [u32; 2] {
    [v as u32, (v >> 32) as u32]
}

fn params(op: &str, n: usize, stream: Stream) -> Result<Params> {
    let ([key_low, key_high], [offset_low, offset_high]) = (words(stream.key), words(stream.offset));
    let n = index(op, n)?;
    Ok(Params {
        n,
        threads: n,
        x_at: 0,
        key_low,
        key_high,
        offset_low,
        offset_high,
        least: 0,
        scale: 0.0,
        low_low: 0,
        low_high: 0,
        span_low: 0,
        span_high: 0,
    })
}

fn fill(gpu: &Gpu, kind: u32, x: &Buffer, y: &Buffer, params: &Params) -> Result<()> {
    assert!(y.whole, "bug: a part of a tensor is filled");
    // Where an element takes one word of the stream, a thread makes four.
    let threads = if kind == 0 || kind == 2 { params.n.div_ceil(4) } else { params.n };
    let params = Params { threads, ..*params };
    let (types, halves) =
        ([x.dtype, y.dtype].map(|dtype| if dtype.is_float() { dtype } else { DType::F32 }), gpu.halves());
    let text = || {
        let elements = reader("x", 0, types[0]) + &writer("y", 1, types[1], halves);
        with_constants(&[("KIND", kind)], Params::WGSL) + &elements + RANDOM
    };
    let key = [u32::MAX, TEXT, kind, types[0] as u32, types[1] as u32, halves.key()];
    gpu.run_text("random", &key, &text, &[x.place, y.place, y.place], &params, Grid::threads(threads as usize))
}

/// y = numbers in [0, 1), float32.
pub fn uniform(gpu: &Gpu, y: &Buffer, stream: Stream) -> Result<()> {
    fill(gpu, 0, y, y, &params("rand", y.layout.numel(), stream)?)
}

/// y = standard normal numbers, float32.
pub fn normal(gpu: &Gpu, y: &Buffer, stream: Stream) -> Result<()> {
    fill(gpu, 1, y, y, &params("randn", y.layout.numel(), stream)?)
}

/// y = int64 numbers from `low` on, `span` different ones.
pub fn integers(gpu: &Gpu, y: &Buffer, stream: Stream, low: i64, span: u64) -> Result<()> {
    // Two words of the stream each.
    index("randint", 2 * y.layout.numel())?;
    let ([low_low, low_high], [span_low, span_high]) = (words(low as u64), words(span));
    let params = Params { low_low, low_high, span_low, span_high, ..params("randint", y.layout.numel(), stream)? };
    fill(gpu, 3, y, y, &params)
}

/// What a draw's 24 bits must be below, to be below `p`.
pub(super) fn threshold(p: f64) -> u32 {
    (p * 16_777_216.0).ceil() as u32
}

/// y = x · scale with probability `p`, else 0; both contiguous floats.
pub fn keep(gpu: &Gpu, x: &Buffer, y: &Buffer, stream: Stream, p: f64, scale: f32) -> Result<()> {
    let params = Params {
        x_at: index("dropout", x.offset)?,
        least: threshold(p),
        scale,
        ..params("dropout", y.layout.numel(), stream)?
    };
    fill(gpu, 2, x, y, &params)
}

/// Of their own, as a file has one `Params`.
mod choose {
    use super::*;

    params!(Params {
        count: u32,
        samples: u32,
        n: u32,
        ends_at: u32,
        y_at: u32,
        key_low: u32,
        key_high: u32,
        offset_low: u32,
        offset_high: u32,
    });

    static CHOOSE: Kernel =
        Kernel::new("multinomial", concat!(include_str!("philox.wgsl"), include_str!("choose.wgsl")), Params::WGSL);

    /// y [rows, samples] = places drawn by the running totals `ends` [rows, n]; both contiguous int64.
    pub fn choose(gpu: &Gpu, ends: &Buffer, y: &Buffer, samples: usize, stream: Stream) -> Result<()> {
        let number = |v: usize| index("multinomial", v);
        let ([key_low, key_high], [offset_low, offset_high]) = (words(stream.key), words(stream.offset));
        // Two words of the stream each.
        number(2 * y.layout.numel())?;
        number(ends.layout.numel())?;
        let params = Params {
            count: number(y.layout.numel())?,
            samples: number(samples)?,
            n: number(*ends.layout.shape().last().expect("bug: totals of a number"))?,
            ends_at: number(ends.offset)?,
            y_at: number(y.offset)?,
            key_low,
            key_high,
            offset_low,
            offset_high,
        };
        let bindings = [ends.place, y.place];
        gpu.run(&CHOOSE, &[], Bindings::reading(1, &bindings), &params, Grid::threads(y.layout.numel()))
    }
}
pub use choose::choose;
