//! Packing: lines of a matrix laid side by side in the order in which the micro-kernel reads them.
//!
//! A line is a row of A or a column of B; a panel has as many lines as a tile has rows or columns. With packed panels
//! the micro-kernel reads memory once and in order, whatever the strides were. Missing lines are filled with 0.

use super::super::caches::LINE_BYTES;
use super::super::simd::{Kernel, Lanes};
use super::tile::{Ahead, Element};
use std::ops::Range;

/// Panels behind each other. Of panel q, `to[q * width * depth + p * width + i] = from[(q * each + i) * line_stride +
/// p * depth_stride]` for p < depth and i < each; 0 for i ≥ each, and for lines that are not there.
pub struct Panels<T> {
    pub from: *const T,
    pub line_stride: isize,
    pub depth_stride: isize,
    /// Of all panels.
    pub lines: usize,
    /// Lines that a panel takes, at most `width`.
    pub each: usize,
    pub depth: usize,
    pub to: *mut T,
    pub width: usize,
}

impl<T: Element> Panels<T> {
    /// # Safety
    /// The strides and sizes of the panels stay inside what their pointers are valid for.
    #[inline]
    pub unsafe fn pack(&self) {
        T::dispatch(Pack(self));
    }

    #[inline(always)]
    unsafe fn panel(&self, q: usize) -> Panel<T> {
        let Panels { line_stride, depth_stride, depth, width, .. } = *self;
        let first = q * self.each;
        // SAFETY: a line that is there, and its panel.
        let (from, to) = unsafe { (self.from.offset(first as isize * line_stride), self.to.add(q * width * depth)) };
        Panel { from, line_stride, depth_stride, lines: self.each.min(self.lines - first), depth, to, width }
    }
}

impl<T> Panels<T> {
    /// The share of the cache lines of all panels that the tile `nth` of `of` before them asks for. Spread evenly: a processor
    /// waits for about a dozen lines at a time. Lines that are rows of a larger matrix it finds by itself.
    pub fn ahead(&self, nth: usize, of: usize) -> Option<Ahead<T>> {
        let Panels { from, depth, depth_stride, .. } = *self;
        let size = size_of::<T>();
        let (rows, stride, lines) = if self.line_stride == 1 {
            (depth, depth_stride, (from.addr() % LINE_BYTES + self.lines * size).div_ceil(LINE_BYTES))
        } else if depth_stride == 1 && self.line_stride == depth as isize {
            ((self.lines * depth * size).div_ceil(LINE_BYTES), (LINE_BYTES / size) as isize, 1)
        } else {
            return None;
        };
        let share = rows.div_ceil(of).max(1);
        let from = from.wrapping_offset((nth * share) as isize * stride);
        Some(Ahead { from, stride, lines, every: (depth / share).max(1) })
    }
}

struct Panel<T> {
    from: *const T,
    line_stride: isize,
    depth_stride: isize,
    lines: usize,
    depth: usize,
    to: *mut T,
    width: usize,
}

/// A kernel, so that it is compiled for the level of the processor.
struct Pack<'a, T>(&'a Panels<T>);

impl<T: Element> Kernel<T> for Pack<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = T>>(self) {
        let panels = self.0;
        // SAFETY: the promise of the caller of `Panels::pack`.
        unsafe {
            match panels.width {
                6 => pack::<L, 6>(panels),
                8 => pack::<L, 8>(panels),
                12 => pack::<L, 12>(panels),
                16 => pack::<L, 16>(panels),
                32 => pack::<L, 32>(panels),
                width => unreachable!("bug: a panel of {width} lines"),
            }
        }
    }
}

/// Steps of all panels that are packed before the next ones.
const STEPS: usize = 16;

#[inline(always)]
unsafe fn pack<L: Lanes<Elem: Element>, const W: usize>(panels: &Panels<L::Elem>) {
    let (count, depth) = (panels.lines.div_ceil(panels.each.max(1)), panels.depth);
    // SAFETY: the promise of the caller of `Panels::pack`.
    unsafe {
        if panels.line_stride == 1 {
            // A row of the matrix is read across all panels: cache lines that two panels share are fetched once.
            for start in (0..depth).step_by(STEPS) {
                for q in 0..count {
                    copy::<L, W>(&panels.panel(q), start..depth.min(start + STEPS));
                }
            }
        } else {
            for q in 0..count {
                turn::<L>(&panels.panel(q));
            }
        }
    }
}

/// Steps whose lines lie side by side in the matrix already.
#[inline(always)]
unsafe fn copy<L: Lanes<Elem: Element>, const W: usize>(panel: &Panel<L::Elem>, steps: Range<usize>) {
    for p in steps {
        // SAFETY: the promise of the caller of `Panels::pack`; p is below the depth.
        unsafe {
            let (from, to) = (panel.from.offset(p as isize * panel.depth_stride), panel.to.add(p * W));
            if panel.lines == W {
                *to.cast::<[L::Elem; W]>() = *from.cast::<[L::Elem; W]>();
                continue;
            }
            for i in (0..W).step_by(L::WIDTH) {
                let there = panel.lines.saturating_sub(i).min(L::WIDTH);
                let lanes =
                    if there == L::WIDTH { L::load(from.add(i)) } else { L::load_first(from.wrapping_add(i), there) };
                let room = W - i;
                if room < L::WIDTH { lanes.store_first(to.add(i), room) } else { lanes.store(to.add(i)) }
            }
        }
    }
}

/// Lines that are rows of the matrix, or lie at any strides.
#[inline(always)]
unsafe fn turn<L: Lanes<Elem: Element>>(panel: &Panel<L::Elem>) {
    let Panel { depth_stride, lines, depth, .. } = *panel;
    // SAFETY: the promise of the caller of `Panels::pack`; every index is below the sizes of the panel.
    unsafe {
        if depth_stride == 1 {
            // Blocks of 16 steps: a cache line is read whole, even where lines of the matrix compete for a place.
            let turned = depth - depth % 8;
            for start in (0..turned).step_by(16) {
                let steps = start..turned.min(start + 16);
                let mut i = 0;
                while i + 8 <= lines {
                    for p in steps.clone().step_by(8) {
                        turn_8_lines::<L>(panel, i, p);
                    }
                    i += 8;
                }
                if i + 4 <= lines {
                    for p in steps.clone().step_by(8) {
                        turn_4_lines::<L>(panel, i, p);
                    }
                    i += 4;
                }
                any(panel, i..lines, steps);
            }
            any(panel, 0..lines, turned..depth);
        } else {
            any(panel, 0..lines, 0..depth);
        }
        clear(panel);
    }
}

/// Transposes eight steps of the eight lines from `i` on.
#[inline(always)]
unsafe fn turn_8_lines<L: Lanes<Elem: Element>>(panel: &Panel<L::Elem>, i: usize, p: usize) {
    // SAFETY: the promise of the caller of `Panels::pack`; lanes of eight `f32` mean AVX2.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if L::WIDTH >= 8 && size_of::<L::Elem>() == 4 {
            let at = panel.from.offset(i as isize * panel.line_stride).add(p).cast::<f32>();
            let to = panel.to.add(p * panel.width + i).cast::<f32>();
            return turn_8x8(at, panel.line_stride, to, panel.width);
        }
        turn_4_lines::<L>(panel, i, p);
        turn_4_lines::<L>(panel, i + 4, p);
    }
}

/// Transposes eight steps of the four lines from `i` on.
#[inline(always)]
unsafe fn turn_4_lines<L: Lanes<Elem: Element>>(panel: &Panel<L::Elem>, i: usize, p: usize) {
    let Panel { from, line_stride, to, width, .. } = *panel;
    // SAFETY: the promise of the caller of `Panels::pack`.
    unsafe {
        for p in [p, p + 4] {
            let block: [[L::Elem; 4]; 4] =
                std::array::from_fn(|line| *from.offset((i + line) as isize * line_stride).add(p).cast());
            for q in 0..4 {
                let step: [L::Elem; 4] = std::array::from_fn(|line| block[line][q]);
                *to.add((p + q) * width + i).cast() = step;
            }
        }
    }
}

/// What the compiler does not find by itself, three times faster than its own.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn turn_8x8(from: *const f32, line_stride: isize, to: *mut f32, width: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the promise of the caller of `Panels::pack`, which has AVX2.
    unsafe {
        let line = |i: isize| from.offset(i * line_stride);
        // Lines i and i + 4 share a register: the first four steps of both, and the last four.
        let halves = |i: isize, step: usize| {
            let low = _mm256_castps128_ps256(_mm_loadu_ps(line(i).add(step)));
            _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(line(i + 4).add(step)))
        };
        for step in [0, 4] {
            let [a, b, c, d] = [halves(0, step), halves(1, step), halves(2, step), halves(3, step)];
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            let steps = [
                _mm256_shuffle_ps::<0b_01_00_01_00>(ab, cd),
                _mm256_shuffle_ps::<0b_11_10_11_10>(ab, cd),
                _mm256_shuffle_ps::<0b_01_00_01_00>(ab_high, cd_high),
                _mm256_shuffle_ps::<0b_11_10_11_10>(ab_high, cd_high),
            ];
            for (q, lanes) in steps.into_iter().enumerate() {
                _mm256_storeu_ps(to.add((step + q) * width), lanes);
            }
        }
    }
}

/// Any strides.
#[inline(always)]
unsafe fn any<T: Element>(panel: &Panel<T>, lines: Range<usize>, depth: Range<usize>) {
    let Panel { from, line_stride, depth_stride, to, width, .. } = *panel;
    // SAFETY: the promise of the caller of `Panels::pack`.
    unsafe {
        for p in depth {
            let from = from.offset(p as isize * depth_stride);
            for i in lines.clone() {
                *to.add(p * width + i) = *from.offset(i as isize * line_stride);
            }
        }
    }
}

/// The lines that are not there.
#[inline(always)]
unsafe fn clear<T: Element>(panel: &Panel<T>) {
    for p in 0..panel.depth {
        for i in panel.lines..panel.width {
            // SAFETY: i and p are below the sizes of the panel.
            unsafe { *panel.to.add(p * panel.width + i) = T::ZERO };
        }
    }
}
