//! Where a correlation reads and writes: axes, chunks of outputs, and the window of the source that a chunk reads.
//!
//! Forward convolution and each phase of the data gradient are the same thing here: output t of an axis is a sum over
//! taps j of source element `first + t·step + j·spread`, or 0 where that lies outside.

use super::Conv;
use crate::device::cpu::channels::{Affine, copy_affine_relu};
use crate::device::cpu::simd::Lanes;
use std::ops::Range;

/// Packed weights are padded to this many channels, which is a multiple of every lane width.
pub(super) const PAD: usize = 16;

/// The most elements of the source that a chunk may read: less than half of a second-level cache of 512 KiB in
/// f32.
const WINDOW: usize = 48 * 1024;

#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    /// The length of the source.
    pub source: usize,
    pub outputs: usize,
    pub taps: usize,
    pub first: isize,
    pub step: usize,
    pub spread: usize,
    /// Output t is element `out_first + t·out_step` of an axis of length `out`.
    pub out: usize,
    pub out_first: usize,
    pub out_step: usize,
    /// Tap j is element `tap_first + j·tap_step` of the kernel.
    tap_first: usize,
    tap_step: isize,
}

impl Axis {
    fn forward(source: usize, out: usize, taps: usize, step: usize, padding: usize, spread: usize) -> Axis {
        let first = -(padding as isize);
        Axis {
            source,
            outputs: out,
            taps,
            first,
            step,
            spread,
            out,
            out_first: 0,
            out_step: 1,
            tap_first: 0,
            tap_step: 1,
        }
    }

    /// The elements `phase + t·stride` of dx: those kernel elements k meet them for which phase + padding - k·dilation
    /// is a multiple of the stride. Taps run from the last such k to the first, so that dy is read upwards.
    fn data_gradient(
        dy: usize,
        dx: usize,
        kernel: usize,
        [stride, padding, dilation, phase]: [usize; 4],
    ) -> Option<Axis> {
        let outputs = dx.checked_sub(phase)?.div_ceil(stride);
        if outputs == 0 {
            return None;
        }
        let at = |k: usize| (phase + padding) as isize - (k * dilation) as isize;
        let mut axis = Axis {
            source: dy,
            outputs,
            taps: 0,
            first: 0,
            step: 1,
            spread: 1,
            out: dx,
            out_first: phase,
            out_step: stride,
            tap_first: 0,
            tap_step: -1,
        };
        let mut found = (0..kernel).filter(|&k| at(k) % stride as isize == 0);
        if let Some(k0) = found.next() {
            let apart = found.next().map_or(kernel, |k1| k1 - k0);
            axis.taps = (kernel - k0).div_ceil(apart);
            axis.tap_first = k0 + (axis.taps - 1) * apart;
            axis.tap_step = -(apart as isize);
            axis.first = at(axis.tap_first) / stride as isize;
            // Of no consequence where there is one tap.
            axis.spread = (apart * dilation / stride).max(1);
        }
        Some(axis)
    }

    fn kernel_index(&self, tap: usize) -> usize {
        (self.tap_first as isize + tap as isize * self.tap_step) as usize
    }

    /// The source elements from the first to the last that `outputs` consecutive outputs read.
    pub fn extent(&self, outputs: usize) -> usize {
        if self.taps == 0 { 0 } else { (outputs - 1) * self.step + (self.taps - 1) * self.spread + 1 }
    }

    /// The source element that output t reads first.
    pub fn start(&self, t: usize) -> isize {
        self.first + (t * self.step) as isize
    }

    fn inside(&self, outputs: &Range<usize>) -> bool {
        let start = self.start(outputs.start);
        start >= 0 && start as usize + self.extent(outputs.len()) <= self.source
    }

    /// The outputs whose tap `tap` lies inside the source.
    pub fn outputs_inside(&self, tap: usize) -> Range<usize> {
        let at = self.first + (tap * self.spread) as isize;
        let low = (-at).max(0) as usize;
        let high = (self.source as isize - at).max(0) as usize;
        let start = low.div_ceil(self.step).min(self.outputs);
        start..high.div_ceil(self.step).clamp(start, self.outputs)
    }

    /// The taps of output t that lie inside the source.
    pub fn taps_inside(&self, t: usize) -> Range<usize> {
        let at = self.start(t);
        let low = (-at).max(0) as usize;
        let high = (self.source as isize - at).max(0) as usize;
        let start = low.div_ceil(self.spread).min(self.taps);
        start..high.div_ceil(self.spread).clamp(start, self.taps)
    }
}

/// A correlation of a source [images, h, w, groups·depth] with a kernel into [images, out h, out w, groups·width].
#[derive(Clone, Copy, Debug)]
pub(super) struct Correlation {
    pub axes: [Axis; 2],
    pub images: usize,
    pub groups: usize,
    /// Source channels of a group.
    pub depth: usize,
    /// Output channels of a group.
    pub width: usize,
    /// Distances in the weight, which is `[c_out, c_in / groups, kh, kw]`.
    pub group_stride: usize,
    pub depth_stride: usize,
    pub width_stride: usize,
    kernel: [usize; 2],
    /// The row of a packed panel at which this phase begins.
    pub first_row: usize,
}

impl Correlation {
    pub fn forward(s: &Conv) -> Correlation {
        let axis =
            |i: usize, source, out, taps| Axis::forward(source, out, taps, s.stride[i], s.padding[i], s.dilation[i]);
        let (depth, width, kernel) = (s.c_in / s.groups, s.c_out / s.groups, s.kh * s.kw);
        Correlation {
            axes: [axis(0, s.h, s.out_h(), s.kh), axis(1, s.w, s.out_w(), s.kw)],
            images: s.n,
            groups: s.groups,
            depth,
            width,
            group_stride: width * depth * kernel,
            depth_stride: kernel,
            width_stride: depth * kernel,
            kernel: [s.kh, s.kw],
            first_row: 0,
        }
    }

    pub fn data_gradient(s: &Conv, phase: [usize; 2], first_row: usize) -> Option<Correlation> {
        let axis = |i: usize, dy, dx, taps| {
            Axis::data_gradient(dy, dx, taps, [s.stride[i], s.padding[i], s.dilation[i], phase[i]])
        };
        let (depth, width, kernel) = (s.c_out / s.groups, s.c_in / s.groups, s.kh * s.kw);
        Some(Correlation {
            axes: [axis(0, s.out_h(), s.h, s.kh)?, axis(1, s.out_w(), s.w, s.kw)?],
            images: s.n,
            groups: s.groups,
            depth,
            width,
            group_stride: depth * width * kernel,
            depth_stride: width * kernel,
            width_stride: kernel,
            kernel: [s.kh, s.kw],
            first_row,
        })
    }

    pub fn taps(&self) -> usize {
        self.axes[0].taps * self.axes[1].taps
    }

    pub fn kernel_len(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Products for one output element: rows of a packed panel.
    pub fn terms(&self) -> usize {
        self.taps() * self.depth
    }

    /// Whether any output reads beyond the source.
    pub fn reads_padding(&self) -> bool {
        self.axes.iter().any(|axis| !axis.inside(&(0..axis.outputs)))
    }

    pub fn source_channels(&self) -> usize {
        self.groups * self.depth
    }

    pub fn out_channels(&self) -> usize {
        self.groups * self.width
    }

    /// The kernel element of a tap, counted through rows and columns.
    pub fn kernel_at(&self, tap: usize) -> usize {
        let [vertical, horizontal] = &self.axes;
        let (row, col) = (tap / horizontal.taps, tap % horizontal.taps);
        vertical.kernel_index(row) * self.kernel[1] + horizontal.kernel_index(col)
    }

    /// Cuts the outputs into chunks of about `pixels`, as whole images, whole rows or parts of rows, whose windows are
    /// small enough for a cache where that is possible.
    pub fn tiling(&self, pixels: usize) -> Tiling {
        let [rows, cols] = self.axes.map(|axis| axis.outputs);
        let mut tiling = Tiling { images: 1, rows: 1, cols };
        let fits = |t: &Tiling| self.window(t) <= WINDOW;
        while !fits(&tiling) && tiling.cols > 2 * PAD {
            tiling.cols = tiling.cols.div_ceil(2);
        }
        if tiling.cols < cols {
            return tiling;
        }
        let largest =
            |most: usize, with: &dyn Fn(usize) -> Tiling| (2..=most).rev().map(with).find(fits).unwrap_or(with(1));
        // Parts of nearly equal size; also for an empty batch.
        let even = |all: usize, part: usize| all.div_ceil(all.div_ceil(part).max(1)).max(1);
        tiling = largest((pixels / cols).min(rows), &|rows| Tiling { images: 1, rows, cols });
        tiling.rows = even(rows, tiling.rows);
        if tiling.rows == rows {
            tiling = largest((pixels / (rows * cols)).min(self.images), &|images| Tiling { images, rows, cols });
            tiling.images = even(self.images, tiling.images);
        }
        tiling
    }

    /// Elements of the source, of one group, that a chunk reads, with the zeros around it.
    pub fn window(&self, t: &Tiling) -> usize {
        t.images * self.axes[0].extent(t.rows) * self.axes[1].extent(t.cols) * self.depth
    }

    pub fn chunks(&self, t: &Tiling) -> usize {
        let [rows, cols] = self.axes.map(|axis| axis.outputs);
        self.images.div_ceil(t.images) * rows.div_ceil(t.rows) * cols.div_ceil(t.cols)
    }

    pub fn chunk(&self, t: &Tiling, index: usize) -> Chunk {
        let [rows, cols] = self.axes.map(|axis| axis.outputs);
        let (down, across) = (rows.div_ceil(t.rows), cols.div_ceil(t.cols));
        let part = |index: usize, size: usize, all: usize| index * size..((index + 1) * size).min(all);
        Chunk {
            images: part(index / across / down, t.images, self.images),
            rows: part(index / across % down, t.rows, rows),
            cols: part(index % across, t.cols, cols),
        }
    }

    /// What a chunk reads of a group's channels: the source itself where no padding is read and it is not mapped, else a
    /// copy with zeros in `scratch`.
    ///
    /// # Safety
    /// `source` is the whole source, `scratch` has room for the window of the chunk.
    #[inline(always)]
    pub unsafe fn view<L: Lanes>(
        &self,
        chunk: &Chunk,
        group: usize,
        source: Source<L::Elem>,
        scratch: *mut L::Elem,
    ) -> Window<L::Elem> {
        let Source { data: source, map } = source;
        let map = map.map(|map| map.part(group * self.depth..(group + 1) * self.depth));
        let [vertical, horizontal] = &self.axes;
        let channels = self.source_channels();
        let (top, left) = (vertical.start(chunk.rows.start), horizontal.start(chunk.cols.start));
        if map.is_none() && vertical.inside(&chunk.rows) && horizontal.inside(&chunk.cols) {
            let row_stride = horizontal.source * channels;
            let image_stride = vertical.source * row_stride;
            let at = chunk.images.start * image_stride
                + top as usize * row_stride
                + left as usize * channels
                + group * self.depth;
            // SAFETY: an element of the source.
            return Window { data: unsafe { source.add(at) }, image_stride, row_stride, pixel_stride: channels };
        }
        let (high, wide) = (vertical.extent(chunk.rows.len()), horizontal.extent(chunk.cols.len()));
        let row_stride = wide * self.depth;
        // Columns of the window that exist in the source.
        let from = (-left).clamp(0, wide as isize) as usize;
        let to = (horizontal.source as isize - left).clamp(from as isize, wide as isize) as usize;
        let mut out = scratch;
        for image in chunk.images.clone() {
            for row in 0..high {
                let y = top + row as isize;
                // SAFETY: `out` moves through the window; columns from..to of row y exist in the source.
                unsafe {
                    if y < 0 || y as usize >= vertical.source || from == to {
                        zero(out, row_stride);
                    } else {
                        let pixel = (image * vertical.source + y as usize) * horizontal.source
                            + (left + from as isize) as usize;
                        let inner = out.add(from * self.depth);
                        zero(out, from * self.depth);
                        if let Some(map) = &map {
                            let first = source.add(pixel * channels + group * self.depth);
                            copy_affine_relu::<L>(map, to - from, (first, channels), (inner, self.depth));
                        } else if self.groups == 1 {
                            inner.copy_from_nonoverlapping(source.add(pixel * channels), (to - from) * channels);
                        } else {
                            for i in 0..to - from {
                                let from = source.add((pixel + i) * channels + group * self.depth);
                                inner.add(i * self.depth).copy_from_nonoverlapping(from, self.depth);
                            }
                        }
                        zero(out.add(to * self.depth), (wide - to) * self.depth);
                    }
                    out = out.add(row_stride);
                }
            }
        }
        Window { data: scratch, image_stride: high * row_stride, row_stride, pixel_stride: self.depth }
    }
}

/// # Safety
/// `p` is valid for writes of `len` elements.
unsafe fn zero<E: Copy>(p: *mut E, len: usize) {
    // SAFETY: the caller's promise; a float of zero bits is 0.
    unsafe { p.write_bytes(0, len) }
}

/// The size of a chunk: images, rows and columns of outputs. Only one of them is cut at a time, the others are 1 or all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiling {
    pub images: usize,
    pub rows: usize,
    pub cols: usize,
}

impl Tiling {
    pub fn pixels(&self) -> usize {
        self.images * self.rows * self.cols
    }
}

#[derive(Clone, Debug)]
pub(super) struct Chunk {
    pub images: Range<usize>,
    pub rows: Range<usize>,
    pub cols: Range<usize>,
}

/// What windows are cut from. With a map, what that and a ReLU make of it.
#[derive(Clone, Copy)]
pub(super) struct Source<'a, E> {
    pub data: *const E,
    pub map: Option<Affine<'a, E>>,
}

/// A view of source channels: `data` is what the first tap of the first output reads.
#[derive(Clone, Copy)]
pub(super) struct Window<E> {
    pub data: *const E,
    pub image_stride: usize,
    pub row_stride: usize,
    pub pixel_stride: usize,
}

/// How the taps of an output lie in its window, the same for every output of a chunk: `rows` × `cols` runs of `run`
/// elements. Neighbouring taps that touch are one run.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    pub rows: usize,
    pub row_stride: usize,
    pub cols: usize,
    pub col_stride: usize,
    pub run: usize,
}

impl Walk {
    pub fn new<E>(c: &Correlation, window: &Window<E>) -> Walk {
        let [vertical, horizontal] = &c.axes;
        let row_stride = vertical.spread * window.row_stride;
        let col_stride = horizontal.spread * window.pixel_stride;
        if col_stride == c.depth {
            Walk { rows: vertical.taps, row_stride, cols: 1, col_stride, run: horizontal.taps * c.depth }
        } else {
            Walk { rows: vertical.taps, row_stride, cols: horizontal.taps, col_stride, run: c.depth }
        }
    }
}
