//! Where along an axis the largest or smallest element is. The first wins a tie; a NaN beats every number.

use super::parts::Parts;
use super::pool;
use crate::dtype::Element;

/// `values` and `indices` [outer, inner] from x [outer, n, inner], n > 0.
pub fn along<T: Element + PartialOrd>(
    x: &[T],
    [outer, n, inner]: [usize; 3],
    largest: bool,
    values: Option<&mut [T]>,
    indices: &mut [i64],
) {
    assert!(n > 0 && x.len() == outer * n * inner && indices.len() == outer * inner, "bug: sizes of an extreme");
    assert!(values.as_ref().is_none_or(|v| v.len() == outer * inner), "bug: sizes of an extreme");
    let (indices, values) = (Parts::new(indices), values.map(Parts::new));
    let step = pool::chunk_rows(outer, (n * inner) as f64 + 5.0);
    pool::run(outer.div_ceil(step), &|chunk| {
        for row in chunk * step..((chunk + 1) * step).min(outer) {
            let x = &x[row * n * inner..(row + 1) * n * inner];
            // SAFETY: each row is in one chunk.
            let indices = unsafe { indices.part(row * inner, inner) };
            match (inner, largest) {
                (1, true) => indices[0] = in_row::<T, true>(x),
                (1, false) => indices[0] = in_row::<T, false>(x),
                (_, true) => in_columns::<T, true>(x, indices),
                (_, false) => in_columns::<T, false>(x, indices),
            }
            if let Some(values) = &values {
                // SAFETY: as above.
                let values = unsafe { values.part(row * inner, inner) };
                for (j, value) in values.iter_mut().enumerate() {
                    *value = x[indices[j] as usize * inner + j];
                }
            }
        }
    });
}

/// True when `x` takes the place of `best`.
#[inline(always)]
fn wins<T: PartialOrd, const LARGEST: bool>(x: &T, best: &T) -> bool {
    let is_number = |v: &T| v.partial_cmp(v).is_some();
    let beats = if LARGEST { x > best } else { x < best };
    beats || !is_number(x) && is_number(best)
}

fn in_row<T: Element + PartialOrd, const LARGEST: bool>(x: &[T]) -> i64 {
    let mut best = 0;
    for (k, value) in x.iter().enumerate() {
        if wins::<T, LARGEST>(value, &x[best]) {
            best = k;
        }
    }
    best as i64
}

fn in_columns<T: Element + PartialOrd, const LARGEST: bool>(x: &[T], indices: &mut [i64]) {
    let inner = indices.len();
    indices.fill(0);
    for (k, row) in x.chunks_exact(inner.max(1)).enumerate() {
        for (j, (value, index)) in row.iter().zip(indices.iter_mut()).enumerate() {
            if wins::<T, LARGEST>(value, &x[*index as usize * inner + j]) {
                *index = k as i64;
            }
        }
    }
}
