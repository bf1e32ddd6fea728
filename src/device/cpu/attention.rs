//! Scaled dot-product attention in blocks: `o = softmax(scale · q kᵀ + mask) · v`, and its way back.
//!
//! The scores exist a block at a time, in scratch memory that fits the second cache; a row keeps only the logarithm of
//! its sum of exponentials (Dao et al. 2022, arXiv:2205.14135). The way back computes each block of probabilities again
//! from it. Products run on the micro-kernel of `gemm`; with `causal`, tiles beyond the diagonal are skipped.
//!
//! Results do not depend on the number of threads. Leaves out the gradient of an additive mask.

mod rows;
pub mod views;

use super::gemm::pack::Panels;
use super::gemm::tile::{Ahead, Bias, Element, Tile};
use super::pool;
use super::random::Stream;
use rows::{Backward, Finish, Forward};
use std::ops::Range;

/// A tensor [batch, heads, rows, width] whose last dimension is contiguous; strides in elements.
#[derive(Clone, Copy, Debug)]
pub struct Heads<P> {
    pub ptr: P,
    pub batch: isize,
    pub head: isize,
    pub row: isize,
}

/// What is added to the scores, or decides which of them count; [batch, heads, queries, keys] by strides, 0 repeats.
#[derive(Clone, Copy, Debug)]
pub struct Mask<T> {
    pub values: MaskValues<T>,
    pub strides: [isize; 4],
}

#[derive(Clone, Copy, Debug)]
pub enum MaskValues<T> {
    Add(*const T),
    /// 0 leaves a key out.
    Keep(*const u8),
}

/// Dropout of probabilities: element ((b·heads + h)·queries + i)·keys + j is kept, and scaled by 1 / `keep`, where its
/// uniform draw from the stream is below `keep`.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    pub stream: Stream,
    pub keep: f64,
}

/// q [batch, heads, queries, width], k [batch, heads, keys, width], v and o [batch, heads, …, value_width].
#[derive(Clone, Copy, Debug)]
pub struct Attention<T> {
    pub batch: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub width: usize,
    pub value_width: usize,
    pub scale: f64,
    /// Query i sees the keys j ≤ i.
    pub causal: bool,
    pub mask: Option<Mask<T>>,
    pub dropout: Option<Dropout>,
}
// SAFETY: a mask is only read.
unsafe impl<T> Sync for Attention<T> {}

/// The floating types that attention is computed in.
pub trait Number: Element + Into<f64> {
    fn of(x: f64) -> Self;
}

impl Number for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }
}

impl Number for f64 {
    fn of(x: f64) -> f64 {
        x
    }
}

/// The most rows of a block of queries, and keys of a block of keys.
const QUERY_BLOCK: usize = 192;
const KEY_BLOCK: usize = 128;
/// Between rows of scores, so that rows of a tile do not compete for one place in the cache.
const GAP: usize = 16;
const ALIGNMENT_BYTES: usize = 64;

impl<P: Copy> Heads<P> {
    fn offset(&self, b: usize, h: usize, row: usize) -> isize {
        b as isize * self.batch + h as isize * self.head + row as isize * self.row
    }
}

impl<T> Heads<*const T> {
    unsafe fn at(&self, b: usize, h: usize, row: usize) -> *const T {
        // SAFETY: an index of the tensor.
        unsafe { self.ptr.offset(self.offset(b, h, row)) }
    }
}

impl<T> Heads<*mut T> {
    unsafe fn at(&self, b: usize, h: usize, row: usize) -> *mut T {
        // SAFETY: an index of the tensor.
        unsafe { self.ptr.offset(self.offset(b, h, row)) }
    }
}

/// The tensors of a forward run; `log_sums` is [batch, heads, queries], contiguous.
#[derive(Clone, Copy)]
pub struct ForwardData<T> {
    pub q: Heads<*const T>,
    pub k: Heads<*const T>,
    pub v: Heads<*const T>,
    pub o: Heads<*mut T>,
    pub log_sums: *mut T,
}
// SAFETY: the chunks of a job write disjoint rows of o and of the log sums.
unsafe impl<T> Sync for ForwardData<T> {}

/// The tensors of a way back. Every element of dq, dk and dv is written.
#[derive(Clone, Copy)]
pub struct BackwardData<T> {
    pub q: Heads<*const T>,
    pub k: Heads<*const T>,
    pub v: Heads<*const T>,
    pub o: Heads<*const T>,
    pub log_sums: *const T,
    pub d_o: Heads<*const T>,
    pub dq: Heads<*mut T>,
    pub dk: Heads<*mut T>,
    pub dv: Heads<*mut T>,
}
// SAFETY: the chunks of a job write disjoint rows of the gradients.
unsafe impl<T> Sync for BackwardData<T> {}

impl<T: Number> Attention<T> {
    fn panel(lines: usize) -> usize {
        lines.next_multiple_of(T::tile_shape().columns)
    }

    /// Rows of a block of queries: all blocks nearly equal, and whole tiles.
    fn query_block(&self) -> usize {
        let blocks = self.queries.div_ceil(QUERY_BLOCK).max(1);
        self.queries.div_ceil(blocks).next_multiple_of(T::tile_shape().rows)
    }

    fn key_block(&self) -> usize {
        KEY_BLOCK.min(Self::panel(self.keys))
    }

    fn score_stride(&self) -> usize {
        self.key_block() + GAP
    }

    fn pairs(&self) -> usize {
        self.batch * self.heads
    }

    /// Nanoseconds of one block of queries against the keys it sees, about, for `products` products.
    fn nanos(&self, rows: usize, products: f64) -> f64 {
        let seen = (rows * self.keys) as f64 * if self.causal { 0.5 } else { 1.0 };
        seen * (products * (self.width + self.value_width) as f64 / 2.0 / 40.0 + 0.5)
    }

    fn forward_slot(&self) -> [usize; 5] {
        let (queries, keys) = (self.query_block(), self.key_block());
        aligned::<T, 5>([
            queries * self.score_stride(),
            Self::panel(keys) * self.width,
            keys * Self::panel(self.value_width),
            2 * queries,
            keys + GAP,
        ])
    }

    /// Elements of scratch memory for [`Self::forward`]. Grows with the number of threads.
    pub fn forward_workspace(&self) -> usize {
        pool::threads() * self.forward_slot().iter().sum::<usize>() + ALIGNMENT_BYTES
    }

    /// # Safety
    /// The tensors are as the sizes and strides say, and what is written overlaps nothing else.
    /// `workspace` holds [`Self::forward_workspace`] elements.
    pub unsafe fn forward(&self, data: &ForwardData<T>, workspace: &mut [T]) {
        let block = self.query_block();
        let blocks = self.queries.div_ceil(block.max(1));
        let slots = Slots::new(workspace, 0, self.forward_slot());
        let tasks = self.pairs() * blocks;
        let group = pool::chunk_rows(tasks, self.nanos(block.min(self.queries), 2.0));
        pool::run_with_slots(tasks.div_ceil(group), slots.count, &|chunk, slot| {
            for task in chunk * group..tasks.min((chunk + 1) * group) {
                let (pair, start) = (task / blocks, task % blocks * block);
                let place = Place { b: pair / self.heads, h: pair % self.heads, pair };
                // SAFETY: the caller's promise; a task is a block of rows of its own, and a slot has one thread.
                unsafe { self.forward_block(data, place, start..self.queries.min(start + block), slots.of(slot)) };
            }
        });
    }

    unsafe fn forward_block(&self, data: &ForwardData<T>, place: Place, queries: Range<usize>, slot: [*mut T; 5]) {
        let [scores, k_turned, v_packed, states, factors] = slot;
        let Place { b, h, pair } = place;
        let rows = queries.len();
        let seen = if self.causal { self.keys.min(queries.end) } else { self.keys };
        // SAFETY: the caller's promise; the scratch memory is laid out by `forward_slot`.
        unsafe {
            let output = data.o.at(b, h, queries.start);
            let log_sums = data.log_sums.add(pair * self.queries + queries.start);
            let (largest, sums) = (states, states.add(self.query_block()));
            if seen == 0 {
                for i in 0..rows {
                    (*largest.add(i), *sums.add(i)) = (T::ZERO, T::ZERO);
                }
                clear((output, data.o.row), rows, self.value_width);
            }
            for start in (0..seen).step_by(KEY_BLOCK) {
                let keys = start..seen.min(start + KEY_BLOCK);
                let area = self.area(&queries, &keys);
                pack(data.k.at(b, h, start), data.k.row, 1, keys.len(), self.width, k_turned);
                pack(data.v.at(b, h, start), 1, data.v.row, self.value_width, keys.len(), v_packed);
                let (stride, scale) = (self.score_stride() as isize, T::of(self.scale));
                Product {
                    a: (data.q.at(b, h, queries.start), data.q.row, 1),
                    b: k_turned,
                    b_depth: self.width,
                    c: (scores, stride),
                    alpha: scale,
                    accumulate: false,
                }
                .run(rows, keys.len(), |tile| Part { columns: area.keys_seen(tile.end - 1), depth: 0..self.width });
                T::dispatch(Forward {
                    attention: self,
                    place,
                    area,
                    scores,
                    largest,
                    sums,
                    output: (output, data.o.row),
                    factors,
                    first: start == 0,
                });
                Product {
                    a: (scores, stride, 1),
                    b: v_packed,
                    b_depth: keys.len(),
                    c: (output, data.o.row),
                    alpha: T::ONE,
                    accumulate: start > 0,
                }
                .run(rows, self.value_width, |tile| Part {
                    columns: self.value_width,
                    depth: 0..area.keys_seen(tile.end - 1),
                });
            }
            let (width, output) = (self.value_width, (output, data.o.row));
            T::dispatch(Finish { rows, width, largest, sums, output, log_sums });
        }
    }

    fn area(&self, queries: &Range<usize>, keys: &Range<usize>) -> Area {
        Area {
            query: queries.start,
            queries: queries.len(),
            key: keys.start,
            keys: keys.len(),
            stride: self.score_stride(),
            causal: self.causal,
        }
    }

    /// Shares that one head's keys are dealt into when there are few heads. Each has partial sums of dq.
    fn shares(&self) -> usize {
        let blocks = self.keys.div_ceil(KEY_BLOCK).max(1);
        (16 / self.pairs().max(1)).clamp(1, blocks.min(4))
    }

    fn partial(&self) -> usize {
        (self.shares() - 1) * self.pairs() * self.queries * self.width
    }

    fn backward_slot(&self) -> [usize; 8] {
        let (queries, keys) = (self.query_block(), self.key_block());
        let scores = queries * self.score_stride();
        aligned::<T, 8>([
            scores,
            scores,
            Self::panel(keys) * self.width,
            Self::panel(keys) * self.value_width,
            keys * Self::panel(self.width),
            queries * Self::panel(self.width),
            queries * Self::panel(self.value_width),
            keys + GAP,
        ])
    }

    /// Elements of scratch memory for [`Self::backward`]. Grows with the number of threads.
    pub fn backward_workspace(&self) -> usize {
        self.partial() + pool::threads() * self.backward_slot().iter().sum::<usize>() + 2 * ALIGNMENT_BYTES
    }

    /// # Safety
    /// As for [`Self::forward`], with the output and log sums that it gave.
    pub unsafe fn backward(&self, data: &BackwardData<T>, workspace: &mut [T]) {
        let shares = self.shares();
        let slots = Slots::new(workspace, self.partial(), self.backward_slot());
        let tasks = self.pairs() * shares;
        let group = pool::chunk_rows(tasks, self.nanos(self.queries, 5.0) / shares as f64);
        pool::run_with_slots(tasks.div_ceil(group), slots.count, &|chunk, slot| {
            for task in chunk * group..tasks.min((chunk + 1) * group) {
                let (pair, share) = (task / shares, task % shares);
                let place = Place { b: pair / self.heads, h: pair % self.heads, pair };
                // SAFETY: the caller's promise; a task has key blocks and sums of dq of its own, a slot one thread.
                unsafe { self.backward_share(data, place, share, self.dq(data, &slots, place, share), slots.of(slot)) };
            }
        });
        if shares == 1 {
            return;
        }
        let rows = self.pairs() * self.queries;
        let group = pool::chunk_rows(rows, (shares * self.width) as f64 * 0.2);
        pool::run(rows.div_ceil(group), &|chunk| {
            for row in chunk * group..rows.min((chunk + 1) * group) {
                let (pair, i) = (row / self.queries, row % self.queries);
                let place = Place { b: pair / self.heads, h: pair % self.heads, pair };
                for share in 1..shares {
                    // SAFETY: a chunk has rows of its own.
                    unsafe {
                        let (sum, stride) = self.dq(data, &slots, place, 0);
                        let (term, _) = self.dq(data, &slots, place, share);
                        let sum = std::slice::from_raw_parts_mut(sum.offset(i as isize * stride), self.width);
                        let term = std::slice::from_raw_parts(term.add(i * self.width), self.width);
                        sum.iter_mut().zip(term).for_each(|(sum, &term)| *sum = *sum + term);
                    }
                }
            }
        });
    }

    /// Where a share of the keys adds up dq: the first in the result, the others in scratch memory.
    unsafe fn dq<const N: usize>(
        &self,
        data: &BackwardData<T>,
        slots: &Slots<T, N>,
        place: Place,
        share: usize,
    ) -> (*mut T, isize) {
        // SAFETY: `partial` counted one dq for each share but the first.
        unsafe {
            match share {
                0 => (data.dq.at(place.b, place.h, 0), data.dq.row),
                _ => {
                    let pair = (share - 1) * self.pairs() + place.pair;
                    (slots.fixed.add(pair * self.queries * self.width), self.width as isize)
                }
            }
        }
    }

    /// The blocks of keys `share`, `share + shares`, …: a causal head's early and late keys are dealt out evenly.
    unsafe fn backward_share(
        &self,
        data: &BackwardData<T>,
        place: Place,
        share: usize,
        dq: (*mut T, isize),
        slot: [*mut T; 8],
    ) {
        let Place { b, h, .. } = place;
        let [_, _, k_turned, v_turned, k_packed, ..] = slot;
        // SAFETY: the caller's promise; the scratch memory is laid out by `backward_slot`.
        unsafe {
            if share > 0 || self.keys == 0 {
                clear(dq, self.queries, self.width);
            }
            for start in (share * KEY_BLOCK..self.keys).step_by(self.shares() * KEY_BLOCK) {
                let keys = start..self.keys.min(start + KEY_BLOCK);
                let (k, v) = (data.k.at(b, h, start), data.v.at(b, h, start));
                pack(k, data.k.row, 1, keys.len(), self.width, k_turned);
                pack(v, data.v.row, 1, keys.len(), self.value_width, v_turned);
                pack(k, 1, data.k.row, self.width, keys.len(), k_packed);
                let block = self.query_block();
                let first = if self.causal { start / block * block } else { 0 };
                if first >= self.queries {
                    clear((data.dk.at(b, h, start), data.dk.row), keys.len(), self.width);
                    clear((data.dv.at(b, h, start), data.dv.row), keys.len(), self.value_width);
                }
                for query in (first..self.queries).step_by(block.max(1)) {
                    let queries = query..self.queries.min(query + block);
                    let to = Gradients { dq, dq_begun: share > 0 || start > 0, begun: query > first };
                    self.backward_block(data, place, queries, keys.clone(), to, slot);
                }
            }
        }
    }

    unsafe fn backward_block(
        &self,
        data: &BackwardData<T>,
        place: Place,
        queries: Range<usize>,
        keys: Range<usize>,
        Gradients { dq, dq_begun, begun }: Gradients<T>,
        slot: [*mut T; 8],
    ) {
        let [scores, d_scores, k_turned, v_turned, k_packed, q_packed, do_packed, factors] = slot;
        let Place { b, h, pair } = place;
        let area = self.area(&queries, &keys);
        let (stride, rows) = (self.score_stride() as isize, queries.len());
        // SAFETY: the caller's promise.
        unsafe {
            let (q, d_o) = (data.q.at(b, h, queries.start), data.d_o.at(b, h, queries.start));
            pack(q, 1, data.q.row, self.width, rows, q_packed);
            pack(d_o, 1, data.d_o.row, self.value_width, rows, do_packed);
            let all =
                |tile: Range<usize>, depth: usize| Part { columns: area.keys_seen(tile.end - 1), depth: 0..depth };
            // s = scale · q kᵀ, dp = do · vᵀ
            Product {
                a: (q, data.q.row, 1),
                b: k_turned,
                b_depth: self.width,
                c: (scores, stride),
                alpha: T::of(self.scale),
                accumulate: false,
            }
            .run(rows, keys.len(), |tile| all(tile, self.width));
            Product {
                a: (d_o, data.d_o.row, 1),
                b: v_turned,
                b_depth: self.value_width,
                c: (d_scores, stride),
                alpha: T::ONE,
                accumulate: false,
            }
            .run(rows, keys.len(), |tile| all(tile, self.value_width));
            T::dispatch(Backward {
                attention: self,
                place,
                area,
                scores,
                d_scores,
                log_sums: data.log_sums.add(pair * self.queries + queries.start),
                output: (data.o.at(b, h, queries.start), data.o.row),
                d_output: (d_o, data.d_o.row),
                factors,
            });
            // dv += pᵀ do, dk += dsᵀ q, dq += ds k
            let below =
                |tile: Range<usize>, columns: usize| Part { columns, depth: area.first_query(tile.start)..rows };
            let (dk, dv) = (data.dk.at(b, h, keys.start), data.dv.at(b, h, keys.start));
            Product {
                a: (scores, 1, stride),
                b: do_packed,
                b_depth: rows,
                c: (dv, data.dv.row),
                alpha: T::ONE,
                accumulate: begun,
            }
            .run(keys.len(), self.value_width, |tile| below(tile, self.value_width));
            Product {
                a: (d_scores, 1, stride),
                b: q_packed,
                b_depth: rows,
                c: (dk, data.dk.row),
                alpha: T::ONE,
                accumulate: begun,
            }
            .run(keys.len(), self.width, |tile| below(tile, self.width));
            Product {
                a: (d_scores, stride, 1),
                b: k_packed,
                b_depth: keys.len(),
                c: (dq.0.offset(queries.start as isize * dq.1), dq.1),
                alpha: T::ONE,
                accumulate: dq_begun,
            }
            .run(rows, self.width, |tile| Part { columns: self.width, depth: 0..area.keys_seen(tile.end - 1) });
        }
    }
}

/// One head of one sample.
#[derive(Clone, Copy)]
struct Place {
    b: usize,
    h: usize,
    pair: usize,
}

/// Where a block of scores adds its part of the gradients, and which of them hold sums already.
struct Gradients<T> {
    dq: (*mut T, isize),
    dq_begun: bool,
    /// dk and dv.
    begun: bool,
}

/// A block of scores.
#[derive(Clone, Copy)]
struct Area {
    query: usize,
    queries: usize,
    key: usize,
    keys: usize,
    /// Between rows of scores.
    stride: usize,
    causal: bool,
}

impl Area {
    /// How many of the keys row `i` sees: the first so many.
    #[inline(always)]
    fn keys_seen(&self, i: usize) -> usize {
        if self.causal { (self.query + i + 1).saturating_sub(self.key).min(self.keys) } else { self.keys }
    }

    /// The first row that sees key `j`.
    fn first_query(&self, j: usize) -> usize {
        if self.causal { (self.key + j).saturating_sub(self.query).min(self.queries) } else { 0 }
    }
}

/// Writes panels of `lines` lines, `depth` deep, padded with zeros to whole tiles.
unsafe fn pack<T: Element>(
    from: *const T,
    line_stride: isize,
    depth_stride: isize,
    lines: usize,
    depth: usize,
    to: *mut T,
) {
    let width = T::tile_shape().columns;
    // SAFETY: the promise of the caller; `to` has room for whole panels.
    unsafe { Panels { from, line_stride, depth_stride, lines, each: width, depth, to, width }.pack() };
}

unsafe fn clear<T: Element>((to, stride): (*mut T, isize), rows: usize, width: usize) {
    for i in 0..rows {
        // SAFETY: rows of the caller.
        unsafe { std::slice::from_raw_parts_mut(to.offset(i as isize * stride), width).fill(T::ZERO) };
    }
}

/// c (+)= alpha · a · b for one block: a at (pointer, row stride, depth stride), b packed, c at (pointer, row stride).
struct Product<T> {
    a: (*const T, isize, isize),
    b: *const T,
    b_depth: usize,
    c: (*mut T, isize),
    alpha: T,
    accumulate: bool,
}

/// What some rows of a product need: the first columns, and a range of its depth.
struct Part {
    columns: usize,
    depth: Range<usize>,
}

impl<T: Element> Product<T> {
    unsafe fn run(&self, rows: usize, columns: usize, part: impl Fn(Range<usize>) -> Part) {
        let shape = T::tile_shape();
        let (a, a_row_stride, a_depth_stride) = self.a;
        for column in (0..columns).step_by(shape.columns) {
            for row in (0..rows).step_by(shape.rows) {
                let tile_rows = shape.rows.min(rows - row);
                let part = part(row..row + tile_rows);
                if part.columns <= column || part.depth.is_empty() && self.accumulate {
                    continue;
                }
                let start = part.depth.start;
                // SAFETY: the promise of the caller: the block is inside its matrices.
                unsafe {
                    T::tile(&Tile {
                        rows: tile_rows,
                        columns: shape.columns.min(part.columns.min(columns) - column),
                        depth: part.depth.len(),
                        runs: &[0],
                        a: a.offset(row as isize * a_row_stride + start as isize * a_depth_stride),
                        a_row_stride,
                        a_depth_stride,
                        b: self.b.add(column * self.b_depth + start * shape.columns),
                        b_stride: shape.columns as isize,
                        c: self.c.0.offset(row as isize * self.c.1).add(column),
                        c_stride: self.c.1,
                        alpha: self.alpha,
                        accumulate: self.accumulate,
                        bias: Bias::None,
                        ahead: Ahead::nothing(self.b),
                    });
                }
            }
        }
    }
}

/// Scratch memory: a fixed part, then as many slots as fit, each of N buffers.
struct Slots<T, const N: usize> {
    fixed: *mut T,
    slots: *mut T,
    sizes: [usize; N],
    count: usize,
}
// SAFETY: a slot is used by one thread at a time.
unsafe impl<T, const N: usize> Sync for Slots<T, N> {}

impl<T, const N: usize> Slots<T, N> {
    fn new(memory: &mut [T], fixed: usize, sizes: [usize; N]) -> Slots<T, N> {
        let memory = &mut memory[fixed..];
        let skip = memory.as_ptr().align_offset(ALIGNMENT_BYTES).min(memory.len());
        let memory = &mut memory[skip..];
        let count = memory.len() / sizes.iter().sum::<usize>().max(1);
        assert!(count > 0, "bug: attention workspace is {skip} + {} elements", memory.len());
        let slots = memory.as_mut_ptr();
        // SAFETY: the fixed part lies before, in the same memory.
        Slots { fixed: unsafe { slots.sub(skip + fixed) }, slots, sizes, count }
    }

    unsafe fn of(&self, slot: usize) -> [*mut T; N] {
        let mut at = slot * self.sizes.iter().sum::<usize>();
        self.sizes.map(|size| {
            at += size;
            // SAFETY: slot < count.
            unsafe { self.slots.add(at - size) }
        })
    }
}

/// Sizes rounded up to whole cache lines.
fn aligned<T, const N: usize>(sizes: [usize; N]) -> [usize; N] {
    sizes.map(|size| size.next_multiple_of(ALIGNMENT_BYTES / size_of::<T>()))
}

#[cfg(test)]
mod tests;
