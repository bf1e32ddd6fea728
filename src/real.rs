//! One pointwise formula, several readings.
//!
//! A formula is written once over [`Real`] and read as: exact `f64` (here), value and tangent ([`Dual`]), integers
//! ([`Int`]), and SIMD lanes (`device/cpu/simd`). A literal stands on the right (`x * 0.5`, `-s + 1.0`), because Rust
//! does not let a trait put one on the left. Imports nothing. Leaves out how often and over which memory a formula is
//! evaluated.

mod dual;
mod int;

pub use dual::Dual;
pub use int::Int;

use std::ops::{Add, Div, Mul, Neg, Sub};

/// 1/√2 and 1/√(2π)
const SQRT_HALF: f64 = std::f64::consts::FRAC_1_SQRT_2;
const RSQRT_2PI: f64 = 0.398_942_280_401_432_7;

/// A number, or a handful of them, that pointwise formulas are written over. Every function of an implementation is
/// `#[inline(always)]`: a formula must melt into the loop that evaluates it.
pub trait Real:
    Copy
    + Neg<Output = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Add<f64, Output = Self>
    + Sub<f64, Output = Self>
    + Mul<f64, Output = Self>
    + Div<f64, Output = Self>
{
    /// The truth of a comparison, one for each number.
    type Mask: Copy;

    fn lit(x: f64) -> Self;

    fn abs(self) -> Self;
    fn sqrt(self) -> Self;
    fn rsqrt(self) -> Self;
    fn exp(self) -> Self;
    fn exp2(self) -> Self;
    fn expm1(self) -> Self;
    fn ln(self) -> Self;
    fn log1p(self) -> Self;
    fn log2(self) -> Self;
    fn log10(self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
    fn tan(self) -> Self;
    fn asin(self) -> Self;
    fn acos(self) -> Self;
    fn atan(self) -> Self;
    fn sinh(self) -> Self;
    fn cosh(self) -> Self;
    fn tanh(self) -> Self;
    fn asinh(self) -> Self;
    fn acosh(self) -> Self;
    fn atanh(self) -> Self;
    fn erf(self) -> Self;
    fn erfc(self) -> Self;
    fn sigmoid(self) -> Self;

    /// Φ(x), the standard normal distribution. Through erfc, which keeps its digits far below zero.
    #[inline(always)]
    fn normal_cdf(self) -> Self {
        (self * -SQRT_HALF).erfc() * 0.5
    }

    /// φ(x), the density of the standard normal distribution.
    #[inline(always)]
    fn normal_pdf(self) -> Self {
        (self * self * -0.5).exp() * RSQRT_2PI
    }

    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    /// Half to even.
    fn round(self) -> Self;
    fn trunc(self) -> Self;

    fn pow(self, exponent: Self) -> Self;
    /// The angle of the point (x, self).
    fn atan2(self, x: Self) -> Self;
    /// NaN where either is NaN.
    fn min(self, other: Self) -> Self;
    /// NaN where either is NaN.
    fn max(self, other: Self) -> Self;
    /// The quotient rounded towards -∞, exactly: not the floor of a rounded quotient.
    fn floor_div(self, divisor: Self) -> Self;
    /// What `floor_div` leaves: its sign is the divisor's.
    fn rem(self, divisor: Self) -> Self;

    fn lt(self, other: Self) -> Self::Mask;
    fn le(self, other: Self) -> Self::Mask;
    fn gt(self, other: Self) -> Self::Mask;
    fn ge(self, other: Self) -> Self::Mask;
    fn eq(self, other: Self) -> Self::Mask;
    /// True for NaN, as `!=`.
    fn ne(self, other: Self) -> Self::Mask;
    fn is_nan(self) -> Self::Mask;

    fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn or(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    fn not(a: Self::Mask) -> Self::Mask;
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;

    /// `self · factor` for a cotangent: one that is exactly 0 stays 0, also where the factor is infinite or NaN, so that
    /// a branch not taken sends nothing back.
    #[inline(always)]
    fn times(self, factor: Self) -> Self {
        let zero = Self::lit(0.0);
        Self::select(self.eq(zero), zero, self * factor)
    }

    #[inline(always)]
    fn square(self) -> Self {
        self * self
    }

    #[inline(always)]
    fn recip(self) -> Self {
        Self::lit(1.0) / self
    }

    /// -1, 0 or 1; NaN stays NaN and -0 stays -0.
    #[inline(always)]
    fn sign(self) -> Self {
        let zero = Self::lit(0.0);
        let not_positive = Self::select(self.lt(zero), Self::lit(-1.0), self);
        Self::select(self.gt(zero), Self::lit(1.0), not_positive)
    }

    #[inline(always)]
    fn relu(self) -> Self {
        self.max(Self::lit(0.0))
    }
}

/// Methods of the reading that are the same functions of `f64` under the same or another name.
macro_rules! f64_functions {
    ($($name:ident = $function:path),* $(,)?) => {
        $(#[inline(always)]
        fn $name(self) -> f64 {
            $function(self)
        })*
    };
}

impl Real for f64 {
    type Mask = bool;

    f64_functions! {
        abs = f64::abs, sqrt = f64::sqrt, exp = f64::exp, exp2 = f64::exp2, expm1 = f64::exp_m1, ln = f64::ln,
        log1p = f64::ln_1p, log2 = f64::log2, log10 = f64::log10, sin = f64::sin, cos = f64::cos, tan = f64::tan,
        asin = f64::asin, acos = f64::acos, atan = f64::atan, sinh = f64::sinh, cosh = f64::cosh, tanh = f64::tanh,
        asinh = libm::asinh, acosh = libm::acosh, atanh = libm::atanh, erf = libm::erf, erfc = libm::erfc,
        floor = f64::floor, ceil = f64::ceil, round = f64::round_ties_even, trunc = f64::trunc,
    }

    #[inline(always)]
    fn lit(x: f64) -> f64 {
        x
    }

    #[inline(always)]
    fn rsqrt(self) -> f64 {
        1.0 / f64::sqrt(self)
    }

    #[inline(always)]
    fn sigmoid(self) -> f64 {
        // e^x / (1 + e^x) keeps the left tail exact down to the denormals.
        let e = f64::exp(-f64::abs(self));
        if self < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }
    }

    #[inline(always)]
    fn pow(self, exponent: f64) -> f64 {
        f64::powf(self, exponent)
    }

    #[inline(always)]
    fn atan2(self, x: f64) -> f64 {
        f64::atan2(self, x)
    }

    #[inline(always)]
    fn min(self, other: f64) -> f64 {
        if self < other || self.is_nan() { self } else { other }
    }

    #[inline(always)]
    fn max(self, other: f64) -> f64 {
        if self > other || self.is_nan() { self } else { other }
    }

    #[inline(always)]
    fn floor_div(self, divisor: f64) -> f64 {
        if divisor == 0.0 {
            return self / divisor;
        }
        let left = self % divisor;
        let mut quotient = (self - left) / divisor;
        if left != 0.0 && (left < 0.0) != (divisor < 0.0) {
            quotient -= 1.0;
        }
        if quotient == 0.0 {
            return f64::copysign(0.0, self / divisor);
        }
        // (self - left) / divisor is an integer up to rounding.
        let floor = f64::floor(quotient);
        if quotient - floor > 0.5 { floor + 1.0 } else { floor }
    }

    #[inline(always)]
    fn rem(self, divisor: f64) -> f64 {
        let left = self % divisor;
        if left != 0.0 && (left < 0.0) != (divisor < 0.0) { left + divisor } else { left }
    }

    #[inline(always)]
    fn lt(self, other: f64) -> bool {
        self < other
    }

    #[inline(always)]
    fn le(self, other: f64) -> bool {
        self <= other
    }

    #[inline(always)]
    fn gt(self, other: f64) -> bool {
        self > other
    }

    #[inline(always)]
    fn ge(self, other: f64) -> bool {
        self >= other
    }

    #[inline(always)]
    fn eq(self, other: f64) -> bool {
        self == other
    }

    #[inline(always)]
    fn ne(self, other: f64) -> bool {
        self != other
    }

    #[inline(always)]
    fn is_nan(self) -> bool {
        f64::is_nan(self)
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
    fn select(mask: bool, yes: f64, no: f64) -> f64 {
        if mask { yes } else { no }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only if literals on the right are unambiguous over any reading.
    fn formula<R: Real>(x: R) -> R {
        let s = x.sigmoid();
        s * (x * (-s + 1.0) + 1.0) - 0.25
    }

    #[test]
    fn one_formula_has_the_same_value_in_each_reading() {
        assert_eq!(formula(0.7_f64), formula(Dual { value: 0.7, tangent: 1.0 }).value);
    }

    #[test]
    fn division_follows_the_sign_of_the_divisor() {
        for (a, b, quotient, rest) in [
            (7.0, 2.0, 3.0, 1.0),
            (-7.0, 2.0, -4.0, 1.0),
            (7.0, -2.0, -4.0, -1.0),
            (-7.0, -2.0, 3.0, -1.0),
            (6.0, -2.0, -3.0, 0.0),
            (1.0, 0.1, 9.0, 1.0 % 0.1),
        ] {
            assert_eq!((Real::floor_div(a, b), Real::rem(a, b)), (quotient, rest), "{a} by {b}");
            if f64::abs(b) >= 1.0 {
                let (a, b) = (Int(a as i64), Int(b as i64));
                assert_eq!((a.floor_div(b), a.rem(b)), (Int(quotient as i64), Int(rest as i64)));
            }
        }
        assert_eq!(Real::floor_div(1.0, 0.0), f64::INFINITY);
        assert!(f64::is_nan(Real::rem(1.0, 0.0)));
    }

    #[test]
    fn extrema_propagate_nan() {
        for (a, b) in [(f64::NAN, 1.0), (1.0, f64::NAN)] {
            assert!(f64::is_nan(Real::min(a, b)) && f64::is_nan(Real::max(a, b)));
        }
        assert_eq!((Real::min(1.0, 2.0), Real::max(1.0, 2.0)), (1.0, 2.0));
    }

    #[test]
    fn rounding_is_half_to_even() {
        assert_eq!([0.5, 1.5, 2.5, -0.5].map(Real::round), [0.0, 2.0, 2.0, -0.0]);
    }

    #[test]
    fn a_zero_cotangent_stays_zero_at_a_singularity() {
        assert_eq!([f64::INFINITY, f64::NAN].map(|factor| 0.0.times(factor)), [0.0, 0.0]);
        assert!(f64::is_nan(1.0.times(f64::NAN)));
    }

    #[test]
    fn sigmoid_keeps_its_left_tail() {
        assert_eq!(Real::sigmoid(-740.0), f64::exp(-740.0));
        assert_eq!((Real::sigmoid(800.0), Real::sigmoid(f64::NEG_INFINITY)), (1.0, 0.0));
    }
}
