//! Correlation of a channels-last source with a packed weight: the forward pass, and the gradient of x.
//!
//! A tile is a few pixels × one panel of channels, held in registers. For each tap and source channel it multiplies one
//! row of the packed weight with one number of each pixel, at arbitrary distances from one another, so that rows,
//! images and strides need no case of their own.

use super::geometry::{Chunk, Correlation, Source, Tiling, Walk};
use super::lanes::{self, load_some, multiply_add, store_some};
use super::pack::{self, Panels, Which};
use super::slide::{self, Slide};
use super::{Float, Shared};
use crate::device::cpu::gemm::tile::prefetch;
use crate::device::cpu::pool;
use crate::device::cpu::simd::{Kernel, Lanes};

/// Multiplications that a job should be worth: some tens of microseconds.
const JOB: usize = 4 << 20;
/// A chunk has at least this many pixels, so that a panel that fell out of the cache is fetched for more than one tile.
const PIXELS: usize = 64;

/// From this many elements on a packed weight is better not written to memory, if there are enough panels to share out.
const LARGE: usize = 1 << 20;
const OWN_JOBS: usize = 8;

/// Rows of the packed weight by which it is fetched ahead: most panels are larger than the first cache.
const AHEAD: usize = 8;

/// The pixels of a tile at the most.
const MOST: usize = 8;

/// Pixels a tile, by lane width and registers of the panel: as many as leave registers for the panel's row and for the addresses.
#[inline(always)]
const fn most_pixels<L: Lanes, const V: usize>() -> usize {
    match (L::WIDTH, V) {
        (16, _) | (4, 1 | 2) => MOST,
        (8, _) | (4, _) => 6,
        _ => 4,
    }
}

fn tiling(c: &Correlation) -> Tiling {
    c.tiling((JOB / (c.terms() * c.width).max(1)).clamp(PIXELS, 2048))
}

/// How a correlation is cut into jobs, and its scratch memory, in elements.
struct Plan {
    /// Any phase; all have the same channels.
    c: Correlation,
    /// Whether a job packs the panel that it needs, for all pixels, instead of all panels being packed before. A large
    /// weight then goes through the caches once, instead of being written to memory and read again.
    packs_own: bool,
    packed: usize,
    window: usize,
    slot: usize,
}

impl Plan {
    /// None if there is no output.
    fn new(phases: impl Iterator<Item = Correlation> + Clone) -> Option<Plan> {
        let c = phases.clone().next()?;
        let rows = pack::rows(phases.clone());
        let all = pack::packed_len(&c, rows);
        let packs_own = all >= LARGE && c.groups * c.width / lanes::WIDEST >= OWN_JOBS;
        let window = |c: Correlation| if c.reads_padding() { c.window(&tiling(&c)) } else { 0 };
        let window = phases.map(window).max()?;
        let packed = if packs_own { 0 } else { all };
        let slot = window + if packs_own { rows * lanes::WIDEST } else { 0 };
        Some(Plan { c, packs_own, packed, window, slot })
    }
}

pub(super) fn workspace(phases: impl Iterator<Item = Correlation> + Clone) -> usize {
    Plan::new(phases).map_or(0, |plan| plan.packed + plan.slot * pool::threads())
}

/// # Safety
/// The tensors have the sizes of the phases, `workspace` that of [`workspace`].
pub(super) unsafe fn run<E: Float>(
    phases: impl Iterator<Item = Correlation> + Clone + Sync,
    source: *const E,
    weight: *const E,
    bias: Option<*const E>,
    out: *mut E,
    workspace: &mut [E],
) {
    let Some(plan) = Plan::new(phases.clone()) else { return };
    let groups = plan.c.groups;
    let panels = Panels::new::<E>(plan.c, phases.clone());
    let bias = bias.map_or(std::ptr::null(), |p| p);
    let tensors = Shared(&mut Tensors { source, bias, out });
    let weight = Shared(weight.cast_mut());
    let (packed, scratch) = workspace.split_at_mut(plan.packed);
    let slots = scratch.len().checked_div(plan.slot).unwrap_or(usize::MAX);
    let (packed, scratch) = (Shared(packed.as_mut_ptr()), Shared(scratch.as_mut_ptr()));
    let which = |job: usize| Which { group: job / panels.count, panel: job % panels.count };

    if plan.packs_own {
        pool::run_with_slots(groups * panels.count, slots, &|job, slot| {
            // SAFETY: a slot's scratch is used by one thread at a time; jobs write channels of their own.
            unsafe {
                let scratch = scratch.get().add(slot * plan.slot);
                let packed = scratch.add(plan.window);
                panels.pack(which(job), weight.get(), packed);
                for c in phases.clone() {
                    let tiling = tiling(&c);
                    for chunk in 0..c.chunks(&tiling) {
                        let chunk = c.chunk(&tiling, chunk);
                        E::dispatch(Job {
                            c: &c,
                            chunk,
                            which: which(job),
                            panels: 1,
                            tensors: &*tensors.get(),
                            packed,
                            stride: 0,
                            scratch,
                        });
                    }
                }
            }
        });
        return;
    }

    // SAFETY: panels are disjoint.
    pool::run(groups * panels.count, &|job| unsafe {
        panels.pack(which(job), weight.get(), packed.get().add(panels.offset(which(job))));
    });
    for c in phases {
        let tiling = tiling(&c);
        let chunks = c.chunks(&tiling);
        let panels_a_job = (4 * JOB / (tiling.pixels() * c.terms() * panels.lanes).max(1)).clamp(1, panels.count);
        let jobs_a_chunk = panels.count.div_ceil(panels_a_job);
        pool::run_with_slots(chunks * groups * jobs_a_chunk, slots, &|job, slot| {
            let part = job / chunks;
            let which = Which { group: part / jobs_a_chunk, panel: part % jobs_a_chunk * panels_a_job };
            // SAFETY: a slot's scratch is used by one thread at a time; jobs write outputs of their own.
            unsafe {
                E::dispatch(Job {
                    c: &c,
                    chunk: c.chunk(&tiling, job % chunks),
                    which,
                    panels: panels_a_job.min(panels.count - which.panel),
                    tensors: &*tensors.get(),
                    packed: packed.get().add(panels.offset(which)),
                    stride: panels.lanes * panels.rows,
                    scratch: scratch.get().add(slot * plan.slot),
                });
            }
        });
    }
}

struct Tensors<E> {
    source: *const E,
    /// One element an output channel, or null.
    bias: *const E,
    out: *mut E,
}

/// Some panels from one on, for the outputs of one chunk.
struct Job<'a, E> {
    c: &'a Correlation,
    chunk: Chunk,
    which: Which,
    panels: usize,
    tensors: &'a Tensors<E>,
    /// The first panel, and the distance to the next.
    packed: *const E,
    stride: usize,
    scratch: *mut E,
}

impl<E: Float> Kernel<E> for Job<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = E>>(self) {
        let c = self.c;
        // SAFETY: `run` of this module says what the pointers are.
        unsafe {
            let source = Source { data: self.tensors.source, map: None };
            let window = c.view::<L>(&self.chunk, self.which.group, source, self.scratch);
            let walk = Walk::new(c, &window);
            let [vertical, horizontal] = &c.axes;
            let out_row = horizontal.out * c.out_channels();
            let first = self.which.group * c.width
                + (horizontal.out_first + self.chunk.cols.start * horizontal.out_step) * c.out_channels()
                + (vertical.out_first + self.chunk.rows.start * vertical.out_step) * out_row
                + self.chunk.images.start * vertical.out * out_row;
            let pixels = Pixels {
                cols: self.chunk.cols.len(),
                rows: self.chunk.rows.len(),
                source: [horizontal.step * window.pixel_stride, vertical.step * window.row_stride, window.image_stride],
                out: [horizontal.out_step * c.out_channels(), vertical.out_step * out_row, vertical.out * out_row],
            };
            let count = self.chunk.images.len() * pixels.rows * pixels.cols;
            for panel in 0..self.panels {
                let channel = (self.which.panel + panel) * lanes::panel::<L>();
                let channels = lanes::panel::<L>().min(c.width - channel);
                let bias = self.tensors.bias;
                let tiles = Tiles {
                    walk,
                    pixels,
                    count,
                    source: window.data,
                    packed: self.packed.add(panel * self.stride + c.first_row * lanes::padded::<L>(channels)),
                    bias: if bias.is_null() { bias } else { bias.add(self.which.group * c.width + channel) },
                    out: self.tensors.out.add(first + channel),
                    channels,
                };
                if L::WIDTH == 1 {
                    tiles.run::<L, 8>();
                } else if L::WIDTH == 4 && tiles.channels > 3 * L::WIDTH {
                    tiles.run::<L, 4>();
                } else if L::WIDTH == 4 && tiles.channels > 2 * L::WIDTH {
                    tiles.run::<L, 3>();
                } else if tiles.channels > L::WIDTH {
                    tiles.run::<L, 2>();
                } else if lanes::has_32_registers::<L>()
                    && slide::knows(horizontal.taps)
                    && horizontal.step == horizontal.spread
                {
                    Slide {
                        taps: [vertical.taps, horizontal.taps],
                        strides: [walk.row_stride, horizontal.spread * window.pixel_stride],
                        depth: c.depth,
                        counts: [self.chunk.images.len(), pixels.rows, pixels.cols],
                        source_strides: [window.image_stride, pixels.source[1]],
                        out_strides: [pixels.out[2], pixels.out[1], pixels.out[0]],
                        source: tiles.source,
                        packed: tiles.packed,
                        start: tiles.start::<L>(0),
                        out: tiles.out,
                        channels: tiles.channels,
                    }
                    .run();
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
    /// What the sums of a register of channels begin with.
    #[inline(always)]
    fn start<L: Lanes<Elem = E>>(&self, v: usize) -> L {
        if self.bias.is_null() {
            return L::splat(E::default());
        }
        // SAFETY: the bias has one element a channel.
        unsafe { load_some::<L>(self.bias.add(v * L::WIDTH), self.channels, v * L::WIDTH) }
    }

    #[inline(always)]
    unsafe fn run<L: Lanes<Elem = E>, const V: usize>(&self) {
        let mut start = [L::splat(E::default()); V];
        for v in 0..V {
            start[v] = self.start::<L>(v);
        }
        let mut cursor = Cursor { col: 0, row: 0, source: [0; 3], out: [0; 3] };
        let mut left = self.count;
        let most = most_pixels::<L, V>();
        let mut tiles = left.div_ceil(most);
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
                    8 if most == 8 => self.tile::<L, V, 8>(&source, &out, start),
                    7 if most == 8 => self.tile::<L, V, 7>(&source, &out, start),
                    6 if most >= 6 => self.tile::<L, V, 6>(&source, &out, start),
                    5 if most >= 6 => self.tile::<L, V, 5>(&source, &out, start),
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
                        prefetch(w.wrapping_add(AHEAD * V * L::WIDTH));
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
