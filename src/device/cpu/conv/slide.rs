//! Correlation into one register of output channels, by two or three taps in a row whose outputs lie as far apart as they do.
//!
//! With so few channels, a number of the source is used once each time it is loaded, and loads are what takes the time. Here
//! each is multiplied with the weights of all taps of a row, for as many neighbouring outputs.

use super::Float;
use super::lanes::{multiply_add, store_some};
use crate::device::cpu::simd::Lanes;

/// Outputs of a row that are summed together: with the weights and a number of the source they fill the registers.
const MOST: usize = 12;

/// The outputs of one panel for a chunk.
pub(super) struct Slide<E, L> {
    /// The kernel's rows and the taps of a row, and the distances between them in the source.
    pub taps: [usize; 2],
    pub strides: [usize; 2],
    pub depth: usize,
    /// Images, rows and columns of outputs, and distances from one to the next in the source and in the outputs. Columns lie
    /// as far apart in the source as taps.
    pub counts: [usize; 3],
    pub source_strides: [usize; 2],
    pub out_strides: [usize; 3],
    pub source: *const E,
    pub packed: *const E,
    pub start: L,
    pub out: *mut E,
    /// Channels of the panel that exist.
    pub channels: usize,
}

/// Whether [`Slide`] knows so many taps in a row.
pub(super) fn knows(taps: usize) -> bool {
    matches!(taps, 2 | 3)
}

impl<E: Float, L: Lanes<Elem = E>> Slide<E, L> {
    /// # Safety
    /// The windows of all outputs exist, the packed panel has a row for each tap and source channel.
    #[inline(always)]
    pub unsafe fn run(&self) {
        // SAFETY: the caller's promise.
        unsafe { if self.taps[1] == 2 { self.rows::<2>() } else { self.rows::<3>() } }
    }

    #[inline(always)]
    unsafe fn rows<const T: usize>(&self) {
        let [images, rows, cols] = self.counts;
        for line in 0..images * rows {
            let (image, row) = (line / rows, line % rows);
            let (mut left, mut tiles) = (cols, cols.div_ceil(MOST));
            // SAFETY: outputs of the chunk, and what they read.
            unsafe {
                let mut x = self.source.add(image * self.source_strides[0] + row * self.source_strides[1]);
                let mut out = self.out.add(image * self.out_strides[0] + row * self.out_strides[1]);
                while left > 0 {
                    let m = left.div_ceil(tiles);
                    match m {
                        12 => self.tile::<T, 12>(x, out),
                        11 => self.tile::<T, 11>(x, out),
                        10 => self.tile::<T, 10>(x, out),
                        9 => self.tile::<T, 9>(x, out),
                        8 => self.tile::<T, 8>(x, out),
                        7 => self.tile::<T, 7>(x, out),
                        6 => self.tile::<T, 6>(x, out),
                        5 => self.tile::<T, 5>(x, out),
                        4 => self.tile::<T, 4>(x, out),
                        3 => self.tile::<T, 3>(x, out),
                        2 => self.tile::<T, 2>(x, out),
                        _ => self.tile::<T, 1>(x, out),
                    }
                    x = x.add(m * self.strides[1]);
                    out = out.add(m * self.out_strides[2]);
                    left -= m;
                    tiles -= 1;
                }
            }
        }
    }

    /// M neighbouring outputs. Each is summed over rows, then source channels, then taps of the row, wherever its tile begins.
    #[inline(always)]
    unsafe fn tile<const T: usize, const M: usize>(&self, x: *const E, out: *mut E) {
        let mut sums = [self.start; M];
        let mut w = self.packed;
        let (depth, stride) = (self.depth, self.strides[1]);
        // SAFETY: the caller's promise.
        unsafe {
            for row in 0..self.taps[0] {
                let x = x.add(row * self.strides[0]);
                for channel in 0..depth {
                    let mut weights = [self.start; T];
                    for t in 0..T {
                        weights[t] = L::load(w.add((t * depth + channel) * L::WIDTH));
                    }
                    let mut number = x.add(channel);
                    for i in 0..M + T - 1 {
                        let value = L::splat(*number);
                        for t in 0..T {
                            if i >= t && i - t < M {
                                sums[i - t] = multiply_add(value, weights[t], sums[i - t]);
                            }
                        }
                        number = number.wrapping_add(stride);
                    }
                }
                w = w.add(T * depth * L::WIDTH);
            }
            for i in 0..M {
                store_some(out.add(i * self.out_strides[2]), sums[i], self.channels, 0);
            }
        }
    }
}
