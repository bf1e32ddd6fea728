//! Sums and means. Floats are summed in blocks that a wider total takes up, so that long sums stay exact.

use super::on_gpu::{self, More};
use super::{Over, run_fold};
use crate::device::cpu::fold::Fold;
use crate::device::gpu::Gpu;
use crate::device::gpu::fold::How;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::args::{Args, flag, signed};
use crate::ops::laws::{Domain, Exact, Sample};
use crate::ops::registry::Entry;
use crate::ops::{Back, Layouts, Metas, Op, OpRef, expect_float, expect_inputs, output};
use crate::real::Real;
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "sum", build: Sum::build, samples: Sum::samples });
    list.push(Entry { name: "mean", build: Mean::build, samples: Mean::samples });
}

/// The total of all elements, times a number.
#[derive(Clone, Copy)]
pub(super) struct Total {
    pub scale: f64,
}

impl Fold for Total {
    const START: f64 = 0.0;
    #[inline(always)]
    fn map<R: Real>(self, x: R, _center: R) -> R {
        x
    }
    #[inline(always)]
    fn join<R: Real>(a: R, b: R) -> R {
        a + b
    }
    #[inline(always)]
    fn finish<R: Real>(self, total: R, _center: R) -> R {
        total * self.scale
    }
}

/// Integers and bools sum to int64; an empty sum is 0.
#[derive(Debug)]
pub struct Sum {
    over: Over,
}

impl Sum {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Sum { over: Over::read(args)? }.into())
    }

    fn samples() -> Vec<Sample> {
        let mut list = super::samples(Self::build, Domain::Any, true);
        list.push(Sample::of(Self::build, &[signed(&[1]), flag(false)], &[(&[3, 5], Domain::Index(9))]));
        list.push(Sample::of(Self::build, &[signed(&[]), flag(true)], &[(&[3, 5], Domain::Mask)]));
        list
    }
}

impl Op for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("sum", x, 1)?;
        let dtype = if x[0].dtype.is_float() { x[0].dtype } else { DType::I64 };
        output("sum", x, &self.over.target("sum", x[0].shape())?, dtype)
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        run_fold(Total { scale: 1.0 }, x[0], &self.over.flags("sum", x[0].shape())?, None, &y[0])
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let with = More { numbers: [1.0, 0.0], ..More::default() };
        on_gpu::run(gpu, "sum", How::Sum, x[0], &self.over.flags("sum", x[0].shape())?, with, &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        let dx = self.over.spread(back, dy)?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        Some(vec![self.over.exact(&x[0], |group| group.iter().sum())?])
    }
}

/// The mean of no elements is NaN.
#[derive(Debug)]
pub struct Mean {
    over: Over,
}

impl Mean {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Mean { over: Over::read(args)? }.into())
    }

    fn samples() -> Vec<Sample> {
        super::samples(Self::build, Domain::Any, false)
    }
}

impl Op for Mean {
    fn name(&self) -> &'static str {
        "mean"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("mean", x, 1)?;
        expect_float("mean", x[0])?;
        output("mean", x, &self.over.target("mean", x[0].shape())?, x[0].dtype)
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let scale = 1.0 / self.over.count("mean", x[0].shape())? as f64;
        run_fold(Total { scale }, x[0], &self.over.flags("mean", x[0].shape())?, None, &y[0])
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let scale = 1.0 / self.over.count("mean", x[0].shape())? as f64;
        let with = More { numbers: [scale, 0.0], ..More::default() };
        on_gpu::run(gpu, "mean", How::Sum, x[0], &self.over.flags("mean", x[0].shape())?, with, &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let scale = 1.0 / self.over.count("mean", back.input_meta(0).shape())? as f64;
        let dy = back.dy();
        let dy = back.scale(dy, scale)?;
        let dx = self.over.spread(back, dy)?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        Some(vec![self.over.exact(&x[0], |group| group.iter().sum::<f64>() / group.len() as f64)?])
    }
}
