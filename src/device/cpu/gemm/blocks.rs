//! How one matrix is cut into blocks and tiles, which panels are packed when, and how the tiles are shared out.

use super::super::{caches, pool};
use super::pack::Panels;
use super::tile::{self, Ahead, Bias, Element, Tile};
use super::{ALIGNMENT_BYTES, CHUNK_NANOS, Layout, Operands, Problem, Scratch, part, rate};
use std::ops::Range;

/// How one matrix is cut.
#[derive(Clone)]
pub struct Blocks {
    m: usize,
    n: usize,
    a: Layout,
    b: Layout,
    pub c: Layout,
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
    pack_a: Packing,
    pack_b: Packing,
    /// Panels of A that are packed on use at a time.
    a_panels: usize,
    /// B stays in the second cache of whoever goes through C along its rows.
    b_lasts: bool,
}

/// At most one operand is packed on use.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Packing {
    /// Read in place, save for a last panel of B that is not full.
    Never,
    /// A panel at a time, or a few of A, by the thread that is about to use it.
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
/// A packed B of at most so many sixteenths of a thread's second cache stays there, while panels of A come and go.
const LASTING_16THS: usize = 9;
/// Columns of A that lie side by side are packed so many bytes of a row at a time: whole cache lines, while a row of one panel
/// begins and ends inside of lines.
const SIDE_BY_SIDE_BYTES: usize = 3 * 64;

impl Blocks {
    pub fn new<T: Element>(problem: &Problem) -> Blocks {
        let Problem { m, n, k, a, b, c, .. } = *problem;
        let shape = T::tile_shape();
        let size = size_of::<T>();
        let row_tiles = m.div_ceil(shape.rows).max(1);
        let depth_bytes = if shape.lanes == 16 { WIDE_DEPTH_BYTES } else { DEPTH_BYTES };
        let block = k.min(depth_bytes / size);
        let reach = |stride: isize, count: usize| stride.unsigned_abs() * count * size;

        let pack_b = if b.column == 1 && (row_tiles <= 4 || reach(b.row, block) <= DIRECT_BYTES) {
            Packing::Never
        } else if row_tiles <= 4 || row_tiles <= 16 && n >= 16 * shape.columns {
            Packing::OnUse
        } else {
            Packing::First
        };
        // Rows whose distance is a multiple of a few KiB compete for the same few places in the cache.
        let rows_compete = row_tiles * shape.rows > 8 && reach(a.row, 1) % 2048 == 0;
        let few_passes = n <= 16 * shape.columns;
        let in_place = few_passes && (a.column == 1 && !rows_compete || reach(a.column, block) <= DIRECT_BYTES);
        let b_is_ready = pack_b == Packing::First || pack_b == Packing::Never && n.is_multiple_of(shape.lanes);
        let b_lasts = b_is_ready
            && n.next_multiple_of(shape.columns) * block * size <= caches::second_bytes() / 16 * LASTING_16THS;
        let pack_a = if in_place {
            Packing::Never
        } else if b_lasts {
            Packing::OnUse
        } else {
            Packing::First
        };

        let side_by_side =
            if pack_a == Packing::OnUse && a.row == 1 { SIDE_BY_SIDE_BYTES / (size * shape.rows) } else { 1 };

        let whole = row_tiles <= 2 && pack_b == Packing::Never && pack_a == Packing::Never;
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
            strip: if pack_b == Packing::Never { T::widest(rows) } else { shape.columns },
            lanes: shape.lanes,
            depth: k.div_ceil(blocks_of_k),
            most_rows: MOST_ROWS / shape.rows * rows,
            most_columns: MOST_COLUMNS / shape.columns * shape.columns,
            pack_a,
            pack_b,
            a_panels: side_by_side.clamp(1, row_tiles),
            b_lasts,
        }
    }

    /// Elements for packed panels: of A, of B, and for each thread one panel of A and one of B.
    fn parts(&self) -> [usize; 4] {
        let (a, own_a) = match self.pack_a {
            Packing::First => (self.m.min(self.most_rows).div_ceil(self.rows) * self.a_width, 0),
            Packing::OnUse => (0, self.a_panels * self.a_width),
            Packing::Never => (0, 0),
        };
        let (b, own_b) = match self.pack_b {
            Packing::First => (self.n.min(self.most_columns).next_multiple_of(self.b_width), 0),
            Packing::Never if self.n.is_multiple_of(self.lanes) => (0, 0),
            Packing::OnUse | Packing::Never => (0, self.b_width),
        };
        [a, b, own_a, own_b].map(|lines| (lines * self.depth).next_multiple_of(ALIGNMENT_BYTES))
    }

    pub fn workspace(&self, threads: usize) -> usize {
        let [a, b, own_a, own_b] = self.parts();
        a + b + (own_a + own_b) * threads
    }

    /// SAFETY: as for [`Planned::run`], with k steps of depth and one matrix.
    pub unsafe fn run<T: Element>(&self, operands: Operands<T>, k: usize, scratch: Scratch<T>, threads: usize) {
        let [packed_a, packed_b, own_a, own_b] = self.parts();
        let slots = match own_a + own_b {
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
                            own_a,
                            own_size: own_a + own_b,
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
    /// The panels of each thread: one of A, and one of B behind it.
    own: Scratch<T>,
    own_a: usize,
    own_size: usize,
}

impl<T: Element> Pass<'_, T> {
    unsafe fn pack(&self, with_b: bool, threads: usize) {
        let blocks = self.blocks;
        let a_panels = if blocks.pack_a == Packing::First { self.rows.len().div_ceil(blocks.rows) } else { 0 };
        let with_b = with_b && blocks.pack_b == Packing::First;
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
                let a = range.start.min(a_panels)..range.end.min(a_panels);
                if !a.is_empty() {
                    let to = self.packed_a.at(a.start * blocks.a_width * self.depth).start;
                    let row = |panel: usize| self.rows.start + panel * blocks.rows;
                    self.rows_of_a(row(a.start)..self.rows.end.min(row(a.end)), to).pack();
                }
                let b = range.start.max(a_panels) - a_panels..range.end.max(a_panels) - a_panels;
                if !b.is_empty() {
                    let to = self.packed_b.at(b.start * blocks.b_width * self.depth).start;
                    let column = |panel: usize| self.columns.start + panel * blocks.b_width;
                    self.columns_of_b(column(b.start)..self.columns.end.min(column(b.end)), to).pack();
                }
            }
        });
    }

    /// Panels of some rows of A, to be written to `to`.
    unsafe fn rows_of_a(&self, rows: Range<usize>, to: *mut T) -> Panels<T> {
        let Blocks { a, a_width, rows: each, .. } = *self.blocks;
        // SAFETY: rows of the matrix.
        let from = unsafe { self.a(rows.start) };
        let (line_stride, depth_stride) = (a.row, a.column);
        Panels { from, line_stride, depth_stride, lines: rows.len(), each, depth: self.depth, to, width: a_width }
    }

    /// Panels of some columns of B, to be written to `to`.
    unsafe fn columns_of_b(&self, columns: Range<usize>, to: *mut T) -> Panels<T> {
        let Blocks { b, b_width, .. } = *self.blocks;
        // SAFETY: columns of the matrix.
        let from = unsafe { self.b(columns.start) };
        let (line_stride, depth_stride) = (b.column, b.row);
        let (lines, each) = (columns.len(), b_width);
        Panels { from, line_stride, depth_stride, lines, each, depth: self.depth, to, width: b_width }
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
            let tall = if blocks.pack_b == Packing::OnUse { row_tiles } else { 16 };
            for row in self.rows.clone().step_by(tall.max(1) * blocks.rows) {
                let rows = row..self.rows.end.min(row + tall * blocks.rows);
                // SAFETY: the caller's promise; the only thread uses slot 0.
                unsafe { self.group(rows, self.columns.clone(), 0) };
            }
            return;
        }
        let nanos = (blocks.rows * blocks.strip * self.depth) as f64 / rate::<T>();
        let tiles = pool::chunk_rows(row_tiles * strips, nanos.max(CHUNK_NANOS / 64.0));
        // What is packed on use must serve a whole row or column of tiles; else about 16 tiles of rows share a block of A in
        // the second cache.
        let (tall, wide) = if blocks.pack_a == Packing::OnUse {
            ((tiles / strips).clamp(1, row_tiles).next_multiple_of(blocks.a_panels), strips)
        } else if blocks.pack_b == Packing::OnUse {
            (row_tiles, (tiles / row_tiles).clamp(1, strips))
        } else if blocks.b_lasts {
            let wide = strips.min(tiles);
            ((tiles / wide).clamp(1, row_tiles), wide)
        } else {
            let tall = row_tiles.min(16).min(tiles);
            (tall, (tiles / tall).clamp(1, strips))
        };
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
        // SAFETY: the caller's promise.
        unsafe {
            if blocks.b_lasts {
                // C is written along its rows.
                for row in rows.clone().step_by(blocks.a_panels * blocks.rows) {
                    let panels = self.panels_from(row, rows.end);
                    if blocks.pack_a == Packing::OnUse {
                        self.rows_of_a(panels.clone(), self.own_a(slot)).pack();
                    }
                    for row in panels.clone().step_by(blocks.rows) {
                        self.strips(row..panels.end.min(row + blocks.rows), &panels, columns.clone(), slot);
                    }
                }
            } else {
                self.strips(rows.clone(), &rows, columns, slot);
            }
        }
    }

    /// Rows of the panels of A that are packed together, from `row` on.
    fn panels_from(&self, row: usize, end: usize) -> Range<usize> {
        row..end.min(row + self.blocks.a_panels * self.blocks.rows)
    }

    /// Where a thread packs panels of A.
    unsafe fn own_a(&self, slot: usize) -> *mut T {
        // SAFETY: the workspace has a part for each slot.
        unsafe { self.own.at(slot * self.own_size).start }
    }

    /// Strip by strip, the tiles of some rows of those whose panels are there.
    unsafe fn strips(&self, rows: Range<usize>, panels: &Range<usize>, columns: Range<usize>, slot: usize) {
        let blocks = self.blocks;
        let mut column = columns.start;
        while column < columns.end {
            let left = columns.end - column;
            // SAFETY: the caller's promise; what is read of an unpacked B is a multiple of its registers.
            unsafe {
                let (b, b_stride, width) = match blocks.pack_b {
                    Packing::First => {
                        let panel = (column - self.columns.start) * self.depth;
                        (self.packed_b.at(panel).start.cast_const(), blocks.b_width, blocks.b_width.min(left))
                    }
                    Packing::Never if left >= blocks.strip => (self.b(column), blocks.b.row as usize, blocks.strip),
                    Packing::Never if left >= blocks.lanes => {
                        let whole = left.min(blocks.b_width) / blocks.lanes * blocks.lanes;
                        (self.b(column), blocks.b.row as usize, whole)
                    }
                    _ => {
                        let own = self.own.at(slot * self.own_size + self.own_a).start;
                        self.columns_of_b(column..columns.end.min(column + blocks.b_width), own).pack();
                        (own.cast_const(), blocks.b_width, blocks.b_width.min(left))
                    }
                };
                for row in rows.clone().step_by(blocks.rows) {
                    let ahead = self.ahead(panels, &columns, row, column).unwrap_or(Ahead::nothing(b));
                    let nth = (row - panels.start) / blocks.rows;
                    let a = match blocks.pack_a {
                        Packing::First => {
                            let panel = (row - self.rows.start) / blocks.rows;
                            self.packed_panel(self.packed_a.start, panel)
                        }
                        Packing::OnUse => self.packed_panel(self.own_a(slot), nth),
                        Packing::Never => (self.a(row), blocks.a.row, blocks.a.column),
                    };
                    let tile = row..rows.end.min(row + blocks.rows);
                    self.tile(tile, column, width, a, (b, b_stride as isize), ahead);
                }
                column += width;
            }
        }
    }

    /// Where a panel of A is, and the strides of its rows and steps.
    unsafe fn packed_panel(&self, panels: *mut T, nth: usize) -> (*const T, isize, isize) {
        let width = self.blocks.a_width;
        // SAFETY: a panel that was packed.
        (unsafe { panels.add(nth * width * self.depth) }.cast_const(), 1, width as isize)
    }

    /// What a thread will most likely want of A or B next: it comes from memory while the tiles before it are computed.
    fn ahead(&self, panels: &Range<usize>, columns: &Range<usize>, row: usize, column: usize) -> Option<Ahead<T>> {
        let blocks = self.blocks;
        let (rows, nth_row) = (panels.len().div_ceil(blocks.rows), (row - panels.start) / blocks.rows);
        // SAFETY: only what is inside the matrix is asked for, and nothing is written.
        unsafe {
            if blocks.b_lasts && panels.end < self.rows.end {
                let strips = columns.len().div_ceil(blocks.strip);
                let next = self.panels_from(panels.end, self.rows.end);
                let nth = nth_row * strips + (column - columns.start) / blocks.strip;
                self.rows_of_a(next, std::ptr::null_mut()).ahead(nth, rows * strips)
            } else if blocks.pack_b == Packing::OnUse && column + blocks.b_width < self.columns.end {
                let next = column + blocks.b_width;
                let next = next..self.columns.end.min(next + blocks.b_width);
                self.columns_of_b(next, std::ptr::null_mut()).ahead(nth_row, rows)
            } else {
                None
            }
        }
    }

    #[inline]
    unsafe fn tile(
        &self,
        rows: Range<usize>,
        column: usize,
        columns: usize,
        (a, a_row_stride, a_depth_stride): (*const T, isize, isize),
        (b, b_stride): (*const T, isize),
        ahead: Ahead<T>,
    ) {
        let blocks = self.blocks;
        let Operands { c, alpha, accumulate, bias, .. } = self.operands;
        // SAFETY: the caller's promise.
        unsafe {
            let (row, rows) = (rows.start, rows.len());
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
                ahead,
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
