//! The gradient of the weight: for each tap, source channel and output channel a sum over pixels.
//!
//! A tile is a few consecutive source channels × one panel of output channels, held in registers while the pixels of a
//! chunk stream by: one row of dy times one number of x a row of the tile. Chunks are shared out among slices with sums
//! of their own, which are added in their order at the end. Chunks and slices follow from the sizes alone.

use super::geometry::{Chunk, Correlation, Tiling, Walk, Window};
use super::lanes::{self, load_some, multiply_add};
use super::pack::{self, Panels, Which};
use super::{Conv, Float, Shared};
use crate::device::cpu::pool;
use crate::device::cpu::simd::{Kernel, Lanes};
use std::ops::Range;

/// Jobs that are enough to share out evenly.
const JOBS: usize = 16;
/// Pixels of a chunk at the most; a tile's sums are loaded and stored once a chunk.
const PIXELS: usize = 1024;
/// The rows of a tile at the most.
const MOST: usize = 12;

fn tiling(c: &Correlation) -> Tiling {
    c.tiling(PIXELS)
}

/// How often the sum over the chunks is cut.
fn slices(c: &Correlation) -> usize {
    JOBS.div_ceil(c.groups * c.width.div_ceil(32)).min(c.chunks(&tiling(c)))
}

fn window(c: &Correlation) -> usize {
    if c.reads_padding() { c.window(&tiling(c)) } else { 0 }
}

/// Elements of the sums: all of them for each slice, or a panel for each thread if there is one slice.
fn sums(c: &Correlation) -> (usize, usize) {
    match slices(c) {
        1 => (0, c.terms() * lanes::WIDEST),
        slices => (slices * pack::packed_len(c, c.terms()), 0),
    }
}

pub(super) fn workspace(s: &Conv) -> usize {
    let c = Correlation::forward(s);
    let (shared, own) = sums(&c);
    shared + (window(&c) + own) * pool::threads()
}

/// # Safety
/// The tensors have the sizes of `s`, `workspace` that of [`workspace`].
pub(super) unsafe fn run<E: Float>(s: &Conv, x: *const E, dy: *const E, dweight: *mut E, workspace: &mut [E]) {
    let c = Correlation::forward(s);
    let panels = Panels::new::<E>(c, s.whole());
    let (tiling, slices, window) = (tiling(&c), slices(&c), window(&c));
    let (shared, own) = sums(&c);
    let (sums, scratch) = workspace.split_at_mut(shared);
    let slots = scratch.len().checked_div(window + own).unwrap_or(usize::MAX);
    let (sums, scratch, dweight) = (Shared(sums.as_mut_ptr()), Shared(scratch.as_mut_ptr()), Shared(dweight));
    let (x, dy) = (Shared(x.cast_mut()), Shared(dy.cast_mut()));
    let (chunks, stride) = (c.chunks(&tiling), shared / slices);
    let which = |job: usize| Which { group: job / panels.count, panel: job % panels.count };
    pool::run_with_slots(slices * c.groups * panels.count, slots, &|job, slot| {
        let (slice, which) = (job % slices, which(job / slices));
        // SAFETY: a slot's scratch is used by one thread at a time; a job writes the sums of its slice and panel.
        unsafe {
            let scratch = scratch.get().add(slot * (window + own));
            let sums =
                if slices == 1 { scratch.add(window) } else { sums.get().add(slice * stride + panels.offset(which)) };
            E::dispatch(Job {
                c: &c,
                tiling: &tiling,
                chunks: slice * chunks / slices..(slice + 1) * chunks / slices,
                group: which.group,
                channel: which.panel * panels.lanes,
                channels: panels.channels(which),
                x: x.get(),
                dy: dy.get(),
                sums,
                scratch,
            });
            if slices == 1 {
                panels.unpack(which, sums, dweight.get());
            }
        }
    });
    if slices > 1 {
        pool::run(c.groups * panels.count, &|job| {
            let which = which(job);
            // SAFETY: the sums of all slices are complete, and panels are disjoint.
            unsafe {
                let sums = sums.get().add(panels.offset(which));
                E::dispatch(Total { sums, stride, slices, len: c.terms() * panels.padded(which) });
                panels.unpack(which, sums, dweight.get());
            }
        });
    }
}

/// Adds slices to the first, in their order.
struct Total<E> {
    sums: *mut E,
    stride: usize,
    slices: usize,
    /// A multiple of every register.
    len: usize,
}

impl<E: Float> Kernel<E> for Total<E> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        for i in (0..self.len).step_by(L::WIDTH) {
            // SAFETY: every slice has `len` elements.
            unsafe {
                let mut sum = L::load(self.sums.add(i));
                for slice in 1..self.slices {
                    sum = sum + L::load(self.sums.add(slice * self.stride + i));
                }
                sum.store(self.sums.add(i));
            }
        }
    }
}

/// The sums of one panel over some chunks.
struct Job<'a, E> {
    c: &'a Correlation,
    tiling: &'a Tiling,
    chunks: Range<usize>,
    group: usize,
    /// The first output channel within the group, and how many there are in the panel.
    channel: usize,
    channels: usize,
    x: *const E,
    dy: *const E,
    sums: *mut E,
    scratch: *mut E,
}

impl<E: Float> Kernel<E> for Job<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let first = self.chunks.start;
        for index in self.chunks.clone() {
            let chunk = self.c.chunk(self.tiling, index);
            // SAFETY: `run` of this module says what the pointers are.
            unsafe {
                let window = self.c.view(&chunk, self.group, self.x, self.scratch);
                let tiles = self.tiles(&chunk, &window, index == first);
                match (L::WIDTH, self.channels > L::WIDTH) {
                    (1, _) if self.channels == 8 => tiles.run::<L, 8, true>(),
                    (1, _) => tiles.run::<L, 8, false>(),
                    (_, true) if self.channels == 2 * L::WIDTH => tiles.run::<L, 2, true>(),
                    (_, true) => tiles.run::<L, 2, false>(),
                    (_, false) if self.channels == L::WIDTH => tiles.run::<L, 1, true>(),
                    (_, false) => tiles.run::<L, 1, false>(),
                }
            }
        }
    }
}

impl<E: Float> Job<'_, E> {
    fn tiles(&self, chunk: &Chunk, window: &Window<E>, fresh: bool) -> Tiles<E> {
        let c = self.c;
        let [vertical, horizontal] = &c.axes;
        let out_channels = c.out_channels();
        let row_stride = horizontal.out * out_channels;
        let image_stride = vertical.out * row_stride;
        let at = chunk.images.start * image_stride
            + chunk.rows.start * row_stride
            + chunk.cols.start * out_channels
            + self.group * c.width
            + self.channel;
        Tiles {
            walk: Walk::new(c, window),
            images: chunk.images.len(),
            rows: chunk.rows.len(),
            cols: chunk.cols.len(),
            x: window.data,
            x_strides: [window.image_stride, vertical.step * window.row_stride, horizontal.step * window.pixel_stride],
            dy: self.dy.wrapping_add(at),
            dy_strides: [image_stride, row_stride, out_channels],
            channels: self.channels,
            sums: self.sums,
            fresh,
        }
    }
}

/// All taps and source channels of one panel, over the pixels of one chunk. Strides are for images, rows, columns.
struct Tiles<E> {
    walk: Walk,
    images: usize,
    rows: usize,
    cols: usize,
    x: *const E,
    x_strides: [usize; 3],
    dy: *const E,
    dy_strides: [usize; 3],
    channels: usize,
    sums: *mut E,
    /// Whether the sums begin here.
    fresh: bool,
}

impl<E: Float> Tiles<E> {
    #[inline(always)]
    unsafe fn run<L: Lanes<Elem = E>, const V: usize, const FULL: bool>(&self) {
        let most = match L::WIDTH {
            16 => MOST,
            8 => 6,
            _ => 4,
        };
        let mut sums = self.sums;
        for row in 0..self.walk.rows {
            for col in 0..self.walk.cols {
                // SAFETY: a tap of the window.
                let mut x = unsafe { self.x.add(row * self.walk.row_stride + col * self.walk.col_stride) };
                let mut left = self.walk.run;
                let mut tiles = left.div_ceil(most);
                while left > 0 {
                    let m = left.div_ceil(tiles);
                    // SAFETY: m elements of the run, and their rows of sums.
                    unsafe {
                        match m {
                            12 if L::WIDTH == 16 => self.tile::<L, V, 12, FULL>(x, sums),
                            11 if L::WIDTH == 16 => self.tile::<L, V, 11, FULL>(x, sums),
                            10 if L::WIDTH == 16 => self.tile::<L, V, 10, FULL>(x, sums),
                            9 if L::WIDTH == 16 => self.tile::<L, V, 9, FULL>(x, sums),
                            8 if L::WIDTH == 16 => self.tile::<L, V, 8, FULL>(x, sums),
                            7 if L::WIDTH == 16 => self.tile::<L, V, 7, FULL>(x, sums),
                            6 if L::WIDTH >= 8 => self.tile::<L, V, 6, FULL>(x, sums),
                            5 if L::WIDTH >= 8 => self.tile::<L, V, 5, FULL>(x, sums),
                            4 => self.tile::<L, V, 4, FULL>(x, sums),
                            3 => self.tile::<L, V, 3, FULL>(x, sums),
                            2 => self.tile::<L, V, 2, FULL>(x, sums),
                            _ => self.tile::<L, V, 1, FULL>(x, sums),
                        }
                        x = x.add(m);
                        sums = sums.add(m * V * L::WIDTH);
                    }
                    left -= m;
                    tiles -= 1;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<L: Lanes<Elem = E>, const V: usize, const M: usize, const FULL: bool>(
        &self,
        x: *const E,
        out: *mut E,
    ) {
        let mut sums = [[L::splat(E::default()); V]; M];
        // SAFETY: pixels of the chunk; M rows of sums.
        unsafe {
            if !self.fresh {
                for i in 0..M {
                    for v in 0..V {
                        sums[i][v] = L::load(out.add((i * V + v) * L::WIDTH));
                    }
                }
            }
            for image in 0..self.images {
                for row in 0..self.rows {
                    let mut x = x.add(image * self.x_strides[0] + row * self.x_strides[1]);
                    let mut dy = self.dy.add(image * self.dy_strides[0] + row * self.dy_strides[1]);
                    for _ in 0..self.cols {
                        let mut d = [L::splat(E::default()); V];
                        for v in 0..V {
                            let p = dy.add(v * L::WIDTH);
                            d[v] = if FULL { L::load(p) } else { load_some(p, self.channels, v * L::WIDTH) };
                        }
                        for i in 0..M {
                            let value = L::splat(*x.add(i));
                            for v in 0..V {
                                sums[i][v] = multiply_add(value, d[v], sums[i][v]);
                            }
                        }
                        x = x.add(self.x_strides[2]);
                        dy = dy.add(self.dy_strides[2]);
                    }
                }
            }
            for i in 0..M {
                for v in 0..V {
                    sums[i][v].store(out.add((i * V + v) * L::WIDTH));
                }
            }
        }
    }
}
