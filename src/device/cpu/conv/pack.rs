//! The weight in the order in which the kernels read it, and back.
//!
//! packed [group][panel][tap row][tap col][depth][lane]: a panel is as many output channels as a tile has lanes; the
//! last of a group is padded with zeros to whole registers. Both directions are transpositions with permuted rows,
//! done in blocks of 8 × 8.

use super::geometry::Correlation;
use super::{Float, Shared, lanes};
use crate::device::cpu::pool;
use crate::device::cpu::simd::{Kernel, Lanes};
use std::ops::Range;

/// How the output channels of a group are cut.
pub(super) struct Panels {
    pub lanes: usize,
    pub count: usize,
    unit: usize,
}

impl Panels {
    pub fn new<E: Float>(c: &Correlation) -> Panels {
        let (lanes, unit) = lanes::widths::<E>();
        Panels { lanes, count: c.width.div_ceil(lanes), unit }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Pack,
    Unpack,
}

/// # Safety
/// `weight` is the whole weight; `packed` has room for `c.packed_at + c.packed_len()` elements.
pub(super) unsafe fn pack<E: Float>(c: &Correlation, panels: &Panels, weight: *const E, packed: *mut E) {
    // SAFETY: the caller's promise; packing does not write to the weight.
    unsafe { run(c, panels, Direction::Pack, weight.cast_mut(), packed.add(c.packed_at), 1) };
}

/// Sums `slices` packed gradients in their order into a weight gradient. The packed ones are scratch after that.
///
/// # Safety
/// `packed` holds `slices` packed weights, `weight` has room for one.
pub(super) unsafe fn unpack<E: Float>(c: &Correlation, panels: &Panels, slices: usize, packed: *mut E, weight: *mut E) {
    // SAFETY: the caller's promise.
    unsafe { run(c, panels, Direction::Unpack, weight, packed, slices) };
}

unsafe fn run<E: Float>(
    c: &Correlation,
    panels: &Panels,
    direction: Direction,
    weight: *mut E,
    packed: *mut E,
    slices: usize,
) {
    let (weight, packed) = (Shared(weight), Shared(packed));
    pool::run(c.groups * panels.count, &|job| {
        let (group, first) = (job / panels.count, job % panels.count * panels.lanes);
        let channels = panels.lanes.min(c.width - first);
        // SAFETY: a job has a panel of its own, and its channels of the weight.
        unsafe {
            E::dispatch(Panel {
                c,
                direction,
                weight: weight.get().add(group * c.group_stride + first * c.width_stride),
                packed: packed.get().add(group * c.packed_group() + first * c.terms()),
                channels,
                padded: channels.next_multiple_of(panels.unit),
                slices,
            });
        }
    });
}

/// One panel. The weight begins at its first channel.
struct Panel<'a, E> {
    c: &'a Correlation,
    direction: Direction,
    weight: *mut E,
    packed: *mut E,
    channels: usize,
    padded: usize,
    slices: usize,
}

/// Lanes and columns of a block.
const BLOCK: usize = 8;
/// Columns that are looked up at a time: a cache line of each lane, so that lanes that compete for a place in the
/// cache are read once.
const COLUMNS: usize = 16;
/// Kernels up to this size have a table of taps.
const TAPS: usize = 64;

impl<E: Float> Kernel<E> for Panel<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let c = self.c;
        // SAFETY: the columns are those of the weight of one output channel.
        unsafe {
            match self.direction {
                Direction::Unpack => self.sum::<L>(),
                Direction::Pack if self.channels < self.padded => self.packed.write_bytes(0, c.terms() * self.padded),
                Direction::Pack => {}
            }
            let kernel = c.kernel_len();
            if kernel > TAPS || c.width_stride == 1 {
                return self.by_rows();
            }
            // The tap of each kernel element, if it is one.
            let mut taps = [usize::MAX; TAPS];
            for tap in 0..c.taps() {
                taps[c.kernel_at(tap / c.axes[1].taps, tap % c.axes[1].taps)] = tap;
            }
            if c.depth_stride == kernel {
                self.line::<L>(0, kernel * c.depth, &taps[..kernel]);
            } else {
                for depth in 0..c.depth {
                    self.line::<L>(depth, kernel, &taps[..kernel]);
                }
            }
        }
    }
}

impl<E: Float> Panel<'_, E> {
    /// Adds the slices to the first.
    #[inline(always)]
    unsafe fn sum<L: Lanes<Elem = E>>(&self) {
        let len = self.c.terms() * self.padded;
        for slice in 1..self.slices {
            // SAFETY: every slice has this panel; its length is a multiple of the register.
            unsafe {
                let from = self.packed.add(slice * self.c.packed_len());
                for i in (0..len).step_by(L::WIDTH) {
                    (L::load(self.packed.add(i)) + L::load(from.add(i))).store(self.packed.add(i));
                }
            }
        }
    }

    /// Row by row of the packed weight.
    #[inline(always)]
    unsafe fn by_rows(&self) {
        let c = self.c;
        let mut row = self.packed;
        for tap in 0..c.taps() {
            let at = c.kernel_at(tap / c.axes[1].taps, tap % c.axes[1].taps);
            for depth in 0..c.depth {
                // SAFETY: an element of the weight and its row.
                unsafe {
                    let weight = self.weight.add(at + depth * c.depth_stride);
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
    unsafe fn line<L: Lanes<Elem = E>>(&self, depth: usize, columns: usize, taps: &[usize]) {
        let c = self.c;
        let (mut depth, mut element) = (depth, 0);
        // SAFETY: the caller's promise.
        unsafe {
            let mut weight = self.weight.add(depth * c.depth_stride);
            for start in (0..columns).step_by(COLUMNS) {
                let count = COLUMNS.min(columns - start);
                let mut rows = [std::ptr::null_mut(); COLUMNS];
                for row in &mut rows[..count] {
                    if taps[element] != usize::MAX {
                        *row = self.packed.add((taps[element] * c.depth + depth) * self.padded);
                    }
                    element += 1;
                    if element == taps.len() {
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
            lanes[i] = weight.wrapping_add((lane + i) * self.c.width_stride);
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
                let (from, to) = self.directed(weight.add(lane * self.c.width_stride), row.add(lane));
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
