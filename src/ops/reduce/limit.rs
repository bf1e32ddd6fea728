//! The largest and the smallest element of some dims. Ties share the gradient evenly.

use super::on_gpu::{self, More};
use super::{Over, run_fold};
use crate::device::cpu::fold::Fold;
use crate::device::gpu::Gpu;
use crate::device::gpu::fold::How;
use crate::error::{Error, Result};
use crate::ops::args::{Args, flag, ints};
use crate::ops::laws::{Domain, Exact, Sample};
use crate::ops::registry::Entry;
use crate::ops::{Back, Layouts, Mask, Metas, Op, OpRef, Saves, expect_inputs, output};
use crate::real::Real;
use crate::shape::Dims;
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "amax", build: |a| Limit::build(a, true), samples: || Limit::samples(true) });
    list.push(Entry { name: "amin", build: |a| Limit::build(a, false), samples: || Limit::samples(false) });
}

#[derive(Clone, Copy)]
pub(super) struct Largest;

impl Fold for Largest {
    const START: f64 = f64::NEG_INFINITY;
    #[inline(always)]
    fn map<R: Real>(self, x: R, _center: R) -> R {
        x
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

#[derive(Clone, Copy)]
struct Smallest;

impl Fold for Smallest {
    const START: f64 = f64::INFINITY;
    #[inline(always)]
    fn map<R: Real>(self, x: R, _center: R) -> R {
        x
    }
    #[inline(always)]
    fn join<R: Real>(a: R, b: R) -> R {
        a.min(b)
    }
    #[inline(always)]
    fn finish<R: Real>(self, total: R, _center: R) -> R {
        total
    }
}

#[derive(Debug)]
pub struct Limit {
    over: Over,
    largest: bool,
}

impl Limit {
    fn build(args: &mut Args, largest: bool) -> Result<OpRef> {
        Ok(Limit { over: Over::read(args)?, largest }.into())
    }

    fn samples(largest: bool) -> Vec<Sample> {
        let build: fn(&mut Args) -> Result<OpRef> =
            if largest { |a| Limit::build(a, true) } else { |a| Limit::build(a, false) };
        super::samples(build, Domain::Apart, false)
    }
}

impl Op for Limit {
    fn name(&self) -> &'static str {
        if self.largest { "amax" } else { "amin" }
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(self.name(), x, 1)?;
        let (name, shape) = (self.name(), x[0].shape());
        let target = self.over.target(name, shape)?;
        if self.over.count(name, shape)? == 0 && !target.contains(&0) {
            return Err(Error::shape(format!("{name}: {shape:?} has no elements there; one or more are needed")));
        }
        output(name, x, &target, x[0].dtype)
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(1).and_outputs(1)
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
        if self.largest {
            run_fold(Largest, x[0], &flags, None, &y[0])
        } else {
            run_fold(Smallest, x[0], &flags, None, &y[0])
        }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let flags = self.over.flags(self.name(), x[0].shape())?;
        let how = if self.largest { How::Largest } else { How::Smallest };
        on_gpu::run(gpu, self.name(), how, x[0], &flags, More::default(), &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (x, y, dy) = (back.input(0)?, back.output(0)?, back.dy());
        let shape = Dims::from(back.input_meta(0).shape());
        let (y, dy) = (self.over.kept(back, y)?, self.over.kept(back, dy)?);
        let equal = back.call("eq", &[x, y], &[])?;
        let share = back.cast(equal, back.input_meta(0).dtype)?;
        let flags = self.over.flags(self.name(), &shape)?;
        let dims: Dims = (0..shape.len()).filter(|&i| flags[i]).collect();
        let count = if dims.is_empty() { share } else { back.call("sum", &[share], &[ints(&dims), flag(true)])? };
        let share = back.div(share, count)?;
        let dx = back.mul(share, dy)?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let start = if self.largest { f64::NEG_INFINITY } else { f64::INFINITY };
        let pick = |a: f64, b: &f64| if self.largest { a.max(*b) } else { a.min(*b) };
        Some(vec![self.over.exact(&x[0], |group| group.iter().fold(start, pick))?])
    }
}
