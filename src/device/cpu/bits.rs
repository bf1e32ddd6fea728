//! ReLU and its memory: one bit an element, in memory order.

use super::parts::Parts;
use super::pool;

/// A multiple of 8, so that chunks share no byte of bits.
const CHUNK: usize = 16 * 1024;

pub trait Number: Copy + PartialOrd + Send + Sync + Default {
    fn is_nan(self) -> bool;
}

impl Number for f32 {
    fn is_nan(self) -> bool {
        f32::is_nan(self)
    }
}

impl Number for f64 {
    fn is_nan(self) -> bool {
        f64::is_nan(self)
    }
}

/// y = max(x, 0), NaN staying NaN; bit i of `bits` says whether x[i] > 0 or is NaN.
pub fn relu<T: Number>(x: &[T], y: &mut [T], bits: &mut [u8]) {
    assert!(y.len() == x.len() && bits.len() == x.len().div_ceil(8), "bug: relu on buffers of other sizes");
    let (y, bits) = (Parts::new(y), Parts::new(bits));
    pool::run(x.len().div_ceil(CHUNK), &|c| {
        let start = c * CHUNK;
        let x = &x[start..x.len().min(start + CHUNK)];
        // SAFETY: chunks are disjoint, and CHUNK is a multiple of 8.
        let (y, bits) = unsafe { (y.part(start, x.len()), bits.part(start / 8, x.len().div_ceil(8))) };
        for ((x, y), byte) in x.chunks(8).zip(y.chunks_mut(8)).zip(bits) {
            let mut mask = 0u8;
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                let on = *x > T::default() || x.is_nan();
                mask |= u8::from(on) << i;
                *y = if on { *x } else { T::default() };
            }
            *byte = mask;
        }
    });
}

/// dx[i] = dy[i] where bit i is set, else 0.
pub fn keep<T: Number>(dy: &[T], bits: &[u8], dx: &mut [T]) {
    assert!(dx.len() == dy.len() && bits.len() == dy.len().div_ceil(8), "bug: keep on buffers of other sizes");
    let dx = Parts::new(dx);
    pool::run(dy.len().div_ceil(CHUNK), &|c| {
        let start = c * CHUNK;
        let dy = &dy[start..dy.len().min(start + CHUNK)];
        let bits = &bits[start / 8..];
        // SAFETY: chunks are disjoint.
        let dx = unsafe { dx.part(start, dy.len()) };
        for ((dy, dx), byte) in dy.chunks(8).zip(dx.chunks_mut(8)).zip(bits) {
            for (i, (dy, dx)) in dy.iter().zip(dx).enumerate() {
                *dx = if byte >> i & 1 == 1 { *dy } else { T::default() };
            }
        }
    });
}
