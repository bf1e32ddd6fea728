//! Matrix products: `c = alpha · a · b` (+ c, + bias), for any strides, for one matrix or a batch.
//!
//! The plan of a problem is a function of its shape and strides:
//!
//! - `Dot`: few rows and both operands contiguous along k. Registers run along k, nothing is copied.
//! - `Tiles`: everything else. C is cut into register tiles (see `tile`); k is cut into blocks whose panels fit the
//!   caches. Panels of B, and of A, are packed first (`pack`) unless reading them in place is as good.
//! - a batch of small matrices is shared out by matrix, a large matrix by groups of tiles; a small C with a long k (a
//!   weight gradient) is cut along k into slices, whose sums are added in order.
//!
//! No result depends on the number of threads. Scratch memory comes from the caller ([`Planned::workspace`]).
//! Leaves out half precision (converted around the product) and fused activations.

pub mod dot;
pub mod pack;
pub mod tile;

use super::pool;
use super::simd::{self, Level};
use pack::Panels;
use std::ops::Range;
use tile::{Bias, Element, Tile};

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
    /// Elements of scratch memory that [`Planned::run`] needs. May grow with the number of threads, for a batch of matrices.
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

/// How one matrix is cut.
#[derive(Clone)]
struct Blocks {
    m: usize,
    n: usize,
    a: Layout,
    b: Layout,
    c: Layout,
    /// Rows of a tile: at most those of the tile shape, and nearly the same for all tiles.
    rows: usize,
    /// Rows and columns of packed panels.
    a_width: usize,
    b_width: usize,
    /// Columns that one tile reads of an unpacked B.
    strip: usize,
    /// Columns that a register holds: what may be read of an unpacked B is a multiple of it.
    lanes: usize,
    /// Steps of k in a block.
    depth: usize,
    /// Rows and columns whose panels are packed at once.
    most_rows: usize,
    most_columns: usize,
    pack_a: bool,
    pack_b: PackB,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum PackB {
    /// Read in place, save for a last panel that is not full.
    Never,
    /// A panel at a time, by the thread that is about to use it.
    OnUse,
    /// All panels of a block, before its tiles.
    First,
}

/// k is cut into blocks of at most this many bytes a line, so that a panel of B stays in the first cache or nearly. The widest
/// tiles take it from the second cache as fast, and more from fewer visits to C.
const DEPTH_BYTES: usize = 384 * 4;
const WIDE_DEPTH_BYTES: usize = 768 * 4;
const MOST_ROWS: usize = 2016;
const MOST_COLUMNS: usize = 2048;
/// An unpacked operand that is read often must fit here, with the gaps between its rows.
const DIRECT_BYTES: usize = 128 * 1024;

impl Blocks {
    fn new<T: Element>(problem: &Problem) -> Blocks {
        let Problem { m, n, k, a, b, c, .. } = *problem;
        let shape = T::tile_shape();
        let size = size_of::<T>();
        let row_tiles = m.div_ceil(shape.rows).max(1);
        let depth_bytes = if shape.lanes == 16 { WIDE_DEPTH_BYTES } else { DEPTH_BYTES };
        let block = k.min(depth_bytes / size);
        let reach = |stride: isize, count: usize| stride.unsigned_abs() * count * size;

        let pack_b = if b.column == 1 && (row_tiles <= 4 || reach(b.row, block) <= DIRECT_BYTES) {
            PackB::Never
        } else if row_tiles <= 4 || row_tiles <= 16 && n >= 16 * shape.columns {
            PackB::OnUse
        } else {
            PackB::First
        };
        // Rows whose distance is a multiple of a few KiB compete for the same few places in the cache.
        let rows_compete = row_tiles * shape.rows > 8 && reach(a.row, 1) % 2048 == 0;
        let few_passes = n <= 16 * shape.columns;
        let pack_a = !(few_passes && (a.column == 1 && !rows_compete || reach(a.column, block) <= DIRECT_BYTES));

        let whole = row_tiles <= 2 && pack_b == PackB::Never && !pack_a;
        let most_depth = if whole { k } else { block };
        let blocks_of_k = k.div_ceil(most_depth.max(1)).max(1);
        // A last tile of a few rows would be slow: better that all tiles are a little lower.
        let rows =
            if (1..=shape.rows / 4).contains(&(m % shape.rows)) { m.div_ceil(row_tiles) } else { shape.rows.min(m) };
        Blocks {
            m,
            n,
            a,
            b,
            c,
            rows,
            a_width: shape.rows,
            b_width: shape.columns,
            strip: if pack_b == PackB::Never { T::widest(rows) } else { shape.columns },
            lanes: shape.lanes,
            depth: k.div_ceil(blocks_of_k),
            most_rows: MOST_ROWS / shape.rows * rows,
            most_columns: MOST_COLUMNS,
            pack_a,
            pack_b,
        }
    }

    /// Elements for packed panels: of A, of B, and one panel of B for each thread.
    fn parts(&self) -> [usize; 3] {
        let a = if self.pack_a { self.m.min(self.most_rows).div_ceil(self.rows) * self.a_width } else { 0 };
        let (mut b, mut own) = (0, self.b_width);
        match self.pack_b {
            PackB::First => (b, own) = (self.n.min(self.most_columns).next_multiple_of(self.b_width), 0),
            PackB::OnUse => {}
            PackB::Never if self.n.is_multiple_of(self.lanes) => own = 0,
            PackB::Never => {}
        }
        [a, b, own].map(|lines| (lines * self.depth).next_multiple_of(ALIGNMENT_BYTES))
    }

    fn workspace(&self, threads: usize) -> usize {
        let [a, b, own] = self.parts();
        a + b + own * threads
    }

    /// SAFETY: as for [`Planned::run`], with k steps of depth and one matrix.
    unsafe fn run<T: Element>(&self, operands: Operands<T>, k: usize, scratch: Scratch<T>, threads: usize) {
        let [packed_a, packed_b, own] = self.parts();
        let slots = match own {
            0 => threads,
            own => (scratch.len.saturating_sub(packed_a + packed_b) / own).clamp(1, threads),
        };
        for column in (0..self.n).step_by(self.most_columns) {
            for (block, p) in (0..k.max(1)).step_by(self.depth.max(1)).enumerate() {
                for row in (0..self.m).step_by(self.most_rows) {
                    // SAFETY: the caller's promise; `parts` is the layout of the scratch memory.
                    let pass = unsafe {
                        Pass {
                            blocks: self,
                            operands: Operands {
                                accumulate: operands.accumulate || block > 0,
                                bias: if block > 0 { Bias::None } else { operands.bias },
                                ..operands
                            },
                            rows: row..self.m.min(row + self.most_rows),
                            columns: column..self.n.min(column + self.most_columns),
                            p,
                            depth: self.depth.min(k - p),
                            packed_a: scratch,
                            packed_b: scratch.at(packed_a),
                            own: scratch.at(packed_a + packed_b),
                            own_size: own,
                        }
                    };
                    // SAFETY: the caller's promise.
                    unsafe {
                        pass.pack(row == 0, threads);
                        pass.compute(slots);
                    }
                }
            }
        }
    }
}

/// One block of rows, columns and k: its panels, then its tiles.
struct Pass<'a, T> {
    blocks: &'a Blocks,
    operands: Operands<T>,
    rows: Range<usize>,
    columns: Range<usize>,
    p: usize,
    depth: usize,
    packed_a: Scratch<T>,
    packed_b: Scratch<T>,
    own: Scratch<T>,
    own_size: usize,
}

impl<T: Element> Pass<'_, T> {
    unsafe fn pack(&self, with_b: bool, threads: usize) {
        let blocks = self.blocks;
        let a_panels = if blocks.pack_a { self.rows.len().div_ceil(blocks.rows) } else { 0 };
        let with_b = with_b && blocks.pack_b == PackB::First;
        let b_panels = if with_b { self.columns.len().div_ceil(blocks.b_width) } else { 0 };
        let panels = a_panels + b_panels;
        if panels == 0 {
            return;
        }
        // Packing an element takes a quarter of a nanosecond; the rest is for those who fetch it from the packer's cache, which
        // makes sharing pay sooner.
        let nanos = (self.depth * blocks.b_width) as f64;
        let group = if threads == 1 { panels } else { pool::chunk_rows(panels, nanos) };
        pool::run(panels.div_ceil(group), &|chunk| {
            let range = part(chunk, group, panels);
            // SAFETY: panels are disjoint parts of scratch memory.
            unsafe {
                self.pack_a(range.start.min(a_panels)..range.end.min(a_panels));
                let b = range.start.max(a_panels) - a_panels..range.end.max(a_panels) - a_panels;
                if !b.is_empty() {
                    let to = self.packed_b.at(b.start * blocks.b_width * self.depth).start;
                    let column = |panel: usize| self.columns.start + panel * blocks.b_width;
                    self.pack_b(column(b.start)..self.columns.end.min(column(b.end)), to);
                }
            }
        });
    }

    unsafe fn pack_a(&self, panels: Range<usize>) {
        if panels.is_empty() {
            return;
        }
        let blocks = self.blocks;
        let first = self.rows.start + panels.start * blocks.rows;
        // SAFETY: the caller hands over panels of A.
        unsafe {
            Panels {
                from: self.a(first),
                line_stride: blocks.a.row,
                depth_stride: blocks.a.column,
                lines: (panels.len() * blocks.rows).min(self.rows.end - first),
                each: blocks.rows,
                depth: self.depth,
                to: self.packed_a.at(panels.start * blocks.a_width * self.depth).start,
                width: blocks.a_width,
            }
            .pack();
        }
    }

    unsafe fn pack_b(&self, columns: Range<usize>, to: *mut T) {
        let blocks = self.blocks;
        // SAFETY: the caller hands over room for the panels.
        unsafe {
            Panels {
                from: self.b(columns.start),
                line_stride: blocks.b.column,
                depth_stride: blocks.b.row,
                lines: columns.len(),
                each: blocks.b_width,
                depth: self.depth,
                to,
                width: blocks.b_width,
            }
            .pack();
        }
    }

    /// Row `row` of A at the first step of this block.
    unsafe fn a(&self, row: usize) -> *const T {
        let Layout { row: stride, column, .. } = self.blocks.a;
        // SAFETY: inside the matrix.
        unsafe { self.operands.a.offset(row as isize * stride + self.p as isize * column) }
    }

    /// Column `column` of B at the first step of this block.
    unsafe fn b(&self, column: usize) -> *const T {
        let Layout { row, column: stride, .. } = self.blocks.b;
        // SAFETY: inside the matrix.
        unsafe { self.operands.b.offset(self.p as isize * row + column as isize * stride) }
    }

    /// Shares out the tiles in groups of neighbouring rows and strips of columns.
    unsafe fn compute(&self, slots: usize) {
        let blocks = self.blocks;
        let (row_tiles, strips) = (self.rows.len().div_ceil(blocks.rows), self.columns.len().div_ceil(blocks.strip));
        if slots == 1 {
            // About 16 tiles of rows share a block of A in the second cache, unless B is packed as it is used.
            let tall = if blocks.pack_b == PackB::OnUse { row_tiles } else { 16 };
            for row in self.rows.clone().step_by(tall.max(1) * blocks.rows) {
                let rows = row..self.rows.end.min(row + tall * blocks.rows);
                // SAFETY: the caller's promise; the only thread uses slot 0.
                unsafe { self.group(rows, self.columns.clone(), 0) };
            }
            return;
        }
        let nanos = (blocks.rows * blocks.strip * self.depth) as f64 / rate::<T>();
        let tiles = pool::chunk_rows(row_tiles * strips, nanos.max(CHUNK_NANOS / 64.0));
        // A packed on use must serve all rows; else about 16 tiles of rows share a block of A in the second cache.
        let tall = if blocks.pack_b == PackB::OnUse { row_tiles } else { row_tiles.min(16).min(tiles) };
        let wide = (tiles / tall).clamp(1, strips);
        let (down, across) = (row_tiles.div_ceil(tall), strips.div_ceil(wide));
        pool::run_with_slots(down * across, slots, &|chunk, slot| {
            let rows = part(chunk / across, tall * blocks.rows, self.rows.len());
            let columns = part(chunk % across, wide * blocks.strip, self.columns.len());
            let shift = |range: Range<usize>, by: usize| range.start + by..range.end + by;
            // SAFETY: the groups are disjoint, and a slot has one thread.
            unsafe { self.group(shift(rows, self.rows.start), shift(columns, self.columns.start), slot) };
        });
    }

    /// The tiles of some rows and columns.
    unsafe fn group(&self, rows: Range<usize>, columns: Range<usize>, slot: usize) {
        let blocks = self.blocks;
        let own = self.own_size > 0 || blocks.pack_b == PackB::OnUse;
        // SAFETY: the caller's promise.
        unsafe {
            if !own && self.depth * columns.len() * size_of::<T>() <= DIRECT_BYTES {
                // All of B stays in the second cache, and C is written along its rows.
                for row in rows.clone().step_by(blocks.rows) {
                    self.strips(row..rows.end.min(row + blocks.rows), columns.clone(), slot);
                }
            } else {
                self.strips(rows, columns, slot);
            }
        }
    }

    /// Strip by strip, the tiles of all rows.
    unsafe fn strips(&self, rows: Range<usize>, columns: Range<usize>, slot: usize) {
        let blocks = self.blocks;
        let mut column = columns.start;
        while column < columns.end {
            let left = columns.end - column;
            // SAFETY: the caller's promise; what is read of an unpacked B is a multiple of its registers.
            unsafe {
                let (b, b_stride, width) = match blocks.pack_b {
                    PackB::First => {
                        let panel = (column - self.columns.start) * self.depth;
                        (self.packed_b.at(panel).start.cast_const(), blocks.b_width, blocks.b_width.min(left))
                    }
                    PackB::Never if left >= blocks.strip => (self.b(column), blocks.b.row as usize, blocks.strip),
                    PackB::Never if left >= blocks.lanes => {
                        let whole = left.min(blocks.b_width) / blocks.lanes * blocks.lanes;
                        (self.b(column), blocks.b.row as usize, whole)
                    }
                    _ => {
                        let own = self.own.at(slot * self.own_size).start;
                        self.pack_b(column..columns.end.min(column + blocks.b_width), own);
                        (own.cast_const(), blocks.b_width, blocks.b_width.min(left))
                    }
                };
                for row in rows.clone().step_by(blocks.rows) {
                    self.tile(row, blocks.rows.min(rows.end - row), column, width, b, b_stride as isize);
                }
                column += width;
            }
        }
    }

    #[inline]
    unsafe fn tile(&self, row: usize, rows: usize, column: usize, columns: usize, b: *const T, b_stride: isize) {
        let blocks = self.blocks;
        let Operands { c, alpha, accumulate, bias, .. } = self.operands;
        // SAFETY: the caller's promise.
        unsafe {
            let (a, a_row_stride, a_depth_stride) = if blocks.pack_a {
                let panel = (row - self.rows.start) / blocks.rows * blocks.a_width * self.depth;
                (self.packed_a.at(panel).start.cast_const(), 1, blocks.a_width as isize)
            } else {
                (self.a(row), blocks.a.row, blocks.a.column)
            };
            let c = c.offset(row as isize * blocks.c.row + column as isize * blocks.c.column);
            let mut tile = Tile {
                rows,
                columns,
                depth: self.depth,
                runs: &[0],
                a,
                a_row_stride,
                a_depth_stride,
                b,
                b_stride,
                c,
                c_stride: blocks.c.row,
                alpha,
                accumulate,
                bias: match bias {
                    Bias::None => Bias::None,
                    Bias::Columns(bias) => Bias::Columns(bias.add(column)),
                    Bias::Rows(bias) => Bias::Rows(bias.add(row)),
                },
            };
            if blocks.c.column == 1 || columns == 1 {
                return T::tile(&tile);
            }
            // Rows of C with gaps: the tile goes to the stack first.
            let mut dense = [T::ZERO; tile::MOST_ELEMENTS];
            (tile.c, tile.c_stride) = (dense.as_mut_ptr(), columns as isize);
            (tile.accumulate, tile.bias) = (false, Bias::None);
            T::tile(&tile);
            for i in 0..rows {
                for j in 0..columns {
                    let at = c.offset(i as isize * blocks.c.row + j as isize * blocks.c.column);
                    self.operands.store(at, dense[i * columns + j], row + i, column + j);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
