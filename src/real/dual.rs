//! Dual numbers: a value and its derivative in one direction, the exact reading that vjps are checked against.
//!
//! Where a function has no derivative, the tangent follows the same convention as the gradients: 0 for `abs` and `relu`
//! at 0, one half each for a tie of `min` or `max`, and a tangent of exactly 0 stays 0 at a singularity.

use super::Real;
use std::f64::consts::{FRAC_2_SQRT_PI, LN_2, LN_10};
use std::ops::{Add, Div, Mul, Neg, Sub};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dual {
    pub value: f64,
    pub tangent: f64,
}

impl Dual {
    /// The chain rule: `value` is f(self), `slope` is f'(self).
    #[inline(always)]
    fn chain(self, value: f64, slope: f64) -> Dual {
        Dual { value, tangent: self.tangent.times(slope) }
    }
}

impl Neg for Dual {
    type Output = Dual;
    #[inline(always)]
    fn neg(self) -> Dual {
        Dual { value: -self.value, tangent: -self.tangent }
    }
}

impl Add for Dual {
    type Output = Dual;
    #[inline(always)]
    fn add(self, other: Dual) -> Dual {
        Dual { value: self.value + other.value, tangent: self.tangent + other.tangent }
    }
}

impl Sub for Dual {
    type Output = Dual;
    #[inline(always)]
    fn sub(self, other: Dual) -> Dual {
        self + -other
    }
}

impl Mul for Dual {
    type Output = Dual;
    #[inline(always)]
    fn mul(self, other: Dual) -> Dual {
        let tangent = self.tangent.times(other.value) + other.tangent.times(self.value);
        Dual { value: self.value * other.value, tangent }
    }
}

impl Div for Dual {
    type Output = Dual;
    #[inline(always)]
    fn div(self, other: Dual) -> Dual {
        let value = self.value / other.value;
        let tangent = self.tangent.times(1.0 / other.value) - other.tangent.times(value / other.value);
        Dual { value, tangent }
    }
}

macro_rules! literal_operators {
    ($($operator:ident $method:ident),*) => {
        $(impl $operator<f64> for Dual {
            type Output = Dual;
            #[inline(always)]
            fn $method(self, other: f64) -> Dual {
                $operator::$method(self, Dual::lit(other))
            }
        })*
    };
}

literal_operators!(Add add, Sub sub, Mul mul, Div div);

/// `name(x) = slope`: the value is that of the `f64` reading; the slope may name the value as `y`.
macro_rules! smooth {
    ($($name:ident($x:ident, $y:ident) = $slope:expr;)*) => {
        $(#[inline(always)]
        fn $name(self) -> Dual {
            let $x = self.value;
            let $y = Real::$name($x);
            let _ = $y;
            self.chain($y, $slope)
        })*
    };
}

macro_rules! steps {
    ($($name:ident)*) => {
        $(#[inline(always)]
        fn $name(self) -> Dual {
            Dual::lit(Real::$name(self.value))
        })*
    };
}

macro_rules! comparisons {
    ($($name:ident)*) => {
        $(#[inline(always)]
        fn $name(self, other: Dual) -> bool {
            Real::$name(self.value, other.value)
        })*
    };
}

impl Real for Dual {
    type Mask = bool;

    smooth! {
        abs(x, y) = if x == 0.0 { 0.0 } else { x.signum() };
        sqrt(x, y) = 0.5 / y;
        rsqrt(x, y) = -0.5 * y / x;
        exp(x, y) = y;
        exp2(x, y) = y * LN_2;
        expm1(x, y) = x.exp();
        ln(x, y) = 1.0 / x;
        log1p(x, y) = 1.0 / (1.0 + x);
        log2(x, y) = 1.0 / (x * LN_2);
        log10(x, y) = 1.0 / (x * LN_10);
        sin(x, y) = x.cos();
        cos(x, y) = -x.sin();
        tan(x, y) = 1.0 + y * y;
        asin(x, y) = 1.0 / ((1.0 - x) * (1.0 + x)).sqrt();
        acos(x, y) = -1.0 / ((1.0 - x) * (1.0 + x)).sqrt();
        atan(x, y) = 1.0 / (1.0 + x * x);
        sinh(x, y) = x.cosh();
        cosh(x, y) = x.sinh();
        tanh(x, y) = 1.0 / (x.cosh() * x.cosh());
        asinh(x, y) = 1.0 / (1.0_f64).hypot(x);
        acosh(x, y) = 1.0 / ((x - 1.0) * (x + 1.0)).sqrt();
        atanh(x, y) = 1.0 / ((1.0 - x) * (1.0 + x));
        erf(x, y) = FRAC_2_SQRT_PI * (-x * x).exp();
        erfc(x, y) = -FRAC_2_SQRT_PI * (-x * x).exp();
        sigmoid(x, y) = y * Real::sigmoid(-x);
    }
    steps! { floor ceil round trunc }
    comparisons! { lt le gt ge eq ne }

    #[inline(always)]
    fn lit(x: f64) -> Dual {
        Dual { value: x, tangent: 0.0 }
    }

    #[inline(always)]
    fn pow(self, exponent: Dual) -> Dual {
        let (x, e) = (self.value, exponent.value);
        let value = x.powf(e);
        // Both are continued by 0: x⁰ does not change with x, and 0^e does not change with e ≥ 0.
        let in_base = if e == 0.0 { 0.0 } else { e * x.powf(e - 1.0) };
        let in_exponent = if x == 0.0 && e >= 0.0 { 0.0 } else { value * x.ln() };
        Dual { value, tangent: self.tangent.times(in_base) + exponent.tangent.times(in_exponent) }
    }

    #[inline(always)]
    fn atan2(self, x: Dual) -> Dual {
        let square = self.value * self.value + x.value * x.value;
        let (in_y, in_x) = if square == 0.0 { (0.0, 0.0) } else { (x.value / square, -self.value / square) };
        let value = self.value.atan2(x.value);
        Dual { value, tangent: self.tangent.times(in_y) + x.tangent.times(in_x) }
    }

    #[inline(always)]
    fn min(self, other: Dual) -> Dual {
        -(-self).max(-other)
    }

    #[inline(always)]
    fn max(self, other: Dual) -> Dual {
        let value = Real::max(self.value, other.value);
        let tangent = if self.value == other.value {
            0.5 * (self.tangent + other.tangent)
        } else if self.value > other.value || self.value.is_nan() {
            self.tangent
        } else {
            other.tangent
        };
        Dual { value, tangent }
    }

    #[inline(always)]
    fn floor_div(self, divisor: Dual) -> Dual {
        Dual::lit(self.value.floor_div(divisor.value))
    }

    #[inline(always)]
    fn rem(self, divisor: Dual) -> Dual {
        let quotient = self.value.floor_div(divisor.value);
        let tangent = self.tangent - divisor.tangent.times(quotient);
        Dual { value: self.value.rem(divisor.value), tangent }
    }

    #[inline(always)]
    fn is_nan(self) -> bool {
        self.value.is_nan()
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
    fn select(mask: bool, yes: Dual, no: Dual) -> Dual {
        if mask { yes } else { no }
    }

    #[inline(always)]
    fn relu(self) -> Dual {
        // Not the tie of `max`: torch's relu has slope 0 at 0.
        self.chain(Real::relu(self.value), (self.value > 0.0) as u8 as f64)
    }

    #[inline(always)]
    fn sign(self) -> Dual {
        Dual::lit(self.value.sign())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Function = fn(Dual) -> Dual;

    const SMOOTH: [(&str, Function, f64); 28] = [
        ("abs", Real::abs, -1.3),
        ("sqrt", Real::sqrt, 1.3),
        ("rsqrt", Real::rsqrt, 1.3),
        ("exp", Real::exp, 0.7),
        ("exp2", Real::exp2, 0.7),
        ("expm1", Real::expm1, 0.7),
        ("ln", Real::ln, 1.3),
        ("log1p", Real::log1p, 0.3),
        ("log2", Real::log2, 1.3),
        ("log10", Real::log10, 1.3),
        ("sin", Real::sin, 0.7),
        ("cos", Real::cos, 0.7),
        ("tan", Real::tan, 0.7),
        ("asin", Real::asin, 0.3),
        ("acos", Real::acos, 0.3),
        ("atan", Real::atan, 0.7),
        ("sinh", Real::sinh, 0.7),
        ("cosh", Real::cosh, 0.7),
        ("tanh", Real::tanh, 0.7),
        ("asinh", Real::asinh, 0.7),
        ("acosh", Real::acosh, 1.7),
        ("atanh", Real::atanh, 0.3),
        ("erf", Real::erf, 0.3),
        ("erfc", Real::erfc, 0.3),
        ("sigmoid", Real::sigmoid, 0.7),
        ("square", Real::square, -0.7),
        ("recip", Real::recip, -0.7),
        ("relu", Real::relu, 0.7),
    ];

    const OF_TWO: [(&str, fn(Dual, Dual) -> Dual, f64, f64); 9] = [
        ("add", |a, b| a + b, 0.7, 0.4),
        ("sub", |a, b| a - b, 0.7, 0.4),
        ("mul", |a, b| a * b, 0.7, 0.4),
        ("div", |a, b| a / b, 0.7, 0.4),
        ("pow", Real::pow, 0.7, 1.7),
        ("atan2", Real::atan2, 0.7, -0.4),
        ("min", Real::min, 0.7, 0.4),
        ("max", Real::max, 0.7, 0.4),
        ("rem", Real::rem, 1.7, 0.4),
    ];

    #[test]
    fn tangents_agree_with_central_differences() {
        let h = 1e-6;
        let close = |name: &str, tangent: f64, difference: f64| {
            assert!((tangent - difference).abs() < 1e-8 * tangent.abs().max(1.0), "{name}: {tangent} {difference}");
        };
        for (name, function, x) in SMOOTH {
            let at = |x| function(Dual::lit(x)).value;
            let tangent = function(Dual { value: x, tangent: 1.0 }).tangent;
            close(name, tangent, (at(x + h) - at(x - h)) / (2.0 * h));
        }
        for (name, function, a, b) in OF_TWO {
            let at = |a, b| function(Dual::lit(a), Dual::lit(b)).value;
            let first = function(Dual { value: a, tangent: 1.0 }, Dual::lit(b)).tangent;
            let second = function(Dual::lit(a), Dual { value: b, tangent: 1.0 }).tangent;
            close(name, first, (at(a + h, b) - at(a - h, b)) / (2.0 * h));
            close(name, second, (at(a, b + h) - at(a, b - h)) / (2.0 * h));
        }
    }

    #[test]
    fn corners_follow_the_conventions_of_the_gradients() {
        let x = |value| Dual { value, tangent: 1.0 };
        assert_eq!([x(0.0).abs().tangent, x(0.0).relu().tangent, x(2.0).sign().tangent], [0.0; 3]);
        assert_eq!(x(1.0).max(Dual::lit(1.0)).tangent, 0.5);
        assert_eq!(x(0.0).sqrt().tangent, f64::INFINITY);
        assert_eq!(Dual::lit(0.0).sqrt().tangent, 0.0);
        assert_eq!([x(0.0).pow(Dual::lit(0.0)).tangent, Dual::lit(0.0).pow(x(0.0)).tangent], [0.0; 2]);
        assert_eq!(x(0.0).pow(Dual::lit(1.0)).tangent, 1.0);
        assert_eq!(x(0.0).atan2(Dual::lit(0.0)).tangent, 0.0);
    }
}
