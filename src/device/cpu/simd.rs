//! SIMD on the CPU: which instructions there are, lanes as a reading of [`Real`], and how a kernel reaches them.
//!
//! A kernel is written once over [`Lanes`] and compiled once for each [`Level`], inside a function that may use the
//! instructions of that level. All of it must be inlined there: a generic function without `#[inline(always)]`, or a
//! closure that is not inlined, is compiled without them and runs many times slower. The lane types are in the modules
//! below, the formulas of the transcendental functions in `math`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;

#[cfg(target_arch = "x86_64")]
pub use avx2::F32x8;
#[cfg(target_arch = "x86_64")]
pub use avx512::F32x16;
#[cfg(target_arch = "aarch64")]
pub use neon::F32x4;
pub use plain::F32x1;

use crate::real::Real;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// The sets of instructions that kernels are compiled for, in rising order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    /// One number at a time, on any processor.
    Plain = 1,
    /// NEON, which every aarch64 processor has and no other.
    Neon = 2,
    /// AVX2, FMA and F16C.
    Avx2 = 3,
    /// AVX-512 F, BW, DQ and VL, and all of `Avx2`.
    Avx512 = 4,
}

/// The level of this process: the best the processor has, or less if `BACKSWEEP_SIMD` says so.
#[inline]
pub fn level() -> Level {
    static FOUND: AtomicU8 = AtomicU8::new(0);
    match FOUND.load(Relaxed) {
        1 => Level::Plain,
        2 => Level::Neon,
        3 => Level::Avx2,
        4 => Level::Avx512,
        _ => {
            let level = lowered(detected(), std::env::var("BACKSWEEP_SIMD").ok().as_deref());
            FOUND.store(level as u8, Relaxed);
            level
        }
    }
}

/// The levels of this process, in rising order.
#[cfg(test)]
pub fn levels() -> impl Iterator<Item = Level> {
    let all = [Level::Plain, Level::Neon, Level::Avx2, Level::Avx512];
    let here = |&at: &Level| at <= level() && (at != Level::Neon || cfg!(target_arch = "aarch64"));
    all.into_iter().filter(here)
}

/// What `BACKSWEEP_SIMD` can lower the level to.
#[cfg(test)]
pub const LOWER: &[&str] = if cfg!(target_arch = "x86_64") { &["plain", "avx2"] } else { &["plain"] };

fn lowered(found: Level, wanted: Option<&str>) -> Level {
    match wanted.map(str::trim) {
        Some("plain") => Level::Plain,
        Some("avx2") => found.min(Level::Avx2),
        _ => found,
    }
}

#[cfg(target_arch = "x86_64")]
fn detected() -> Level {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Plain,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detected() -> Level {
    if cfg!(target_arch = "aarch64") { Level::Neon } else { Level::Plain }
}

/// Some numbers in one register. The memory functions do not ask for alignment.
pub trait Lanes: Real {
    /// `f32` or `f64`.
    type Elem: Copy;
    const WIDTH: usize;

    /// # Safety
    /// `p` is valid for reads of `WIDTH` elements.
    unsafe fn load(p: *const Self::Elem) -> Self;

    /// # Safety
    /// `p` is valid for writes of `WIDTH` elements.
    unsafe fn store(self, p: *mut Self::Elem);

    /// The first `n` < `WIDTH` lanes from memory, and 0 in the rest.
    /// # Safety
    /// `p` is valid for reads of `n` elements.
    unsafe fn load_first(p: *const Self::Elem, n: usize) -> Self;

    /// Stores the first `n` < `WIDTH` lanes.
    /// # Safety
    /// `p` is valid for writes of `n` elements.
    unsafe fn store_first(self, p: *mut Self::Elem, n: usize);

    fn splat(x: Self::Elem) -> Self;

    /// The `N` numbers from `p` on, each in all lanes.
    /// # Safety
    /// `p` is valid for reads of `N` elements.
    #[inline(always)]
    unsafe fn splats<const N: usize>(p: *const Self::Elem) -> [Self; N] {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| Self::splat(unsafe { *p.add(i) }))
    }

    /// self · a + b, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;

    /// One bit a lane, the first lane lowest.
    fn mask_bits(mask: Self::Mask) -> u32;
    /// The lanes whose bit is set.
    fn bits_mask(bits: u32) -> Self::Mask;

    /// The sum of the lanes by halving: lane i and lane i + width/2 first.
    fn sum_lanes(self) -> Self::Elem;
    /// NaN if any lane is.
    fn max_lanes(self) -> Self::Elem;
    /// NaN if any lane is.
    fn min_lanes(self) -> Self::Elem;
}

/// Lanes of `f32` with what the formulas in `math` need besides arithmetic: their bits as integers, and 2ⁿ.
pub trait F32Lanes: Lanes<Elem = f32> {
    /// As many `i32` as there are lanes.
    type Int: Copy;

    fn to_bits(self) -> Self::Int;
    fn from_bits(bits: Self::Int) -> Self;
    /// Lanes that are integers within the range of `i32`.
    fn to_int(self) -> Self::Int;
    fn from_int(int: Self::Int) -> Self;
    fn int(x: i32) -> Self::Int;
    fn int_add(a: Self::Int, b: Self::Int) -> Self::Int;
    fn int_sub(a: Self::Int, b: Self::Int) -> Self::Int;
    fn int_and(a: Self::Int, b: Self::Int) -> Self::Int;
    fn int_xor(a: Self::Int, b: Self::Int) -> Self::Int;
    fn shift_left<const BY: u32>(a: Self::Int) -> Self::Int;
    /// Keeps the sign.
    fn shift_right<const BY: u32>(a: Self::Int) -> Self::Int;
    /// True where the integer is not 0.
    fn int_test(a: Self::Int) -> Self::Mask;
    /// self · 2ⁿ rounded once, for 2⁻²⁰ < |self| < 4 and an integer n from -200 to 200.
    fn scale(self, n: Self) -> Self;
    /// 1/self within one ULP, where neither is denormal, infinite or 0: without a division where that is quicker.
    fn inverse(self) -> Self;
    /// NaN stays NaN.
    fn clamp(self, low: f32, high: f32) -> Self;
    fn any(mask: Self::Mask) -> bool;
    /// One lane after the other, for what has no formula in `math`.
    fn map(self, function: fn(f32) -> f32) -> Self;
    fn map2(self, other: Self, function: fn(f32, f32) -> f32) -> Self;
}

/// A kernel is a struct of its arguments. `run` is `#[inline(always)]`, and so is all that it calls over `L`.
pub trait Kernel<E> {
    type Out;
    fn run<L: Lanes<Elem = E>>(self) -> Self::Out;
}

/// A kernel over `f32` that also needs integers or `math` by name.
pub trait KernelF32 {
    type Out;
    fn run<L: F32Lanes>(self) -> Self::Out;
}

/// A kernel compiled for one level, as methods of the kernel's own type: the compiler puts each with its kernel, where free
/// functions would all land in one unit, by far the slowest to build.
macro_rules! at_levels {
    ($name:ident: $kernel:path, $wide:ty, $narrow:ty) => {
        #[cfg(target_arch = "x86_64")]
        trait $name: $kernel + Sized {
            /// # Safety
            /// The processor has these instructions.
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
            unsafe fn avx512(self) -> Self::Out {
                self.run::<$wide>()
            }

            /// # Safety
            /// The processor has these instructions.
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
            unsafe fn avx2(self) -> Self::Out {
                self.run::<$narrow>()
            }
        }

        #[cfg(target_arch = "x86_64")]
        impl<K: $kernel> $name for K {}
    };
}

at_levels!(AtLevels: Kernel<f32>, F32x16, F32x8);
at_levels!(AtLevelsF32: KernelF32, F32x16, F32x8);
at_levels!(AtLevelsF64: Kernel<f64>, f64, f64);

/// Runs a kernel on the widest lanes of this process.
#[inline]
pub fn dispatch_f32<K: Kernel<f32>>(kernel: K) -> K::Out {
    match level() {
        // SAFETY: `level` found the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { AtLevels::avx512(kernel) },
        // SAFETY: `level` found the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { AtLevels::avx2(kernel) },
        #[cfg(target_arch = "aarch64")]
        Level::Neon => kernel.run::<F32x4>(),
        _ => kernel.run::<F32x1>(),
    }
}

/// As [`dispatch_f32`], at a level that this process has.
pub fn dispatch_f32_at<K: KernelF32>(wanted: Level, kernel: K) -> K::Out {
    assert!(wanted <= level(), "bug: {wanted:?} on a processor without it");
    match wanted {
        // SAFETY: `level` found the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { AtLevelsF32::avx512(kernel) },
        // SAFETY: `level` found the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { AtLevelsF32::avx2(kernel) },
        #[cfg(target_arch = "aarch64")]
        Level::Neon => kernel.run::<F32x4>(),
        _ => kernel.run::<F32x1>(),
    }
}

/// As [`dispatch_f32`]. A lane is one `f64`: compiled for each level, so that `mul_add` is one instruction and simple
/// loops are vectorised.
#[inline]
pub fn dispatch_f64<K: Kernel<f64>>(kernel: K) -> K::Out {
    match level() {
        // SAFETY: `level` found the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { AtLevelsF64::avx512(kernel) },
        // SAFETY: `level` found the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { AtLevelsF64::avx2(kernel) },
        _ => kernel.run::<f64>(),
    }
}

/// The arithmetic operators of a lane type, with literals on the right, from four functions of its register.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! lane_operators {
    ($lanes:ident: $($operator:ident $method:ident $intrinsic:path),*) => {
        $(impl std::ops::$operator for $lanes {
            type Output = $lanes;
            #[inline(always)]
            fn $method(self, other: $lanes) -> $lanes {
                // SAFETY: lanes exist only under their dispatch.
                $lanes(unsafe { $intrinsic(self.0, other.0) })
            }
        }

        impl std::ops::$operator<f64> for $lanes {
            type Output = $lanes;
            #[inline(always)]
            fn $method(self, other: f64) -> $lanes {
                std::ops::$operator::$method(self, $lanes::lit(other))
            }
        })*
    };
}

/// The functions of [`Real`] that all lanes of `f32` share: a formula in `math`, or one lane after the other.
macro_rules! shared_f32_functions {
    () => {
        crate::device::cpu::simd::shared_f32_functions! {
            vector: exp exp2 expm1 ln log1p log2 log10 sin cos tanh erf erfc sigmoid rsqrt normal_cdf normal_pdf;
            lanes: tan asin acos atan sinh cosh asinh acosh atanh;
            lanes_of_two: pow atan2 floor_div rem;
        }
    };
    (vector: $($vector:ident)*; lanes: $($lanes:ident)*; lanes_of_two: $($two:ident)*;) => {
        $(#[inline(always)]
        fn $vector(self) -> Self {
            crate::device::cpu::math::$vector(self)
        })*

        $(#[inline(always)]
        fn $lanes(self) -> Self {
            self.map(|x| Real::$lanes(x as f64) as f32)
        })*

        $(#[inline(always)]
        fn $two(self, other: Self) -> Self {
            self.map2(other, |x, y| Real::$two(x as f64, y as f64) as f32)
        })*
    };
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use lane_operators;
use shared_f32_functions;

#[cfg(test)]
mod tests;
