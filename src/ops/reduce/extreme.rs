//! The largest or smallest element along one dim, and where it is: the first of equals; NaN beats every number.

use super::on_gpu::{self, More};
use crate::device::cpu::extreme;
use crate::device::gpu::Gpu;
use crate::device::gpu::fold::How;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::ops::args::{Args, flag, int};
use crate::ops::laws::{Domain, Exact, Sample};
use crate::ops::registry::Entry;
use crate::ops::{Back, Mask, Metas, Op, OpRef, Saves, expect_inputs, output};
use crate::shape::{self, Dims};
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "max_dim", build: |a| Extreme::build(a, true), samples: || Extreme::samples(true) });
    list.push(Entry { name: "min_dim", build: |a| Extreme::build(a, false), samples: || Extreme::samples(false) });
}

/// x → values, and int64 indices along `dim`.
#[derive(Debug)]
pub struct Extreme {
    dim: i64,
    keepdim: bool,
    largest: bool,
}

impl Extreme {
    fn build(args: &mut Args, largest: bool) -> Result<OpRef> {
        Ok(Extreme { dim: args.int("dim")?, keepdim: args.flag("keepdim")?, largest }.into())
    }

    fn samples(largest: bool) -> Vec<Sample> {
        let of = |dim: i64, keepdim: bool, x: &[usize]| {
            let build: fn(&mut Args) -> Result<OpRef> =
                if largest { |a| Extreme::build(a, true) } else { |a| Extreme::build(a, false) };
            Sample::of(build, &[int(dim), flag(keepdim)], &[(x, Domain::Apart)])
        };
        vec![
            of(1, false, &[3, 5]),
            of(0, true, &[7, 3]),
            of(-2, false, &[2, 9, 3]),
            of(0, false, &[]),
            of(1, false, &[0, 3]),
        ]
    }

    fn target(&self, x: &[usize]) -> Result<Dims> {
        let dim = shape::dim(self.name(), self.dim, x)?;
        let mut shape = Dims::from(x);
        if x.get(dim) == Some(&0) {
            return Err(Error::shape(format!(
                "{}: dim {dim} of {x:?} is empty; one element or more is needed",
                self.name()
            )));
        }
        match (x.is_empty(), self.keepdim) {
            (true, _) => {}
            (false, true) => shape[dim] = 1,
            (false, false) => {
                shape.remove(dim);
            }
        }
        Ok(shape)
    }

    /// Outer size, the axis, and inner size.
    fn sizes(&self, x: &[usize]) -> [usize; 3] {
        let dim = shape::dim(self.name(), self.dim, x).unwrap_or(0);
        let inner = x.iter().skip(dim + 1).product();
        [x.iter().take(dim).product(), x.get(dim).copied().unwrap_or(1), inner]
    }
}

/// The naive reading: calls `found(line, place, value)` for each line.
fn find(x: &[f64], sizes: [usize; 3], largest: bool, mut found: impl FnMut(usize, usize, f64)) {
    let [outer, n, inner] = sizes;
    for o in 0..outer {
        for i in 0..inner {
            let at = |j: usize| x[(o * n + j) * inner + i];
            let mut best = 0;
            for j in 1..n {
                let (value, record) = (at(j), at(best));
                let wins = if largest { value > record } else { value < record };
                if wins || value.is_nan() && !record.is_nan() {
                    best = j;
                }
            }
            found(o * inner + i, best, at(best));
        }
    }
}

impl Op for Extreme {
    fn name(&self) -> &'static str {
        if self.largest { "max_dim" } else { "min_dim" }
    }
    fn visible(&self) -> usize {
        2
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(self.name(), x, 1)?;
        let shape = self.target(x[0].shape())?;
        let mut y = output(self.name(), x, &shape, x[0].dtype)?;
        y.push(Meta::contiguous(self.name(), &shape, DType::I64, x[0].device)?);
        Ok(y)
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::outputs(0b10)
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        macro_rules! along {
            ($t:ty) => {{
                let (values, places) = (y[0].view().out::<$t>(), y[1].view().out::<i64>());
                let sizes = self.sizes(x[0].shape());
                extreme::along(x[0].view().slice::<$t>(), sizes, self.largest, Some(values), places);
            }};
        }
        if y[0].numel() == 0 {
            return Ok(());
        }
        match x[0].dtype() {
            DType::Bool | DType::U8 => along!(u8),
            DType::I32 => along!(i32),
            DType::I64 => along!(i64),
            DType::F64 => along!(f64),
            _ => along!(f32),
        }
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let (name, mut flags) = (self.name(), vec![false; x[0].shape().len()]);
        if let Some(flag) = flags.get_mut(shape::dim(name, self.dim, x[0].shape())?) {
            *flag = true;
        }
        let how = if self.largest { How::LargestPlace } else { How::SmallestPlace };
        let with = More { second: Some(&y[1]), ..More::default() };
        on_gpu::run(gpu, name, how, x[0], &flags, with, &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let shape = Dims::from(back.input_meta(0).shape());
        let dtype = back.input_meta(0).dtype;
        let Some(dy) = back.dy_of(0) else { return Ok(()) };
        if shape.is_empty() {
            back.give(0, dy);
            return Ok(());
        }
        let mut kept = shape.clone();
        kept[shape::dim(self.name(), self.dim, &shape)?] = 1;
        let places = back.output(1)?;
        let (dy, places) = (back.reshape(dy, &kept)?, back.reshape(places, &kept)?);
        let zeros = back.full(0.0, &shape, dtype)?;
        let dx = back.call("scatter_add", &[zeros, places, dy], &[int(self.dim)])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let shape = self.target(&x[0].shape).ok()?;
        let (mut values, mut places) = (Exact::zeros(&shape), Exact::zeros(&shape));
        find(&x[0].data, self.sizes(&x[0].shape), self.largest, |i, j, v| {
            (values.data[i], places.data[i]) = (v, j as f64);
        });
        Some(vec![values, places])
    }
}
