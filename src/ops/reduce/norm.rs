//! The 2-norm √Σx² of some dims. Saves the input and the output.

use super::on_gpu::{self, More};
use super::{Over, run_fold};
use crate::device::cpu::fold::Fold;
use crate::device::gpu::Gpu;
use crate::device::gpu::fold::How;
use crate::error::Result;
use crate::ops::args::Args;
use crate::ops::laws::{Domain, Exact, Sample};
use crate::ops::registry::Entry;
use crate::ops::{Back, Cost, Layouts, Mask, Metas, Op, OpRef, Saves, expect_float, expect_inputs, output};
use crate::real::Real;
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "norm", build: Norm::build, samples: Norm::samples });
}

#[derive(Clone, Copy)]
struct Squares;

impl Fold for Squares {
    const START: f64 = 0.0;
    #[inline(always)]
    fn map<R: Real>(self, x: R, _center: R) -> R {
        x * x
    }
    #[inline(always)]
    fn join<R: Real>(a: R, b: R) -> R {
        a + b
    }
    #[inline(always)]
    fn finish<R: Real>(self, total: R, _center: R) -> R {
        total.sqrt()
    }
}

/// The gradient where the norm is 0 is 0: the smallest of the slopes there.
#[derive(Debug)]
pub struct Norm {
    over: Over,
}

impl Norm {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Norm { over: Over::read(args)? }.into())
    }

    fn samples() -> Vec<Sample> {
        super::samples(Self::build, Domain::Divisor, true)
    }
}

impl Op for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("norm", x, 1)?;
        expect_float("norm", x[0])?;
        output("norm", x, &self.over.target("norm", x[0].shape())?, x[0].dtype)
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
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 2.0)
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        run_fold(Squares, x[0], &self.over.flags("norm", x[0].shape())?, None, &y[0])
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let flags = self.over.flags("norm", x[0].shape())?;
        on_gpu::run(gpu, "norm", How::Norm, x[0], &flags, More::default(), &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (x, y, dy) = (back.input(0)?, back.output(0)?, back.dy());
        let dtype = back.meta(y).dtype;
        let (zero, one) = (back.number(0.0, dtype)?, back.number(1.0, dtype)?);
        let vanished = back.call("eq", &[y, zero], &[])?;
        let safe = back.call("where", &[vanished, one, y], &[])?;
        let share = back.div(dy, safe)?;
        let share = back.call("where", &[vanished, zero, share], &[])?;
        let share = self.over.kept(back, share)?;
        let dx = back.mul(x, share)?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        Some(vec![self.over.exact(&x[0], |group| group.iter().map(|v| v * v).sum::<f64>().sqrt())?])
    }
}
