//! Gather and scatter along one axis: each element of an index tensor names a place on a line of another tensor.
//!
//! The index tensor may be smaller than the tensor it points into; the lines that both have are walked. Lines never
//! touch each other, so they are what is shared between threads, and each is walked in order: sums have one order, and
//! of several writes to one place the last one stays.

use super::copy::{Elements, Word, by_width};
use super::pool;
use super::slices::Ends;
use super::view::View;
use crate::dtype::{DType, Element};
use crate::error::{self, Result};
use crate::shape::Strides;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Elements of a row that one unit of work takes.
const PIECE: usize = 4096;

/// The index tensor's axes, the last one apart, and how far `N` tensors move along each of them.
struct Grid<const N: usize> {
    /// All axes but the last; in a scatter the indexed axis is left out as well.
    sizes: SmallVec<[usize; 6]>,
    strides: SmallVec<[[isize; N]; 6]>,
}

impl<const N: usize> Grid<N> {
    fn new(shape: &[usize], strides: [&[isize]; N], keep: impl Fn(usize) -> bool) -> Grid<N> {
        let axes: SmallVec<[usize; 6]> = (0..shape.len()).filter(|&i| keep(i)).collect();
        Grid {
            sizes: axes.iter().map(|&i| shape[i]).collect(),
            strides: axes.iter().map(|&i| std::array::from_fn(|t| strides[t][i])).collect(),
        }
    }

    fn count(&self) -> usize {
        self.sizes.iter().product()
    }

    /// Calls `work(cell, offsets, from, to)` for the units of `chunk`: each cell has `row.pieces` of them.
    #[inline(always)]
    fn walk(&self, row: Row, chunk: Range<usize>, mut work: impl FnMut(usize, [isize; N], usize, usize)) {
        let (first, last) = (chunk.start / row.pieces, chunk.end.div_ceil(row.pieces));
        let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, self.sizes.len());
        let mut offsets = [0isize; N];
        let mut rest = first;
        for (i, &size) in self.sizes.iter().enumerate().rev() {
            index[i] = rest % size;
            rest /= size;
            offsets.iter_mut().zip(self.strides[i]).for_each(|(o, s)| *o += index[i] as isize * s);
        }
        for cell in first..last {
            let from = chunk.start.saturating_sub(cell * row.pieces) * row.piece;
            let to = (chunk.end - cell * row.pieces).saturating_mul(row.piece).min(row.size);
            work(cell, offsets, from, to);
            for ((i, &size), strides) in index.iter_mut().zip(&self.sizes).zip(&self.strides).rev() {
                *i += 1;
                let back = if *i < size { 0 } else { *i as isize };
                offsets.iter_mut().zip(strides).for_each(|(o, s)| *o += s - back * s);
                if back == 0 {
                    break;
                }
                *i = 0;
            }
        }
    }

    /// Walks all cells on several threads.
    #[inline(always)]
    fn share(&self, row: Row, nanos_per_element: f64, work: impl Fn(usize, [isize; N], usize, usize) + Sync) {
        let units = self.count() * row.pieces;
        let step = pool::chunk_rows(units, 4.0 + row.piece as f64 * nanos_per_element);
        pool::run(units.div_ceil(step), &|c| self.walk(row, c * step..((c + 1) * step).min(units), &work));
    }
}

/// How the elements of one cell are cut into units of work.
#[derive(Clone, Copy)]
struct Row {
    size: usize,
    pieces: usize,
    piece: usize,
}

impl Row {
    fn new(size: usize, most: usize) -> Row {
        let pieces = size.div_ceil(most.max(1));
        Row { size, pieces, piece: size.div_ceil(pieces) }
    }
}

/// A 0-d tensor is seen as [1].
fn axes<'a>(shape: &'a [usize], strides: &'a [isize]) -> (&'a [usize], Strides) {
    if shape.is_empty() { (&[1], SmallVec::from_elem(0, 1)) } else { (shape, strides.into()) }
}

/// The last axis that is more than one element long: rows run along it.
fn row_axis(shape: &[usize]) -> usize {
    shape.iter().rposition(|&size| size != 1).unwrap_or(shape.len() - 1)
}

/// Finds an index out of range for the message.
#[cold]
fn failed(op: &str, index: &View, size: usize) -> error::Error {
    let mut first = None;
    let (shape, strides) = axes(index.shape(), index.strides());
    let values: Elements<i64> = Elements::of(index);
    let grid = Grid::new(shape, [&strides], |_| true);
    grid.walk(Row::new(1, 1), 0..grid.count(), |_, [at], _, _| {
        // SAFETY: a cell of the grid is an element of the view.
        let value = unsafe { *values.at(at) };
        if first.is_none() && Ends::Start.place(value, size).is_none() {
            first = Some(value);
        }
    });
    Ends::Start.error(op, first.unwrap_or(0), size)
}

/// y[…, j, …] = x[…, index[…, j, …], …] along `dim`. y is contiguous and of the index's shape; the others lie as they like.
pub fn gather(op: &str, x: &View, index: &View, dim: usize, y: &View) -> Result<()> {
    assert!(y.shape() == index.shape() && y.dtype == x.dtype && y.layout.is_contiguous(), "bug: gather into a misfit");
    assert_within(x.shape(), index.shape(), dim);
    if y.numel() == 0 {
        return Ok(());
    }
    by_width!(x, W => gather_words::<W>(op, x, index, dim, Elements::of(y)))
}

/// What is outside `dim` must exist in the larger tensor.
fn assert_within(x: &[usize], index: &[usize], dim: usize) {
    assert_eq!(x.len(), index.len(), "bug: gather between ranks");
    let fits = |i: usize| i == dim || index[i] <= x[i];
    assert!((0..x.len()).all(fits), "bug: lines that the tensor does not have");
}

fn gather_words<W: Word>(op: &str, x: &View, index: &View, dim: usize, y: Elements<W>) -> Result<()> {
    let (shape, index_strides) = axes(index.shape(), index.strides());
    let (x_shape, x_strides) = axes(x.shape(), x.strides());
    let (size, step) = (x_shape[dim], x_strides[dim]);
    if size == 0 {
        return Err(failed(op, index, size));
    }
    let last = row_axis(shape);
    let n = shape[last];
    let mut moves = x_strides.clone();
    moves[dim] = 0;
    let (index_step, x_step) = (index_strides[last], moves[last]);
    let grid = Grid::new(shape, [&index_strides, &moves], |i| i < last);
    let (values, x) = (Elements::<i64>::of(index), Elements::<W>::of(x));
    let failure = AtomicBool::new(false);
    grid.share(Row::new(n, PIECE), 1.5, |cell, [at_index, at_x], from, to| {
        // SAFETY: these elements of y belong to this unit alone.
        let y = unsafe { y.slice(cell * n + from, to - from) };
        let mut wrong = false;
        for (j, y) in y.iter_mut().enumerate() {
            let j = (from + j) as isize;
            // SAFETY: j < n, so this is an element of the index tensor.
            let at = Ends::Start.place(unsafe { *values.at(at_index + j * index_step) }, size);
            wrong |= at.is_none();
            // SAFETY: within x, because the place is in range, the first where the index is not, and the other
            // coordinates exist there.
            *y = unsafe { *x.at(at_x + at.unwrap_or(0) as isize * step + j * x_step) };
        }
        if wrong {
            failure.store(true, Relaxed);
        }
    });
    if failure.into_inner() { Err(failed(op, index, size)) } else { Ok(()) }
}

/// How an element meets what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// Of several, the last one along the axis stays.
    Replace,
    Add,
}

/// y[…, index[…, j, …], …] meets src[…, j, …] along `dim`. y holds the values to begin with and has no element twice;
/// src has at least the index's sizes.
pub fn scatter(op: &str, y: &View, index: &View, src: &View, dim: usize, meeting: Meeting) -> Result<()> {
    assert_within(y.shape(), index.shape(), dim);
    assert_within(src.shape(), index.shape(), src.shape().len());
    assert_eq!(y.dtype, src.dtype, "bug: a scatter of another type");
    if index.numel() == 0 {
        return Ok(());
    }
    macro_rules! add {
        ($t:ty, $add:expr) => {{
            assert_eq!(y.dtype, <$t as Element>::DTYPE);
            scatter_typed::<$t>(op, y, index, src, dim, $add)
        }};
    }
    match (meeting, y.dtype) {
        (Meeting::Replace, _) => by_width!(y, W => scatter_typed::<W>(op, y, index, src, dim, |_, new| new)),
        (Meeting::Add, DType::F32) => add!(f32, |old, new| old + new),
        (Meeting::Add, DType::F64) => add!(f64, |old, new| old + new),
        (Meeting::Add, DType::I64) => add!(i64, |old: i64, new| old.wrapping_add(new)),
        (Meeting::Add, DType::I32) => add!(i32, |old: i32, new| old.wrapping_add(new)),
        (Meeting::Add, DType::U8) => add!(u8, |old: u8, new| old.wrapping_add(new)),
        (Meeting::Add, other) => panic!("bug: {} elements cannot be added", other.name()),
    }
}

fn scatter_typed<T: Copy + Send + Sync + 'static>(
    op: &str,
    y: &View,
    index: &View,
    src: &View,
    dim: usize,
    meet: impl Fn(T, T) -> T + Sync,
) -> Result<()> {
    let (shape, index_strides) = axes(index.shape(), index.strides());
    let (y_shape, y_strides) = axes(y.shape(), y.strides());
    let src_strides = axes(src.shape(), src.strides()).1;
    let (size, step) = (y_shape[dim], y_strides[dim]);
    let last = row_axis(shape);
    let mut moves = y_strides.clone();
    moves[dim] = 0;
    // A unit is a bundle of lines: a piece of a row, or one line where rows run along the indexed axis.
    let (length, width) = if dim == last { (shape[dim], 1) } else { (shape[dim], shape[last]) };
    let across = if dim == last { [0; 3] } else { [index_strides[last], src_strides[last], moves[last]] };
    let along = [index_strides[dim], src_strides[dim]];
    let grid = Grid::new(shape, [&index_strides, &src_strides, &moves], |i| i < last && i != dim);
    let (values, src, y) = (Elements::<i64>::of(index), Elements::<T>::of(src), Elements::<T>::of(y));
    let failure = AtomicBool::new(false);
    let meet_at = |at_index: isize, at_src: isize, at_y: isize| {
        // SAFETY: an element of the index tensor, and src has it too. The place is within y because its index is in range
        // and the other coordinates exist there, and on a line that belongs to one unit.
        unsafe {
            match Ends::Start.place(*values.at(at_index), size) {
                Some(to) => {
                    let y = y.at(at_y + to as isize * step);
                    *y = meet(*y, *src.at(at_src));
                }
                None => failure.store(true, Relaxed),
            }
        }
    };
    // Wide enough for whole cache lines of y.
    let row = Row::new(width, PIECE.div_ceil(length).max(64));
    grid.share(row, length as f64 * 2.0, |_, [at_index, at_src, at_y], from, to| {
        for k in 0..length as isize {
            let (at_index, at_src) = (at_index + k * along[0], at_src + k * along[1]);
            if dim == last {
                meet_at(at_index, at_src, at_y);
                continue;
            }
            for j in from as isize..to as isize {
                meet_at(at_index + j * across[0], at_src + j * across[1], at_y + j * across[2]);
            }
        }
    });
    if failure.into_inner() { Err(failed(op, index, size)) } else { Ok(()) }
}
