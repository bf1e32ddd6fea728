//! Matrix products: `c = alpha · a · b` (+ c, + bias), for any strides, for one matrix or a batch.
//!
//! The plan of a problem is a function of its shape and strides:
//!
//! - `Dot`: few rows and both operands contiguous along k. Registers run along k, nothing is copied.
//! - `Tiles`: everything else. C is cut into register tiles (see `tile`); k is cut into blocks whose panels fit the
//!   caches. Panels of B, and of A, are packed first, or by the thread that comes to them (`pack`), unless reading them in
//!   place is as good.
//! - a batch of small matrices is shared out by matrix, a large matrix by groups of tiles; a small C with a long k (a
//!   weight gradient) is cut along k into slices, whose sums are added in order.
//!
//! No result depends on the number of threads. Scratch memory comes from the caller ([`Planned::workspace`]).
//! Leaves out half precision (converted around the product) and fused activations.

mod blocks;
pub mod dot;
pub mod pack;
pub mod tile;

use super::pool;
use super::simd::{self, Level};
use blocks::Blocks;
use std::ops::Range;
use tile::{Bias, Element};

/// Where the elements of an operand are, in elements. A batch stride of 0 repeats one matrix.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub row: isize,
    pub column: isize,
    pub batch: [isize; 2],
}

/// a [batch, m, k] · b [batch, k, n] → c [batch, m, n], where the batch has up to two dimensions (1 where it has not).
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub batch: [usize; 2],
    pub a: Layout,
    pub b: Layout,
    pub c: Layout,
}

impl Layout {
    /// Of one contiguous matrix with so many columns.
    pub fn rows_of(columns: usize) -> Layout {
        Layout { row: columns as isize, column: 1, batch: [0, 0] }
    }

    #[must_use]
    pub fn transposed(self) -> Layout {
        Layout { row: self.column, column: self.row, ..self }
    }
}

impl Problem {
    /// One product of row-major matrices.
    pub fn new(m: usize, n: usize, k: usize) -> Problem {
        let [a, b, c] = [k, n, n].map(Layout::rows_of);
        Problem { m, n, k, batch: [1, 1], a, b, c }
    }

    /// How it will be computed.
    pub fn plan<T: Element>(&self) -> Planned {
        let (problem, turned) = self.canonical();
        Planned { plan: Plan::new::<T>(&problem), turned }
    }

    fn matrices(&self) -> usize {
        self.batch[0] * self.batch[1]
    }

    /// The same product with a batch folded into the rows where strides allow, and transposed where that makes the
    /// rows of C contiguous. The second result says whether it was transposed.
    fn canonical(self) -> (Problem, bool) {
        let mut problem = self;
        for dimension in [1, 0] {
            let rows = problem.m as isize;
            let continues = |layout: Layout| layout.batch[dimension] == rows * layout.row;
            let others = problem.matrices() / problem.batch[dimension].max(1);
            if others == 1 && problem.b.batch[dimension] == 0 && continues(problem.a) && continues(problem.c) {
                problem.m *= problem.batch[dimension];
                problem.batch[dimension] = 1;
            }
        }
        let column_major = problem.c.column != 1 && problem.c.row == 1 && problem.m > 1;
        if column_major && problem.n > 1 || problem.n == 1 && problem.m > 1 {
            let Problem { m, n, k, batch, a, b, c } = problem;
            let turned = Problem { m: n, n: m, k, batch, a: b.transposed(), b: a.transposed(), c: c.transposed() };
            return (turned, true);
        }
        (problem, false)
    }

    /// Nothing comes out.
    fn is_empty(&self) -> bool {
        self.m == 0 || self.n == 0 || self.matrices() == 0
    }
}

/// A product whose plan is made.
pub struct Planned {
    plan: Plan,
    /// The plan is that of the transposed product.
    turned: bool,
}

impl Planned {
    /// Elements of scratch memory that [`Planned::run`] needs. May grow with the number of threads.
    pub fn workspace(&self) -> usize {
        if self.plan.problem.is_empty() { 0 } else { self.plan.workspace(pool::threads()) }
    }

    /// Computes `c = alpha · a · b`, plus c where `accumulate`, plus `bias[j]` in column j.
    ///
    /// # Safety
    /// The pointers are valid for every element that the sizes and strides of the problem reach, `bias` for n; elements of c
    /// are distinct and overlap nothing that is read. `workspace` holds as many elements as [`Planned::workspace`] says.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn run<T: Element>(
        &self,
        alpha: T,
        a: *const T,
        b: *const T,
        accumulate: bool,
        bias: Option<*const T>,
        c: *mut T,
        workspace: &mut [T],
    ) {
        if self.plan.problem.is_empty() {
            return;
        }
        let (a, b) = if self.turned { (b, a) } else { (a, b) };
        let bias = match bias {
            None => Bias::None,
            Some(bias) if self.turned => Bias::Rows(bias),
            Some(bias) => Bias::Columns(bias),
        };
        let scratch = Scratch::new(workspace);
        // SAFETY: the caller's promise, under new names where the problem was transposed.
        unsafe { self.plan.run(Operands { a, b, c, alpha, accumulate, bias }, scratch) }
    }
}

/// The data of one product. Copied for each matrix of a batch, with its own pointers.
#[derive(Clone, Copy)]
struct Operands<T> {
    a: *const T,
    b: *const T,
    c: *mut T,
    alpha: T,
    accumulate: bool,
    bias: Bias<T>,
}
// SAFETY: the threads of a job write disjoint parts of c and scratch memory, and only read the rest.
unsafe impl<T> Sync for Operands<T> {}

/// Scratch memory from its first aligned element on.
#[derive(Clone, Copy)]
struct Scratch<T> {
    start: *mut T,
    len: usize,
}
// SAFETY: as for `Operands`.
unsafe impl<T> Sync for Scratch<T> {}

/// Panels begin at cache lines: a register load that straddles two costs double.
const ALIGNMENT_BYTES: usize = 64;

impl<T> Scratch<T> {
    fn new(memory: &mut [T]) -> Scratch<T> {
        let skip = memory.as_ptr().align_offset(ALIGNMENT_BYTES).min(memory.len());
        Scratch { start: memory[skip..].as_mut_ptr(), len: memory.len() - skip }
    }

    /// Elements from `start` on.
    unsafe fn at(self, start: usize) -> Scratch<T> {
        debug_assert!(start <= self.len, "bug: gemm workspace of {} elements is too small", self.len);
        // SAFETY: inside the workspace, whose size was planned by the code that calls this.
        Scratch { start: unsafe { self.start.add(start) }, len: self.len.saturating_sub(start) }
    }
}

/// Nominal speed, for deciding what is worth sharing out: multiply-adds a nanosecond of one thread.
fn rate<T>() -> f64 {
    let lanes = if size_of::<T>() == 4 { 2.0 } else { 1.0 };
    lanes * if simd::level() == Level::Plain { 8.0 } else { 24.0 }
}

/// Below this much work on one thread nothing is shared out.
const SERIAL_NANOS: f64 = 15_000.0;
/// A chunk of shared work is about this long.
const CHUNK_NANOS: f64 = 8_000.0;
/// A matrix of a batch that takes longer than this can be shared out by itself.
const LARGE_NANOS: f64 = 100_000.0;

/// A slice of k is at least this deep: adding up its result must cost little beside computing it.
const SLICE: usize = 1024;

struct Plan {
    problem: Problem,
    method: Method,
    /// Slices of k, summed at the end; 1 for most problems.
    slices: usize,
    nanos: f64,
}

enum Method {
    Dot,
    Tiles(Blocks),
}

impl Plan {
    fn new<T: Element>(problem: &Problem) -> Plan {
        let Problem { m, n, k, a, b, .. } = *problem;
        let nanos = (m * n) as f64 * k as f64 / rate::<T>();
        if m <= dot::ROWS && k >= 16 && (a.column == 1 && b.row == 1) {
            return Plan { problem: *problem, method: Method::Dot, slices: 1, nanos };
        }
        let shape = T::tile_shape();
        let tiles = m.div_ceil(shape.rows) * n.div_ceil(shape.columns);
        let slices = if problem.matrices() == 1 && tiles < 32 && k >= 2 * SLICE && nanos > 4.0 * SERIAL_NANOS {
            (64 / tiles).clamp(2, 32).min(k / SLICE)
        } else {
            1
        };
        let mut slice = *problem;
        slice.k = k.div_ceil(slices);
        Plan { problem: *problem, method: Method::Tiles(Blocks::new::<T>(&slice)), slices, nanos }
    }

    /// Whether whole matrices (or slices of k) are the unit of sharing out.
    fn by_matrix(&self, threads: usize) -> bool {
        let matrices = self.problem.matrices();
        self.slices > 1 || matrices > 1 && (self.nanos < LARGE_NANOS || matrices >= 4 * threads)
    }

    fn workspace(&self, threads: usize) -> usize {
        match &self.method {
            Method::Dot => 0,
            Method::Tiles(blocks) => {
                let sums = if self.slices > 1 { self.slices * self.problem.m * self.problem.n } else { 0 };
                let panels =
                    if self.by_matrix(threads) { threads * blocks.workspace(1) } else { blocks.workspace(threads) };
                match sums + panels {
                    0 => 0,
                    some => some + ALIGNMENT_BYTES,
                }
            }
        }
    }

    /// SAFETY: as for [`Planned::run`].
    unsafe fn run<T: Element>(&self, operands: Operands<T>, scratch: Scratch<T>) {
        let threads = pool::threads();
        match &self.method {
            Method::Dot => {
                // SAFETY: the caller's promise.
                let one = |index| unsafe { dot::product(&self.problem, self.operands(operands, index)) };
                let count = self.problem.matrices();
                if count == 1 {
                    one(0);
                } else {
                    let group = pool::chunk_rows(count, self.nanos);
                    let operands = &one;
                    pool::run(count.div_ceil(group), &|chunk| {
                        part(chunk, group, count).for_each(operands);
                    });
                }
            }
            // SAFETY: the caller's promise.
            Method::Tiles(blocks) if self.slices > 1 => unsafe { self.run_slices(blocks, operands, scratch, threads) },
            Method::Tiles(blocks) if self.by_matrix(threads) => {
                let own = blocks.workspace(1);
                let slots = if own == 0 { threads } else { (scratch.len / own).clamp(1, threads) };
                let count = self.problem.matrices();
                let group = pool::chunk_rows(count, self.nanos);
                pool::run_with_slots(count.div_ceil(group), slots, &|chunk, slot| {
                    for index in part(chunk, group, count) {
                        // SAFETY: the caller's promise; a slot has one thread.
                        unsafe {
                            blocks.run(self.operands(operands, index), self.problem.k, scratch.at(slot * own), 1)
                        };
                    }
                });
            }
            Method::Tiles(blocks) => {
                let threads = if self.nanos < SERIAL_NANOS { 1 } else { threads };
                for index in 0..self.problem.matrices() {
                    // SAFETY: the caller's promise.
                    unsafe { blocks.run(self.operands(operands, index), self.problem.k, scratch, threads) };
                }
            }
        }
    }

    /// The operands of matrix `index` of the batch.
    unsafe fn operands<T: Element>(&self, operands: Operands<T>, index: usize) -> Operands<T> {
        let inner = self.problem.batch[1];
        let (outer, inner) = ((index / inner) as isize, (index % inner) as isize);
        let offset = |layout: Layout| outer * layout.batch[0] + inner * layout.batch[1];
        // SAFETY: inside the operand, by the promise of the caller of `Planned::run`.
        unsafe {
            Operands {
                a: operands.a.offset(offset(self.problem.a)),
                b: operands.b.offset(offset(self.problem.b)),
                c: operands.c.offset(offset(self.problem.c)),
                ..operands
            }
        }
    }

    /// The product as a sum of products over slices of k, each into scratch memory.
    unsafe fn run_slices<T: Element>(
        &self,
        blocks: &Blocks,
        operands: Operands<T>,
        scratch: Scratch<T>,
        threads: usize,
    ) {
        let Problem { m, n, k, a, b, c, .. } = self.problem;
        let (slices, depth) = (self.slices, k.div_ceil(self.slices));
        let mut blocks = blocks.clone();
        blocks.c = Layout::rows_of(n);
        let own = blocks.workspace(1);
        // SAFETY: `workspace` counted the sums, slots and operands as they are laid out here.
        unsafe {
            let panels = scratch.at((slices * m * n).next_multiple_of(ALIGNMENT_BYTES / size_of::<T>()));
            let slots = if own == 0 { threads } else { (panels.len / own).clamp(1, threads) };
            pool::run_with_slots(slices, slots, &|slice, slot| {
                let (operands, scratch) = (&operands, &scratch);
                let start = (slice * depth) as isize;
                let part = Operands {
                    a: operands.a.offset(start * a.column),
                    b: operands.b.offset(start * b.row),
                    c: scratch.at(slice * m * n).start,
                    alpha: T::ONE,
                    accumulate: false,
                    bias: Bias::None,
                };
                blocks.run(part, depth.min(k - slice * depth), panels.at(slot * own), 1);
            });
            let rows = pool::chunk_rows(m, (slices * n) as f64 * 0.2);
            pool::run(m.div_ceil(rows), &|chunk| {
                let (operands, scratch) = (&operands, &scratch);
                for i in part(chunk, rows, m) {
                    let row = |slice: usize| std::slice::from_raw_parts_mut(scratch.start.add((slice * m + i) * n), n);
                    let sums = row(0);
                    for slice in 1..slices {
                        sums.iter_mut().zip(row(slice)).for_each(|(sum, term)| *sum = *sum + *term);
                    }
                    for (j, &sum) in sums.iter().enumerate() {
                        let at = operands.c.offset(i as isize * c.row + j as isize * c.column);
                        operands.store(at, sum * operands.alpha, i, j);
                    }
                }
            });
        }
    }
}

impl<T: Element> Operands<T> {
    /// Writes one element whose product is known.
    #[inline(always)]
    unsafe fn store(&self, c: *mut T, product: T, i: usize, j: usize) {
        // SAFETY: the promise of the caller of `Planned::run`.
        unsafe {
            let mut y = product;
            match self.bias {
                Bias::None => {}
                Bias::Columns(bias) => y = y + *bias.add(j),
                Bias::Rows(bias) => y = y + *bias.add(i),
            }
            *c = if self.accumulate { *c + y } else { y };
        }
    }
}

/// Items of a chunk, when `count` items are cut into chunks of `size`.
fn part(chunk: usize, size: usize, count: usize) -> Range<usize> {
    chunk * size..count.min((chunk + 1) * size)
}

#[cfg(test)]
mod tests;
