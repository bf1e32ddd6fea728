//! Integers as a reading: wrapping arithmetic, and nothing panics.
//!
//! The shape rule promotes integers to floats before a transcendental function or a true division, so those are not
//! reached; they go through `f64` and truncate, for want of an answer.

use super::Real;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// An `i64`. A type of its own because `i64 + f64` cannot be given to `i64` itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Int(pub i64);

macro_rules! operators {
    ($($operator:ident $method:ident $function:expr),* $(,)?) => {
        $(impl $operator for Int {
            type Output = Int;
            #[inline(always)]
            fn $method(self, other: Int) -> Int {
                let function: fn(i64, i64) -> i64 = $function;
                Int(function(self.0, other.0))
            }
        }

        impl $operator<f64> for Int {
            type Output = Int;
            #[inline(always)]
            fn $method(self, other: f64) -> Int {
                $operator::$method(self, Int(other as i64))
            }
        })*
    };
}

operators! {
    Add add i64::wrapping_add,
    Sub sub i64::wrapping_sub,
    Mul mul i64::wrapping_mul,
    // A division by zero is refused by the op; here it only must not panic.
    Div div |a, b| if b == 0 { 0 } else { a.wrapping_div(b) },
}

impl Neg for Int {
    type Output = Int;
    #[inline(always)]
    fn neg(self) -> Int {
        Int(self.0.wrapping_neg())
    }
}

macro_rules! through_f64 {
    ($($name:ident)*) => {
        $(#[inline(always)]
        fn $name(self) -> Int {
            Int(Real::$name(self.0 as f64) as i64)
        })*
    };
}

macro_rules! comparisons {
    ($($name:ident)*) => {
        $(#[inline(always)]
        fn $name(self, other: Int) -> bool {
            PartialOrd::$name(&self.0, &other.0)
        })*
    };
}

macro_rules! unchanged {
    ($($name:ident)*) => {
        $(#[inline(always)]
        fn $name(self) -> Int {
            self
        })*
    };
}

impl Real for Int {
    type Mask = bool;

    through_f64! {
        sqrt rsqrt exp exp2 expm1 ln log1p log2 log10 sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf
        erfc sigmoid
    }
    unchanged! { floor ceil round trunc }
    comparisons! { lt le gt ge }

    #[inline(always)]
    fn lit(x: f64) -> Int {
        Int(x as i64)
    }

    #[inline(always)]
    fn abs(self) -> Int {
        Int(self.0.wrapping_abs())
    }

    /// A negative power is 0 but for the bases 1 and -1.
    #[inline(always)]
    fn pow(self, exponent: Int) -> Int {
        let (mut base, mut exponent) = (self.0, exponent.0);
        if exponent < 0 {
            if base != 1 && base != -1 {
                return Int(0);
            }
            exponent &= 1;
        }
        let mut power = 1_i64;
        while exponent > 0 {
            if exponent & 1 == 1 {
                power = power.wrapping_mul(base);
            }
            base = base.wrapping_mul(base);
            exponent >>= 1;
        }
        Int(power)
    }

    #[inline(always)]
    fn atan2(self, x: Int) -> Int {
        Int(f64::atan2(self.0 as f64, x.0 as f64) as i64)
    }

    #[inline(always)]
    fn min(self, other: Int) -> Int {
        Int(self.0.min(other.0))
    }

    #[inline(always)]
    fn max(self, other: Int) -> Int {
        Int(self.0.max(other.0))
    }

    #[inline(always)]
    fn floor_div(self, divisor: Int) -> Int {
        let quotient = self / divisor;
        let left = self.0.wrapping_sub(quotient.0.wrapping_mul(divisor.0));
        Int(quotient.0 - (divisor.0 != 0 && left != 0 && (left < 0) != (divisor.0 < 0)) as i64)
    }

    #[inline(always)]
    fn rem(self, divisor: Int) -> Int {
        if divisor.0 == 0 {
            return Int(0);
        }
        let left = self.0.wrapping_rem(divisor.0);
        Int(if left != 0 && (left < 0) != (divisor.0 < 0) { left + divisor.0 } else { left })
    }

    #[inline(always)]
    fn eq(self, other: Int) -> bool {
        self.0 == other.0
    }

    #[inline(always)]
    fn ne(self, other: Int) -> bool {
        self.0 != other.0
    }

    #[inline(always)]
    fn is_nan(self) -> bool {
        false
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
    fn select(mask: bool, yes: Int, no: Int) -> Int {
        if mask { yes } else { no }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_wrap_and_negative_ones_truncate() {
        let power = |base, exponent| Int(base).pow(Int(exponent)).0;
        assert_eq!([power(3, 4), power(-2, 3), power(0, 0), power(2, 64)], [81, -8, 1, 0]);
        assert_eq!([power(2, -1), power(-1, -3), power(-1, -2), power(1, -9)], [0, -1, 1, 1]);
    }

    #[test]
    fn nothing_panics_at_the_ends_of_the_range() {
        let least = Int(i64::MIN);
        assert_eq!([least.abs(), -least, least / Int(-1), least.floor_div(Int(-1))], [least; 4]);
        assert_eq!([least.rem(Int(-1)), least.rem(Int(0)), least.floor_div(Int(0))], [Int(0); 3]);
    }
}
