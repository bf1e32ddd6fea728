//! The triangles of matrices, copied row by row.

use super::copy::{Elements, Word, by_width, words};
use super::pool;
use super::view::View;

/// Zeros with the part of each matrix that is on or below (or above) a diagonal; contiguous [matrices, rows, columns].
pub fn keep(x: &View, [rows, columns]: [usize; 2], diagonal: i64, upper: bool, y: &View) {
    assert!(x.numel() == y.numel() && x.dtype == y.dtype, "bug: a triangle of another size");
    if y.numel() > 0 {
        by_width!(y, W => keep_words::<W>(words(x), Elements::of(y), [rows, columns], diagonal, upper));
    }
}

fn keep_words<W: Word>(x: &[W], y: Elements<W>, [rows, columns]: [usize; 2], diagonal: i64, upper: bool) {
    let all = x.len() / columns;
    let step = pool::chunk_rows(all, 5.0 + (columns * size_of::<W>()) as f64 / 8.0);
    pool::run(all.div_ceil(step), &|chunk| {
        for row in chunk * step..((chunk + 1) * step).min(all) {
            let x = &x[row * columns..][..columns];
            // SAFETY: each row of y is written by one chunk.
            let y = unsafe { y.slice(row * columns, columns) };
            let first_above = ((row % rows) as i64).saturating_add(diagonal).saturating_add(!upper as i64);
            let edge = first_above.clamp(0, columns as i64) as usize;
            let (kept, cleared) = if upper { (edge..columns, 0..edge) } else { (0..edge, edge..columns) };
            y[kept.clone()].copy_from_slice(&x[kept]);
            y[cleared].fill(W::ZERO);
        }
    });
}
