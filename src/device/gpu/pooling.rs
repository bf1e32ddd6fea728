//! Pooling over windows of channels-last images, and its way back, computed in float32.

use super::Gpu;
use super::element::{reader, writer};
use super::kernel::{Grid, index, params, with_constants};
use super::pointwise::Buffer;
use crate::device::cpu::pooling::{Axis, Divisor, Pooling};
use crate::dtype::DType;
use crate::error::Result;

params!(Params {
    n: u32,
    channels: i32,
    channels_u: u32,
    row_input: i32,
    row_output: i32,
    row_kernel: i32,
    row_stride: i32,
    row_padding: i32,
    row_dilation: i32,
    col_input: i32,
    col_output: i32,
    col_kernel: i32,
    col_stride: i32,
    col_padding: i32,
    col_dilation: i32,
    divisor: f32,
    x_at: u32,
    y_at: u32,
    indices_at: u32,
});

const POOLING: &str = include_str!("pooling.wgsl");
/// Tells these texts apart from other generated ones.
const TEXT: u32 = 15;

/// What is made of the windows.
#[derive(Clone, Copy)]
pub enum How<'a> {
    /// The maximum, where in its window it is, and where in its channel.
    Max {
        places: Option<Buffer<'a>>,
        indices: Option<Buffer<'a>>,
    },
    /// From each maximum to where it was.
    Scatter {
        places: Buffer<'a>,
    },
    /// The elements where the maxima of another tensor were.
    Pick {
        places: Buffer<'a>,
    },
    Average(Divisor),
    AverageBack(Divisor),
}

/// y from x; both are gapless and channels last, and places begin at their storage's start.
pub fn pooling(gpu: &Gpu, op: &'static str, s: &Pooling, how: How, x: &Buffer, y: &Buffer) -> Result<()> {
    let n = y.layout.numel();
    let number = |v: usize| index(op, v);
    let axis = |axis: &Axis| -> Result<[i32; 6]> {
        let parts = axis.parts();
        // What the kernel multiplies.
        number(parts[0].saturating_mul(parts[1] + 1))?;
        let mut list = [0; 6];
        for (to, part) in list.iter_mut().zip(parts) {
            *to = number(part)? as i32;
        }
        Ok(list)
    };
    number(x.layout.numel())?;
    let (rows, cols) = (axis(&s.rows)?, axis(&s.cols)?);
    let (places, indices, divisor) = match how {
        How::Max { places, indices } => (places, indices, None),
        How::Scatter { places } | How::Pick { places } => (Some(places), None, None),
        How::Average(divisor) | How::AverageBack(divisor) => (None, None, Some(divisor)),
    };
    let params = Params {
        n: number(n)?,
        channels: number(s.c)? as i32,
        channels_u: number(s.c.max(1))?,
        row_input: rows[0],
        row_output: rows[1],
        row_kernel: rows[2],
        row_stride: rows[3],
        row_padding: rows[4],
        row_dilation: rows[5],
        col_input: cols[0],
        col_output: cols[1],
        col_kernel: cols[2],
        col_stride: cols[3],
        col_padding: cols[4],
        col_dilation: cols[5],
        divisor: match divisor {
            Some(Divisor::Fixed(count)) => count as f32,
            _ => 1.0,
        },
        x_at: number(x.offset)?,
        y_at: number(y.offset)?,
        indices_at: number(indices.map_or(0, |b| b.offset))?,
    };
    let constants = [
        (
            "HOW",
            match how {
                How::Max { .. } => 0,
                How::Scatter { .. } => 1,
                How::Pick { .. } => 2,
                How::Average(_) => 3,
                How::AverageBack(_) => 4,
            },
        ),
        ("ADAPTIVE", u32::from(s.rows.is_adaptive())),
        ("PLACES", u32::from(places.is_some())),
        ("BYTES", u32::from(places.is_some_and(|b| b.dtype == DType::U8))),
        ("INDICES", u32::from(indices.is_some())),
        (
            "DIVISOR",
            match divisor {
                None | Some(Divisor::Inside) => 0,
                Some(Divisor::Padded) => 1,
                Some(Divisor::Fixed(_)) => 2,
            },
        ),
    ];
    gpu.expect_rounds(op, 4 * s.window_len())?;
    let place = |b: Option<Buffer>| b.map_or(y.place, |b| b.place);
    let threads = if matches!(how, How::Max { .. }) { n.div_ceil(4) } else { n };
    let bindings = [x.place, y.place, place(places), place(indices)];
    let (types, halves) = ([x.dtype, y.dtype], gpu.halves());
    let text = || {
        let elements = reader("x", 0, types[0]) + &writer("y", 1, types[1], halves);
        with_constants(&constants, Params::WGSL) + &elements + POOLING
    };
    let mut key = vec![u32::MAX, TEXT, types[0] as u32, types[1] as u32, halves.key()];
    key.extend(constants.iter().map(|(_, value)| *value));
    gpu.run_text(op, &key, &text, &bindings, &params, Grid::threads(threads))
}
