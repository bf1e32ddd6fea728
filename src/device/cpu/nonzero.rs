//! Where a tensor is not zero: counted first, then written, because the count is the shape of the result.

use super::copy::Elements;
use super::pool;
use super::view::View;
use crate::dtype::DType;
use half::{bf16, f16};

const CHUNK: usize = 16 * 1024;

macro_rules! typed {
    ($x:expr, $elements:ident => $body:expr) => {
        match $x.dtype {
            DType::Bool | DType::U8 => typed!(@ $x, u8, 0, $elements, $body),
            DType::I32 => typed!(@ $x, i32, 0, $elements, $body),
            DType::I64 => typed!(@ $x, i64, 0, $elements, $body),
            DType::F16 => typed!(@ $x, f16, f16::ZERO, $elements, $body),
            DType::BF16 => typed!(@ $x, bf16, bf16::ZERO, $elements, $body),
            DType::F32 => typed!(@ $x, f32, 0.0, $elements, $body),
            DType::F64 => typed!(@ $x, f64, 0.0, $elements, $body),
        }
    };
    (@ $x:expr, $t:ty, $zero:expr, $elements:ident, $body:expr) => {{
        let $elements = ($x.slice::<$t>(), |x: &$t| *x != $zero);
        $body
    }};
}

/// How many elements of each run of a contiguous tensor are not zero. NaN is not zero.
pub fn count(x: &View) -> Vec<usize> {
    let mut counts = vec![0; x.numel().div_ceil(CHUNK)];
    let slots = Elements::of_slice(&mut counts);
    typed!(x, elements => {
        let (x, is_nonzero) = elements;
        pool::run(x.len().div_ceil(CHUNK), &|c| {
            let run = &x[c * CHUNK..((c + 1) * CHUNK).min(x.len())];
            // SAFETY: each count is written by one chunk.
            unsafe { slots.slice(c, 1)[0] = run.iter().filter(|x| is_nonzero(x)).count() };
        });
    });
    counts
}

/// The indices of those elements in row-major order, one a row.   x contiguous, places [Σ counts, rank]
pub fn write(x: &View, counts: &[usize], places: &View) {
    let (shape, rank) = (x.shape(), x.shape().len());
    let starts: Vec<usize> = counts.iter().scan(0, |sum, n| Some(std::mem::replace(sum, *sum + n))).collect();
    let total: usize = counts.iter().sum();
    assert_eq!(places.numel(), total * rank, "bug: places for other counts");
    let out = Elements::of_slice(places.out::<i64>());
    typed!(x, elements => {
        let (x, is_nonzero) = elements;
        assert_eq!(counts.len(), x.len().div_ceil(CHUNK), "bug: counts of another tensor");
        pool::run(counts.len(), &|c| {
            let run = &x[c * CHUNK..((c + 1) * CHUNK).min(x.len())];
            // SAFETY: the rows from starts[c] on, as many as were counted, belong to this chunk.
            let rows = unsafe { out.slice(starts[c] * rank, counts[c] * rank) };
            let found = run.iter().enumerate().filter(|(_, x)| is_nonzero(x));
            for (row, (i, _)) in rows.chunks_exact_mut(rank.max(1)).zip(found) {
                let mut rest = c * CHUNK + i;
                for (place, size) in row.iter_mut().zip(shape).rev() {
                    *place = (rest % size) as i64;
                    rest /= size;
                }
            }
        });
    });
}
