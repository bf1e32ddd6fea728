//! Four `f32` in a NEON register, which every aarch64 processor has.

use super::{F32Lanes, Lanes, lane_operators, shared_f32_functions};
use crate::real::Real;
use std::arch::aarch64::*;
use std::ops::Neg;

#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct F32x4(pub float32x4_t);

/// A mask is a register whose lanes are all ones or all zeros.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Mask4(uint32x4_t);

/// For every intrinsic that touches registers only.
/// SAFETY: every processor of the target has the instructions.
macro_rules! registers {
    ($($intrinsic:tt)*) => {
        // SAFETY: as the macro says.
        unsafe { $($intrinsic)* }
    };
}

lane_operators!(F32x4: Add add vaddq_f32, Sub sub vsubq_f32, Mul mul vmulq_f32, Div div vdivq_f32);

impl Neg for F32x4 {
    type Output = F32x4;
    #[inline(always)]
    fn neg(self) -> F32x4 {
        F32x4(registers!(vnegq_f32(self.0)))
    }
}

macro_rules! comparisons {
    ($($name:ident = $intrinsic:ident),*) => {
        $(#[inline(always)]
        fn $name(self, other: F32x4) -> Mask4 {
            Mask4(registers!($intrinsic(self.0, other.0)))
        })*
    };
}

macro_rules! functions {
    ($($name:ident = $intrinsic:ident),*) => {
        $(#[inline(always)]
        fn $name(self) -> F32x4 {
            F32x4(registers!($intrinsic(self.0)))
        })*
    };
}

impl Real for F32x4 {
    type Mask = Mask4;

    shared_f32_functions!();
    comparisons! { lt = vcltq_f32, le = vcleq_f32, gt = vcgtq_f32, ge = vcgeq_f32, eq = vceqq_f32 }
    functions! {
        abs = vabsq_f32, sqrt = vsqrtq_f32, floor = vrndmq_f32, ceil = vrndpq_f32, round = vrndnq_f32, trunc = vrndq_f32
    }

    #[inline(always)]
    fn lit(x: f64) -> F32x4 {
        F32x4::splat(x as f32)
    }

    #[inline(always)]
    fn min(self, other: F32x4) -> F32x4 {
        // NaN where either is.
        F32x4(registers!(vminq_f32(self.0, other.0)))
    }

    #[inline(always)]
    fn max(self, other: F32x4) -> F32x4 {
        F32x4(registers!(vmaxq_f32(self.0, other.0)))
    }

    #[inline(always)]
    fn ne(self, other: F32x4) -> Mask4 {
        Self::not(self.eq(other))
    }

    #[inline(always)]
    fn is_nan(self) -> Mask4 {
        self.ne(self)
    }

    #[inline(always)]
    fn and(a: Mask4, b: Mask4) -> Mask4 {
        Mask4(registers!(vandq_u32(a.0, b.0)))
    }

    #[inline(always)]
    fn or(a: Mask4, b: Mask4) -> Mask4 {
        Mask4(registers!(vorrq_u32(a.0, b.0)))
    }

    #[inline(always)]
    fn not(a: Mask4) -> Mask4 {
        Mask4(registers!(vmvnq_u32(a.0)))
    }

    #[inline(always)]
    fn select(mask: Mask4, yes: F32x4, no: F32x4) -> F32x4 {
        F32x4(registers!(vbslq_f32(mask.0, yes.0, no.0)))
    }
}

/// A bit for each lane, in the lane.
#[inline(always)]
fn own_bits() -> uint32x4_t {
    // SAFETY: as many bytes.
    unsafe { std::mem::transmute([1u32, 2, 4, 8]) }
}

impl Lanes for F32x4 {
    type Elem = f32;
    const WIDTH: usize = 4;

    #[inline(always)]
    fn mask_bits(mask: Mask4) -> u32 {
        registers!(vaddvq_u32(vandq_u32(mask.0, own_bits())))
    }

    #[inline(always)]
    fn bits_mask(bits: u32) -> Mask4 {
        Mask4(registers!(vtstq_u32(vdupq_n_u32(bits), own_bits())))
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> F32x4 {
        // SAFETY: the caller's promise.
        F32x4(unsafe { vld1q_f32(p) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { vst1q_f32(p, self.0) }
    }

    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> F32x4 {
        let zero = registers!(vdupq_n_f32(0.0));
        // SAFETY: the caller's promise; no lane from n on is read.
        F32x4(unsafe {
            match n {
                0 => zero,
                1 => vld1q_lane_f32::<0>(p, zero),
                _ => {
                    let two = vcombine_f32(vld1_f32(p), vdup_n_f32(0.0));
                    if n == 2 { two } else { vld1q_lane_f32::<2>(p.add(2), two) }
                }
            }
        })
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        // SAFETY: the caller's promise; no lane from n on is written.
        unsafe {
            match n {
                0 => {}
                1 => vst1q_lane_f32::<0>(p, self.0),
                _ => {
                    vst1_f32(p, vget_low_f32(self.0));
                    if n > 2 {
                        vst1q_lane_f32::<2>(p.add(2), self.0);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn splat(x: f32) -> F32x4 {
        F32x4(registers!(vdupq_n_f32(x)))
    }

    #[inline(always)]
    unsafe fn splats<const N: usize>(p: *const f32) -> [F32x4; N] {
        // A multiply-add takes its number from any lane of a register, so that four are loaded by one instruction.
        let whole = N - N % 4;
        let mut all = [F32x4::splat(0.0); N];
        // SAFETY: the caller's promise.
        unsafe {
            for i in (0..whole).step_by(4) {
                let four = vld1q_f32(p.add(i));
                all[i] = F32x4(vdupq_laneq_f32::<0>(four));
                all[i + 1] = F32x4(vdupq_laneq_f32::<1>(four));
                all[i + 2] = F32x4(vdupq_laneq_f32::<2>(four));
                all[i + 3] = F32x4(vdupq_laneq_f32::<3>(four));
            }
            for i in whole..N {
                all[i] = F32x4::splat(*p.add(i));
            }
        }
        all
    }

    #[inline(always)]
    fn mul_add(self, a: F32x4, b: F32x4) -> F32x4 {
        F32x4(registers!(vfmaq_f32(b.0, self.0, a.0)))
    }

    #[inline(always)]
    fn sum_lanes(self) -> f32 {
        registers!(vpadds_f32(vadd_f32(vget_low_f32(self.0), vget_high_f32(self.0))))
    }

    #[inline(always)]
    fn max_lanes(self) -> f32 {
        registers!(vmaxvq_f32(self.0))
    }

    #[inline(always)]
    fn min_lanes(self) -> f32 {
        registers!(vminvq_f32(self.0))
    }
}

impl F32Lanes for F32x4 {
    type Int = int32x4_t;

    #[inline(always)]
    fn to_bits(self) -> int32x4_t {
        registers!(vreinterpretq_s32_f32(self.0))
    }

    #[inline(always)]
    fn from_bits(bits: int32x4_t) -> F32x4 {
        F32x4(registers!(vreinterpretq_f32_s32(bits)))
    }

    #[inline(always)]
    fn to_int(self) -> int32x4_t {
        registers!(vcvtnq_s32_f32(self.0))
    }

    #[inline(always)]
    fn from_int(int: int32x4_t) -> F32x4 {
        F32x4(registers!(vcvtq_f32_s32(int)))
    }

    #[inline(always)]
    fn int(x: i32) -> int32x4_t {
        registers!(vdupq_n_s32(x))
    }

    #[inline(always)]
    fn int_add(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        registers!(vaddq_s32(a, b))
    }

    #[inline(always)]
    fn int_sub(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        registers!(vsubq_s32(a, b))
    }

    #[inline(always)]
    fn int_and(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        registers!(vandq_s32(a, b))
    }

    #[inline(always)]
    fn int_xor(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        registers!(veorq_s32(a, b))
    }

    #[inline(always)]
    fn shift_left<const BY: u32>(a: int32x4_t) -> int32x4_t {
        registers!(vshlq_s32(a, vdupq_n_s32(BY as i32)))
    }

    #[inline(always)]
    fn shift_right<const BY: u32>(a: int32x4_t) -> int32x4_t {
        // To the left by less than 0.
        registers!(vshlq_s32(a, vdupq_n_s32(-(BY as i32))))
    }

    #[inline(always)]
    fn int_test(a: int32x4_t) -> Mask4 {
        Mask4(registers!(vtstq_s32(a, a)))
    }

    #[inline(always)]
    fn scale(self, n: F32x4) -> F32x4 {
        // In two steps: 2ⁿ itself may not be a number where the product is. The first step is exact.
        let n = n.to_int();
        let half = Self::shift_right::<1>(n);
        let power = |n| Self::from_bits(Self::shift_left::<23>(Self::int_add(n, Self::int(127))));
        self * power(half) * power(Self::int_sub(n, half))
    }

    #[inline(always)]
    fn inverse(self) -> F32x4 {
        Self::splat(1.0) / self
    }

    #[inline(always)]
    fn clamp(self, low: f32, high: f32) -> F32x4 {
        self.max(Self::splat(low)).min(Self::splat(high))
    }

    #[inline(always)]
    fn any(mask: Mask4) -> bool {
        registers!(vmaxvq_u32(mask.0)) != 0
    }

    #[inline(always)]
    fn map(self, function: fn(f32) -> f32) -> F32x4 {
        let mut lanes = [0.0; 4];
        // SAFETY: four elements.
        unsafe { self.store(lanes.as_mut_ptr()) };
        for x in &mut lanes {
            *x = function(*x);
        }
        // SAFETY: four elements.
        unsafe { F32x4::load(lanes.as_ptr()) }
    }

    #[inline(always)]
    fn map2(self, other: F32x4, function: fn(f32, f32) -> f32) -> F32x4 {
        let (mut lanes, mut others) = ([0.0; 4], [0.0; 4]);
        // SAFETY: four elements each.
        unsafe { (self.store(lanes.as_mut_ptr()), other.store(others.as_mut_ptr())) };
        for (x, &y) in lanes.iter_mut().zip(&others) {
            *x = function(*x, y);
        }
        // SAFETY: four elements.
        unsafe { F32x4::load(lanes.as_ptr()) }
    }
}
