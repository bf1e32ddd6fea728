//! Where along an axis the largest or smallest element is. The first wins a tie; a NaN beats every number.

use super::pool;
use crate::dtype::Element;

/// `values` and `indices` [outer, inner] from x [outer, n, inner]; either may be absent. n > 0.
pub fn along<T: Element + PartialOrd>(
    x: &[T],
    sizes: [usize; 3],
    largest: bool,
    values: Option<&mut [T]>,
    indices: &mut [i64],
) {
    let [outer, n, inner] = sizes;
    assert!(n > 0 && x.len() == outer * n * inner && indices.len() == outer * inner, "bug: sizes of an extreme");
    assert!(values.as_ref().is_none_or(|v| v.len() == outer * inner), "bug: sizes of an extreme");
    let indices = pool::Parts::new(indices);
    let values = values.map(pool::Parts::new);
    let step = pool::chunk_rows(outer, (n * inner) as f64 + 5.0);
    pool::run(outer.div_ceil(step), &|chunk| {
        let rows = chunk * step..((chunk + 1) * step).min(outer);
        // SAFETY: each chunk takes rows of its own.
        unsafe {
            for row in rows {
                let x = &x[row * n * inner..(row + 1) * n * inner];
                let indices = indices.part(row * inner, inner);
                if largest { find::<T, true>(x, inner, indices) } else { find::<T, false>(x, inner, indices) }
                if let Some(values) = &values {
                    let values = values.part(row * inner, inner);
                    for (j, value) in values.iter_mut().enumerate() {
                        *value = x[indices[j] as usize * inner + j];
                    }
                }
            }
        }
    });
}
