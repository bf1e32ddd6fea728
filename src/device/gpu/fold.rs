//! Sums over axes, in float32.

use super::Gpu;
use super::kernel::{Grid, Kernel, index, params};
use super::pointwise::Buffer;
use crate::error::Result;
use smallvec::SmallVec;

params!(Params {
    outputs: u32,
    count: u32,
    scale: f32,
    x_at: u32,
    y_at: u32,
    kept1: u32,
    kept2: u32,
    kept3: u32,
    step0: i32,
    step1: i32,
    step2: i32,
    step3: i32,
    gone1: u32,
    gone2: u32,
    gone3: u32,
    move0: i32,
    move1: i32,
    move2: i32,
    move3: i32,
});

static FOLD: Kernel = Kernel::new("sum", include_str!("fold.wgsl"), Params::WGSL);

/// Axes of each kind that the kernel takes.
const AXES: usize = 4;

/// Below this many elements an output, a thread adds them up alone.
const ALONE: usize = 64;

/// Sizes and strides of the flagged axes, neighbours merged, filled up in front; `None` when there are too many.
fn merged(x: &Buffer, flags: &[bool], wanted: bool) -> Option<([usize; AXES], [isize; AXES])> {
    let mut list: SmallVec<[(usize, isize); 6]> = SmallVec::new();
    for (axis, _) in flags.iter().enumerate().filter(|(_, f)| **f == wanted) {
        let (size, stride) = (x.layout.shape()[axis], x.layout.strides()[axis]);
        match list.last_mut() {
            _ if size == 1 => {}
            Some(last) if last.1 == stride * size as isize => *last = (last.0 * size, stride),
            _ => list.push((size, stride)),
        }
    }
    let spare = AXES.checked_sub(list.len())?;
    let (mut sizes, mut strides) = ([1; AXES], [0; AXES]);
    for (i, (size, stride)) in list.into_iter().enumerate() {
        (sizes[spare + i], strides[spare + i]) = (size, stride);
    }
    Some((sizes, strides))
}

/// y = scale · Σ x over the flagged axes; y is contiguous, and not empty. False when x has too many axes of different
/// strides: then it must be copied first.
pub fn sum(gpu: &Gpu, op: &'static str, x: &Buffer, flags: &[bool], scale: f64, y: &Buffer) -> Result<bool> {
    let (Some((kept, steps)), Some((gone, moves))) = (merged(x, flags, false), merged(x, flags, true)) else {
        return Ok(false);
    };
    let outputs = y.layout.numel();
    let count: usize = x.layout.shape().iter().zip(flags).filter(|(_, f)| **f).map(|(&size, _)| size).product();
    let number = |v: usize| index(op, v);
    number(x.layout.numel())?;
    let params = Params {
        outputs: number(outputs)?,
        count: number(count)?,
        scale: scale as f32,
        x_at: number(x.offset)?,
        y_at: number(y.offset)?,
        kept1: kept[1] as u32,
        kept2: kept[2] as u32,
        kept3: kept[3] as u32,
        step0: steps[0] as i32,
        step1: steps[1] as i32,
        step2: steps[2] as i32,
        step3: steps[3] as i32,
        // Nothing is divided by a size of an empty sum.
        gone1: gone[1].max(1) as u32,
        gone2: gone[2].max(1) as u32,
        gone3: gone[3].max(1) as u32,
        move0: moves[0] as i32,
        move1: moves[1] as i32,
        move2: moves[2] as i32,
        move3: moves[3] as i32,
    };
    // Threads side by side read side by side where the fastest axis is a kept one.
    let across = steps[AXES - 1].unsigned_abs() <= moves[AXES - 1].unsigned_abs() && outputs >= 1024;
    let wide = count >= ALONE && !across;
    let grid = if wide { Grid::groups(outputs) } else { Grid::threads(outputs) };
    gpu.run(&FOLD, &[("WIDE", u32::from(wide))], &[x.place, y.place], &params, grid)?;
    Ok(true)
}
