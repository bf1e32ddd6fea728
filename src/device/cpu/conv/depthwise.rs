//! Convolution with one source channel and one output channel a group, vectorised over the channels.
//!
//! There is nothing to multiply by more than once, so that these kernels are bound by loads: a weight register serves
//! four pixels, borders are cut out of the loops instead of being padded.

use super::geometry::Correlation;
use super::lanes::{load_some, multiply_add, store_some};
use super::{Conv, Float, Shared};
use crate::device::cpu::pool;
use crate::device::cpu::simd::{Kernel, Lanes};
use std::ops::Range;

/// Nanoseconds for a multiplication of one channel, as a guess for the size of chunks.
const NANOS: f64 = 0.05;
/// Slices of the weight gradient at the most.
const SLICES: usize = 32;
/// Pixels that share a weight register.
const PIXELS: usize = 4;
/// Taps of a row that share a register of dy.
const TAPS: usize = 4;

/// For the packed weights of all phases.
pub(super) fn workspace(s: &Conv) -> usize {
    s.c_in * s.kh * s.kw
}

/// # Safety
/// The tensors have the sizes of the phases; `workspace` has room for the packed weights of all of them.
pub(super) unsafe fn correlate<E: Float>(
    phases: impl Iterator<Item = Correlation>,
    source: *const E,
    weight: *const E,
    bias: Option<*const E>,
    out: *mut E,
    workspace: &mut [E],
) {
    let bias = Shared(bias.map_or(std::ptr::null_mut(), |p| p.cast_mut()));
    let (source, out) = (Shared(source.cast_mut()), Shared(out));
    for c in phases {
        let first = c.first_row * c.groups;
        let packed = &mut workspace[first..first + c.taps() * c.groups];
        // SAFETY: the weight has one element a tap and channel.
        unsafe { pack(&c, weight, packed) };
        let packed = Shared(packed.as_mut_ptr());
        let all = c.images * c.axes[0].outputs;
        let rows = pool::chunk_rows(all, NANOS * (c.axes[1].outputs * c.groups * c.taps().max(1)) as f64);
        pool::run(all.div_ceil(rows), &|chunk| {
            E::dispatch(Rows {
                c: &c,
                rows: chunk * rows..((chunk + 1) * rows).min(all),
                source: source.get(),
                packed: packed.get(),
                bias: bias.get(),
                out: out.get(),
            });
        });
    }
}

/// packed [tap row][tap col][channel]
///
/// # Safety
/// `weight` is the whole weight.
unsafe fn pack<E: Float>(c: &Correlation, weight: *const E, packed: &mut [E]) {
    for (tap, row) in packed.chunks_exact_mut(c.groups).enumerate() {
        for (channel, to) in row.iter_mut().enumerate() {
            // SAFETY: an element of the weight.
            *to = unsafe { *weight.add(channel * c.group_stride + c.kernel_at(tap)) };
        }
    }
}

/// Some output rows, counted through all images.
struct Rows<'a, E> {
    c: &'a Correlation,
    rows: Range<usize>,
    source: *const E,
    packed: *const E,
    bias: *const E,
    out: *mut E,
}

impl<E: Float> Kernel<E> for Rows<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let [vertical, horizontal] = &self.c.axes;
        let channels = self.c.groups;
        // Outputs that read no padding on the left or right.
        let whole = match horizontal.taps {
            0 => 0..0,
            taps => {
                let start = horizontal.outputs_inside(0).start;
                start..horizontal.outputs_inside(taps - 1).end.max(start)
            }
        };
        for index in self.rows.clone() {
            let (image, row) = (index / vertical.outputs, index % vertical.outputs);
            let out_row = image * vertical.out + vertical.out_first + row * vertical.out_step;
            let line = Line {
                rows: &self,
                image,
                row,
                taps: vertical.taps_inside(row),
                // SAFETY: a row of the output.
                out: unsafe { self.out.add((out_row * horizontal.out + horizontal.out_first) * channels) },
            };
            for channel in (0..channels).step_by(L::WIDTH) {
                let lanes = L::WIDTH.min(channels - channel);
                // SAFETY: columns of the row, and a register of channels that exist.
                unsafe {
                    if lanes == L::WIDTH {
                        line.run::<L, true>(channel, lanes, &whole);
                    } else {
                        line.run::<L, false>(channel, lanes, &whole);
                    }
                }
            }
        }
    }
}

/// One output row, with the tap rows that lie inside the source.
struct Line<'a, E> {
    rows: &'a Rows<'a, E>,
    image: usize,
    row: usize,
    taps: Range<usize>,
    out: *mut E,
}

impl<E: Float> Line<'_, E> {
    #[inline(always)]
    unsafe fn run<L: Lanes<Elem = E>, const FULL: bool>(&self, channel: usize, lanes: usize, whole: &Range<usize>) {
        let horizontal = &self.rows.c.axes[1];
        let mut col = 0;
        // SAFETY: the caller's promise; the taps of each call lie inside the source.
        unsafe {
            while col < horizontal.outputs {
                if whole.contains(&col) && col + PIXELS <= whole.end {
                    self.tile::<L, PIXELS, FULL>(col, 0..horizontal.taps, channel, lanes);
                    col += PIXELS;
                } else {
                    self.tile::<L, 1, FULL>(col, horizontal.taps_inside(col), channel, lanes);
                    col += 1;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<L: Lanes<Elem = E>, const M: usize, const FULL: bool>(
        &self,
        col: usize,
        taps: Range<usize>,
        channel: usize,
        lanes: usize,
    ) {
        let c = self.rows.c;
        let [vertical, horizontal] = &c.axes;
        let channels = c.groups;
        // SAFETY: as `run` of this impl.
        unsafe {
            let bias = self.rows.bias;
            let start =
                if bias.is_null() { L::splat(E::default()) } else { load_some::<L>(bias.add(channel), lanes, 0) };
            let mut sums = [start; M];
            for down in self.taps.clone() {
                let y = (vertical.start(self.row) + (down * vertical.spread) as isize) as usize;
                let line = (self.image * vertical.source + y) * horizontal.source;
                for across in taps.clone() {
                    let x = (horizontal.start(col) + (across * horizontal.spread) as isize) as usize;
                    let mut x = self.rows.source.add((line + x) * channels + channel);
                    let w = self.rows.packed.add((down * horizontal.taps + across) * channels + channel);
                    let w = if FULL { L::load(w) } else { L::load_first(w, lanes) };
                    for i in 0..M {
                        let value = if FULL { L::load(x) } else { L::load_first(x, lanes) };
                        sums[i] = multiply_add(value, w, sums[i]);
                        x = x.wrapping_add(horizontal.step * channels);
                    }
                }
            }
            for i in 0..M {
                store_some(self.out.add((col + i) * horizontal.out_step * channels + channel), sums[i], lanes, 0);
            }
        }
    }
}

fn slices(c: &Correlation) -> usize {
    SLICES.min(c.images * c.axes[0].outputs)
}

pub(super) fn weight_workspace(s: &Conv) -> usize {
    let c = Correlation::forward(s);
    slices(&c) * c.taps() * c.groups
}

/// # Safety
/// The tensors have the sizes of `s`, `workspace` that of [`weight_workspace`].
pub(super) unsafe fn backward_weight<E: Float>(
    s: &Conv,
    x: *const E,
    dy: *const E,
    dweight: *mut E,
    workspace: &mut [E],
) {
    let c = Correlation::forward(s);
    let slices = slices(&c);
    let all = c.images * c.axes[0].outputs;
    let sums = Shared(workspace.as_mut_ptr());
    let (x, dy) = (Shared(x.cast_mut()), Shared(dy.cast_mut()));
    pool::run(slices, &|slice| {
        // SAFETY: a slice has sums of its own.
        let sums = unsafe { sums.get().add(slice * c.taps() * c.groups) };
        let rows = slice * all / slices..(slice + 1) * all / slices;
        E::dispatch(Sums { c: &c, rows, x: x.get(), dy: dy.get(), sums });
    });
    let taps = c.taps();
    for tap in 0..taps {
        for channel in 0..c.groups {
            // SAFETY: one element a slice, tap and channel.
            unsafe {
                let mut sum = *sums.get().add(tap * c.groups + channel);
                for slice in 1..slices {
                    sum = sum + *sums.get().add(slice * c.taps() * c.groups + tap * c.groups + channel);
                }
                *dweight.add(channel * taps + tap) = sum;
            }
        }
    }
}

/// The weight gradient over some rows of dy, counted through all images. sums [tap row][tap col][channel]
struct Sums<'a, E> {
    c: &'a Correlation,
    rows: Range<usize>,
    x: *const E,
    dy: *const E,
    sums: *mut E,
}

impl<E: Float> Kernel<E> for Sums<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let [vertical, horizontal] = &self.c.axes;
        let channels = self.c.groups;
        // SAFETY: the sums of one slice.
        unsafe { self.sums.write_bytes(0, self.c.taps() * self.c.groups) };
        for index in self.rows.clone() {
            let (image, row) = (index / vertical.outputs, index % vertical.outputs);
            for down in vertical.taps_inside(row) {
                let y = (vertical.start(row) + (down * vertical.spread) as isize) as usize;
                let x_line = (image * vertical.source + y) * horizontal.source;
                let mut across = 0;
                while across < horizontal.taps {
                    let taps = TAPS.min(horizontal.taps - across);
                    for channel in (0..channels).step_by(L::WIDTH) {
                        let lanes = L::WIDTH.min(channels - channel);
                        // SAFETY: rows of x and dy that exist, and `taps` taps from `across`.
                        unsafe {
                            match (taps, lanes == L::WIDTH) {
                                (4, true) => self.line::<L, 4, true>(x_line, index, down, across, channel, lanes),
                                (3, true) => self.line::<L, 3, true>(x_line, index, down, across, channel, lanes),
                                (2, true) => self.line::<L, 2, true>(x_line, index, down, across, channel, lanes),
                                (1, true) => self.line::<L, 1, true>(x_line, index, down, across, channel, lanes),
                                (4, false) => self.line::<L, 4, false>(x_line, index, down, across, channel, lanes),
                                (3, false) => self.line::<L, 3, false>(x_line, index, down, across, channel, lanes),
                                (2, false) => self.line::<L, 2, false>(x_line, index, down, across, channel, lanes),
                                _ => self.line::<L, 1, false>(x_line, index, down, across, channel, lanes),
                            }
                        }
                    }
                    across += taps;
                }
            }
        }
    }
}

impl<E: Float> Sums<'_, E> {
    /// Adds one row of dy times the row of x below `T` taps.
    #[inline(always)]
    unsafe fn line<L: Lanes<Elem = E>, const T: usize, const FULL: bool>(
        &self,
        x_line: usize,
        dy_line: usize,
        down: usize,
        across: usize,
        channel: usize,
        lanes: usize,
    ) {
        let horizontal = &self.c.axes[1];
        let channels = self.c.groups;
        // SAFETY: the caller's promise; a tap is read only where it lies inside the row of x.
        unsafe {
            let out = self.sums.add((down * horizontal.taps + across) * channels + channel);
            let mut sums = [L::splat(E::default()); T];
            for t in 0..T {
                sums[t] = load_some(out.add(t * channels), lanes, 0);
            }
            let dy = self.dy.add(dy_line * horizontal.outputs * channels + channel);
            let x = self.x.add(x_line * channels + channel);
            let first = horizontal.outputs_inside(across);
            let last = horizontal.outputs_inside(across + T - 1);
            for col in first.start.min(last.start)..first.end.max(last.end) {
                let d = load_some::<L>(dy.add(col * channels), if FULL { L::WIDTH } else { lanes }, 0);
                let at = horizontal.start(col) + (across * horizontal.spread) as isize;
                let whole = last.contains(&col) && first.contains(&col);
                for t in 0..T {
                    let at = at + (t * horizontal.spread) as isize;
                    if whole || (at >= 0 && (at as usize) < horizontal.source) {
                        let value =
                            load_some::<L>(x.add(at as usize * channels), if FULL { L::WIDTH } else { lanes }, 0);
                        sums[t] = multiply_add(value, d, sums[t]);
                    }
                }
            }
            for t in 0..T {
                store_some(out.add(t * channels), sums[t], lanes, 0);
            }
        }
    }
}
