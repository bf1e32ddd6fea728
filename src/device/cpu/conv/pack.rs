//! The weight in the order in which the kernels read it, and back.
//!
//! packed [group][panel][tap row][tap col][depth][lane]: a panel is as many output channels as a tile has lanes, the
//! last of a group is padded with zeros to a multiple of [`PAD`].

use super::geometry::{Correlation, PAD};
use super::{Float, Shared};
use crate::device::cpu::pool;

/// Output channels of a panel for tiles of `lanes` channels, and how many there are.
fn panels(c: &Correlation, lanes: usize) -> usize {
    c.width.div_ceil(lanes)
}

/// # Safety
/// `weight` is the whole weight; `packed` has room for `c.packed_at + c.packed_len()` elements.
pub(super) unsafe fn pack<E: Float>(c: &Correlation, lanes: usize, weight: *const E, packed: *mut E) {
    let panels = panels(c, lanes);
    let (weight, packed) = (Shared(weight.cast_mut()), Shared(packed));
    pool::run(c.groups * panels, &|job| {
        let (group, first) = (job / panels, job % panels * lanes);
        let channels = lanes.min(c.width - first);
        let padded = lanes.min(c.width.next_multiple_of(PAD) - first);
        // SAFETY: a job writes its own panel; the weight has every channel named here.
        unsafe {
            let from = weight.get().add(group * c.group_stride + first * c.width_stride);
            let mut to = packed.get().add(c.packed_at + group * c.packed_group() + first * c.terms());
            for row in 0..c.axes[0].taps {
                for col in 0..c.axes[1].taps {
                    let from = from.add(c.kernel_at(row, col));
                    for depth in 0..c.depth {
                        for lane in 0..padded {
                            let inside = lane < channels;
                            *to = if inside { *from.add(depth * c.depth_stride + lane * c.width_stride) } else { E::default() };
                            to = to.add(1);
                        }
                    }
                }
            }
        }
    });
}

/// Sums `slices` packed gradients in their order into a weight gradient.
///
/// # Safety
/// `packed` holds `slices` packed weights, `weight` has room for one.
pub(super) unsafe fn unpack<E: Float>(c: &Correlation, lanes: usize, slices: usize, packed: *const E, weight: *mut E) {
    let panels = panels(c, lanes);
    let (weight, packed) = (Shared(weight), Shared(packed.cast_mut()));
    pool::run(c.groups * panels, &|job| {
        let (group, first) = (job / panels, job % panels * lanes);
        let channels = lanes.min(c.width - first);
        let padded = lanes.min(c.width.next_multiple_of(PAD) - first);
        // SAFETY: as in `pack`, the other way round.
        unsafe {
            let to = weight.get().add(group * c.group_stride + first * c.width_stride);
            let mut from = packed.get().add(group * c.packed_group() + first * c.terms());
            for row in 0..c.axes[0].taps {
                for col in 0..c.axes[1].taps {
                    let to = to.add(c.kernel_at(row, col));
                    for depth in 0..c.depth {
                        for lane in 0..channels {
                            let mut sum = *from.add(lane);
                            for slice in 1..slices {
                                sum = sum + *from.add(slice * c.packed_len() + lane);
                            }
                            *to.add(depth * c.depth_stride + lane * c.width_stride) = sum;
                        }
                        from = from.add(padded);
                    }
                }
            }
        }
    });
}
