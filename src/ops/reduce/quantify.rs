//! Is any element not zero, are all?

use super::Over;
use super::on_gpu::{self, More};
use crate::device::gpu::Gpu;
use crate::device::gpu::fold::How;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::args::{Args, flag, signed};
use crate::ops::laws::{Domain, Exact, Sample};
use crate::ops::registry::Entry;
use crate::ops::{Back, Layouts, Mask, Metas, Op, OpRef, expect_inputs, output};
use crate::real::Real;
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "any", build: |a| Quantify::build(a, false), samples: || Quantify::samples(false) });
    list.push(Entry { name: "all", build: |a| Quantify::build(a, true), samples: || Quantify::samples(true) });
}

#[derive(Debug)]
pub struct Quantify {
    over: Over,
    all: bool,
}

impl Quantify {
    fn build(args: &mut Args, all: bool) -> Result<OpRef> {
        Ok(Quantify { over: Over::read(args)?, all }.into())
    }

    fn samples(all: bool) -> Vec<Sample> {
        let build: fn(&mut Args) -> Result<OpRef> =
            if all { |a| Quantify::build(a, true) } else { |a| Quantify::build(a, false) };
        let mut list = super::samples(build, Domain::Mask, true);
        list.push(Sample::of(build, &[signed(&[0]), flag(false)], &[(&[3, 5], Domain::Any)]));
        list
    }
}

/// 1 where an element counts, for the maximum or the minimum of all.
#[derive(Clone, Copy)]
struct Any;

impl crate::device::cpu::fold::Fold for Any {
    const START: f64 = 0.0;
    #[inline(always)]
    fn map<R: Real>(self, x: R, _center: R) -> R {
        R::select(x.ne(R::lit(0.0)), R::lit(1.0), R::lit(0.0))
    }
    #[inline(always)]
    fn join<R: Real>(a: R, b: R) -> R {
        a.max(b)
    }
    #[inline(always)]
    fn finish<R: Real>(self, total: R, _center: R) -> R {
        total
    }
}

/// 1 where an element is zero: all are not when none is.
#[derive(Clone, Copy)]
struct NoZero;

impl crate::device::cpu::fold::Fold for NoZero {
    const START: f64 = 0.0;
    #[inline(always)]
    fn map<R: Real>(self, x: R, _center: R) -> R {
        R::select(x.eq(R::lit(0.0)), R::lit(1.0), R::lit(0.0))
    }
    #[inline(always)]
    fn join<R: Real>(a: R, b: R) -> R {
        a.max(b)
    }
    #[inline(always)]
    fn finish<R: Real>(self, total: R, _center: R) -> R {
        R::lit(1.0) - total
    }
}

impl Op for Quantify {
    fn name(&self) -> &'static str {
        if self.all { "all" } else { "any" }
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(self.name(), x, 1)?;
        output(self.name(), x, &self.over.target(self.name(), x[0].shape())?, DType::Bool)
    }
    fn differentiable(&self) -> Mask {
        0
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
        let flags = self.over.flags(self.name(), x[0].shape())?;
        if self.all {
            super::run_fold(NoZero, x[0], &flags, None, &y[0])
        } else {
            super::run_fold(Any, x[0], &flags, None, &y[0])
        }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let flags = self.over.flags(self.name(), x[0].shape())?;
        let how = if self.all { How::All } else { How::Any };
        on_gpu::run(gpu, self.name(), how, x[0], &flags, More::default(), &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let counts =
            |group: &[f64]| if self.all { group.iter().all(|v| *v != 0.0) } else { group.iter().any(|v| *v != 0.0) };
        Some(vec![self.over.exact(&x[0], |group| f64::from(u8::from(counts(group))))?])
    }
}
