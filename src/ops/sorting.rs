//! Order along a dim: sort, topk and searchsorted. NaN is above every number; equal elements keep their order.
//!
//! argsort, kthvalue, median and unique are compositions of these in Python.

use super::args::{Args, flag, int};
use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::{Back, Cost, Mask, Metas, Op, OpRef, Saves, expect_inputs, output};
use crate::arena::ledger::Category;
use crate::arena::on_paper;
use crate::device::cpu::pool;
use crate::device::cpu::sort::{self, Order};
use crate::device::gpu::faults::{Check, Valid};
use crate::device::gpu::places::{self, Walk};
use crate::device::gpu::{Gpu, sort as on_gpu};
use crate::dtype::DType;
use crate::error::{self, Error, Result};
use crate::shape::{self, Dims};
use crate::tensor::{Meta, Tensor};
use std::cmp::Ordering;

pub fn register(list: &mut Vec<Entry>) {
    list.extend([
        Entry { name: "sort", build: Sort::build_sort, samples: Sort::sort_samples },
        Entry { name: "topk", build: Sort::build_topk, samples: Sort::topk_samples },
        Entry { name: "searchsorted", build: SearchSorted::build, samples: SearchSorted::samples },
    ]);
}

/// The elements of each line along a dim in order, or the first `k` of them; and, as int64, where they stood.
#[derive(Debug)]
pub struct Sort {
    k: Option<usize>,
    dim: i64,
    descending: bool,
}

impl Sort {
    fn build_sort(args: &mut Args) -> Result<OpRef> {
        let dim = args.int_or_none("dim")?.unwrap_or(-1);
        Ok(Sort { k: None, dim, descending: args.flag("descending")? }.into())
    }
    fn build_topk(args: &mut Args) -> Result<OpRef> {
        let k = args.size("k")?;
        let dim = args.int_or_none("dim")?.unwrap_or(-1);
        Ok(Sort { k: Some(k), dim, descending: args.flag("largest")? }.into())
    }

    fn sort_samples() -> Vec<Sample> {
        let of = |dim: i64, descending: bool, x: &[usize], domain: Domain| {
            Sample::of(Self::build_sort, &[int(dim), flag(descending)], &[(x, domain)])
        };
        vec![
            of(-1, false, &[3, 7], Domain::Apart),
            of(0, true, &[5, 4], Domain::Apart),
            of(1, true, &[2, 9, 3], Domain::Apart),
            of(0, false, &[65], Domain::Shuffled),
            of(0, false, &[9], Domain::Mask),
            of(0, false, &[], Domain::Apart),
            of(1, false, &[2, 0], Domain::Apart),
            of(0, false, &[3, 0], Domain::Apart),
        ]
    }
    fn topk_samples() -> Vec<Sample> {
        let of = |k: i64, dim: i64, largest: bool, x: &[usize]| {
            Sample::of(Self::build_topk, &[int(k), int(dim), flag(largest)], &[(x, Domain::Apart)])
        };
        vec![
            of(2, -1, true, &[3, 7]),
            of(3, 0, false, &[5, 4]),
            of(1, 1, true, &[2, 9, 3]),
            of(7, 0, true, &[7]),
            of(0, 0, true, &[4, 2]),
            of(1, 0, true, &[]),
        ]
    }

    /// The sizes before, along and after the dim, and how many elements of a line are wanted.
    fn sizes(&self, shape: &[usize]) -> Result<([usize; 3], usize)> {
        let dim = shape::dim(self.name(), self.dim, shape)?;
        let n = shape.get(dim).copied().unwrap_or(1);
        let k = self.k.unwrap_or(n);
        if k > n {
            return Err(Error::value(format!(
                "topk: k is {k}, and dim {dim} of {shape:?} has {n} elements; take at most as many"
            )));
        }
        let after = shape.get(dim + 1..).map_or(1, |rest| rest.iter().product());
        Ok(([shape[..dim].iter().product(), n, after], k))
    }

    fn order(&self, a: f64, b: f64) -> Ordering {
        let rising = match (a.is_nan(), b.is_nan()) {
            (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
            (a, b) => a.cmp(&b),
        };
        if self.descending { rising.reverse() } else { rising }
    }
}

impl Op for Sort {
    fn name(&self) -> &'static str {
        if self.k.is_some() { "topk" } else { "sort" }
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(self.name(), x, 1)?;
        let (_, k) = self.sizes(x[0].shape())?;
        let mut target = Dims::from(x[0].shape());
        if let Some(size) = target.get_mut(shape::dim(self.name(), self.dim, x[0].shape())?) {
            *size = k;
        }
        let mut outputs = output(self.name(), x, &target, x[0].dtype)?;
        outputs.extend(output(self.name(), x, &target, DType::I64)?);
        Ok(outputs)
    }
    fn visible(&self) -> usize {
        2
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::outputs(0b10)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        let n = self.sizes(x[0].shape()).map_or(1, |(sizes, _)| sizes[1]);
        // Comparisons.
        Cost::streaming(x, y, (n.max(2) as f64).log2())
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let (sizes, first) = self.sizes(x[0].shape())?;
        let lines = sizes[0] * sizes[2];
        let numbers = pool::threads().min(lines) * sort::scratch(x[0].dtype(), sizes[1]);
        let meta = Meta::contiguous(self.name(), &[numbers], DType::I64, x[0].meta.device)?;
        let scratch = Tensor::empty(meta, Category::Workspace)?;
        if on_paper() {
            return Ok(());
        }
        let order = Order { descending: self.descending, first };
        sort::order(&x[0].view(), sizes, order, &y[0].view(), &y[1].view(), scratch.view().out());
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let (op, (sizes, first)) = (self.name(), self.sizes(x[0].shape())?);
        on_gpu::order(gpu, op, &x[0].buffer(), sizes, self.descending, &y[1].buffer())?;
        let [outer, count, inner] = sizes;
        let walk = Walk { outer, count, inner, positions: first, lines: true };
        let check = Check::new(op, &[count], Valid::FromStart);
        places::take(gpu, walk, check, &x[0].buffer(), &y[1].buffer(), &y[0].buffer())
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, places, x) = (back.dy(), back.output(1)?, back.input_meta(0));
        let dim = shape::dim(self.name(), self.dim, x.shape())?;
        let zeros = back.full(0.0, x.shape(), x.dtype)?;
        let dx = back.call("scatter_add", &[zeros, places, dy], &[int(dim as i64)])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let ([outer, n, inner], k) = self.sizes(&x[0].shape).ok()?;
        let mut target = x[0].shape.clone();
        if let Some(size) = target.get_mut(shape::dim("sort", self.dim, &x[0].shape).ok()?) {
            *size = k;
        }
        let (mut values, mut places) = (Exact::zeros(&target), Exact::zeros(&target));
        for line in 0..outer * inner {
            let (o, i) = (line / inner, line % inner);
            let at = |j: usize| x[0].data[(o * n + j) * inner + i];
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|&a, &b| self.order(at(a), at(b)));
            for (rank, &j) in order.iter().take(k).enumerate() {
                values.data[(o * k + rank) * inner + i] = at(j);
                places.data[(o * k + rank) * inner + i] = j as f64;
            }
        }
        Some(vec![values, places])
    }
}

/// Where values belong in sorted rows, so that these stay sorted: before equal elements, or with `right` after them.
/// sorted [n] for all values, or [..., n] with values [..., m]; int64. Has no derivative.
#[derive(Debug)]
pub struct SearchSorted {
    right: bool,
}

impl SearchSorted {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(SearchSorted { right: args.flag("right")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |right: bool, sorted: &[usize], values: &[usize]| {
            let inputs = [(sorted, Domain::Index(1)), (values, Domain::Index(3))];
            Sample::of(Self::build, &[flag(right)], &inputs)
        };
        vec![of(false, &[5], &[2, 3]), of(true, &[2, 3], &[2, 4]), of(false, &[0], &[3]), of(true, &[4], &[])]
    }
}

impl Op for SearchSorted {
    fn name(&self) -> &'static str {
        "searchsorted"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("searchsorted", x, 2)?;
        let (sorted, values) = (x[0], x[1]);
        if sorted.dtype != values.dtype {
            let (a, b) = (sorted.dtype.name(), values.dtype.name());
            return Err(Error::dtype(format!(
                "searchsorted: values of dtype {b} in a row of {a}; one dtype is needed"
            )));
        }
        let rank = sorted.rank();
        let one = rank == 1;
        if rank == 0 || !one && (values.rank() != rank || values.shape()[..rank - 1] != sorted.shape()[..rank - 1]) {
            return Err(Error::shape(format!(
                "searchsorted: values of shape {:?} for sorted rows of shape {:?}; one row, or rows of equal leading sizes, \
                 are needed",
                values.shape(),
                sorted.shape()
            )));
        }
        output("searchsorted", x, values.shape(), DType::I64)
    }
    fn differentiable(&self) -> Mask {
        0
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        let n = x[0].shape().last().map_or(2, |&n| n.max(2));
        Cost { flops: y[0].numel() as f64 * (n as f64).log2(), ..Cost::streaming(x, y, 0.0) }
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let last = |t: &Tensor| t.shape().last().copied().unwrap_or(1);
        sort::search(&x[0].view(), last(x[0]), &x[1].view(), last(x[1]), self.right, &y[0].view());
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let last = |t: &Tensor| t.shape().last().copied().unwrap_or(1);
        let (sorted, values) = (x[0].buffer(), x[1].buffer());
        on_gpu::search(gpu, &sorted, last(x[0]), &values, last(x[1]), self.right, &y[0].buffer())
    }
    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Err(error::not_differentiable("searchsorted"))
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let (n, m) = (*x[0].shape.last()?, x[1].shape.last().map_or(1, |&m| m.max(1)));
        let below = |(i, value): (usize, &f64)| {
            let row = if x[0].shape.len() == 1 { &x[0].data[..] } else { &x[0].data[i / m * n..][..n] };
            row.iter().filter(|s| **s < *value || self.right && **s == *value).count() as f64
        };
        Some(vec![Exact::new(&x[1].shape, x[1].data.iter().enumerate().map(below).collect())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{registry, run};

    /// Values and places of one line.
    fn sorted(x: &[f32], descending: bool) -> (Vec<f64>, Vec<i64>) {
        let x = Tensor::from_slice("test", &[x.len()], x, Category::Input).unwrap();
        let op = registry::build("sort", &[int(0), flag(descending)]).unwrap();
        let y = run::compute(&*op, &[&x], false).unwrap();
        (y[0].to_f64(), y[1].view().slice::<i64>().to_vec())
    }

    #[test]
    fn nan_is_above_everything_and_equal_elements_keep_their_order() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let x = [0.0, nan, -1.0, -0.0, inf, -nan, -inf, 0.0];
        assert_eq!(sorted(&x, false).1, [6, 2, 0, 3, 7, 4, 1, 5]);
        assert_eq!(sorted(&x, true).1, [1, 5, 4, 0, 3, 7, 2, 6]);
        assert!(sorted(&x, false).0[2..5].iter().all(|&v| v == 0.0));
    }

    #[test]
    fn integers_and_long_lines_are_sorted_exactly() {
        let values: Vec<i64> = (0..5000).map(|i| (i * 7919 % 5003 - 2500) << 40).chain([i64::MIN, i64::MAX]).collect();
        let x = Tensor::from_slice("test", &[values.len()], &values, Category::Input).unwrap();
        let y = run::call("sort", &[&x], &[int(0)]).unwrap();
        let mut wanted = values;
        wanted.sort();
        assert_eq!(y.view().slice::<i64>(), wanted);
    }
}
