//! The gradient of the weight: for each tap, source channel and output channel a sum over pixels.
//!
//! A tile is a few consecutive source channels × one panel of output channels, held in registers while the pixels of a
//! chunk stream by: one row of dy times one number of x a row of the tile. Chunks are shared out among slices with sums
//! of their own, which are added in their order at the end. Chunks and slices follow from the sizes alone.

use super::geometry::{Chunk, Correlation, Source, Tiling, Walk, Window};
use super::lanes::{self, load_some, multiply_add};
use super::pack::{self, Panels, Which};
use super::{Conv, Float, Shared};
use crate::device::cpu::channels::Affine;
use crate::device::cpu::pool;
use crate::device::cpu::simd::{Kernel, Lanes};
use std::ops::Range;

/// Jobs that are enough to share out evenly.
const JOBS: usize = 16;
/// Pixels of a chunk at the most.
const PIXELS: usize = 1024;
/// Pixels whose rows of dy are laid side by side for all tiles, to stay in the first cache: rows as far apart as they are
/// in dy compete for a few places there. A tile's sums are loaded and stored once for them.
const BLOCK: usize = 128;
/// The rows of a tile at the most.
const MOST: usize = 12;

fn tiling(c: &Correlation) -> Tiling {
    c.tiling(PIXELS)
}

/// How often the sum over the chunks is cut.
fn slices(c: &Correlation) -> usize {
    JOBS.div_ceil(c.groups * c.width.div_ceil(32)).min(c.chunks(&tiling(c)))
}

fn window(c: &Correlation, mapped: bool) -> usize {
    if mapped || c.reads_padding() { c.window(&tiling(c)) } else { 0 }
}

/// Elements of the sums: all of them for each slice, or a panel for each thread if there is one slice.
fn sums(c: &Correlation) -> (usize, usize) {
    match slices(c) {
        1 => (0, c.terms() * lanes::WIDEST),
        slices => (slices * pack::packed_len(c, c.terms()), 0),
    }
}

/// Elements of a block of dy, with room to begin at a cache line.
fn block() -> usize {
    (BLOCK + 1) * lanes::WIDEST
}

pub(super) fn workspace(s: &Conv, mapped: bool) -> usize {
    let c = Correlation::forward(s);
    let (shared, own) = sums(&c);
    shared + (window(&c, mapped) + own + block()) * pool::threads()
}

/// # Safety
/// The tensors have the sizes of `s`, a map that of its channels, `workspace` that of [`workspace`].
pub(super) unsafe fn run<E: Float>(
    s: &Conv,
    x: *const E,
    map: Option<Affine<E>>,
    dy: *const E,
    dweight: *mut E,
    workspace: &mut [E],
) {
    let c = Correlation::forward(s);
    let panels = Panels::new::<E>(c, s.whole());
    let (tiling, slices, window) = (tiling(&c), slices(&c), window(&c, map.is_some()));
    let (shared, own) = sums(&c);
    let (sums, scratch) = workspace.split_at_mut(shared);
    let slot_size = window + own + block();
    let slots = scratch.len() / slot_size;
    let (sums, scratch, dweight) = (Shared(sums.as_mut_ptr()), Shared(scratch.as_mut_ptr()), Shared(dweight));
    let (x, dy) = (Shared(x.cast_mut()), Shared(dy.cast_mut()));
    let (chunks, stride) = (c.chunks(&tiling), shared / slices);
    let which = |job: usize| Which { group: job / panels.count, panel: job % panels.count };
    pool::run_with_slots(slices * c.groups * panels.count, slots, &|job, slot| {
        let (slice, which) = (job % slices, which(job / slices));
        // SAFETY: a slot's scratch is used by one thread at a time; a job writes the sums of its slice and panel.
        unsafe {
            let scratch = scratch.get().add(slot * slot_size);
            let sums =
                if slices == 1 { scratch.add(window) } else { sums.get().add(slice * stride + panels.offset(which)) };
            E::dispatch(Job {
                c: &c,
                tiling: &tiling,
                chunks: slice * chunks / slices..(slice + 1) * chunks / slices,
                group: which.group,
                channel: which.panel * panels.lanes,
                channels: panels.channels(which),
                x: Source { data: x.get(), map },
                dy: dy.get(),
                sums,
                scratch,
                block: scratch.add(window + own),
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
    x: Source<'a, E>,
    dy: *const E,
    sums: *mut E,
    scratch: *mut E,
    block: *mut E,
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
                let window = self.c.view::<L>(&chunk, self.group, self.x, self.scratch);
                match (L::WIDTH, self.channels > L::WIDTH) {
                    (1, _) => self.chunk::<L, 8>(&chunk, &window, index == first),
                    (4, _) if self.channels > 3 * L::WIDTH => self.chunk::<L, 4>(&chunk, &window, index == first),
                    (4, _) if self.channels > 2 * L::WIDTH => self.chunk::<L, 3>(&chunk, &window, index == first),
                    (_, true) => self.chunk::<L, 2>(&chunk, &window, index == first),
                    (_, false) => self.chunk::<L, 1>(&chunk, &window, index == first),
                }
            }
        }
    }
}

impl<E: Float> Job<'_, E> {
    /// Adds the pixels of one chunk to the sums, or begins the sums with them.
    #[inline(always)]
    unsafe fn chunk<L: Lanes<Elem = E>, const V: usize>(&self, chunk: &Chunk, window: &Window<E>, mut fresh: bool) {
        let c = self.c;
        let [vertical, horizontal] = &c.axes;
        let out_channels = c.out_channels();
        let at = self.group * c.width + self.channel;
        let block = self.block.wrapping_add(self.block.align_offset(64).min(lanes::WIDEST));
        let (mut places, mut count) = ([0; BLOCK], 0);
        let (images, rows, cols) = (chunk.images.len(), chunk.rows.len(), chunk.cols.len());
        for line in 0..images * rows {
            let (image, row) = (line / rows, line % rows);
            let y = (chunk.images.start + image) * vertical.out + chunk.rows.start + row;
            // SAFETY: pixels of the chunk, and at most `BLOCK` of them in the block.
            unsafe {
                let mut dy = self.dy.add((y * horizontal.out + chunk.cols.start) * out_channels + at);
                let mut place = image * window.image_stride + row * vertical.step * window.row_stride;
                for col in 0..cols {
                    places[count] = place;
                    for v in 0..V {
                        let d = load_some::<L>(dy.add(v * L::WIDTH), self.channels, v * L::WIDTH);
                        d.store(block.add((count * V + v) * L::WIDTH));
                    }
                    count += 1;
                    dy = dy.add(out_channels);
                    place += horizontal.step * window.pixel_stride;
                    let last = line + 1 == images * rows && col + 1 == cols;
                    if count == BLOCK || last {
                        let places = &places[..count];
                        Tiles { walk: Walk::new(c, window), x: window.data, places, dy: block, sums: self.sums, fresh }
                            .run::<L, V>();
                        (fresh, count) = (false, 0);
                    }
                }
            }
        }
    }
}

/// All taps and source channels of one panel, over the pixels of a block.
struct Tiles<'a, E> {
    walk: Walk,
    x: *const E,
    /// What the first tap of each pixel reads first, from x on.
    places: &'a [usize],
    dy: *const E,
    sums: *mut E,
    /// Whether the sums begin here.
    fresh: bool,
}

impl<E: Float> Tiles<'_, E> {
    #[inline(always)]
    unsafe fn run<L: Lanes<Elem = E>, const V: usize>(&self) {
        let most = match (L::WIDTH, V) {
            (16, _) | (4, 1 | 2) => MOST,
            (8, _) | (4, _) => 6,
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
                            12 if most == MOST => self.tile::<L, V, 12>(x, sums),
                            11 if most == MOST => self.tile::<L, V, 11>(x, sums),
                            10 if most == MOST => self.tile::<L, V, 10>(x, sums),
                            9 if most == MOST => self.tile::<L, V, 9>(x, sums),
                            8 if most == MOST => self.tile::<L, V, 8>(x, sums),
                            7 if most == MOST => self.tile::<L, V, 7>(x, sums),
                            6 if most >= 6 => self.tile::<L, V, 6>(x, sums),
                            5 if most >= 6 => self.tile::<L, V, 5>(x, sums),
                            4 => self.tile::<L, V, 4>(x, sums),
                            3 => self.tile::<L, V, 3>(x, sums),
                            2 => self.tile::<L, V, 2>(x, sums),
                            _ => self.tile::<L, V, 1>(x, sums),
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
    unsafe fn tile<L: Lanes<Elem = E>, const V: usize, const M: usize>(&self, x: *const E, out: *mut E) {
        let mut sums = [[L::splat(E::default()); V]; M];
        // SAFETY: pixels of the block; M rows of sums.
        unsafe {
            if !self.fresh {
                for i in 0..M {
                    for v in 0..V {
                        sums[i][v] = L::load(out.add((i * V + v) * L::WIDTH));
                    }
                }
            }
            let mut dy = self.dy;
            for &place in self.places {
                let x = x.add(place);
                let mut d = [L::splat(E::default()); V];
                for v in 0..V {
                    d[v] = L::load(dy.add(v * L::WIDTH));
                }
                for i in 0..M {
                    let value = L::splat(*x.add(i));
                    for v in 0..V {
                        sums[i][v] = multiply_add(value, d[v], sums[i][v]);
                    }
                }
                dy = dy.add(V * L::WIDTH);
            }
            for i in 0..M {
                for v in 0..V {
                    sums[i][v].store(out.add((i * V + v) * L::WIDTH));
                }
            }
        }
    }
}
