//! 16-bit floats that lie side by side, to `f32` and back, rounded to nearest, ties to even: a register at a time.

use super::simd::{self, Kernel, Lanes};
use crate::dtype::DType;
use half::f16;

/// # Safety
/// `src` points at `n` elements of `dtype`, a half, and `dst` at room for `n`; neither overlaps the other.
pub unsafe fn widen(src: *const u8, dtype: DType, dst: *mut f32, n: usize) {
    simd::dispatch_f32(Widen { src: src.cast(), bfloat: dtype == DType::BF16, dst, n });
}

/// # Safety
/// As [`widen`], the other way round.
pub unsafe fn narrow(src: *const f32, dst: *mut u8, dtype: DType, n: usize) {
    simd::dispatch_f32(Narrow { src, bfloat: dtype == DType::BF16, dst: dst.cast(), n });
}

struct Widen {
    src: *const u16,
    bfloat: bool,
    dst: *mut f32,
    n: usize,
}

struct Narrow {
    src: *const f32,
    bfloat: bool,
    dst: *mut u16,
    n: usize,
}

/// Elements that an instruction of F16C converts.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
const AT_ONCE: usize = 8;

impl Kernel<f32> for Widen {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = f32>>(self) {
        let Widen { src, bfloat, dst, n } = self;
        // SAFETY: the promise of the caller of `widen`; wide lanes mean F16C.
        unsafe {
            if bfloat {
                for i in 0..n {
                    *dst.add(i) = f32::from_bits(u32::from(*src.add(i)) << 16);
                }
                return;
            }
            #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
            let mut done = 0;
            #[cfg(target_arch = "x86_64")]
            if L::WIDTH >= AT_ONCE {
                use std::arch::x86_64::*;
                while done + AT_ONCE <= n {
                    let halves = _mm_loadu_si128(src.add(done).cast());
                    _mm256_storeu_ps(dst.add(done), _mm256_cvtph_ps(halves));
                    done += AT_ONCE;
                }
            }
            for i in done..n {
                *dst.add(i) = f16::from_bits(*src.add(i)).to_f32();
            }
        }
    }
}

impl Kernel<f32> for Narrow {
    type Out = ();

    #[inline(always)]
    fn run<L: Lanes<Elem = f32>>(self) {
        let Narrow { src, bfloat, dst, n } = self;
        // SAFETY: the promise of the caller of `narrow`; wide lanes mean F16C.
        unsafe {
            if bfloat {
                for i in 0..n {
                    *dst.add(i) = bits_of_bf16((*src.add(i)).to_bits());
                }
                return;
            }
            #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
            let mut done = 0;
            #[cfg(target_arch = "x86_64")]
            if L::WIDTH >= AT_ONCE {
                use std::arch::x86_64::*;
                while done + AT_ONCE <= n {
                    let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(src.add(done)));
                    _mm_storeu_si128(dst.add(done).cast(), halves);
                    done += AT_ONCE;
                }
            }
            for i in done..n {
                *dst.add(i) = f16::from_f32(*src.add(i)).to_bits();
            }
        }
    }
}

/// The upper half of a float's bits, rounded, and NaN kept quiet: without a branch, so that it is vectorised.
#[inline(always)]
fn bits_of_bf16(bits: u32) -> u16 {
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let nan = bits >> 16 | 0x40;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded }) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    /// Every half, and the floats that lie on and beside the middle between two.
    fn floats(of: fn(u16) -> f32) -> Vec<f32> {
        let near =
            |x: f32| [x, f32::from_bits(x.to_bits().wrapping_add(1)), f32::from_bits(x.to_bits().wrapping_sub(1))];
        let halves = (0..=u16::MAX).map(of);
        let middles = (0..u16::MAX).map(|h| ((f64::from(of(h)) + f64::from(of(h + 1))) / 2.0) as f32);
        halves.chain(middles).flat_map(near).chain([f32::MAX, f32::MIN_POSITIVE, 1e-45, -0.0]).collect()
    }

    #[test]
    fn every_half_widens_and_every_rounding_is_to_the_nearest() {
        for dtype in [DType::F16, DType::BF16] {
            let (wide, infinite): (fn(u16) -> f32, f64) = match dtype {
                DType::F16 => (|h| f16::from_bits(h).to_f32(), 65536.0),
                _ => (|h| bf16::from_bits(h).to_f32(), 2f64.powi(128)),
            };
            let halves: Vec<u16> = (0..=u16::MAX).collect();
            let mut found = vec![0.0f32; halves.len()];
            // SAFETY: both are as long as is said.
            unsafe { widen(halves.as_ptr().cast(), dtype, found.as_mut_ptr(), found.len()) };
            for (&h, x) in halves.iter().zip(found) {
                assert!(x.to_bits() == wide(h).to_bits() || x.is_nan() && wide(h).is_nan(), "{dtype:?} {h:#x}: {x}");
            }
            let floats = floats(wide);
            assert!(!floats.len().is_multiple_of(AT_ONCE), "some are left over");
            let mut found = vec![0u16; floats.len()];
            // SAFETY: both are as long as is said.
            unsafe { narrow(floats.as_ptr(), found.as_mut_ptr().cast(), dtype, found.len()) };
            let value = |h: u16| f64::from(wide(h)).clamp(-infinite, infinite);
            for (&x, h) in floats.iter().zip(found) {
                let quiet = x.is_nan() && wide(h).is_nan();
                let away = |h: u16| (value(h) - f64::from(x).clamp(-infinite, infinite)).abs();
                // Of two as near, the even one.
                let best = |other: u16| away(h) < away(other) || away(h) == away(other) && h % 2 == 0;
                let neighbours = [h.wrapping_sub(1), h.wrapping_add(1)];
                let others = neighbours.into_iter().filter(|&o| !wide(o).is_nan() && o >> 15 == h >> 15);
                let signed = wide(h).is_sign_negative() == x.is_sign_negative();
                assert!(quiet || signed && others.into_iter().all(best), "{dtype:?} {x:e}: {h:#x}");
            }
        }
    }
}
