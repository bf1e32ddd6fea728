//! Moving elements without looking at them: copies between layouts, and fills. Works on widths, not on types, so every
//! bit of an element arrives, and there is one compiled loop for each width.

use super::pool;
use super::view::View;
use smallvec::SmallVec;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// An unsigned integer as wide as an element.
pub trait Word: Copy + Send + Sync + 'static {
    /// The bits of 0 in every element type.
    const ZERO: Self;
}

impl Word for u8 {
    const ZERO: u8 = 0;
}
impl Word for u16 {
    const ZERO: u16 = 0;
}
impl Word for u32 {
    const ZERO: u32 = 0;
}
impl Word for u64 {
    const ZERO: u64 = 0;
}

/// Evaluates an expression with a type as wide as the elements of a view.
macro_rules! by_width {
    ($view:expr, $word:ident => $body:expr) => {
        match $view.dtype.bytes() {
            1 => {
                type $word = u8;
                $body
            }
            2 => {
                type $word = u16;
                $body
            }
            4 => {
                type $word = u32;
                $body
            }
            _ => {
                type $word = u64;
                $body
            }
        }
    };
}
pub(super) use by_width;

/// A tensor's memory, cut between threads. All access is unsafe; what makes it sound is each kernel's partition.
#[derive(Clone, Copy)]
pub(super) struct Elements<'a, T> {
    ptr: *mut T,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: a pointer; whoever follows it on another thread answers for the range.
unsafe impl<T: Send> Send for Elements<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Elements<'_, T> {}

impl<'a, T: Copy + 'static> Elements<'a, T> {
    /// The elements of a view, from element [0, …, 0].
    pub fn of(view: &View<'a>) -> Elements<'a, T> {
        assert_eq!(size_of::<T>(), view.dtype.bytes(), "bug: a {} tensor read at another width", view.dtype.name());
        Elements { ptr: view.bytes_ptr().cast(), life: PhantomData }
    }

    pub fn of_slice(slice: &'a mut [T]) -> Elements<'a, T> {
        Elements { ptr: slice.as_mut_ptr(), life: PhantomData }
    }

    /// # Safety
    /// The element lies within the memory.
    #[inline(always)]
    pub unsafe fn at(&self, offset: isize) -> *mut T {
        // SAFETY: as promised by the caller.
        unsafe { self.ptr.offset(offset) }
    }

    /// # Safety
    /// The range lies within the memory, and nobody else looks at it while the slice lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [T] {
        // SAFETY: as promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}

/// The elements of a dense view in memory order, as words.
pub(super) fn words<'a, T: Copy + 'static>(view: &View<'a>) -> &'a [T] {
    assert!(view.layout.is_dense(), "bug: a slice of a layout with gaps");
    // SAFETY: dense, so `numel` elements follow the first; the width is checked in `of`.
    unsafe { Elements::of(view).slice(0, view.numel()) }
}

/// Bytes that a thread copies at a time.
const PIECE: usize = 64 * 1024;
/// The sides of the blocks that are transposed by way of the stack.
const TILE: usize = 16;

/// An axis that both sides of a copy step along, in elements.
#[derive(Clone, Copy, Debug)]
struct Axis {
    size: usize,
    from: isize,
    to: isize,
}

/// The axes of a copy in the target's memory order, outermost first, neighbours merged where both sides allow it.
fn axes(from: &View, to: &View) -> SmallVec<[Axis; 6]> {
    let of = |i: usize| Axis { size: to.shape()[i], from: from.strides()[i], to: to.strides()[i] };
    let mut list: SmallVec<[Axis; 6]> = (0..to.shape().len()).map(of).filter(|a| a.size != 1).collect();
    list.sort_by_key(|a| std::cmp::Reverse(a.to.unsigned_abs()));
    let mut merged: SmallVec<[Axis; 6]> = SmallVec::new();
    for axis in list {
        let size = axis.size as isize;
        match merged.last_mut() {
            Some(last) if last.from == axis.from * size && last.to == axis.to * size => {
                *last = Axis { size: last.size * axis.size, ..axis };
            }
            _ => merged.push(axis),
        }
    }
    if merged.is_empty() {
        merged.push(Axis { size: 1, from: 1, to: 1 });
    }
    merged
}

/// Copies every element of `from` to its place in `to`: one shape and one type, layouts as they like, no overlap.
pub fn copy(from: &View, to: &View) {
    assert!(from.shape() == to.shape() && from.dtype == to.dtype, "bug: a copy between unlike tensors");
    if to.numel() > 0 {
        let axes = axes(from, to);
        by_width!(to, W => copy_words::<W>(Elements::of(from), Elements::of(to), &axes));
    }
}

/// Fills a dense tensor with zeros.
pub fn zero(to: &View) {
    let (bytes, piece) = (to.numel() * to.dtype.bytes(), 4 * PIECE);
    assert!(to.layout.is_dense(), "bug: a slice of a layout with gaps");
    let bytes_of = Elements { ptr: to.bytes_ptr(), life: PhantomData };
    pool::run(bytes.div_ceil(piece), &|i| {
        // SAFETY: each piece lies within the tensor and is written by one thread.
        unsafe { bytes_of.slice(i * piece, piece.min(bytes - i * piece)) }.fill(0);
    });
}

fn copy_words<W: Word>(from: Elements<W>, to: Elements<W>, axes: &[Axis]) {
    let inner = axes[axes.len() - 1];
    let outer = &axes[..axes.len() - 1];
    let turned = outer.iter().rposition(|a| a.from.unsigned_abs() == 1);
    if let Some(at) = turned
        && inner.to == 1
        && inner.from.unsigned_abs() > 1
    {
        return transpose(from, to, axes, at);
    }
    let rows: usize = outer.iter().map(|a| a.size).product();
    let piece = (PIECE / size_of::<W>()).min(inner.size);
    let pieces = inner.size.div_ceil(piece);
    let nanos = 5.0 + (piece * size_of::<W>()) as f64 / if inner.from == 1 && inner.to == 1 { 10.0 } else { 4.0 };
    let step = pool::chunk_rows(rows * pieces, nanos);
    pool::run((rows * pieces).div_ceil(step), &|chunk| {
        let units = chunk * step..((chunk + 1) * step).min(rows * pieces);
        let mut walk = Walk::new(outer, units.start / pieces);
        for unit in units {
            let start = unit % pieces * piece;
            let n = piece.min(inner.size - start);
            // SAFETY: positions within both views; each piece of the target is written by one unit.
            unsafe {
                let from = from.at(walk.from + start as isize * inner.from);
                let to = to.at(walk.to + start as isize * inner.to);
                copy_run(from, inner.from, to, inner.to, n);
            }
            if unit % pieces == pieces - 1 {
                walk.next();
            }
        }
    });
}

/// # Safety
/// `n` elements at those strides behind both pointers, not overlapping.
#[inline(always)]
unsafe fn copy_run<W: Word>(from: *const W, from_stride: isize, to: *mut W, to_stride: isize, n: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match (from_stride, to_stride) {
            // A call costs more than a few elements.
            (1, 1) if n > 8 => copy_line(from, to, n),
            (0, 1) => std::slice::from_raw_parts_mut(to, n).fill(*from),
            (-1, 1) => {
                let line = std::slice::from_raw_parts(from.offset(1 - n as isize), n);
                std::slice::from_raw_parts_mut(to, n)
                    .iter_mut()
                    .zip(line.iter().rev())
                    .for_each(|(to, from)| *to = *from);
            }
            (_, 1) => (0..n).for_each(|i| *to.add(i) = *from.offset(i as isize * from_stride)),
            _ => (0..n as isize).for_each(|i| *to.offset(i * to_stride) = *from.offset(i * from_stride)),
        }
    }
}

/// Copies a run that is whole on both sides.
///
/// # Safety
/// `n` elements behind both pointers, not overlapping.
#[inline(always)]
unsafe fn copy_line<W: Word>(from: *const W, to: *mut W, n: usize) {
    /// Above this the C library uses string instructions, which are several times slower when the two sides are not
    /// aligned to each other.
    const SHORT: usize = 1024;
    let (piece, apart) = (SHORT / size_of::<W>(), (from.addr() ^ to.addr()) % 64);
    let step = if apart == 0 { n } else { piece };
    for start in (0..n).step_by(step) {
        // SAFETY: start + step is capped at n.
        unsafe { std::ptr::copy_nonoverlapping(from.add(start), to.add(start), step.min(n - start)) };
    }
}

/// Copies where the target runs along the last axis and the source along axis `turned`, in blocks that fit in L1.
fn transpose<W: Word>(from: Elements<W>, to: Elements<W>, axes: &[Axis], turned: usize) {
    let columns = axes[axes.len() - 1];
    let rows = axes[turned];
    let outer: SmallVec<[Axis; 6]> =
        axes[..axes.len() - 1].iter().enumerate().filter(|(i, _)| *i != turned).map(|(_, a)| *a).collect();
    let planes: usize = outer.iter().map(|a| a.size).product();
    let bands = rows.size.div_ceil(TILE);
    let nanos = (TILE * columns.size * size_of::<W>()) as f64 / 6.0;
    let step = pool::chunk_rows(planes * bands, nanos);
    pool::run((planes * bands).div_ceil(step), &|chunk| {
        let units = chunk * step..((chunk + 1) * step).min(planes * bands);
        let mut walk = Walk::new(&outer, units.start / bands);
        for unit in units {
            let row = unit % bands * TILE;
            let height = TILE.min(rows.size - row);
            // SAFETY: positions within both views; each band of rows of the target is written by one unit.
            unsafe {
                let from = from.at(walk.from + row as isize * rows.from);
                let to = to.at(walk.to + row as isize * rows.to);
                transpose_band(from, to, rows, columns, height);
            }
            if unit % bands == bands - 1 {
                walk.next();
            }
        }
    });
}

/// # Safety
/// `height` ≤ TILE rows and all of `columns` behind both pointers.
unsafe fn transpose_band<W: Word>(from: *const W, to: *mut W, rows: Axis, columns: Axis, height: usize) {
    // block [TILE columns, TILE rows], as the source has it.
    let mut block = [[MaybeUninit::<W>::uninit(); TILE]; TILE];
    for column in (0..columns.size).step_by(TILE) {
        let width = TILE.min(columns.size - column);
        // SAFETY: within the views; only what was read into the block is written out.
        unsafe {
            let from = from.offset(column as isize * columns.from);
            for (j, line) in block.iter_mut().enumerate().take(width) {
                let from = from.offset(j as isize * columns.from);
                if rows.from == 1 && height == TILE {
                    std::ptr::copy_nonoverlapping(from.cast(), line.as_mut_ptr(), TILE);
                } else {
                    let read = |i: usize| MaybeUninit::new(*from.offset(i as isize * rows.from));
                    line.iter_mut().enumerate().take(height).for_each(|(i, value)| *value = read(i));
                }
            }
            for i in 0..height {
                let to = to.offset(i as isize * rows.to).add(column);
                if width == TILE {
                    (0..TILE).for_each(|j| *to.add(j) = block[j][i].assume_init());
                } else {
                    (0..width).for_each(|j| *to.add(j) = block[j][i].assume_init());
                }
            }
        }
    }
}

/// Steps through the outer axes of a copy in row-major order and keeps both offsets up to date.
struct Walk<'a> {
    axes: &'a [Axis],
    index: SmallVec<[usize; 6]>,
    from: isize,
    to: isize,
}

impl<'a> Walk<'a> {
    fn new(axes: &'a [Axis], position: usize) -> Walk<'a> {
        let mut walk = Walk { axes, index: SmallVec::from_elem(0, axes.len()), from: 0, to: 0 };
        let mut rest = position;
        for (i, axis) in axes.iter().enumerate().rev() {
            walk.index[i] = rest % axis.size;
            rest /= axis.size;
            walk.from += walk.index[i] as isize * axis.from;
            walk.to += walk.index[i] as isize * axis.to;
        }
        walk
    }

    #[inline]
    fn next(&mut self) {
        for (index, axis) in self.index.iter_mut().zip(self.axes).rev() {
            *index += 1;
            self.from += axis.from;
            self.to += axis.to;
            if *index < axis.size {
                return;
            }
            *index = 0;
            self.from -= axis.from * axis.size as isize;
            self.to -= axis.to * axis.size as isize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::shape::{Layout, contiguous_strides};

    /// Copies between two layouts of one shape in a buffer, and compares with a walk over all indices.
    fn arrives(shape: &[usize], from_strides: &[isize], to_strides: &[isize]) {
        let (from_layout, to_layout) = (Layout::strided(shape, from_strides), Layout::strided(shape, to_strides));
        let span = |layout: &Layout| (layout.reach().1 - layout.reach().0 + 1) as usize;
        let mut from: Vec<f32> = (0..span(&from_layout)).map(|i| i as f32).collect();
        let mut to = vec![-1.0f32; span(&to_layout)];
        let (from_zero, to_zero) = (-from_layout.reach().0, -to_layout.reach().0);
        // SAFETY: the buffers are as long as the layouts reach.
        let start = |buffer: &mut [f32], zero: isize| unsafe { buffer.as_mut_ptr().offset(zero).cast() };
        copy(
            &View::new(start(&mut from, from_zero), &from_layout, DType::F32),
            &View::new(start(&mut to, to_zero), &to_layout, DType::F32),
        );
        let plain = contiguous_strides(shape);
        for at in 0..shape.iter().product::<usize>() {
            let index = (0..shape.len()).map(|i| at / plain[i] as usize % shape[i]);
            let (mut a, mut b) = (from_zero, to_zero);
            index.enumerate().for_each(|(i, v)| {
                a += v as isize * from_strides[i];
                b += v as isize * to_strides[i];
            });
            assert_eq!(from[a as usize], to[b as usize], "{shape:?} {from_strides:?} {to_strides:?} at {at}");
        }
    }

    #[test]
    fn every_element_arrives_at_its_place() {
        arrives(&[], &[], &[]);
        arrives(&[5], &[1], &[-1]);
        arrives(&[5], &[0], &[2]);
        arrives(&[37, 53], &[1, 37], &[53, 1]);
        arrives(&[37, 53], &[-1, 37], &[53, 1]);
        arrives(&[37, 53], &[106, -2], &[60, 1]);
        arrives(&[2, 19, 5, 33], &[3135, 1, 627, 19], &[3135, 165, 33, 1]);
        arrives(&[2, 19, 5, 33], &[3135, 165, 33, 1], &[3135, 1, 627, 19]);
        arrives(&[700, 900], &[1, 700], &[900, 1]);
        arrives(&[3, 70_001], &[70_001, 1], &[70_002, 1]);
    }
}
