//! Eight `f32` in an AVX register, with AVX2 and FMA.

use super::{F32Lanes, Lanes, lane_operators, shared_f32_functions};
use crate::real::Real;
use std::arch::x86_64::*;
use std::ops::Neg;

#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct F32x8(pub __m256);

/// A mask is a register whose lanes are all ones or all zeros.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Mask8(__m256);

/// For every intrinsic that touches registers only.
/// SAFETY: a lane is made and used only inside `dispatch_f32`, which checked for the instructions.
macro_rules! registers {
    ($($intrinsic:tt)*) => {
        // SAFETY: as the macro says.
        unsafe { $($intrinsic)* }
    };
}

lane_operators!(F32x8: Add add _mm256_add_ps, Sub sub _mm256_sub_ps, Mul mul _mm256_mul_ps, Div div _mm256_div_ps);

impl Neg for F32x8 {
    type Output = F32x8;
    #[inline(always)]
    fn neg(self) -> F32x8 {
        F32x8(registers!(_mm256_xor_ps(self.0, _mm256_set1_ps(-0.0))))
    }
}

macro_rules! comparisons {
    ($($name:ident = $predicate:ident),*) => {
        $(#[inline(always)]
        fn $name(self, other: F32x8) -> Mask8 {
            Mask8(registers!(_mm256_cmp_ps::<$predicate>(self.0, other.0)))
        })*
    };
}

macro_rules! roundings {
    ($($name:ident = $direction:ident),*) => {
        $(#[inline(always)]
        fn $name(self) -> F32x8 {
            F32x8(registers!(_mm256_round_ps::<{ $direction | _MM_FROUND_NO_EXC }>(self.0)))
        })*
    };
}

impl Real for F32x8 {
    type Mask = Mask8;

    shared_f32_functions!();
    comparisons! {
        lt = _CMP_LT_OQ, le = _CMP_LE_OQ, gt = _CMP_GT_OQ, ge = _CMP_GE_OQ, eq = _CMP_EQ_OQ, ne = _CMP_NEQ_UQ
    }
    roundings! {
        floor = _MM_FROUND_TO_NEG_INF, ceil = _MM_FROUND_TO_POS_INF, round = _MM_FROUND_TO_NEAREST_INT,
        trunc = _MM_FROUND_TO_ZERO
    }

    #[inline(always)]
    fn lit(x: f64) -> F32x8 {
        F32x8::splat(x as f32)
    }

    #[inline(always)]
    fn abs(self) -> F32x8 {
        F32x8(registers!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0)))
    }

    #[inline(always)]
    fn sqrt(self) -> F32x8 {
        F32x8(registers!(_mm256_sqrt_ps(self.0)))
    }

    #[inline(always)]
    fn min(self, other: F32x8) -> F32x8 {
        // The instruction returns the second of two when either is NaN.
        F32x8::select(self.is_nan(), self, F32x8(registers!(_mm256_min_ps(self.0, other.0))))
    }

    #[inline(always)]
    fn max(self, other: F32x8) -> F32x8 {
        F32x8::select(self.is_nan(), self, F32x8(registers!(_mm256_max_ps(self.0, other.0))))
    }

    #[inline(always)]
    fn relu(self) -> F32x8 {
        // The second of two is returned when either is NaN, so NaN stays.
        F32x8(registers!(_mm256_max_ps(_mm256_setzero_ps(), self.0)))
    }

    #[inline(always)]
    fn is_nan(self) -> Mask8 {
        Mask8(registers!(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0)))
    }

    #[inline(always)]
    fn and(a: Mask8, b: Mask8) -> Mask8 {
        Mask8(registers!(_mm256_and_ps(a.0, b.0)))
    }

    #[inline(always)]
    fn or(a: Mask8, b: Mask8) -> Mask8 {
        Mask8(registers!(_mm256_or_ps(a.0, b.0)))
    }

    #[inline(always)]
    fn not(a: Mask8) -> Mask8 {
        Mask8(registers!(_mm256_xor_ps(a.0, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))))
    }

    #[inline(always)]
    fn select(mask: Mask8, yes: F32x8, no: F32x8) -> F32x8 {
        F32x8(registers!(_mm256_blendv_ps(no.0, yes.0, mask.0)))
    }
}

/// The lanes i < n, for `maskload` and `maskstore`.
#[inline(always)]
fn first(n: usize) -> __m256i {
    registers!(_mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)))
}

impl F32x8 {
    /// Lane i + `BY` in lane i, for `BY` = 4, 2, 1 in this order of folding.
    #[inline(always)]
    fn folded<const BY: usize>(self) -> F32x8 {
        F32x8(match BY {
            4 => registers!(_mm256_permute2f128_ps::<1>(self.0, self.0)),
            2 => registers!(_mm256_permute_ps::<0b_01_00_11_10>(self.0)),
            _ => registers!(_mm256_permute_ps::<0b_10_11_00_01>(self.0)),
        })
    }

    #[inline(always)]
    fn first(self) -> f32 {
        registers!(_mm256_cvtss_f32(self.0))
    }
}

impl Lanes for F32x8 {
    type Elem = f32;
    const WIDTH: usize = 8;

    #[inline(always)]
    fn mask_bits(mask: Mask8) -> u32 {
        registers!(_mm256_movemask_ps(mask.0)) as u32
    }

    #[inline(always)]
    fn bits_mask(bits: u32) -> Mask8 {
        let own = registers!(_mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128));
        let set = registers!(_mm256_and_si256(_mm256_set1_epi32(bits as i32), own));
        Mask8(registers!(_mm256_castsi256_ps(_mm256_cmpeq_epi32(set, own))))
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> F32x8 {
        // SAFETY: the caller's promise.
        F32x8(unsafe { _mm256_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> F32x8 {
        // SAFETY: the caller's promise; lanes that the mask leaves out are not read.
        F32x8(unsafe { _mm256_maskload_ps(p, first(n)) })
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        // SAFETY: the caller's promise; lanes that the mask leaves out are not written.
        unsafe { _mm256_maskstore_ps(p, first(n), self.0) }
    }

    #[inline(always)]
    fn splat(x: f32) -> F32x8 {
        F32x8(registers!(_mm256_set1_ps(x)))
    }

    #[inline(always)]
    fn mul_add(self, a: F32x8, b: F32x8) -> F32x8 {
        F32x8(registers!(_mm256_fmadd_ps(self.0, a.0, b.0)))
    }

    #[inline(always)]
    fn sum_lanes(self) -> f32 {
        let four = self + self.folded::<4>();
        let two = four + four.folded::<2>();
        (two + two.folded::<1>()).first()
    }

    #[inline(always)]
    fn max_lanes(self) -> f32 {
        let four = self.max(self.folded::<4>());
        let two = four.max(four.folded::<2>());
        two.max(two.folded::<1>()).first()
    }

    #[inline(always)]
    fn min_lanes(self) -> f32 {
        let four = self.min(self.folded::<4>());
        let two = four.min(four.folded::<2>());
        two.min(two.folded::<1>()).first()
    }
}

impl F32Lanes for F32x8 {
    type Int = __m256i;

    #[inline(always)]
    fn to_bits(self) -> __m256i {
        registers!(_mm256_castps_si256(self.0))
    }

    #[inline(always)]
    fn from_bits(bits: __m256i) -> F32x8 {
        F32x8(registers!(_mm256_castsi256_ps(bits)))
    }

    #[inline(always)]
    fn to_int(self) -> __m256i {
        registers!(_mm256_cvtps_epi32(self.0))
    }

    #[inline(always)]
    fn from_int(int: __m256i) -> F32x8 {
        F32x8(registers!(_mm256_cvtepi32_ps(int)))
    }

    #[inline(always)]
    fn int(x: i32) -> __m256i {
        registers!(_mm256_set1_epi32(x))
    }

    #[inline(always)]
    fn int_add(a: __m256i, b: __m256i) -> __m256i {
        registers!(_mm256_add_epi32(a, b))
    }

    #[inline(always)]
    fn int_sub(a: __m256i, b: __m256i) -> __m256i {
        registers!(_mm256_sub_epi32(a, b))
    }

    #[inline(always)]
    fn int_and(a: __m256i, b: __m256i) -> __m256i {
        registers!(_mm256_and_si256(a, b))
    }

    #[inline(always)]
    fn int_xor(a: __m256i, b: __m256i) -> __m256i {
        registers!(_mm256_xor_si256(a, b))
    }

    #[inline(always)]
    fn shift_left<const BY: u32>(a: __m256i) -> __m256i {
        registers!(_mm256_sll_epi32(a, _mm_cvtsi32_si128(BY as i32)))
    }

    #[inline(always)]
    fn shift_right<const BY: u32>(a: __m256i) -> __m256i {
        registers!(_mm256_sra_epi32(a, _mm_cvtsi32_si128(BY as i32)))
    }

    #[inline(always)]
    fn int_test(a: __m256i) -> Mask8 {
        let zero = registers!(_mm256_cmpeq_epi32(a, _mm256_setzero_si256()));
        Self::not(Mask8(registers!(_mm256_castsi256_ps(zero))))
    }

    #[inline(always)]
    fn scale(self, n: F32x8) -> F32x8 {
        // In two steps: 2ⁿ itself may not be a number where the product is. The first step is exact.
        let n = n.to_int();
        let half = Self::shift_right::<1>(n);
        let power = |n| Self::from_bits(Self::shift_left::<23>(Self::int_add(n, Self::int(127))));
        self * power(half) * power(Self::int_sub(n, half))
    }

    #[inline(always)]
    fn inverse(self) -> F32x8 {
        Self::splat(1.0) / self
    }

    #[inline(always)]
    fn clamp(self, low: f32, high: f32) -> F32x8 {
        // Of two, the second is returned when either is NaN.
        let raised = registers!(_mm256_max_ps(_mm256_set1_ps(low), self.0));
        F32x8(registers!(_mm256_min_ps(_mm256_set1_ps(high), raised)))
    }

    #[inline(always)]
    fn any(mask: Mask8) -> bool {
        registers!(_mm256_movemask_ps(mask.0)) != 0
    }

    #[inline(always)]
    fn map(self, function: fn(f32) -> f32) -> F32x8 {
        let mut lanes = [0.0; 8];
        // SAFETY: eight elements.
        unsafe { self.store(lanes.as_mut_ptr()) };
        for x in &mut lanes {
            *x = function(*x);
        }
        // SAFETY: eight elements.
        unsafe { F32x8::load(lanes.as_ptr()) }
    }

    #[inline(always)]
    fn map2(self, other: F32x8, function: fn(f32, f32) -> f32) -> F32x8 {
        let (mut lanes, mut others) = ([0.0; 8], [0.0; 8]);
        // SAFETY: eight elements each.
        unsafe { (self.store(lanes.as_mut_ptr()), other.store(others.as_mut_ptr())) };
        for (x, &y) in lanes.iter_mut().zip(&others) {
            *x = function(*x, y);
        }
        // SAFETY: eight elements.
        unsafe { F32x8::load(lanes.as_ptr()) }
    }
}
