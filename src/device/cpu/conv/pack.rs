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

/// Columns and lanes of a block.
const BLOCK: usize = 8;

impl<E: Float> Kernel<E> for Panel<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let c = self.c;
        // SAFETY: rows and columns are those of the panel.
        unsafe {
            match self.direction {
                Direction::Unpack => self.sum::<L>(),
                Direction::Pack if self.channels < self.padded => {
                    self.packed.write_bytes(0, c.terms() * self.padded);
                }
                Direction::Pack => {}
            }
            if c.width_stride == 1 {
                for depth in 0..c.depth {
                    self.any(depth * c.depth_stride, 0..1, 0..self.channels);
                }
            } else if c.taps() == c.depth_stride {
                // All taps of all source channels of an output channel lie in a row.
                self.line::<L>(0, c.taps() * c.depth);
            } else {
                for depth in 0..c.depth {
                    self.line::<L>(depth * c.depth_stride, c.kernel());
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
}
