//! Products of few rows where both operands are contiguous along k: a vector times a transposed matrix.
//!
//! Registers run along k and are summed at the end by a fixed tree, so nothing is packed and the large operand is
//! read once, in order.

use super::super::pool;
use super::super::simd::{Kernel, Lanes};
use super::tile::{Element, PLAIN_FUSED};
use super::{Operands, Problem, part};
use std::ops::Range;

/// The most rows of A.
pub const ROWS: usize = 8;
/// Rows that are held in registers at once.
const ROWS_AT_ONCE: usize = 4;
/// Columns of B that are read at once.
const COLUMNS: usize = 4;
/// What one thread reads from memory, in bytes a nanosecond.
const BYTES_PER_NANO: f64 = 10.0;

/// One matrix, cut by columns.
/// SAFETY: as for `Planned::run`; `a.column` and `b.row` are 1 and there are at most `ROWS` rows.
pub(super) unsafe fn product<T: Element>(problem: &Problem, operands: Operands<T>) {
    let columns = pool::chunk_rows(problem.n, (problem.k * size_of::<T>()) as f64 / BYTES_PER_NANO);
    let columns = columns.next_multiple_of(COLUMNS);
    let operands = &operands;
    pool::run(problem.n.div_ceil(columns), &|chunk| {
        // Chunks are disjoint columns of c.
        T::dispatch(Dots { problem, operands, columns: part(chunk, columns, problem.n) });
    });
}

struct Dots<'a, T> {
    problem: &'a Problem,
    operands: &'a Operands<T>,
    columns: Range<usize>,
}

impl<T: Element> Kernel<T> for Dots<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = T>>(self) {
        let mut column = self.columns.start;
        // SAFETY: the promise of the caller of `product`.
        unsafe {
            while column + COLUMNS <= self.columns.end {
                columns::<L, COLUMNS>(&self, column);
                column += COLUMNS;
            }
            while column < self.columns.end {
                columns::<L, 1>(&self, column);
                column += 1;
            }
        }
    }
}

/// All rows of N columns.
#[inline(always)]
unsafe fn columns<L: Lanes<Elem: Element>, const N: usize>(dots: &Dots<L::Elem>, column: usize) {
    for row in (0..dots.problem.m).step_by(ROWS_AT_ONCE) {
        // SAFETY: the promise of the caller of `product`.
        unsafe {
            match dots.problem.m - row {
                1 => block::<L, 1, N>(dots, row, column),
                2 => block::<L, 2, N>(dots, row, column),
                3 => block::<L, 3, N>(dots, row, column),
                _ => block::<L, ROWS_AT_ONCE, N>(dots, row, column),
            }
        }
    }
}

/// c [M, N] = a [M, k] · b [N, k]ᵀ, at one place of c.
#[inline(always)]
unsafe fn block<L: Lanes<Elem: Element>, const M: usize, const N: usize>(
    dots: &Dots<L::Elem>,
    row: usize,
    column: usize,
) {
    let (Problem { k, a, b, c, .. }, operands) = (*dots.problem, dots.operands);
    let mut sums = [[L::splat(L::Elem::ZERO); N]; M];
    // SAFETY: the promise of the caller of `product`.
    unsafe {
        let a: [_; M] = std::array::from_fn(|i| operands.a.offset((row + i) as isize * a.row));
        let b: [_; N] = std::array::from_fn(|j| operands.b.offset((column + j) as isize * b.column));
        let whole = k - k % L::WIDTH;
        for p in (0..whole).step_by(L::WIDTH) {
            let x: [L; M] = std::array::from_fn(|i| L::load(a[i].add(p)));
            for j in 0..N {
                let y = L::load(b[j].add(p));
                for i in 0..M {
                    sums[i][j] = add::<L>(x[i], y, sums[i][j]);
                }
            }
        }
        if whole < k {
            let x: [L; M] = std::array::from_fn(|i| L::load_first(a[i].add(whole), k - whole));
            for j in 0..N {
                let y = L::load_first(b[j].add(whole), k - whole);
                for i in 0..M {
                    sums[i][j] = add::<L>(x[i], y, sums[i][j]);
                }
            }
        }
        for i in 0..M {
            for j in 0..N {
                let at = operands.c.offset((row + i) as isize * c.row + (column + j) as isize * c.column);
                operands.store(at, sums[i][j].sum_lanes() * operands.alpha, row + i, column + j);
            }
        }
    }
}

/// A lane of one has a fused multiply-add only as a function call, on some processors.
#[inline(always)]
fn add<L: Lanes>(x: L, y: L, sum: L) -> L {
    if L::WIDTH == 1 && !PLAIN_FUSED { x * y + sum } else { x.mul_add(y, sum) }
}
