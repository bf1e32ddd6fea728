//! Attention of views: leading dimensions of any number, broadcast and strided, brought down to batch and heads.

use super::{Attention, BackwardData, Dropout, ForwardData, Heads, Mask, MaskValues, Number};
use crate::device::cpu::random::Stream;
use crate::device::cpu::view::View;
use crate::dtype::{DType, Element};
use crate::shape::{Layout, broadcast_strides};
use smallvec::SmallVec;

/// What is the same for the way there and back: q [lead…, queries, width], k [lead…, keys, width], v [lead…, keys,
/// value_width] and mask [lead…, queries, keys] broadcast to `lead`; the last dimension of q, k and v is contiguous.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub lead: &'a [usize],
    pub q: View<'a>,
    pub k: View<'a>,
    pub v: View<'a>,
    pub mask: Option<View<'a>>,
    pub scale: f64,
    pub causal: bool,
    pub dropout: Option<Dropout>,
}

/// o, its gradient, and the gradients of q, k and v, all of the full leading shape with contiguous last dimensions.
#[derive(Clone, Copy)]
pub struct Gradients<'a> {
    pub o: View<'a>,
    pub d_o: View<'a>,
    pub dq: View<'a>,
    pub dk: View<'a>,
    pub dv: View<'a>,
}

/// True when the kernel reads a tensor as it lies.
pub fn takes(strides: &[isize], shape: &[usize]) -> bool {
    strides.last() == Some(&1) || shape.last() == Some(&1)
}

/// The place of the mask among the operands of a walk.
const MASK: usize = 3;

/// The leading axes as two that the kernel walks, and the rest around them: of each, its size and the step of every
/// operand. Neighbours that are one axis for all operands are joined.
struct Walk<const N: usize> {
    inner: [(usize, [isize; N]); 2],
    outer: SmallVec<[(usize, [isize; N]); 2]>,
}

impl<const N: usize> Walk<N> {
    fn new(lead: &[usize], operands: [Option<View>; N]) -> Walk<N> {
        let steps = operands.map(|view| {
            view.map_or(SmallVec::from_elem(0, lead.len()), |view| {
                let own = view.shape().len() - 2;
                let layout = Layout::strided(&view.shape()[..own], &view.strides()[..own]);
                broadcast_strides(&layout, lead)
            })
        });
        let mut axes: SmallVec<[(usize, [isize; N]); 4]> = SmallVec::new();
        for (i, &size) in lead.iter().enumerate().filter(|(_, size)| **size != 1) {
            let step: [isize; N] = std::array::from_fn(|k| steps[k][i]);
            match axes.last_mut() {
                Some((outer, last)) if (0..N).all(|k| last[k] == step[k] * size as isize) => {
                    (*outer, *last) = (*outer * size, step);
                }
                _ => axes.push((size, step)),
            }
        }
        let mut take = || axes.pop().unwrap_or((1, [0; N]));
        let (heads, batch) = (take(), take());
        Walk { inner: [batch, heads], outer: axes.into_iter().collect() }
    }

    /// How often the kernel runs.
    fn runs(&self) -> usize {
        self.outer.iter().map(|axis| axis.0).product()
    }

    /// Where run `i` begins in each operand.
    fn offsets(&self, i: usize) -> [isize; N] {
        let (mut rest, mut offsets) = (i, [0; N]);
        for (size, step) in self.outer.iter().rev() {
            let at = (rest % size) as isize;
            rest /= size;
            (0..N).for_each(|k| offsets[k] += at * step[k]);
        }
        offsets
    }

    fn heads<P>(&self, operand: usize, view: &View, ptr: P) -> Heads<P> {
        let row = view.strides()[view.strides().len() - 2];
        Heads { ptr, batch: self.inner[0].1[operand], head: self.inner[1].1[operand], row }
    }
}

impl<'a> Job<'a> {
    fn sizes(&self) -> [usize; 4] {
        let last = |view: &View, from_end: usize| view.shape()[view.shape().len() - from_end];
        [last(&self.q, 2), last(&self.k, 2), last(&self.q, 1), last(&self.v, 1)]
    }

    fn empty(&self) -> bool {
        self.lead.contains(&0) || self.sizes()[0] == 0
    }

    fn attention<T: Number + Element, const N: usize>(&self, walk: &Walk<N>, run: usize) -> Attention<T> {
        let [queries, keys, width, value_width] = self.sizes();
        let [batch, heads] = [walk.inner[0].0, walk.inner[1].0];
        let scores = (run * batch * heads * queries * keys) as u64;
        let dropout = self.dropout.map(|Dropout { stream: Stream { key, offset }, keep }| Dropout {
            stream: Stream { key, offset: offset.wrapping_add(scores) },
            keep,
        });
        let mask = self.mask.map(|mask| {
            let (rank, offset) = (mask.shape().len(), walk.offsets(run)[MASK]);
            let step = |from_end: usize, full: usize| {
                if mask.shape()[rank - from_end] == full { mask.strides()[rank - from_end] } else { 0 }
            };
            let values = match mask.dtype {
                DType::Bool => MaskValues::Keep(mask.ptr::<u8>().cast_const().wrapping_offset(offset)),
                _ => MaskValues::Add(mask.ptr::<T>().cast_const().wrapping_offset(offset)),
            };
            Mask { values, strides: [walk.inner[0].1[MASK], walk.inner[1].1[MASK], step(2, queries), step(1, keys)] }
        });
        let (scale, causal) = (self.scale, self.causal);
        Attention { batch, heads, queries, keys, width, value_width, scale, causal, mask, dropout }
    }

    fn forward_walk(&self, o: &View) -> Walk<5> {
        Walk::new(self.lead, [Some(self.q), Some(self.k), Some(self.v), self.mask, Some(*o)])
    }

    /// Elements of scratch memory for [`Self::forward`].
    pub fn forward_workspace<T: Number + Element>(&self, o: &View) -> usize {
        if self.empty() { 0 } else { self.attention::<T, 5>(&self.forward_walk(o), 0).forward_workspace() }
    }

    /// Writes o [lead…, queries, value_width] and the log sums [lead…, queries].
    pub fn forward<T: Number + Element>(&self, o: &View, log_sums: &mut [T], workspace: &mut [T]) {
        if self.empty() {
            return;
        }
        let walk = self.forward_walk(o);
        let ([queries, ..], pairs) = (self.sizes(), walk.inner[0].0 * walk.inner[1].0);
        assert_eq!(log_sums.len(), walk.runs() * pairs * queries, "bug: log sums of the wrong size");
        for run in 0..walk.runs() {
            let at = walk.offsets(run);
            // SAFETY: the offsets and strides reach only elements of the views, o and the log sums are fresh outputs,
            // and the workspace has the size that was asked for.
            unsafe {
                let read = |k: usize, view: &View| walk.heads(k, view, view.ptr::<T>().cast_const().offset(at[k]));
                let data = ForwardData {
                    q: read(0, &self.q),
                    k: read(1, &self.k),
                    v: read(2, &self.v),
                    o: walk.heads(4, o, o.ptr::<T>().offset(at[4])),
                    log_sums: log_sums.as_mut_ptr().add(run * pairs * queries),
                };
                self.attention::<T, 5>(&walk, run).forward(&data, workspace);
            }
        }
    }

    fn backward_walk(&self, g: &Gradients) -> Walk<9> {
        let Gradients { o, d_o, dq, dk, dv } = *g;
        let gradients = [o, d_o, dq, dk, dv].map(Some);
        let [o, d_o, dq, dk, dv] = gradients;
        Walk::new(self.lead, [Some(self.q), Some(self.k), Some(self.v), self.mask, o, d_o, dq, dk, dv])
    }

    /// Elements of scratch memory for [`Self::backward`].
    pub fn backward_workspace<T: Number + Element>(&self, g: &Gradients) -> usize {
        if self.empty() { 0 } else { self.attention::<T, 9>(&self.backward_walk(g), 0).backward_workspace() }
    }

    /// Writes dq, dk and dv from o, its gradient and the log sums.
    pub fn backward<T: Number + Element>(&self, g: &Gradients, log_sums: &[T], workspace: &mut [T]) {
        if self.empty() {
            // Keys that nobody asks for have no gradient.
            return [g.dq, g.dk, g.dv].iter().for_each(|view| view.raw_out().fill(0));
        }
        let walk = self.backward_walk(g);
        let ([queries, ..], pairs) = (self.sizes(), walk.inner[0].0 * walk.inner[1].0);
        assert_eq!(log_sums.len(), walk.runs() * pairs * queries, "bug: log sums of the wrong size");
        for run in 0..walk.runs() {
            let at = walk.offsets(run);
            // SAFETY: as in `forward`; the gradients are fresh outputs.
            unsafe {
                let read = |k: usize, view: &View| walk.heads(k, view, view.ptr::<T>().cast_const().offset(at[k]));
                let write = |k: usize, view: &View| walk.heads(k, view, view.ptr::<T>().offset(at[k]));
                let data = BackwardData {
                    q: read(0, &self.q),
                    k: read(1, &self.k),
                    v: read(2, &self.v),
                    o: read(4, &g.o),
                    log_sums: log_sums.as_ptr().add(run * pairs * queries),
                    d_o: read(5, &g.d_o),
                    dq: write(6, &g.dq),
                    dk: write(7, &g.dk),
                    dv: write(8, &g.dv),
                };
                self.attention::<T, 9>(&walk, run).backward(&data, workspace);
            }
        }
    }
}
