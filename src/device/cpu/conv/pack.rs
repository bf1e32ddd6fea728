//! The weight in the order in which the kernels read it, and back.
//!
//! packed [group][panel][phase][tap row][tap col][depth][lane]: a panel is as many output channels as a tile has lanes;
//! the last of a group is padded with zeros to whole registers. Both directions are transpositions with permuted rows,
//! done in blocks of 8 × 8.

use super::geometry::{Correlation, PAD};
use super::{Float, lanes};
use crate::device::cpu::simd::{Kernel, Lanes};
use std::ops::Range;

/// The panels of a weight, and where each of its elements goes.
pub(super) struct Panels<P> {
    phases: P,
    c: Correlation,
    /// Output channels of a panel, and panels of a group.
    pub lanes: usize,
    pub count: usize,
    unit: usize,
    /// Rows of a panel, those of all phases.
    pub rows: usize,
    /// The row of source channel 0 for each kernel element, if it is used and the kernel is not too large.
    first_rows: [usize; TABLE],
}

/// One panel of one group.
#[derive(Clone, Copy)]
pub(super) struct Which {
    pub group: usize,
    pub panel: usize,
}

/// Rows of a packed panel for `phases`.
pub(super) fn rows(phases: impl Iterator<Item = Correlation>) -> usize {
    phases.map(|c| c.terms()).sum()
}

/// Elements of all packed panels.
pub(super) fn packed_len(c: &Correlation, rows: usize) -> usize {
    c.groups * rows * c.width.next_multiple_of(PAD)
}

impl<P: Iterator<Item = Correlation> + Clone> Panels<P> {
    /// `c` is one of the phases.
    pub fn new<E: Float>(c: Correlation, phases: P) -> Panels<P> {
        let (lanes, unit) = lanes::widths::<E>();
        let mut first_rows = [usize::MAX; TABLE];
        if c.kernel_len() <= TABLE {
            for c in phases.clone() {
                for tap in 0..c.taps() {
                    first_rows[c.kernel_at(tap)] = c.first_row + tap * c.depth;
                }
            }
        }
        let rows = rows(phases.clone());
        Panels { phases, c, lanes, count: c.width.div_ceil(lanes), unit, rows, first_rows }
    }

    /// Output channels of a panel that exist.
    pub fn channels(&self, which: Which) -> usize {
        self.lanes.min(self.c.width - which.panel * self.lanes)
    }

    /// The length of a row of a panel.
    pub fn padded(&self, which: Which) -> usize {
        self.channels(which).next_multiple_of(self.unit)
    }

    /// Where a panel begins among all of them.
    pub fn offset(&self, which: Which) -> usize {
        which.group * self.rows * self.c.width.next_multiple_of(PAD) + which.panel * self.lanes * self.rows
    }

    /// # Safety
    /// `weight` is the whole weight; `packed` has room for the panel.
    pub unsafe fn pack<E: Float>(&self, which: Which, weight: *const E, packed: *mut E) {
        // SAFETY: the caller's promise; packing does not write to the weight.
        unsafe { self.copy(Direction::Pack, which, weight.cast_mut(), packed) };
    }

    /// # Safety
    /// `packed` is the panel, `weight` has room for the whole weight.
    pub unsafe fn unpack<E: Float>(&self, which: Which, packed: *mut E, weight: *mut E) {
        // SAFETY: the caller's promise.
        unsafe { self.copy(Direction::Unpack, which, weight, packed) };
    }

    unsafe fn copy<E: Float>(&self, direction: Direction, which: Which, weight: *mut E, packed: *mut E) {
        let first = which.group * self.c.group_stride + which.panel * self.lanes * self.c.width_stride;
        E::dispatch(Panel {
            all: self,
            direction,
            // SAFETY: an element of the weight.
            weight: unsafe { weight.add(first) },
            packed,
            channels: self.channels(which),
            padded: self.padded(which),
        });
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Pack,
    Unpack,
}

/// The weight from the first channel of a panel on, and the panel.
struct Panel<'a, E, P> {
    all: &'a Panels<P>,
    direction: Direction,
    weight: *mut E,
    packed: *mut E,
    channels: usize,
    padded: usize,
}

/// Lanes and columns of a block.
const BLOCK: usize = 8;
/// Columns that are looked up at a time: a cache line of each lane, so that lanes that compete for a place in the
/// cache are read once.
const COLUMNS: usize = 16;
/// Kernels with more elements than this are copied without a table.
const TABLE: usize = 64;

impl<E: Float, P: Iterator<Item = Correlation> + Clone> Kernel<E> for Panel<'_, E, P> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let Panels { c, rows, first_rows, .. } = self.all;
        let kernel = c.kernel_len();
        // SAFETY: the columns are those of the weight of one output channel.
        unsafe {
            if self.direction == Direction::Pack && self.channels < self.padded {
                self.packed.write_bytes(0, rows * self.padded);
            }
            if kernel > TABLE || c.width_stride == 1 {
                self.by_rows();
            } else if c.depth_stride == kernel {
                self.line::<L>(0, kernel * c.depth, &first_rows[..kernel]);
            } else {
                for depth in 0..c.depth {
                    self.line::<L>(depth, kernel, &first_rows[..kernel]);
                }
            }
        }
    }
}

impl<E: Float, P: Iterator<Item = Correlation> + Clone> Panel<'_, E, P> {
    /// Row by row of the packed weight.
    #[inline(always)]
    unsafe fn by_rows(&self) {
        let mut row = self.packed;
        for c in self.all.phases.clone() {
            for (tap, depth) in (0..c.taps()).flat_map(|tap| (0..c.depth).map(move |depth| (tap, depth))) {
                // SAFETY: an element of the weight and its row.
                unsafe {
                    let weight = self.weight.add(c.kernel_at(tap) + depth * c.depth_stride);
                    if c.width_stride == 1 {
                        let (from, to) = self.directed(weight, row);
                        to.copy_from_nonoverlapping(from, self.channels);
                    } else {
                        self.column(weight, row, 0..self.channels);
                    }
                    row = row.add(self.padded);
                }
            }
        }
    }

    /// So many consecutive elements of each output channel, from the first tap of source channel `depth` on.
    #[inline(always)]
    unsafe fn line<L: Lanes<Elem = E>>(&self, depth: usize, columns: usize, first_rows: &[usize]) {
        let c = &self.all.c;
        let (mut depth, mut element) = (depth, 0);
        // SAFETY: the caller's promise.
        unsafe {
            let mut weight = self.weight.add(depth * c.depth_stride);
            for start in (0..columns).step_by(COLUMNS) {
                let count = COLUMNS.min(columns - start);
                let mut rows = [std::ptr::null_mut(); COLUMNS];
                for row in &mut rows[..count] {
                    if first_rows[element] != usize::MAX {
                        *row = self.packed.add((first_rows[element] + depth) * self.padded);
                    }
                    element += 1;
                    if element == first_rows.len() {
                        (element, depth) = (0, depth + 1);
                    }
                }
                let mut lane = 0;
                while lane + BLOCK <= self.channels {
                    let mut at = 0;
                    while at < count {
                        if at + BLOCK <= count && rows[at..at + BLOCK].iter().all(|row| !row.is_null()) {
                            self.block::<L>(weight.add(at), &rows[at..at + BLOCK], lane);
                            at += BLOCK;
                        } else {
                            self.column(weight.add(at), rows[at], lane..lane + BLOCK);
                            at += 1;
                        }
                    }
                    lane += BLOCK;
                }
                for (at, &row) in rows[..count].iter().enumerate() {
                    self.column(weight.add(at), row, lane..self.channels);
                }
                weight = weight.add(COLUMNS);
            }
        }
    }

    /// Eight elements of eight lanes, and eight rows.
    #[inline(always)]
    unsafe fn block<L: Lanes<Elem = E>>(&self, weight: *mut E, rows: &[*mut E], lane: usize) {
        let mut lanes = [weight; BLOCK];
        let mut steps = [weight; BLOCK];
        for i in 0..BLOCK {
            lanes[i] = weight.wrapping_add((lane + i) * self.all.c.width_stride);
            steps[i] = rows[i].wrapping_add(lane);
        }
        // SAFETY: the caller's promise.
        unsafe {
            match self.direction {
                Direction::Pack => turn::<L>(&lanes, &steps),
                Direction::Unpack => turn::<L>(&steps, &lanes),
            }
        }
    }

    /// One element of some lanes; nothing for a row that is null.
    #[inline(always)]
    unsafe fn column(&self, weight: *mut E, row: *mut E, lanes: Range<usize>) {
        if row.is_null() {
            return;
        }
        for lane in lanes {
            // SAFETY: the caller's promise.
            unsafe {
                let (from, to) = self.directed(weight.add(lane * self.all.c.width_stride), row.add(lane));
                *to = *from;
            }
        }
    }

    /// (from, to)
    #[inline(always)]
    fn directed(&self, weight: *mut E, packed: *mut E) -> (*mut E, *mut E) {
        if self.direction == Direction::Pack { (weight, packed) } else { (packed, weight) }
    }
}

/// to[j][i] = from[i][j], for i and j below 8.
///
/// # Safety
/// All are valid for 8 elements.
#[inline(always)]
unsafe fn turn<L: Lanes>(from: &[*mut L::Elem; BLOCK], to: &[*mut L::Elem; BLOCK]) {
    #[cfg(target_arch = "x86_64")]
    if L::WIDTH >= 8 && size_of::<L::Elem>() == 4 {
        // SAFETY: the caller's promise; lanes of eight `f32` mean AVX2.
        return unsafe { turn_f32(&from.map(|p| p.cast()), &to.map(|p| p.cast())) };
    }
    // SAFETY: the caller's promise.
    unsafe {
        let mut block = [[*from[0]; BLOCK]; BLOCK];
        for i in 0..BLOCK {
            block[i] = *from[i].cast();
        }
        for j in 0..BLOCK {
            let mut row = [block[0][0]; BLOCK];
            for i in 0..BLOCK {
                row[i] = block[i][j];
            }
            *to[j].cast() = row;
        }
    }
}

/// As `turn`, which the compiler does not see.
///
/// # Safety
/// As `turn`, under AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn turn_f32(from: &[*mut f32; BLOCK], to: &[*mut f32; BLOCK]) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise.
    unsafe {
        for j in [0, 4] {
            // Rows i and i + 4 share a register, four columns of each.
            let mut rows = [_mm256_setzero_ps(); 4];
            for i in 0..4 {
                let low = _mm256_castps128_ps256(_mm_loadu_ps(from[i].add(j)));
                rows[i] = _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(from[i + 4].add(j)));
            }
            let [a, b, c, d] = rows;
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            _mm256_storeu_ps(to[j], _mm256_shuffle_ps::<0b_01_00_01_00>(ab, cd));
            _mm256_storeu_ps(to[j + 1], _mm256_shuffle_ps::<0b_11_10_11_10>(ab, cd));
            _mm256_storeu_ps(to[j + 2], _mm256_shuffle_ps::<0b_01_00_01_00>(ab_high, cd_high));
            _mm256_storeu_ps(to[j + 3], _mm256_shuffle_ps::<0b_11_10_11_10>(ab_high, cd_high));
        }
    }
}
