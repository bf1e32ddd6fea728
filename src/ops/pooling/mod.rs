//! Pooling over windows of rows and columns. What the ops share is here: which windows there are.
//!
//! Images are [n, c, h, w] by name and channels last in memory. 1-d pooling is composed in Python from one row.

mod average;
mod max;

use super::args::{Args, Attribute, flag, ints};
use super::registry::Entry;
use super::{Metas, expect_float};
use crate::device::cpu::pooling::{Axis, Pooling};
use crate::error::{Error, Result};
use crate::shape::{self, Dims, Layout};
use crate::tensor::Meta;
use smallvec::SmallVec;

pub fn register(list: &mut Vec<Entry>) {
    max::register(list);
    average::register(list);
}

/// The sizes of windows, or how many there are. Pairs are vertical, horizontal.
#[derive(Clone, Copy, Debug)]
enum Windows {
    Fixed { kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2], dilation: [usize; 2], ceil_mode: bool },
    Adaptive { output: [usize; 2] },
}

fn pair(op: &str, name: &str, list: &Dims, least: usize) -> Result<[usize; 2]> {
    match list.as_slice() {
        &[a, b] if a >= least && b >= least => Ok([a, b]),
        [_, _] => Err(Error::value(format!("{op}: {name} is {list:?}; {least} or more is needed"))),
        _ => Err(Error::value(format!("{op}: {name} is {list:?}; two sizes are needed"))),
    }
}

/// No kernel is longer, and no dilated one or stride than its square, so that products and sums of sizes do not overflow.
const LONGEST: usize = 1 << 15;

impl Windows {
    /// Kernel, stride, padding, ceil_mode, and with `dilated` the dilation.
    fn read(args: &mut Args, op: &str, dilated: bool) -> Result<Windows> {
        let kernel = pair(op, "kernel_size", &args.sizes("kernel_size")?, 1)?;
        let stride = pair(op, "stride", &args.sizes("stride")?, 1)?;
        let padding = pair(op, "padding", &args.sizes("padding")?, 0)?;
        let dilation = if dilated { pair(op, "dilation", &args.sizes("dilation")?, 1)? } else { [1; 2] };
        for i in 0..2 {
            let reach = dilation[i].checked_mul(kernel[i] - 1).and_then(|r| r.checked_add(1));
            let Some(reach) = reach.filter(|&r| kernel[i] <= LONGEST && r <= LONGEST * LONGEST) else {
                return Err(Error::value(format!("{op}: kernel_size is {kernel:?}; at most {LONGEST} is possible")));
            };
            if stride[i] > LONGEST * LONGEST {
                return Err(Error::value(format!("{op}: stride is {stride:?}; at most {LONGEST}² is possible")));
            }
            if padding[i] > reach / 2 {
                return Err(Error::value(format!(
                    "{op}: padding {} for a window of {reach}; at most half the window is needed",
                    padding[i]
                )));
            }
        }
        Ok(Windows::Fixed { kernel, stride, padding, dilation, ceil_mode: args.flag("ceil_mode")? })
    }

    fn adaptive(args: &mut Args, op: &str) -> Result<Windows> {
        Ok(Windows::Adaptive { output: pair(op, "output_size", &args.sizes("output_size")?, 0)? })
    }

    /// What `read` or `adaptive` would read.
    fn attributes(&self, dilated: bool) -> Vec<Attribute> {
        match self {
            Windows::Adaptive { output } => vec![ints(output)],
            Windows::Fixed { kernel, stride, padding, dilation, ceil_mode } => {
                let mut list = vec![ints(kernel), ints(stride), ints(padding)];
                list.extend(dilated.then(|| ints(dilation)));
                list.push(flag(*ceil_mode));
                list
            }
        }
    }

    /// The windows on images of this shape.
    fn on(&self, op: &str, x: &[usize]) -> Result<Pooling> {
        let &[n, c, h, w] = x else {
            return Err(Error::shape(format!("{op}: images {x:?}; [n, c, h, w] is needed")));
        };
        if [c, h, w].contains(&0) {
            return Err(Error::shape(format!("{op}: images {x:?}; only the number of images may be 0")));
        }
        let axis = |i: usize, size: usize| match *self {
            Windows::Adaptive { output } => Ok(Axis::adaptive(size, output[i])),
            Windows::Fixed { kernel, stride, padding, dilation, ceil_mode } => {
                let (reach, full) = (dilation[i] * (kernel[i] - 1) + 1, size + 2 * padding[i]);
                // In ceil_mode the one window may end beyond the padded input, by less than a stride.
                if reach > full + if ceil_mode { stride[i] - 1 } else { 0 } {
                    return Err(Error::shape(format!(
                        "{op}: a window of {reach} on {full} with padding {}, {} of {x:?}; the window must fit",
                        padding[i],
                        ["rows", "columns"][i]
                    )));
                }
                let axis = Axis::new(size, kernel[i], stride[i], padding[i], dilation[i], ceil_mode);
                // With dilation, all taps of a window may fall beside a short input.
                if dilation[i] > 1 && (0..axis.output()).any(|t| axis.is_empty(t)) {
                    return Err(Error::shape(format!(
                        "{op}: dilation {} and padding {} on {size}, {} of {x:?}; each window must hold an element",
                        dilation[i],
                        padding[i],
                        ["rows", "columns"][i]
                    )));
                }
                Ok(axis)
            }
        };
        let s = Pooling { n, c, rows: axis(0, h)?, cols: axis(1, w)? };
        shape::numel(op, &[n.max(1), c, s.rows.output(), s.cols.output()])?;
        Ok(s)
    }
}

fn y_shape(s: &Pooling) -> [usize; 4] {
    [s.n, s.c, s.rows.output(), s.cols.output()]
}

/// Images of the input's type, channels last.
fn images(op: &str, like: &Meta, shape: &[usize]) -> Result<Metas> {
    expect_float(op, like)?;
    let layout = Layout::channels_last(op, shape)?;
    Ok(SmallVec::from_iter([Meta { layout, dtype: like.dtype, device: like.device }]))
}

/// Calls `visit(y index, element, place)` for the elements of each window in order, the images being row-major NCHW.
/// `place` is the index of the element within its channel.
fn each_element(windows: &Windows, s: &Pooling, [h, w]: [usize; 2], mut visit: impl FnMut(usize, usize, usize)) {
    let taps = |i: usize, t: usize, size: usize| -> Vec<usize> {
        match *windows {
            Windows::Adaptive { output } => {
                let (n, m) = (size as f64, output[i] as f64);
                let (start, end) = ((t as f64 * n / m).floor(), ((t + 1) as f64 * n / m).ceil());
                (start as usize..end as usize).collect()
            }
            Windows::Fixed { kernel, stride, padding, dilation, .. } => (0..kernel[i])
                .filter_map(|k| (t * stride[i] + k * dilation[i]).checked_sub(padding[i]))
                .filter(|&at| at < size)
                .collect(),
        }
    };
    let (oh, ow) = (s.rows.output(), s.cols.output());
    for plane in 0..s.n * s.c {
        for (row, col) in (0..oh).flat_map(|row| (0..ow).map(move |col| (row, col))) {
            for &y in &taps(0, row, h) {
                for &x in &taps(1, col, w) {
                    visit((plane * oh + row) * ow + col, (plane * h + y) * w + x, y * w + x);
                }
            }
        }
    }
}

/// Windows to try ops on: (images, windows). Average pooling takes those without dilation.
fn cases() -> Vec<([usize; 4], Windows)> {
    let fixed = |x: [usize; 4], kernel, stride, padding, dilation, ceil_mode| {
        (x, Windows::Fixed { kernel, stride, padding, dilation, ceil_mode })
    };
    vec![
        fixed([2, 3, 4, 6], [2, 2], [2, 2], [0, 0], [1, 1], false),
        fixed([1, 5, 7, 5], [3, 2], [2, 1], [1, 1], [1, 1], false),
        fixed([1, 17, 5, 6], [3, 3], [2, 2], [1, 1], [1, 1], true),
        fixed([2, 2, 5, 4], [2, 3], [3, 2], [0, 1], [1, 1], true),
        fixed([2, 1, 1, 9], [1, 3], [1, 2], [0, 1], [1, 1], false),
        fixed([0, 2, 4, 4], [2, 2], [2, 2], [0, 0], [1, 1], false),
        fixed([1, 3, 7, 8], [2, 3], [1, 2], [1, 1], [2, 2], false),
        fixed([1, 2, 6, 7], [3, 2], [2, 3], [1, 1], [1, 3], true),
        fixed([1, 3, 2, 3], [3, 3], [2, 1], [0, 0], [1, 1], true),
        fixed([1, 2, 19, 18], [17, 16], [1, 2], [8, 0], [1, 1], false),
    ]
}

fn adaptive_cases() -> Vec<([usize; 4], Windows)> {
    let of = |x: [usize; 4], output| (x, Windows::Adaptive { output });
    vec![
        of([2, 3, 4, 6], [1, 1]),
        of([1, 5, 7, 5], [3, 2]),
        of([2, 2, 3, 4], [5, 4]),
        of([0, 2, 4, 4], [2, 2]),
        of([1, 2, 4, 4], [0, 2]),
    ]
}
