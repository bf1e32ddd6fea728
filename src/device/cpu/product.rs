//! Matrix products of views: batches of any rank, broadcast and strided, brought down to what `gemm` takes.

use super::gemm::tile::Element as Number;
use super::gemm::{self, Layout as Strides, Problem};
use super::view::View;
use crate::dtype::Element;
use smallvec::SmallVec;
use std::marker::PhantomData;

/// y [batch…, m, n] = a [batch…, m, k] · b [batch…, k, n] + bias [n]; the batches of a and b broadcast to that of y.
pub struct Product<'a> {
    pub a: View<'a>,
    pub b: View<'a>,
    pub bias: Option<View<'a>>,
    pub y: View<'a>,
}

/// One batch dimension: its size, and the step of a, b and y along it.
type Axis = (usize, [isize; 3]);

/// A product in elements T whose plan is made.
pub struct Planned<'a, T> {
    product: &'a Product<'a>,
    inner: gemm::Planned,
    /// The batch axes outside of the inner products.
    outer: SmallVec<[Axis; 4]>,
    element: PhantomData<T>,
}

impl Product<'_> {
    /// The problem of the inner dimensions, and the batch axes that remain outside it.
    fn problem(&self) -> (Problem, SmallVec<[Axis; 4]>) {
        let (y, rank) = (self.y.shape(), self.y.shape().len());
        let batch = &y[..rank - 2];
        // The step along batch dimension i: 0 where the view has none, or repeats its one matrix.
        let step = |v: &View, i: usize| match (i + v.shape().len()).checked_sub(rank) {
            Some(own) if v.shape()[own] == batch[i] => v.strides()[own],
            _ => 0,
        };
        let mut axes: SmallVec<[Axis; 4]> = SmallVec::new();
        for (i, &size) in batch.iter().enumerate() {
            if size == 1 {
                continue;
            }
            let step = [step(&self.a, i), step(&self.b, i), step(&self.y, i)];
            match axes.last_mut() {
                Some((outer, last)) if (0..3).all(|k| last[k] == step[k] * size as isize) => {
                    (*outer, *last) = (*outer * size, step);
                }
                _ => axes.push((size, step)),
            }
        }
        let inner: SmallVec<[Axis; 2]> = axes.drain(axes.len().saturating_sub(2)..).collect();
        let at = |i: usize| inner.len().checked_sub(i).map(|j| inner[j]);
        let (last, before) = (at(1).unwrap_or((1, [0; 3])), at(2).unwrap_or((1, [0; 3])));
        let matrix = |v: &View, k: usize| {
            let s = v.strides();
            Strides { row: s[s.len() - 2], column: s[s.len() - 1], batch: [before.1[k], last.1[k]] }
        };
        let inner_k = self.a.shape()[self.a.shape().len() - 1];
        let problem = Problem {
            m: y[rank - 2],
            n: y[rank - 1],
            k: inner_k,
            batch: [before.0, last.0],
            a: matrix(&self.a, 0),
            b: matrix(&self.b, 1),
            c: matrix(&self.y, 2),
        };
        (problem, axes)
    }

    pub fn plan<T: Number + Element>(&self) -> Planned<'_, T> {
        let (problem, outer) = self.problem();
        Planned { product: self, inner: problem.plan::<T>(), outer, element: PhantomData }
    }
}

impl<T: Number + Element> Planned<'_, T> {
    /// Elements of scratch that `run` needs.
    pub fn workspace(&self) -> usize {
        self.inner.workspace()
    }

    pub fn run(&self, workspace: &mut [T], alpha: T) {
        let Planned { product, inner, outer, .. } = self;
        let count: usize = outer.iter().map(|a| a.0).product();
        let bias = product.bias.map(|b| b.ptr::<T>().cast_const());
        for i in 0..count {
            let (mut rest, mut offset) = (i, [0isize; 3]);
            for (size, step) in outer.iter().rev() {
                let at = (rest % size) as isize;
                rest /= size;
                (0..3).for_each(|k| offset[k] += at * step[k]);
            }
            // SAFETY: the offsets stay within the batch dimensions of the views, which reach only their own storage;
            // y is a fresh output; the workspace has the size that `workspace` asked for.
            unsafe {
                let (a, b) = (product.a.ptr::<T>().offset(offset[0]), product.b.ptr::<T>().offset(offset[1]));
                let c = product.y.ptr::<T>().offset(offset[2]);
                inner.run(alpha, a, b, false, bias, c, workspace);
            }
        }
    }
}
