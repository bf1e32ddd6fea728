//! Max pooling. Saves where in its window each maximum was: one byte an output for windows of up to 256 elements.

use super::{Windows, adaptive_cases, cases, each_element, images, y_shape};
use crate::arena::on_paper;
use crate::device::cpu::conv::Float;
use crate::device::cpu::pooling::{self, Offset, Pooling};
use crate::device::gpu::{Gpu, pooling as on_gpu};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::ops::args::{Args, flag};
use crate::ops::laws::{Domain, Exact, Sample};
use crate::ops::registry::Entry;
use crate::ops::{Back, Layouts, Mask, Metas, Op, OpRef, Saves, bit, expect_inputs, run};
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: MAX, build: MaxPool::build, samples: MaxPool::samples });
    list.push(Entry { name: ADAPTIVE, build: MaxPool::build_adaptive, samples: MaxPool::adaptive_samples });
}

const MAX: &str = "max_pool2d";
const ADAPTIVE: &str = "adaptive_max_pool2d";

/// The kernels count the elements of a window in f32, which is exact up to here.
const LARGEST: usize = 1 << 24;

/// y = the maximum of each window of x, the first one where there are several; with `indices` also where in its channel
/// it is, as row · width + column.
#[derive(Debug)]
struct MaxPool {
    windows: Windows,
    indices: bool,
}

impl MaxPool {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(MaxPool { windows: Windows::read(args, MAX, true)?, indices: args.flag("return_indices")? }.into())
    }

    fn build_adaptive(args: &mut Args) -> Result<OpRef> {
        Ok(MaxPool { windows: Windows::adaptive(args, ADAPTIVE)?, indices: args.flag("return_indices")? }.into())
    }

    fn samples() -> Vec<Sample> {
        Self::on_cases(Self::build, cases())
    }

    fn adaptive_samples() -> Vec<Sample> {
        Self::on_cases(Self::build_adaptive, adaptive_cases())
    }

    fn on_cases(build: fn(&mut Args) -> Result<OpRef>, cases: Vec<([usize; 4], Windows)>) -> Vec<Sample> {
        let of = |(i, (x, windows)): (usize, &([usize; 4], Windows))| {
            let mut attributes = windows.attributes(true);
            attributes.push(flag(i % 2 == 0));
            Sample::of(build, &attributes, &[(x, Domain::Apart)])
        };
        cases.iter().enumerate().map(of).collect()
    }

    /// The output that holds the offsets.
    fn extra(&self) -> usize {
        1 + usize::from(self.indices)
    }
}

/// Runs `f32` or `f64` values with either kind of offsets.
macro_rules! each_type {
    ($values:expr, $offsets:expr, $go:ident($($argument:expr),*)) => {
        match ($values, $offsets) {
            (DType::F64, DType::U8) => $go::<f64, u8>($($argument),*),
            (DType::F64, _) => $go::<f64, i32>($($argument),*),
            (_, DType::U8) => $go::<f32, u8>($($argument),*),
            _ => $go::<f32, i32>($($argument),*),
        }
    };
}

fn offsets(s: &Pooling) -> DType {
    if s.window_len() <= 256 { DType::U8 } else { DType::I32 }
}

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        if matches!(self.windows, Windows::Adaptive { .. }) { ADAPTIVE } else { MAX }
    }
    fn infer(&self, x: &[&Meta], recording: bool) -> Result<Metas> {
        expect_inputs(self.name(), x, 1)?;
        let s = self.windows.on(self.name(), x[0].shape())?;
        if s.window_len() > LARGEST {
            return Err(Error::shape(format!(
                "{}: windows of {} elements on {:?}; at most {LARGEST} are possible",
                self.name(),
                s.window_len(),
                x[0].shape()
            )));
        }
        let mut y = images(self.name(), x[0], &y_shape(&s))?;
        let more = |dtype| Meta { dtype, ..y[0].clone() };
        let (indices, offsets) = (more(DType::I64), more(offsets(&s)));
        y.extend(self.indices.then_some(indices));
        y.extend(recording.then_some(offsets));
        Ok(y)
    }
    fn visible(&self) -> usize {
        self.extra()
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::outputs(bit(self.extra()))
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::ChannelsLast
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        fn go<E: Float + Element, O: Offset + Element>(
            op: &MaxPool,
            s: &Pooling,
            x: &Tensor,
            y: &[Tensor],
        ) -> Result<()> {
            let spare;
            let offsets = match y.get(op.extra()) {
                Some(offsets) => Some(offsets),
                None if op.indices => {
                    spare = run::workspace::<O>(y[0].numel())?;
                    Some(&spare)
                }
                None => None,
            };
            if on_paper() {
                return Ok(());
            }
            let kept = offsets.map(|t| t.view().out::<O>());
            pooling::max_forward(s, x.view().slice::<E>(), y[0].view().out::<E>(), kept);
            if let (true, Some(offsets)) = (op.indices, offsets) {
                pooling::max_indices(s, offsets.view().slice::<O>(), y[1].view().out::<i64>());
            }
            Ok(())
        }
        let s = self.windows.on(self.name(), x[0].shape())?;
        each_type!(y[0].dtype(), offsets(&s), go(self, &s, x[0], y))
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let s = self.windows.on(self.name(), x[0].shape())?;
        let how = on_gpu::How::Max {
            places: y.get(self.extra()).map(Tensor::buffer),
            indices: self.indices.then(|| y[1].buffer()),
        };
        on_gpu::pooling(gpu, self.name(), &s, how, &x[0].buffer(), &y[0].buffer())
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, offsets) = (back.dy_or_zeros(0)?, back.output(self.extra())?);
        let x = back.input_meta(0).shape();
        let dx = back.apply(Scatter { windows: self.windows, size: [x[2], x[3]] }, &[dy, offsets])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let x = &x[0];
        let s = self.windows.on(self.name(), &x.shape).ok()?;
        let mut y = Exact::build(&y_shape(&s), |_| f64::NEG_INFINITY);
        let mut indices = Exact::zeros(&y_shape(&s));
        each_element(&self.windows, &s, [x.shape[2], x.shape[3]], |to, from, place| {
            if x.data[from] > y.data[to] {
                (y.data[to], indices.data[to]) = (x.data[from], place as f64);
            }
        });
        Some(if self.indices { vec![y, indices] } else { vec![y] })
    }
}

/// dx from dy: each element goes to where its maximum was, in images of `size` h, w. Linear in dy.
#[derive(Clone, Copy, Debug)]
struct Scatter {
    windows: Windows,
    size: [usize; 2],
}

/// y from x: the elements where the maxima of another tensor were. Linear in x.
#[derive(Debug)]
struct Pick {
    scatter: Scatter,
}

impl Scatter {
    fn on(&self, y: &[usize]) -> Result<Pooling> {
        self.windows.on(MAX, &[y[0], y[1], self.size[0], self.size[1]])
    }
}

impl Op for Scatter {
    fn name(&self) -> &'static str {
        MAX
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(MAX, x, 2)?;
        images(MAX, x[0], &[x[0].shape()[0], x[0].shape()[1], self.size[0], self.size[1]])
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(0b10)
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::ChannelsLast
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        fn go<E: Float + Element, O: Offset + Element>(s: &Pooling, x: &[&Tensor], y: &Tensor) {
            pooling::max_backward(s, x[0].view().slice::<E>(), x[1].view().slice::<O>(), y.view().out::<E>());
        }
        let s = self.on(x[0].shape())?;
        each_type!(y[0].dtype(), x[1].dtype(), go(&s, x, &y[0]));
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let how = on_gpu::How::Scatter { places: x[1].buffer() };
        on_gpu::pooling(gpu, MAX, &self.on(x[0].shape())?, how, &x[0].buffer(), &y[0].buffer())
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (ddx, offsets) = (back.dy(), back.input(1)?);
        let ddy = back.apply(Pick { scatter: *self }, &[ddx, offsets])?;
        back.give(0, ddy);
        Ok(())
    }
    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}

impl Op for Pick {
    fn name(&self) -> &'static str {
        MAX
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(MAX, x, 2)?;
        images(MAX, x[0], x[1].shape())
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(0b10)
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::ChannelsLast
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        fn go<E: Float + Element, O: Offset + Element>(s: &Pooling, x: &[&Tensor], y: &Tensor) {
            pooling::max_pick(s, x[0].view().slice::<E>(), x[1].view().slice::<O>(), y.view().out::<E>());
        }
        let s = self.scatter.on(y[0].shape())?;
        each_type!(y[0].dtype(), x[1].dtype(), go(&s, x, &y[0]));
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let s = self.scatter.on(y[0].shape())?;
        let how = on_gpu::How::Pick { places: x[1].buffer() };
        on_gpu::pooling(gpu, MAX, &s, how, &x[0].buffer(), &y[0].buffer())
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, offsets) = (back.dy(), back.input(1)?);
        let dx = back.apply(self.scatter, &[dy, offsets])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}
