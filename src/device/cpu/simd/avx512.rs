//! Sixteen `f32` in an AVX-512 register.

use super::{F32Lanes, Lanes, avx2::F32x8, lane_operators, shared_f32_functions};
use crate::real::Real;
use std::arch::x86_64::*;
use std::ops::Neg;

#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct F32x16(pub __m512);

/// For every intrinsic that touches registers only.
/// SAFETY: a lane is made and used only inside `dispatch_f32`, which checked for the instructions.
macro_rules! registers {
    ($($intrinsic:tt)*) => {
        // SAFETY: as the macro says.
        unsafe { $($intrinsic)* }
    };
}

lane_operators!(F32x16: Add add _mm512_add_ps, Sub sub _mm512_sub_ps, Mul mul _mm512_mul_ps, Div div _mm512_div_ps);

impl Neg for F32x16 {
    type Output = F32x16;
    #[inline(always)]
    fn neg(self) -> F32x16 {
        F32x16(registers!(_mm512_xor_ps(self.0, _mm512_set1_ps(-0.0))))
    }
}

macro_rules! comparisons {
    ($($name:ident = $predicate:ident),*) => {
        $(#[inline(always)]
        fn $name(self, other: F32x16) -> __mmask16 {
            registers!(_mm512_cmp_ps_mask::<$predicate>(self.0, other.0))
        })*
    };
}

macro_rules! roundings {
    ($($name:ident = $direction:ident),*) => {
        $(#[inline(always)]
        fn $name(self) -> F32x16 {
            F32x16(registers!(_mm512_roundscale_ps::<{ $direction | _MM_FROUND_NO_EXC }>(self.0)))
        })*
    };
}

impl Real for F32x16 {
    type Mask = __mmask16;

    shared_f32_functions!();
    comparisons! {
        lt = _CMP_LT_OQ, le = _CMP_LE_OQ, gt = _CMP_GT_OQ, ge = _CMP_GE_OQ, eq = _CMP_EQ_OQ, ne = _CMP_NEQ_UQ
    }
    roundings! {
        floor = _MM_FROUND_TO_NEG_INF, ceil = _MM_FROUND_TO_POS_INF, round = _MM_FROUND_TO_NEAREST_INT,
        trunc = _MM_FROUND_TO_ZERO
    }

    #[inline(always)]
    fn lit(x: f64) -> F32x16 {
        F32x16::splat(x as f32)
    }

    #[inline(always)]
    fn abs(self) -> F32x16 {
        F32x16(registers!(_mm512_abs_ps(self.0)))
    }

    #[inline(always)]
    fn sqrt(self) -> F32x16 {
        F32x16(registers!(_mm512_sqrt_ps(self.0)))
    }

    #[inline(always)]
    fn min(self, other: F32x16) -> F32x16 {
        // The instruction returns the second of two when either is NaN.
        F32x16::select(self.is_nan(), self, F32x16(registers!(_mm512_min_ps(self.0, other.0))))
    }

    #[inline(always)]
    fn max(self, other: F32x16) -> F32x16 {
        F32x16::select(self.is_nan(), self, F32x16(registers!(_mm512_max_ps(self.0, other.0))))
    }

    #[inline(always)]
    fn relu(self) -> F32x16 {
        // The second of two is returned when either is NaN, so NaN stays.
        F32x16(registers!(_mm512_max_ps(_mm512_setzero_ps(), self.0)))
    }

    #[inline(always)]
    fn is_nan(self) -> __mmask16 {
        registers!(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0))
    }

    #[inline(always)]
    fn and(a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }

    #[inline(always)]
    fn or(a: __mmask16, b: __mmask16) -> __mmask16 {
        a | b
    }

    #[inline(always)]
    fn not(a: __mmask16) -> __mmask16 {
        !a
    }

    #[inline(always)]
    fn select(mask: __mmask16, yes: F32x16, no: F32x16) -> F32x16 {
        F32x16(registers!(_mm512_mask_blend_ps(mask, no.0, yes.0)))
    }
}

impl F32x16 {
    #[inline(always)]
    fn halves(self) -> (F32x8, F32x8) {
        let low = registers!(_mm512_castps512_ps256(self.0));
        (F32x8(low), F32x8(registers!(_mm512_extractf32x8_ps::<1>(self.0))))
    }
}

impl Lanes for F32x16 {
    type Elem = f32;
    const WIDTH: usize = 16;

    #[inline(always)]
    fn mask_bits(mask: __mmask16) -> u32 {
        mask as u32
    }

    #[inline(always)]
    fn bits_mask(bits: u32) -> __mmask16 {
        bits as __mmask16
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> F32x16 {
        // SAFETY: the caller's promise.
        F32x16(unsafe { _mm512_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> F32x16 {
        // SAFETY: the caller's promise; lanes that the mask leaves out are not read.
        F32x16(unsafe { _mm512_maskz_loadu_ps(((1_u32 << n) - 1) as u16, p) })
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        // SAFETY: the caller's promise; lanes that the mask leaves out are not written.
        unsafe { _mm512_mask_storeu_ps(p, ((1_u32 << n) - 1) as u16, self.0) }
    }

    #[inline(always)]
    fn splat(x: f32) -> F32x16 {
        F32x16(registers!(_mm512_set1_ps(x)))
    }

    #[inline(always)]
    fn mul_add(self, a: F32x16, b: F32x16) -> F32x16 {
        F32x16(registers!(_mm512_fmadd_ps(self.0, a.0, b.0)))
    }

    #[inline(always)]
    fn sum_lanes(self) -> f32 {
        let (low, high) = self.halves();
        (low + high).sum_lanes()
    }

    #[inline(always)]
    fn max_lanes(self) -> f32 {
        let (low, high) = self.halves();
        low.max(high).max_lanes()
    }

    #[inline(always)]
    fn min_lanes(self) -> f32 {
        let (low, high) = self.halves();
        low.min(high).min_lanes()
    }
}

impl F32Lanes for F32x16 {
    type Int = __m512i;

    #[inline(always)]
    fn to_bits(self) -> __m512i {
        registers!(_mm512_castps_si512(self.0))
    }

    #[inline(always)]
    fn from_bits(bits: __m512i) -> F32x16 {
        F32x16(registers!(_mm512_castsi512_ps(bits)))
    }

    #[inline(always)]
    fn to_int(self) -> __m512i {
        registers!(_mm512_cvtps_epi32(self.0))
    }

    #[inline(always)]
    fn from_int(int: __m512i) -> F32x16 {
        F32x16(registers!(_mm512_cvtepi32_ps(int)))
    }

    #[inline(always)]
    fn int(x: i32) -> __m512i {
        registers!(_mm512_set1_epi32(x))
    }

    #[inline(always)]
    fn int_add(a: __m512i, b: __m512i) -> __m512i {
        registers!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn int_sub(a: __m512i, b: __m512i) -> __m512i {
        registers!(_mm512_sub_epi32(a, b))
    }

    #[inline(always)]
    fn int_and(a: __m512i, b: __m512i) -> __m512i {
        registers!(_mm512_and_si512(a, b))
    }

    #[inline(always)]
    fn int_xor(a: __m512i, b: __m512i) -> __m512i {
        registers!(_mm512_xor_si512(a, b))
    }

    #[inline(always)]
    fn shift_left<const BY: u32>(a: __m512i) -> __m512i {
        registers!(_mm512_slli_epi32::<BY>(a))
    }

    #[inline(always)]
    fn shift_right<const BY: u32>(a: __m512i) -> __m512i {
        registers!(_mm512_srai_epi32::<BY>(a))
    }

    #[inline(always)]
    fn int_test(a: __m512i) -> __mmask16 {
        registers!(_mm512_test_epi32_mask(a, a))
    }

    #[inline(always)]
    fn scale(self, n: F32x16) -> F32x16 {
        F32x16(registers!(_mm512_scalef_ps(self.0, n.0)))
    }

    #[inline(always)]
    fn inverse(self) -> F32x16 {
        // 14 bits, doubled by a step of Newton's.
        let near = F32x16(registers!(_mm512_rcp14_ps(self.0)));
        near.mul_add((-self).mul_add(near, Self::splat(1.0)), near)
    }

    #[inline(always)]
    fn clamp(self, low: f32, high: f32) -> F32x16 {
        // Of two, the second is returned when either is NaN.
        let raised = registers!(_mm512_max_ps(_mm512_set1_ps(low), self.0));
        F32x16(registers!(_mm512_min_ps(_mm512_set1_ps(high), raised)))
    }

    #[inline(always)]
    fn any(mask: __mmask16) -> bool {
        mask != 0
    }

    #[inline(always)]
    fn map(self, function: fn(f32) -> f32) -> F32x16 {
        let mut lanes = [0.0; 16];
        // SAFETY: sixteen elements.
        unsafe { self.store(lanes.as_mut_ptr()) };
        for x in &mut lanes {
            *x = function(*x);
        }
        // SAFETY: sixteen elements.
        unsafe { F32x16::load(lanes.as_ptr()) }
    }

    #[inline(always)]
    fn map2(self, other: F32x16, function: fn(f32, f32) -> f32) -> F32x16 {
        let (mut lanes, mut others) = ([0.0; 16], [0.0; 16]);
        // SAFETY: sixteen elements each.
        unsafe { (self.store(lanes.as_mut_ptr()), other.store(others.as_mut_ptr())) };
        for (x, &y) in lanes.iter_mut().zip(&others) {
            *x = function(*x, y);
        }
        // SAFETY: sixteen elements.
        unsafe { F32x16::load(lanes.as_ptr()) }
    }
}
