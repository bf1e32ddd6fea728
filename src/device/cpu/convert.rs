//! Elements from one type to another, at any stride: the only place that knows all eight storage types at once.

use super::halves;
use super::view::View;
use crate::dtype::DType;
use half::{bf16, f16};

/// A type that kernels compute in.
pub trait Compute: Copy + Default + Send + Sync + 'static {
    const DTYPE: DType;
    /// What an absent operand reads as; 0 for integers.
    const NAN: &'static Self;
    fn from_f64(x: f64) -> Self;
    /// # Safety
    /// `src` points at `n` elements of `dtype`, `stride` elements apart; `dst` at room for `n`.
    unsafe fn gather(src: *const u8, dtype: DType, stride: isize, dst: *mut Self, n: usize);
    /// # Safety
    /// As `gather`, the other way round.
    unsafe fn scatter(src: *const Self, dst: *mut u8, dtype: DType, stride: isize, n: usize);
}

/// `y as $to` for numbers; a bool is "not zero".
macro_rules! compute {
    ($t:ty, $dtype:ident, $absent:expr, $rounded:ident $wide:ty) => {
        impl Compute for $t {
            const DTYPE: DType = DType::$dtype;
            const NAN: &'static Self = &$absent;
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            unsafe fn gather(src: *const u8, dtype: DType, stride: isize, dst: *mut Self, n: usize) {
                if Self::DTYPE == DType::F32 && dtype.is_half() && stride == 1 {
                    // SAFETY: the caller's promise.
                    return unsafe { halves::widen(src, dtype, dst.cast(), n) };
                }
                macro_rules! each {
                    ($s:ty, $f:expr) => {{
                        let src = src.cast::<$s>();
                        for i in 0..n {
                            // SAFETY: i < n, as the caller promised.
                            unsafe { *dst.add(i) = $f(*src.offset(i as isize * stride)) }
                        }
                    }};
                }
                match dtype {
                    DType::Bool => each!(u8, |x: u8| (x != 0) as u8 as $t),
                    DType::U8 => each!(u8, |x: u8| x as $t),
                    DType::I32 => each!(i32, |x: i32| x as $t),
                    DType::I64 => each!(i64, |x: i64| x as $t),
                    DType::F16 => each!(f16, |x: f16| x.to_f32() as $t),
                    DType::BF16 => each!(bf16, |x: bf16| x.to_f32() as $t),
                    DType::F32 => each!(f32, |x: f32| x as $t),
                    DType::F64 => each!(f64, |x: f64| x as $t),
                }
            }
            unsafe fn scatter(src: *const Self, dst: *mut u8, dtype: DType, stride: isize, n: usize) {
                if Self::DTYPE == DType::F32 && dtype.is_half() && stride == 1 {
                    // SAFETY: the caller's promise.
                    return unsafe { halves::narrow(src.cast(), dst, dtype, n) };
                }
                macro_rules! each {
                    ($d:ty, $f:expr) => {{
                        let dst = dst.cast::<$d>();
                        for i in 0..n {
                            // SAFETY: i < n, as the caller promised.
                            unsafe { *dst.offset(i as isize * stride) = $f(*src.add(i)) }
                        }
                    }};
                }
                match dtype {
                    DType::Bool => each!(u8, |x: $t| (x != (0 as $t)) as u8),
                    DType::U8 => each!(u8, |x: $t| x as i64 as u8),
                    DType::I32 => each!(i32, |x: $t| x as i32),
                    DType::I64 => each!(i64, |x: $t| x as i64),
                    DType::F16 => each!(f16, |x: $t| f16::$rounded(x as $wide)),
                    DType::BF16 => each!(bf16, |x: $t| bf16::$rounded(x as $wide)),
                    DType::F32 => each!(f32, |x: $t| x as f32),
                    DType::F64 => each!(f64, |x: $t| x as f64),
                }
            }
        }
    };
}
compute!(f32, F32, f32::NAN, from_f32 f32);
compute!(f64, F64, f64::NAN, from_f64 f64);
compute!(i64, I64, 0, from_f64 f64);

/// Every element in logical order, as f64.
pub fn read_f64(view: &View) -> Vec<f64> {
    let (shape, strides) = (view.shape(), view.strides());
    let mut index = vec![0usize; shape.len()];
    let mut values = Vec::with_capacity(view.numel());
    for _ in 0..view.numel() {
        let offset: isize = index.iter().zip(strides).map(|(&i, &s)| i as isize * s).sum();
        let mut value = 0.0f64;
        // SAFETY: the index lies within the view's shape.
        unsafe {
            f64::gather(view.bytes_ptr().offset(offset * view.dtype.bytes() as isize), view.dtype, 0, &mut value, 1)
        };
        values.push(value);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    values
}
