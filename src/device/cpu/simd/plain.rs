//! Lanes of one: a single `f32` or `f64`, on any processor.

use super::{F32Lanes, Lanes, shared_f32_functions};
use crate::real::Real;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// One `f32`. A type of its own because `f32 + f64` cannot be given to `f32` itself.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct F32x1(pub f32);

macro_rules! operators {
    ($($operator:ident $method:ident),*) => {
        $(impl $operator for F32x1 {
            type Output = F32x1;
            #[inline(always)]
            fn $method(self, other: F32x1) -> F32x1 {
                F32x1($operator::$method(self.0, other.0))
            }
        }

        impl $operator<f64> for F32x1 {
            type Output = F32x1;
            #[inline(always)]
            fn $method(self, other: f64) -> F32x1 {
                F32x1($operator::$method(self.0, other as f32))
            }
        })*
    };
}

operators!(Add add, Sub sub, Mul mul, Div div);

impl Neg for F32x1 {
    type Output = F32x1;
    #[inline(always)]
    fn neg(self) -> F32x1 {
        F32x1(-self.0)
    }
}

macro_rules! comparisons {
    ($($name:ident)*) => {
        $(#[inline(always)]
        fn $name(self, other: F32x1) -> bool {
            PartialOrd::$name(&self.0, &other.0)
        })*
    };
}

impl Real for F32x1 {
    type Mask = bool;

    shared_f32_functions!();
    comparisons! { lt le gt ge }

    #[inline(always)]
    fn lit(x: f64) -> F32x1 {
        F32x1(x as f32)
    }

    #[inline(always)]
    fn abs(self) -> F32x1 {
        F32x1(self.0.abs())
    }

    #[inline(always)]
    fn sqrt(self) -> F32x1 {
        F32x1(self.0.sqrt())
    }

    #[inline(always)]
    fn floor(self) -> F32x1 {
        F32x1(self.0.floor())
    }

    #[inline(always)]
    fn ceil(self) -> F32x1 {
        F32x1(self.0.ceil())
    }

    #[inline(always)]
    fn round(self) -> F32x1 {
        F32x1(self.0.round_ties_even())
    }

    #[inline(always)]
    fn trunc(self) -> F32x1 {
        F32x1(self.0.trunc())
    }

    #[inline(always)]
    fn min(self, other: F32x1) -> F32x1 {
        if self.0 < other.0 || self.0.is_nan() { self } else { other }
    }

    #[inline(always)]
    fn max(self, other: F32x1) -> F32x1 {
        if self.0 > other.0 || self.0.is_nan() { self } else { other }
    }

    #[inline(always)]
    fn eq(self, other: F32x1) -> bool {
        self.0 == other.0
    }

    #[inline(always)]
    fn ne(self, other: F32x1) -> bool {
        self.0 != other.0
    }

    #[inline(always)]
    fn is_nan(self) -> bool {
        self.0.is_nan()
    }

    #[inline(always)]
    fn and(a: bool, b: bool) -> bool {
        a & b
    }

    #[inline(always)]
    fn or(a: bool, b: bool) -> bool {
        a | b
    }

    #[inline(always)]
    fn not(a: bool) -> bool {
        !a
    }

    #[inline(always)]
    fn select(mask: bool, yes: F32x1, no: F32x1) -> F32x1 {
        if mask { yes } else { no }
    }
}

impl Lanes for F32x1 {
    type Elem = f32;
    const WIDTH: usize = 1;

    #[inline(always)]
    fn mask_bits(mask: bool) -> u32 {
        mask as u32
    }

    #[inline(always)]
    fn bits_mask(bits: u32) -> bool {
        bits & 1 != 0
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> F32x1 {
        // SAFETY: the caller's promise.
        F32x1(unsafe { p.read() })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { p.write(self.0) }
    }

    #[inline(always)]
    unsafe fn load_first(_: *const f32, _: usize) -> F32x1 {
        F32x1(0.0)
    }

    #[inline(always)]
    unsafe fn store_first(self, _: *mut f32, _: usize) {}

    #[inline(always)]
    fn splat(x: f32) -> F32x1 {
        F32x1(x)
    }

    #[inline(always)]
    fn mul_add(self, a: F32x1, b: F32x1) -> F32x1 {
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            F32x1(self.0.mul_add(a.0, b.0))
        } else {
            // The product is exact in f64. The sum is rounded twice, which differs from an FMA once in 2²⁹ at random
            // and costs a tenth of calling the emulation.
            F32x1((self.0 as f64 * a.0 as f64 + b.0 as f64) as f32)
        }
    }

    #[inline(always)]
    fn sum_lanes(self) -> f32 {
        self.0
    }

    #[inline(always)]
    fn max_lanes(self) -> f32 {
        self.0
    }

    #[inline(always)]
    fn min_lanes(self) -> f32 {
        self.0
    }
}

impl F32Lanes for F32x1 {
    type Int = i32;

    #[inline(always)]
    fn to_bits(self) -> i32 {
        self.0.to_bits() as i32
    }

    #[inline(always)]
    fn from_bits(bits: i32) -> F32x1 {
        F32x1(f32::from_bits(bits as u32))
    }

    #[inline(always)]
    fn to_int(self) -> i32 {
        self.0 as i32
    }

    #[inline(always)]
    fn from_int(int: i32) -> F32x1 {
        F32x1(int as f32)
    }

    #[inline(always)]
    fn int(x: i32) -> i32 {
        x
    }

    #[inline(always)]
    fn int_add(a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }

    #[inline(always)]
    fn int_sub(a: i32, b: i32) -> i32 {
        a.wrapping_sub(b)
    }

    #[inline(always)]
    fn int_and(a: i32, b: i32) -> i32 {
        a & b
    }

    #[inline(always)]
    fn int_xor(a: i32, b: i32) -> i32 {
        a ^ b
    }

    #[inline(always)]
    fn shift_left<const BY: u32>(a: i32) -> i32 {
        a << BY
    }

    #[inline(always)]
    fn shift_right<const BY: u32>(a: i32) -> i32 {
        a >> BY
    }

    #[inline(always)]
    fn int_test(a: i32) -> bool {
        a != 0
    }

    #[inline(always)]
    fn scale(self, n: F32x1) -> F32x1 {
        let n = n.0 as i32;
        let (half, rest) = (n >> 1, n - (n >> 1));
        let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
        F32x1(self.0 * power(half) * power(rest))
    }

    #[inline(always)]
    fn inverse(self) -> F32x1 {
        Self::splat(1.0) / self
    }

    #[inline(always)]
    fn clamp(self, low: f32, high: f32) -> F32x1 {
        F32x1(self.0.clamp(low, high))
    }

    #[inline(always)]
    fn any(mask: bool) -> bool {
        mask
    }

    #[inline(always)]
    fn map(self, function: fn(f32) -> f32) -> F32x1 {
        F32x1(function(self.0))
    }

    #[inline(always)]
    fn map2(self, other: F32x1, function: fn(f32, f32) -> f32) -> F32x1 {
        F32x1(function(self.0, other.0))
    }
}

impl Lanes for f64 {
    type Elem = f64;
    const WIDTH: usize = 1;

    #[inline(always)]
    fn mask_bits(mask: bool) -> u32 {
        mask as u32
    }

    #[inline(always)]
    fn bits_mask(bits: u32) -> bool {
        bits & 1 != 0
    }

    #[inline(always)]
    unsafe fn load(p: *const f64) -> f64 {
        // SAFETY: the caller's promise.
        unsafe { p.read() }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f64) {
        // SAFETY: the caller's promise.
        unsafe { p.write(self) }
    }

    #[inline(always)]
    unsafe fn load_first(_: *const f64, _: usize) -> f64 {
        0.0
    }

    #[inline(always)]
    unsafe fn store_first(self, _: *mut f64, _: usize) {}

    #[inline(always)]
    fn splat(x: f64) -> f64 {
        x
    }

    #[inline(always)]
    fn mul_add(self, a: f64, b: f64) -> f64 {
        f64::mul_add(self, a, b)
    }

    #[inline(always)]
    fn sum_lanes(self) -> f64 {
        self
    }

    #[inline(always)]
    fn max_lanes(self) -> f64 {
        self
    }

    #[inline(always)]
    fn min_lanes(self) -> f64 {
        self
    }
}
