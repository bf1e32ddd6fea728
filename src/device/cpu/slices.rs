//! Rows of a tensor by number: taking them, writing them, adding to them. What index_select, embedding, advanced indexing
//! and their ways back come down to.
//!
//! A tensor is seen as [outer, rows, inner]; positions 0..n name rows, possibly the same one many times. Whatever the
//! partition, one target receives its contributions in the order of the positions, so results depend on nothing else.

use super::copy::{Elements, Word, by_width, words};
use super::pool;
use super::simd::{Kernel, Lanes, dispatch_f32};
use super::view::View;
use crate::dtype::{DType, Element};
use crate::error::{self, Result};
use smallvec::SmallVec;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The rows named by int64 tensors of one shape, one for each of the leading axes that make up a row's number.
pub struct Rows<'a> {
    op: &'static str,
    axes: SmallVec<[(&'a [i64], usize); 2]>,
    positions: usize,
    ends: Ends,
}

/// From which end indices may count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// A negative index is an error: as a class or a token it is a mistake more often than it is the last one.
    Start,
    /// Advanced indexing, as in NumPy.
    Both,
}

impl Ends {
    #[inline(always)]
    pub(super) fn place(self, index: i64, size: usize) -> Option<usize> {
        let at = if self == Ends::Both && index < 0 { index.wrapping_add(size as i64) } else { index } as u64;
        if at < size as u64 { Some(at as usize) } else { None }
    }

    pub(super) fn error(self, op: &str, index: i64, size: usize) -> error::Error {
        match self {
            Ends::Start => error::index_not_below(op, index, size),
            Ends::Both => error::index_out_of_range(op, index, size),
        }
    }
}

impl<'a> Rows<'a> {
    /// The indices lie contiguously.
    pub fn new(op: &'static str, indices: &[View<'a>], sizes: &[usize], ends: Ends) -> Rows<'a> {
        let axes: SmallVec<[(&[i64], usize); 2]> =
            indices.iter().zip(sizes).map(|(v, &size)| (v.slice::<i64>(), size)).collect();
        let positions = axes.first().map_or(0, |a| a.0.len());
        assert!(axes.iter().all(|a| a.0.len() == positions), "bug: indices of several lengths");
        Rows { op, axes, positions, ends }
    }

    pub fn count(&self) -> usize {
        self.axes.iter().map(|a| a.1).product()
    }

    #[inline(always)]
    fn at(&self, position: usize) -> Option<usize> {
        if let [(indices, size)] = self.axes.as_slice() {
            return self.ends.place(indices[position], *size);
        }
        self.axes
            .iter()
            .try_fold(0, |row, (indices, size)| Some(row * size + self.ends.place(indices[position], *size)?))
    }

    fn error(&self, position: usize) -> error::Error {
        let wrong = self.axes.iter().find(|(indices, size)| self.ends.place(indices[position], *size).is_none());
        // The index may have been overwritten by another thread in the meantime; the error stands.
        let (index, size) = wrong.map_or((0, 0), |(indices, size)| (indices[position], *size));
        self.ends.error(self.op, index, size)
    }
}

/// The first position that names no row, found by any of the threads.
struct Failure(AtomicUsize);

impl Failure {
    fn none() -> Failure {
        Failure(AtomicUsize::new(usize::MAX))
    }
    #[cold]
    fn at(&self, position: usize) {
        self.0.fetch_min(position, Relaxed);
    }
    fn result(self, rows: &Rows) -> Result<()> {
        match self.0.into_inner() {
            usize::MAX => Ok(()),
            position => Err(rows.error(position)),
        }
    }
}

/// y[o, p] = x[o, row p] for each position p.   x [outer, rows, inner], y [outer, positions, inner]
pub fn take(x: &View, rows: &Rows, outer: usize, inner: usize, y: &View) -> Result<()> {
    assert_eq!(x.numel(), outer * rows.count() * inner, "bug: take from a tensor of another size");
    assert_eq!(y.numel(), outer * rows.positions * inner, "bug: take into a tensor of another size");
    if y.numel() == 0 {
        // Nothing to move, but an index out of range is still an error.
        return check(rows);
    }
    by_width!(x, W => take_words::<W>(words(x), rows, outer, inner, Elements::of(y)))
}

/// Only looks for indices out of range.
pub fn check(rows: &Rows) -> Result<()> {
    match (0..rows.positions).find(|&p| rows.at(p).is_none()) {
        None => Ok(()),
        Some(position) => Err(rows.error(position)),
    }
}

fn take_words<W: Word>(x: &[W], rows: &Rows, outer: usize, inner: usize, y: Elements<W>) -> Result<()> {
    let (count, positions) = (rows.count(), rows.positions);
    let failure = Failure::none();
    let units = outer * positions;
    // A row is a cache miss or two, then a stream.
    let step = pool::chunk_rows(units, 3.0 + (inner * size_of::<W>()) as f64 / 8.0);
    pool::run(units.div_ceil(step), &|chunk| {
        let last = ((chunk + 1) * step).min(units);
        let mut unit = chunk * step;
        while unit < last {
            let (o, first) = (unit / positions, unit % positions);
            let many = (positions - first).min(last - unit);
            let x = &x[o * count * inner..(o + 1) * count * inner];
            // SAFETY: rows unit .. unit + many of y belong to this chunk alone.
            let y = unsafe { y.slice(unit * inner, many * inner) };
            if inner == 1 {
                for (i, y) in y.iter_mut().enumerate() {
                    match rows.at(first + i) {
                        Some(row) => *y = x[row],
                        None => failure.at(first + i),
                    }
                }
            } else {
                for (i, y) in y.chunks_exact_mut(inner).enumerate() {
                    match rows.at(first + i) {
                        Some(row) => y.copy_from_slice(&x[row * inner..(row + 1) * inner]),
                        None => failure.at(first + i),
                    }
                }
            }
            unit += many;
        }
    });
    failure.result(rows)
}

/// How a target is cut: whole outer blocks where there are enough of them, else columns. Every unit of work walks all
/// positions; ranges of rows would be a third way to cut, but walking costs as much as adding a short row.
#[derive(Clone, Copy)]
struct Cut {
    outer: usize,
    columns: usize,
    sizes: [usize; 2],
}

impl Cut {
    const MOST: usize = 16;
    /// Elements below which cutting does not pay.
    const SERIAL: usize = 16 * 1024;
    /// The narrowest column: some cache lines.
    const COLUMN: usize = 64;

    fn new(outer: usize, inner: usize, positions: usize) -> Cut {
        let sizes = [outer, inner];
        if outer * inner * positions < Self::SERIAL {
            return Cut { outer: 1, columns: 1, sizes };
        }
        let outer = outer.min(Self::MOST);
        Cut { outer, columns: (inner / Self::COLUMN).clamp(1, Self::MOST / outer), sizes }
    }

    fn units(&self) -> usize {
        self.outer * self.columns
    }

    /// The outer blocks and the columns of one unit.
    fn share(&self, unit: usize) -> [Range<usize>; 2] {
        let part = |i: usize, parts: usize, size: usize, grain: usize| {
            let edge = |i: usize| (size * i / parts).next_multiple_of(grain).min(size);
            edge(i)..edge(i + 1)
        };
        let (outer, column) = (unit / self.columns, unit % self.columns);
        // Columns begin at whole cache lines.
        [part(outer, self.outer, self.sizes[0], 1), part(column, self.columns, self.sizes[1], 16)]
    }
}

/// What happens where a row is written.
trait Meet<T> {
    fn meet(old: &mut T, new: T);
}

struct Replace;
impl<T: Copy> Meet<T> for Replace {
    #[inline(always)]
    fn meet(old: &mut T, new: T) {
        *old = new;
    }
}

struct Sum;
macro_rules! sums {
    ($($float:ty)*; $($int:ty)*) => {
        $(impl Meet<$float> for Sum {
            #[inline(always)]
            fn meet(old: &mut $float, new: $float) {
                *old += new;
            }
        })*
        $(impl Meet<$int> for Sum {
            #[inline(always)]
            fn meet(old: &mut $int, new: $int) {
                *old = old.wrapping_add(new);
            }
        })*
    };
}
sums!(f32 f64; u8 i32 i64);

/// y[o, row p] = src[o, p] for each position p; where positions name one row, the last one stays.
pub fn put(y: &View, rows: &Rows, src: &View, outer: usize, inner: usize) -> Result<()> {
    assert_eq!(y.dtype, src.dtype, "bug: rows of another type");
    by_width!(y, W => meet_rows::<W, Replace>(Elements::of(y), y.numel(), rows, words(src), outer, inner, None))
}

/// y[o, row p] += src[o, p] for each position p, in that order. The row `skip` is left alone.
pub fn add(y: &View, rows: &Rows, src: &View, outer: usize, inner: usize, skip: Option<usize>) -> Result<()> {
    fn typed<T: Element>(
        y: &View,
        rows: &Rows,
        src: &View,
        outer: usize,
        inner: usize,
        skip: Option<usize>,
    ) -> Result<()>
    where
        Sum: Meet<T>,
    {
        meet_rows::<T, Sum>(Elements::of(y), y.numel(), rows, src.slice(), outer, inner, skip)
    }
    assert_eq!(y.dtype, src.dtype, "bug: rows of another type");
    match y.dtype {
        DType::F32 => typed::<f32>(y, rows, src, outer, inner, skip),
        DType::F64 => typed::<f64>(y, rows, src, outer, inner, skip),
        DType::I64 => typed::<i64>(y, rows, src, outer, inner, skip),
        DType::I32 => typed::<i32>(y, rows, src, outer, inner, skip),
        DType::U8 => typed::<u8>(y, rows, src, outer, inner, skip),
        DType::F16 | DType::BF16 | DType::Bool => panic!("bug: {} rows cannot be added", y.dtype.name()),
    }
}

fn meet_rows<T: Copy + Send + Sync + 'static, M: Meet<T>>(
    y: Elements<T>,
    numel: usize,
    rows: &Rows,
    src: &[T],
    outer: usize,
    inner: usize,
    skip: Option<usize>,
) -> Result<()> {
    let positions = rows.positions;
    assert_eq!(numel, outer * rows.count() * inner, "bug: rows into a tensor of another size");
    assert_eq!(src.len(), outer * positions * inner, "bug: rows from a tensor of another size");
    if src.is_empty() {
        return check(rows);
    }
    let failure = Failure::none();
    let cut = Cut::new(outer, inner, positions);
    pool::run(cut.units(), &|unit| {
        let whole = Whole { y, rows, src, inner, skip, failure: &failure };
        dispatch_f32(Walk::<T, M> { whole, share: cut.share(unit), meet: PhantomData });
    });
    failure.result(rows)
}

struct Whole<'a, 'b, T> {
    y: Elements<'a, T>,
    rows: &'a Rows<'b>,
    src: &'a [T],
    inner: usize,
    skip: Option<usize>,
    failure: &'a Failure,
}

/// One unit of work. A kernel for the instructions' sake only: the loops are vectorised by the compiler.
struct Walk<'a, 'b, T, M> {
    whole: Whole<'a, 'b, T>,
    share: [Range<usize>; 2],
    meet: PhantomData<M>,
}

impl<T: Copy + Send + Sync + 'static, M: Meet<T>> Kernel<f32> for Walk<'_, '_, T, M> {
    type Out = ();
    #[inline(always)]
    fn run<L: Lanes<Elem = f32>>(self) {
        let Whole { y, rows, src, inner, skip, failure } = self.whole;
        let (count, positions) = (rows.count(), rows.positions);
        let [blocks, columns] = self.share;
        for o in blocks {
            for p in 0..positions {
                let Some(row) = rows.at(p) else {
                    failure.at(p);
                    continue;
                };
                if Some(row) == skip {
                    continue;
                }
                let src = &src[(o * positions + p) * inner..][columns.clone()];
                // SAFETY: row < count, so this lies within y; the blocks and columns are this unit's alone.
                let y = unsafe { y.slice((o * count + row) * inner + columns.start, columns.len()) };
                if let ([y], [new]) = (&mut *y, src) {
                    // Without the overhead of a vector loop.
                    M::meet(y, *new);
                    continue;
                }
                for (y, &new) in y.iter_mut().zip(src) {
                    M::meet(y, new);
                }
            }
        }
    }
}
