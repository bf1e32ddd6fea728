//! Reductions: ops that bring some dims of a tensor down to one number each.
//!
//! What they share is here: which dims go, and how a fold over them is run. The ops stand in the files beside this one.

mod extreme;
mod limit;
mod logsumexp;
mod norm;
pub mod on_gpu;
mod product;
mod quantify;
mod sum;
mod variance;

use super::Back;
use super::V;
use super::args::{Args, flag, signed};
use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::run;
use crate::arena::ledger::Category;
use crate::arena::on_paper;
use crate::device::cpu::fold::{self, Fold, Plan};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::{self, Dims, Layout};
use crate::tensor::Tensor;
use smallvec::SmallVec;

pub fn register(list: &mut Vec<Entry>) {
    sum::register(list);
    extreme::register(list);
    limit::register(list);
    quantify::register(list);
    product::register(list);
    norm::register(list);
    variance::register(list);
    logsumexp::register(list);
}

/// The dims that a reduction takes away, and whether they stay as sizes of 1. No dims means all of them.
#[derive(Clone, Debug)]
pub struct Over {
    dims: SmallVec<[i64; 6]>,
    keepdim: bool,
}

type Flags = SmallVec<[bool; 4]>;

impl Over {
    pub fn read(args: &mut Args) -> Result<Over> {
        Ok(Over { dims: args.ints("dim")?, keepdim: args.flag("keepdim")? })
    }

    /// One flag a dim: true where it is reduced.
    pub fn flags(&self, op: &str, shape: &[usize]) -> Result<Flags> {
        shape::dims(op, &self.dims, shape)
    }

    /// The shape of the result.
    pub fn target(&self, op: &str, shape: &[usize]) -> Result<Dims> {
        let flags = self.flags(op, shape)?;
        let left = |(&size, &gone): (&usize, &bool)| match gone {
            true => self.keepdim.then_some(1),
            false => Some(size),
        };
        Ok(shape.iter().zip(&flags).filter_map(left).collect())
    }

    /// How many elements become one.
    pub fn count(&self, op: &str, shape: &[usize]) -> Result<usize> {
        Ok(shape.iter().zip(self.flags(op, shape)?).filter(|(_, gone)| *gone).map(|(&size, _)| size).product())
    }

    /// A value of the result's shape, with sizes of 1 where dims were reduced, so that it broadcasts against the input.
    pub fn kept(&self, back: &mut Back, v: V) -> Result<V> {
        let x = back.input_meta(0);
        let kept = Over { dims: self.dims.clone(), keepdim: true }.target("reshape", x.shape())?;
        back.reshape(v, &kept)
    }

    /// Another reduction over the same dims, which keeps them.
    fn apply(&self, back: &mut Back, name: &str, v: V) -> Result<V> {
        back.call(name, &[v], &[signed(&self.dims), flag(true)])
    }

    /// A value of the result's shape, spread over the input's.
    pub fn spread(&self, back: &mut Back, v: V) -> Result<V> {
        let shape = back.input_meta(0).shape();
        // A number broadcasts as it is.
        let kept = if back.tensor(v).shape().is_empty() { v } else { self.kept(back, v)? };
        back.expand(kept, shape)
    }

    /// The naive reading: `reduce` is given the elements of each output in order.
    pub fn exact(&self, x: &Exact, mut reduce: impl FnMut(&[f64]) -> f64) -> Option<Exact> {
        let flags = self.flags("reduce", &x.shape).ok()?;
        let mut groups: Vec<Vec<f64>> = vec![vec![]; Over::outputs(&x.shape, &flags)];
        Exact::build(&x.shape, |index| {
            let parts = index.iter().zip(&x.shape).zip(&flags).filter(|(_, gone)| !**gone);
            groups[parts.fold(0, |at, ((&i, &size), _)| at * size + i)].push(x.at(index));
            0.0
        });
        let target = self.target("reduce", &x.shape).ok()?;
        Some(Exact::new(&target, groups.iter().map(|group| reduce(group)).collect()))
    }

    fn outputs(shape: &[usize], flags: &Flags) -> usize {
        shape.iter().zip(flags).filter(|(_, gone)| !**gone).map(|(&size, _)| size).product()
    }
}

/// Folds the flagged dims of `x` into `y`, which is contiguous.
fn run_fold<F: Fold>(with: F, x: &Tensor, flags: &[bool], center: Option<&Tensor>, y: &Tensor) -> Result<()> {
    let plan = Plan::of(x.layout(), flags);
    if !plan.fits() {
        let copy = run::relaid(x, Layout::contiguous("reduce", x.shape())?, Category::Workspace)?;
        return run_fold(with, &copy, flags, center, y);
    }
    let compute = x.dtype().compute();
    let partials = plan.partials();
    let scratch =
        if compute == DType::I64 { run::workspace::<i64>(partials)? } else { run::workspace::<f64>(partials)? };
    if on_paper() {
        return Ok(());
    }
    let (scratch, center) = (scratch.view(), center.map(Tensor::view));
    let (x, y, center) = (&x.view(), &y.view(), center.as_ref());
    match compute {
        DType::F32 => fold::fold::<f32, F>(with, &plan, x, center, y, scratch.out()),
        DType::F64 => fold::fold::<f64, F>(with, &plan, x, center, y, scratch.out()),
        _ => fold::fold::<i64, F>(with, &plan, x, center, y, scratch.out()),
    }
    Ok(())
}

/// Every way to name dims, on odd sizes; with `empty`, also where no elements are reduced.
fn samples(build: fn(&mut Args) -> Result<super::OpRef>, domain: Domain, empty: bool) -> Vec<Sample> {
    let of =
        |dims: &[i64], keepdim: bool, x: &[usize]| Sample::of(build, &[signed(dims), flag(keepdim)], &[(x, domain)]);
    let mut list = vec![
        of(&[], false, &[3, 5]),
        of(&[1], false, &[3, 7]),
        of(&[0], true, &[9, 37]),
        of(&[-1, 0], true, &[2, 3, 5]),
        of(&[1], false, &[2, 19, 3]),
        of(&[0, 2], false, &[3, 2, 5]),
        of(&[], true, &[]),
        of(&[0], false, &[]),
        of(&[1], false, &[0, 3]),
        of(&[0, 1], false, &[0, 2, 0]),
    ];
    if empty {
        list.extend([
            of(&[1], false, &[2, 0]),
            of(&[], true, &[0, 3]),
            of(&[], false, &[3, 0]),
            of(&[0, 2], false, &[0, 2, 0]),
        ]);
    }
    list
}
