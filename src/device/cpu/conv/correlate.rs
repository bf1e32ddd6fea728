//! Correlation of a channels-last source with a packed weight: the forward pass, and the gradient of x.
//!
//! A tile is a few pixels × one panel of channels, held in registers. For each tap and source channel it multiplies one
//! row of the packed weight with one number of each pixel, at arbitrary distances from one another, so that rows,
//! images and strides need no case of their own.

use super::geometry::{Chunk, Correlation, Tiling, Walk};
use super::lanes::{self, load_some, multiply_add, store_some};
use super::pack::{self, Panels};
use super::{Float, Shared};
use crate::device::cpu::pool;
use crate::device::cpu::simd::{Kernel, Lanes};
use std::ops::Range;

/// Multiplications that a job should be worth: some tens of microseconds.
const JOB: usize = 4 << 20;
/// A chunk has at least this many pixels, so that a panel that fell out of the cache is fetched for more than one tile.
const PIXELS: usize = 64;

/// The pixels of a tile at the most.
const MOST: usize = 8;

/// Pixels a tile, by lane width: as many as leave registers for the panel's row and for the addresses.
#[inline(always)]
const fn most_pixels<L: Lanes>() -> usize {
    match L::WIDTH {
        16 => MOST,
        8 => 6,
        _ => 4,
    }
}

fn tiling(c: &Correlation) -> Tiling {
    c.tiling((JOB / (c.terms() * c.width).max(1)).clamp(PIXELS, 2048))
}

/// The window of a job, in elements.
fn window(c: &Correlation) -> usize {
    if c.reads_padding() { c.window(&tiling(c)) } else { 0 }
}

pub(super) fn workspace(phases: impl Iterator<Item = Correlation>) -> usize {
    let (packed, scratch) = phases.fold((0, 0), |(packed, scratch), c| (packed + c.packed_len(), scratch.max(window(&c))));
    packed + scratch * pool::threads()
}

/// # Safety
/// The tensors have the sizes of the phases, `workspace` that of [`workspace`].
pub(super) unsafe fn run<E: Float>(
    phases: impl Iterator<Item = Correlation>,
    source: *const E,
    weight: *const E,
    bias: Option<*const E>,
    out: *mut E,
    workspace: &mut [E],
) {
    let (source, out) = (Shared(source.cast_mut()), Shared(out));
    let bias = Shared(bias.map_or(std::ptr::null_mut(), |p| p.cast_mut()));
    for c in phases {
        let panels = Panels::new::<E>(&c);
        let (packed, scratch) = workspace.split_at_mut(c.packed_at + c.packed_len());
        // SAFETY: `packed` ends where the packed weight of this phase does.
        unsafe { pack::pack(&c, &panels, weight, packed.as_mut_ptr()) };
        let window = window(&c);
        let slots = scratch.len().checked_div(window).unwrap_or(usize::MAX);
        let (packed, scratch) = (Shared(packed.as_mut_ptr()), Shared(scratch.as_mut_ptr()));

        let tiling = tiling(&c);
        let chunks = c.chunks(&tiling);
        let panels_a_job = (4 * JOB / (tiling.pixels() * c.terms() * panels.lanes).max(1)).clamp(1, panels.count);
        let jobs_a_chunk = panels.count.div_ceil(panels_a_job);
        pool::run_with_slots(chunks * c.groups * jobs_a_chunk, slots, &|job, slot| {
            let (chunk, part) = (job % chunks, job / chunks);
            let (group, part) = (part / jobs_a_chunk, part % jobs_a_chunk);
            let first = part * panels_a_job;
            // SAFETY: a slot's scratch is used by one thread at a time; jobs write outputs of their own.
            unsafe {
                E::dispatch(Job {
                    c: &c,
                    chunk: c.chunk(&tiling, chunk),
                    group,
                    panels: first..(first + panels_a_job).min(panels.count),
                    source: source.get(),
                    packed: packed.get().add(c.packed_at + group * c.packed_group()),
                    bias: bias.get(),
                    out: out.get(),
                    scratch: scratch.get().add(slot * window),
                });
            }
        });
    }
}

/// Some panels of one group of channels, for the outputs of one chunk.
struct Job<'a, E> {
    c: &'a Correlation,
    chunk: Chunk,
    group: usize,
    panels: Range<usize>,
    source: *const E,
    /// The packed weight of the group.
    packed: *const E,
    /// One element an output channel, or null.
    bias: *const E,
    out: *mut E,
    scratch: *mut E,
}

impl<E: Float> Kernel<E> for Job<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let c = self.c;
        // SAFETY: `run` of this module says what the pointers are.
        unsafe {
            let window = c.view(&self.chunk, self.group, self.source, self.scratch);
            let walk = Walk::new(c, &window);
            let [vertical, horizontal] = &c.axes;
            let out_row = horizontal.out * c.out_channels();
            let first = self.group * c.width
                + (horizontal.out_first + self.chunk.cols.start * horizontal.out_step) * c.out_channels()
                + (vertical.out_first + self.chunk.rows.start * vertical.out_step) * out_row
                + self.chunk.images.start * vertical.out * out_row;
            let pixels = Pixels {
                cols: self.chunk.cols.len(),
                rows: self.chunk.rows.len(),
                source: [
                    horizontal.step * window.pixel_stride,
                    vertical.step * window.row_stride,
                    window.image_stride,
                ],
                out: [horizontal.out_step * c.out_channels(), vertical.out_step * out_row, vertical.out * out_row],
            };
            let count = self.chunk.images.len() * pixels.rows * pixels.cols;
            for panel in self.panels {
                let channel = panel * lanes::panel::<L>();
                let tiles = Tiles {
                    walk,
                    pixels,
                    count,
                    source: window.data,
                    packed: self.packed.add(channel * c.terms()),
                    bias: if self.bias.is_null() { self.bias } else { self.bias.add(self.group * c.width + channel) },
                    out: self.out.add(first + channel),
                    channels: lanes::panel::<L>().min(c.width - channel),
                };
                if L::WIDTH == 1 {
                    tiles.run::<L, 8>();
                } else if tiles.channels > L::WIDTH {
                    tiles.run::<L, 2>();
                } else {
                    tiles.run::<L, 1>();
                }
            }
        }
    }
}

/// Distances from one output to the next along columns, rows and images.
#[derive(Clone, Copy)]
struct Pixels {
    cols: usize,
    rows: usize,
    source: [usize; 3],
    out: [usize; 3],
}

/// The next pixel of a chunk.
struct Cursor {
    col: usize,
    row: usize,
    source: [usize; 3],
    out: [usize; 3],
}

impl Cursor {
    /// The offsets of this pixel; moves on.
    #[inline(always)]
    fn take(&mut self, pixels: &Pixels) -> (usize, usize) {
        let here = (self.source[0], self.out[0]);
        self.col += 1;
        self.source[0] += pixels.source[0];
        self.out[0] += pixels.out[0];
        if self.col == pixels.cols {
            self.col = 0;
            self.row += 1;
            let mut level = 1;
            if self.row == pixels.rows {
                self.row = 0;
                level = 2;
            }
            self.source[level] += pixels.source[level];
            self.out[level] += pixels.out[level];
            for inner in (0..level).rev() {
                self.source[inner] = self.source[level];
                self.out[inner] = self.out[level];
            }
        }
        here
    }
}

/// One panel for all pixels of a chunk.
struct Tiles<E> {
    walk: Walk,
    pixels: Pixels,
    count: usize,
    source: *const E,
    packed: *const E,
    bias: *const E,
    out: *mut E,
    /// Channels of the panel that exist.
    channels: usize,
}

impl<E: Float> Tiles<E> {
    #[inline(always)]
    unsafe fn run<L: Lanes<Elem = E>, const V: usize>(&self) {
        let zero = L::splat(E::default());
        let mut start = [zero; V];
        if !self.bias.is_null() {
            for v in 0..V {
                // SAFETY: the bias has one element a channel.
                start[v] = unsafe { load_some::<L>(self.bias.add(v * L::WIDTH), self.channels, v * L::WIDTH) };
            }
        }
        let mut cursor = Cursor { col: 0, row: 0, source: [0; 3], out: [0; 3] };
        let mut left = self.count;
        let mut tiles = left.div_ceil(most_pixels::<L>());
        while left > 0 {
            // Tiles of nearly equal size, rather than a small one at the end.
            let m = left.div_ceil(tiles);
            let mut source = [0; MOST];
            let mut out = [0; MOST];
            for i in 0..m {
                (source[i], out[i]) = cursor.take(&self.pixels);
            }
            // SAFETY: offsets of pixels of this chunk.
            unsafe {
                match m {
                    8 if L::WIDTH == 16 => self.tile::<L, V, 8>(&source, &out, start),
                    7 if L::WIDTH == 16 => self.tile::<L, V, 7>(&source, &out, start),
                    6 if L::WIDTH >= 8 => self.tile::<L, V, 6>(&source, &out, start),
                    5 if L::WIDTH >= 8 => self.tile::<L, V, 5>(&source, &out, start),
                    4 => self.tile::<L, V, 4>(&source, &out, start),
                    3 => self.tile::<L, V, 3>(&source, &out, start),
                    2 => self.tile::<L, V, 2>(&source, &out, start),
                    _ => self.tile::<L, V, 1>(&source, &out, start),
                }
            }
            left -= m;
            tiles -= 1;
        }
    }

    #[inline(always)]
    unsafe fn tile<L: Lanes<Elem = E>, const V: usize, const M: usize>(
        &self,
        source: &[usize; MOST],
        out: &[usize; MOST],
        start: [L; V],
    ) {
        let mut offsets = [0; M];
        offsets.copy_from_slice(&source[..M]);
        let mut sums = [start; M];
        let mut w = self.packed;
        // SAFETY: the walk stays within the window of each pixel, and the packed panel has a row for each step.
        unsafe {
            for row in 0..self.walk.rows {
                for col in 0..self.walk.cols {
                    let mut x = self.source.add(row * self.walk.row_stride + col * self.walk.col_stride);
                    let end = x.add(self.walk.run);
                    while x < end {
                        let mut weights = [start[0]; V];
                        for v in 0..V {
                            weights[v] = L::load(w.add(v * L::WIDTH));
                        }
                        for i in 0..M {
                            let value = L::splat(*x.add(offsets[i]));
                            for v in 0..V {
                                sums[i][v] = multiply_add(value, weights[v], sums[i][v]);
                            }
                        }
                        x = x.add(1);
                        w = w.add(V * L::WIDTH);
                    }
                }
            }
            for i in 0..M {
                for v in 0..V {
                    store_some(self.out.add(out[i] + v * L::WIDTH), sums[i][v], self.channels, v * L::WIDTH);
                }
            }
        }
    }
}
