//! ln Σ eˣ over some dims, without overflow. Saves the input and the output.

use super::limit::Largest;
use super::on_gpu::{self, More};
use super::{Over, run_fold};
use crate::arena::ledger::Category;
use crate::device::cpu::fold::Fold;
use crate::device::gpu::Gpu;
use crate::device::gpu::fold::How;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::args::Args;
use crate::ops::laws::{Domain, Exact, Sample};
use crate::ops::registry::Entry;
use crate::ops::{Back, Cost, Layouts, Mask, Metas, Op, OpRef, Saves, expect_float, expect_inputs, output};
use crate::real::Real;
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "logsumexp", build: LogSumExp::build, samples: LogSumExp::samples });
}

/// The largest element is taken out before the exponential; where it is infinite nothing is, as ∞ - ∞ would be NaN.
#[derive(Clone, Copy)]
struct Exponentials;

impl Exponentials {
    #[inline(always)]
    fn shift<R: Real>(center: R) -> R {
        R::select((center * 0.0).eq(R::lit(0.0)), center, R::lit(0.0))
    }
}

impl Fold for Exponentials {
    const START: f64 = 0.0;
    #[inline(always)]
    fn map<R: Real>(self, x: R, center: R) -> R {
        (x - Self::shift(center)).exp()
    }
    #[inline(always)]
    fn join<R: Real>(a: R, b: R) -> R {
        a + b
    }
    #[inline(always)]
    fn finish<R: Real>(self, total: R, center: R) -> R {
        total.ln() + Self::shift(center)
    }
}

/// -∞ for no elements, and where all are -∞; the gradient is 0 there.
#[derive(Debug)]
pub struct LogSumExp {
    over: Over,
}

impl LogSumExp {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(LogSumExp { over: Over::read(args)? }.into())
    }

    fn samples() -> Vec<Sample> {
        super::samples(Self::build, Domain::Any, false)
    }
}

impl Op for LogSumExp {
    fn name(&self) -> &'static str {
        "logsumexp"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("logsumexp", x, 1)?;
        expect_float("logsumexp", x[0])?;
        output("logsumexp", x, &self.over.target("logsumexp", x[0].shape())?, x[0].dtype)
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(1).and_outputs(1)
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 12.0)
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let flags = self.over.flags("logsumexp", x[0].shape())?;
        let top = Tensor::empty(y[0].meta.clone(), Category::Workspace)?;
        run_fold(Largest, x[0], &flags, None, &top)?;
        run_fold(Exponentials, x[0], &flags, Some(&top), &y[0])
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let flags = self.over.flags("logsumexp", x[0].shape())?;
        let top = Tensor::empty(Meta { dtype: DType::F32, ..y[0].meta.clone() }, Category::Workspace)?;
        on_gpu::run(gpu, "logsumexp", How::Largest, x[0], &flags, More::default(), &top)?;
        let with = More { own: Some(&top), ..More::default() };
        on_gpu::run(gpu, "logsumexp", How::Exponentials, x[0], &flags, with, &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (x, y, dy) = (back.input(0)?, back.output(0)?, back.dy());
        let (y, dy) = (self.over.kept(back, y)?, self.over.kept(back, dy)?);
        let dx = back.call("exp_share", &[x, y, dy], &[])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let value = |group: &[f64]| {
            let top = group.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let shift = if top.is_finite() { top } else { 0.0 };
            group.iter().map(|v| (v - shift).exp()).sum::<f64>().ln() + shift
        };
        Some(vec![self.over.exact(&x[0], value)?])
    }
}
