//! Average pooling and its gradient: both linear, each the other's vjp. Saves nothing.

use super::{Windows, adaptive_cases, cases, each_element, images, y_shape};
use crate::device::cpu::conv::Float;
use crate::device::cpu::pooling::{self, Divisor, Pooling};
use crate::device::gpu::{Gpu, pooling as on_gpu};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::ops::args::{Args, Attribute, flag, int, ints};
use crate::ops::laws::{Domain, Exact, Sample};
use crate::ops::registry::Entry;
use crate::ops::{Back, Cost, Layouts, Metas, Op, OpRef, expect_inputs};
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: AVERAGE, build: |a| build(a, false), samples: || samples(false) });
    list.push(Entry { name: ADAPTIVE, build: |a| build_adaptive(a, false), samples: || adaptive_samples(false) });
    list.push(Entry { name: AVERAGE_BACK, build: |a| build(a, true), samples: || samples(true) });
    list.push(Entry { name: ADAPTIVE_BACK, build: |a| build_adaptive(a, true), samples: || adaptive_samples(true) });
}

const AVERAGE: &str = "avg_pool2d";
const ADAPTIVE: &str = "adaptive_avg_pool2d";
const AVERAGE_BACK: &str = "avg_pool2d_gradient";
const ADAPTIVE_BACK: &str = "adaptive_avg_pool2d_gradient";

fn name(adaptive: bool, back: bool) -> &'static str {
    match (adaptive, back) {
        (false, false) => AVERAGE,
        (true, false) => ADAPTIVE,
        (false, true) => AVERAGE_BACK,
        (true, true) => ADAPTIVE_BACK,
    }
}

/// What the windows are, and what their sums are divided by.
#[derive(Clone, Copy, Debug)]
struct Mean {
    windows: Windows,
    divisor: Divisor,
}

fn build(args: &mut Args, back: bool) -> Result<OpRef> {
    let op = name(false, back);
    let windows = Windows::read(args, op, false)?;
    let padded = args.flag("count_include_pad")?;
    let divisor = match args.int_or_none("divisor_override")? {
        None if padded => Divisor::Padded,
        None => Divisor::Inside,
        Some(count) => {
            let given = usize::try_from(count).ok().filter(|&c| c > 0);
            Divisor::Fixed(given.ok_or_else(|| {
                Error::value(format!("{op}: divisor_override is {count}; a number above zero is needed"))
            })?)
        }
    };
    finish(args, Mean { windows, divisor }, back)
}

fn build_adaptive(args: &mut Args, back: bool) -> Result<OpRef> {
    let windows = Windows::adaptive(args, name(true, back))?;
    finish(args, Mean { windows, divisor: Divisor::Inside }, back)
}

/// A gradient is told the size of the images too.
fn finish(args: &mut Args, mean: Mean, back: bool) -> Result<OpRef> {
    if !back {
        return Ok(Average { mean }.into());
    }
    Ok(Spread { mean, size: super::pair(mean.name(true), "size", &args.sizes("size")?, 1)? }.into())
}

fn sample(back: bool, x: &[usize; 4], windows: &Windows, more: &[Attribute]) -> Sample {
    let adaptive = matches!(windows, Windows::Adaptive { .. });
    let mut attributes = windows.attributes(false);
    attributes.extend_from_slice(more);
    let build: fn(&mut Args) -> Result<OpRef> = match (adaptive, back) {
        (false, false) => |a| build(a, false),
        (false, true) => |a| build(a, true),
        (true, false) => |a| build_adaptive(a, false),
        (true, true) => |a| build_adaptive(a, true),
    };
    if !back {
        return Sample::of(build, &attributes, &[(x, Domain::Any)]);
    }
    let s = windows.on("sample", x).expect("bug: a bad sample");
    attributes.push(ints(&x[2..]));
    Sample::of(build, &attributes, &[(&y_shape(&s), Domain::Any)])
}

fn samples(back: bool) -> Vec<Sample> {
    let plain = |w: &Windows| matches!(w, Windows::Fixed { dilation: [1, 1], .. });
    let mut list = vec![];
    for (i, (x, windows)) in cases().into_iter().filter(|(_, w)| plain(w)).enumerate() {
        let fixed = if i % 3 == 2 { int(5) } else { Attribute::None };
        list.push(sample(back, &x, &windows, &[flag(i % 2 == 0), fixed]));
        list.push(sample(back, &x, &windows, &[flag(i % 2 == 1), Attribute::None]));
    }
    list
}

fn adaptive_samples(back: bool) -> Vec<Sample> {
    adaptive_cases().iter().map(|(x, windows)| sample(back, x, windows, &[])).collect()
}

impl Mean {
    fn name(&self, back: bool) -> &'static str {
        name(matches!(self.windows, Windows::Adaptive { .. }), back)
    }

    /// Σ over windows and their elements of one side into the other, naively.
    fn exact(&self, s: &Pooling, size: [usize; 2], mut add: impl FnMut(usize, usize, f64)) {
        let mut count = vec![0usize; y_shape(s).iter().product()];
        each_element(&self.windows, s, size, |y, _, _| count[y] += 1);
        let (oh, ow) = (s.rows.output(), s.cols.output());
        each_element(&self.windows, s, size, |y, x, _| {
            let divisor = match (self.divisor, self.windows) {
                (Divisor::Fixed(n), _) => n,
                (Divisor::Padded, Windows::Fixed { kernel, stride, padding, .. }) => {
                    let along = |i: usize, t: usize| kernel[i].min(size[i] + 2 * padding[i] - t * stride[i]);
                    along(0, y / ow % oh) * along(1, y % ow)
                }
                _ => count[y],
            };
            add(y, x, 1.0 / divisor as f64);
        });
    }
}

/// y = the mean of each window of x.
#[derive(Debug)]
struct Average {
    mean: Mean,
}

impl Op for Average {
    fn name(&self) -> &'static str {
        self.mean.name(false)
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(self.name(), x, 1)?;
        images(self.name(), x[0], &y_shape(&self.mean.windows.on(self.name(), x[0].shape())?))
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 1.0)
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::ChannelsLast
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let s = self.mean.windows.on(self.name(), x[0].shape())?;
        fn go<E: Float + Element>(s: &Pooling, divisor: Divisor, x: &Tensor, y: &Tensor) {
            pooling::average_forward(s, divisor, x.view().slice::<E>(), y.view().out::<E>());
        }
        let run = if y[0].dtype() == DType::F64 { go::<f64> } else { go::<f32> };
        run(&s, self.mean.divisor, x[0], &y[0]);
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let s = self.mean.windows.on(self.name(), x[0].shape())?;
        let how = on_gpu::How::Average(self.mean.divisor);
        on_gpu::pooling(gpu, self.name(), &s, how, &x[0].buffer(), &y[0].buffer())
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, x) = (back.dy(), back.input_meta(0).shape());
        let dx = back.apply(Spread { mean: self.mean, size: [x[2], x[3]] }, &[dy])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let x = &x[0];
        let s = self.mean.windows.on(self.name(), &x.shape).ok()?;
        let mut y = Exact::zeros(&y_shape(&s));
        self.mean.exact(&s, [x.shape[2], x.shape[3]], |to, from, scale| y.data[to] += x.data[from] * scale);
        Some(vec![y])
    }
}

/// dx from dy, for images of `size` h, w.
#[derive(Debug)]
struct Spread {
    mean: Mean,
    size: [usize; 2],
}

impl Spread {
    fn on(&self, dy: &[usize]) -> Result<Pooling> {
        let &[n, c, ..] = dy else {
            return Err(Error::shape(format!("{}: images {dy:?}; [n, c, h, w] is needed", self.name())));
        };
        let s = self.mean.windows.on(self.name(), &[n, c, self.size[0], self.size[1]])?;
        if dy != y_shape(&s) {
            return Err(Error::shape(format!(
                "{}: images {dy:?} for windows on {:?}; {:?} is needed",
                self.name(),
                self.size,
                y_shape(&s)
            )));
        }
        Ok(s)
    }
}

impl Op for Spread {
    fn name(&self) -> &'static str {
        self.mean.name(true)
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(self.name(), x, 1)?;
        let s = self.on(x[0].shape())?;
        images(self.name(), x[0], &[s.n, s.c, self.size[0], self.size[1]])
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 1.0)
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::ChannelsLast
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let s = self.on(x[0].shape())?;
        fn go<E: Float + Element>(s: &Pooling, divisor: Divisor, dy: &Tensor, dx: &Tensor) {
            pooling::average_backward(s, divisor, dy.view().slice::<E>(), dx.view().out::<E>());
        }
        let run = if y[0].dtype() == DType::F64 { go::<f64> } else { go::<f32> };
        run(&s, self.mean.divisor, x[0], &y[0]);
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let s = self.on(x[0].shape())?;
        let how = on_gpu::How::AverageBack(self.mean.divisor);
        on_gpu::pooling(gpu, self.name(), &s, how, &x[0].buffer(), &y[0].buffer())
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let ddx = back.dy();
        let ddy = back.apply(Average { mean: self.mean }, &[ddx])?;
        back.give(0, ddy);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let dy = &x[0];
        let s = self.on(&dy.shape).ok()?;
        let mut dx = Exact::zeros(&[s.n, s.c, self.size[0], self.size[1]]);
        self.mean.exact(&s, self.size, |from, to, scale| dx.data[to] += dy.data[from] * scale);
        Some(vec![dx])
    }
}
