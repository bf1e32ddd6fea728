//! The variance of some dims, with the mean beside it. Saves the input and the means.

use super::on_gpu::{self, More};
use super::sum::Total;
use super::{Over, run_fold};
use crate::arena::ledger::Category;
use crate::arena::on_paper;
use crate::device::cpu::fold::Fold;
use crate::device::cpu::rows::Float;
use crate::device::gpu::Gpu;
use crate::device::gpu::fold::How;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::args::{Args, Attribute, flag, signed};
use crate::ops::laws::{Domain, Exact, Sample};
use crate::ops::registry::Entry;
use crate::ops::{Back, Cost, Layouts, Mask, Metas, Op, OpRef, Saves, V, expect_float, expect_inputs, output};
use crate::real::Real;
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "var", build: |a| Variance::build(a, false), samples: || Variance::samples(false) });
    list.push(Entry { name: "var_mean", build: |a| Variance::build(a, true), samples: || Variance::samples(true) });
}

/// Σ (x - c)², or Σ (x - c).
#[derive(Clone, Copy)]
struct Distances {
    squared: bool,
}

impl Fold for Distances {
    const START: f64 = 0.0;
    #[inline(always)]
    fn map<R: Real>(self, x: R, center: R) -> R {
        let d = x - center;
        if self.squared { d * d } else { d }
    }
    #[inline(always)]
    fn join<R: Real>(a: R, b: R) -> R {
        a + b
    }
    #[inline(always)]
    fn finish<R: Real>(self, total: R, _center: R) -> R {
        total
    }
}

/// Σ (x - mean)² / (n - correction), and with `mean` the mean as a second result.
#[derive(Debug)]
pub struct Variance {
    over: Over,
    correction: f64,
    mean: bool,
}

impl Variance {
    fn build(args: &mut Args, mean: bool) -> Result<OpRef> {
        let over = Over::read(args)?;
        Ok(Variance { over, correction: args.float_or_none("correction")?.unwrap_or(1.0), mean }.into())
    }

    fn samples(mean: bool) -> Vec<Sample> {
        let build: fn(&mut Args) -> Result<OpRef> =
            if mean { |a| Variance::build(a, true) } else { |a| Variance::build(a, false) };
        let of = |dims: &[i64], keepdim: bool, correction: f64, x: &[usize]| {
            let attributes = [signed(dims), flag(keepdim), Attribute::Float(correction)];
            Sample::of(build, &attributes, &[(x, Domain::Any)])
        };
        vec![
            of(&[], false, 1.0, &[3, 5]),
            of(&[1], false, 0.0, &[3, 7]),
            of(&[0], true, 1.0, &[9, 37]),
            of(&[-1, 0], true, 2.5, &[2, 3, 5]),
            of(&[1], false, 1.0, &[2, 19, 3]),
            of(&[], true, 0.0, &[]),
            of(&[1], false, 1.0, &[0, 3]),
        ]
    }

    /// The degrees of freedom: none leave 0 / 0, or ∞.
    fn degrees(&self, x: &[usize]) -> Result<f64> {
        Ok((self.over.count(self.name(), x)? as f64 - self.correction).max(0.0))
    }
}

/// (Σd² - (Σd)² / n) / degrees: the second term takes out the rounding of the mean.
fn corrected<E: Float>(squares: &mut [E], sums: &[E], n: f64, degrees: f64) {
    for (square, &sum) in squares.iter_mut().zip(sums) {
        let (total, sum): (f64, f64) = ((*square).into(), sum.into());
        let rest = total - sum * sum / n;
        *square = E::from_f64(if rest < 0.0 { 0.0 } else { rest } / degrees);
    }
}

impl Op for Variance {
    fn name(&self) -> &'static str {
        if self.mean { "var_mean" } else { "var" }
    }
    fn infer(&self, x: &[&Meta], recording: bool) -> Result<Metas> {
        expect_inputs(self.name(), x, 1)?;
        expect_float(self.name(), x[0])?;
        let target = self.over.target(self.name(), x[0].shape())?;
        let mut y = output(self.name(), x, &target, x[0].dtype)?;
        if self.mean {
            y.extend(output(self.name(), x, &target, x[0].dtype)?);
        } else if recording {
            y.extend(output(self.name(), x, &target, x[0].dtype.compute())?);
        }
        Ok(y)
    }
    fn visible(&self) -> usize {
        1 + usize::from(self.mean)
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(1).and_outputs(0b10)
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 6.0)
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let flags = self.over.flags(self.name(), x[0].shape())?;
        let (n, degrees) = (self.over.count(self.name(), x[0].shape())? as f64, self.degrees(x[0].shape())?);
        let like_y = || Tensor::empty(y[0].meta.clone(), Category::Workspace);
        let spare;
        let mean = match y.get(1) {
            Some(mean) => mean,
            None => {
                spare = like_y()?;
                &spare
            }
        };
        let sums = like_y()?;
        run_fold(Total { scale: 1.0 / n }, x[0], &flags, None, mean)?;
        run_fold(Distances { squared: false }, x[0], &flags, Some(mean), &sums)?;
        run_fold(Distances { squared: true }, x[0], &flags, Some(mean), &y[0])?;
        if on_paper() {
            return Ok(());
        }
        match y[0].dtype() {
            DType::F64 => corrected::<f64>(y[0].view().out(), sums.view().slice(), n, degrees),
            _ => corrected::<f32>(y[0].view().out(), sums.view().slice(), n, degrees),
        }
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let (name, flags) = (self.name(), self.over.flags(self.name(), x[0].shape())?);
        let (n, degrees) = (self.over.count(name, x[0].shape())? as f64, self.degrees(x[0].shape())?);
        let spare;
        let mean = match y.get(1) {
            Some(mean) => mean,
            None => {
                spare = Tensor::empty(y[0].meta.clone(), Category::Workspace)?;
                &spare
            }
        };
        let with = More { second: Some(mean), numbers: [1.0 / degrees, n], ..More::default() };
        on_gpu::run(gpu, name, How::Moments, x[0], &flags, with, &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (x, shape) = (back.input(0)?, back.input_meta(0).shape());
        let n = self.over.count(self.name(), shape)? as f64;
        let scale = 2.0 / self.degrees(shape)?;
        let by_variance = match back.dy_of(0) {
            Some(dy) => {
                let mean = self.mean_of(back, x)?;
                let distance = back.sub(x, mean)?;
                let dy = self.over.kept(back, dy)?;
                let dy = back.scale(dy, scale)?;
                Some(back.mul(distance, dy)?)
            }
            None => None,
        };
        let by_mean = match back.dy_of(1) {
            Some(dy) if self.mean => {
                let dy = back.scale(dy, 1.0 / n)?;
                Some(self.over.spread(back, dy)?)
            }
            _ => None,
        };
        let dx = match (by_variance, by_mean) {
            (Some(a), Some(b)) => back.add(a, b)?,
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => return Ok(()),
        };
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let average = |group: &[f64]| group.iter().sum::<f64>() / group.len() as f64;
        let degrees = self.degrees(&x[0].shape).ok()?;
        let variance = |group: &[f64]| {
            let mean = average(group);
            group.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / degrees
        };
        let mut y = vec![self.over.exact(&x[0], variance)?];
        if self.mean {
            y.push(self.over.exact(&x[0], average)?);
        }
        Some(y)
    }
}

impl Variance {
    /// The means, with sizes of 1 where dims were reduced. With a history where one is needed.
    fn mean_of(&self, back: &mut Back, x: V) -> Result<V> {
        let mean = if back.records() { self.over.apply(back, "mean", x)? } else { back.output(1)? };
        self.over.kept(back, mean)
    }
}
