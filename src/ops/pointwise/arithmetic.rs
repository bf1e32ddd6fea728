//! Arithmetic, rounding, powers, extrema, and choosing between two numbers.
//!
//! At a tie the gradient is shared; a gradient that is exactly 0 stays 0 at a singularity (`times`).

use super::{NEVER, NOTHING, PASS, X, X1, X2, Y, pointwise};
use crate::arena::on_paper;
use crate::error::{Error, Result};
use crate::ops::laws::Domain::{AboveOne, Any, Apart, Divisor, Mask, Positive, Unit};
use crate::tensor::Tensor;

/// Integers have no infinity and no fraction to answer with: what has no whole result is refused.
pub fn check_integers(op: &str, x: &[&Tensor]) -> Result<()> {
    if !matches!(op, "floor_divide" | "remainder" | "fmod" | "pow") {
        return Ok(());
    }
    let second = x[1].to_host()?;
    // A forecast has no numbers to look at.
    if on_paper() {
        return Ok(());
    }
    let second = second.to_f64();
    match op {
        "floor_divide" | "remainder" | "fmod" if second.contains(&0.0) => Err(Error::value(format!(
            "{op}: an integer divided by 0; divisors other than 0 are needed (help: floats give inf or nan)"
        ))),
        "pow" if second.iter().any(|&e| e < 0.0) => Err(Error::value(format!(
            "{op}: an integer to a negative power is no integer; exponents of 0 or more are needed (help: x.float())"
        ))),
        _ => Ok(()),
    }
}

pointwise! {
    Add[2] "add" Arithmetic [Any, Any], reads [PASS, PASS];
    [a, b] => a + b;
    _, _, dy => [dy, dy];

    Sub[2] "sub" Arithmetic [Any, Any], reads [PASS, NOTHING];
    [a, b] => a - b;
    _, _, dy => [dy, -dy];

    Mul[2] "mul" Arithmetic [Any, Any], reads [X1, X];
    [a, b] => a * b;
    [a, b], _, dy => [dy * b, dy * a];

    Div[2] "div" Float [Any, Divisor], reads [X1, X | X1];
    [a, b] => a / b;
    [a, b], _, dy => [dy.times(b.recip()), dy.times(-(a / b) / b)];

    FloorDivide[2] "floor_divide" Arithmetic [Unit, AboveOne], reads [NEVER, NEVER];
    [a, b] => a.floor_div(b);
    _, _, dy => [dy, dy];

    /// Python's %: the sign of the divisor.
    Remainder[2] "remainder" Arithmetic [Unit, AboveOne], reads [PASS, X | X1];
    [a, b] => a.rem(b);
    [a, b], _, dy => [dy, dy.times(-a.floor_div(b))];

    /// C's fmod: the sign of the dividend.
    Fmod[2] "fmod" Arithmetic [Unit, AboveOne], reads [PASS, X | X1];
    [a, b] => a.abs().rem(b.abs()) * a.sign();
    [a, b], _, dy => [dy, dy.times(-(a / b).trunc())];

    Neg[1] "neg" Arithmetic [Any], reads [NOTHING];
    [x] => -x;
    _, _, dy => [-dy];

    Abs[1] "abs" Arithmetic [Apart], reads [X];
    [x] => x.abs();
    [x], _, dy => [dy * x.sign()];

    Sign[1] "sign" Arithmetic [Apart], reads [NOTHING];
    [x] => x.sign();
    _, _, dy => [dy * 0.0];

    Square[1] "square" Arithmetic [Any], reads [X];
    [x] => x.square();
    [x], _, dy => [dy * x * 2.0];

    Reciprocal[1] "reciprocal" Float [Divisor], reads [Y];
    [x] => x.recip();
    _, y, dy => [dy.times(-(y * y))];

    Floor[1] "floor" Arithmetic [Apart], reads [NOTHING];
    [x] => x.floor();
    _, _, dy => [dy * 0.0];

    Ceil[1] "ceil" Arithmetic [Apart], reads [NOTHING];
    [x] => x.ceil();
    _, _, dy => [dy * 0.0];

    /// Half to even.
    Round[1] "round" Arithmetic [Apart], reads [NOTHING];
    [x] => x.round();
    _, _, dy => [dy * 0.0];

    Trunc[1] "trunc" Arithmetic [Apart], reads [NOTHING];
    [x] => x.trunc();
    _, _, dy => [dy * 0.0];

    Frac[1] "frac" Float [Apart], reads [PASS];
    [x] => x - x.trunc();
    _, _, dy => [dy];

    /// x⁰ has derivative 0 and 0^y has derivative 0 by y, as limits from the side where the power is defined.
    Pow[2] "pow" Arithmetic [Positive, Any], reads [X | X1, X | Y];
    [x, e] => x.pow(e);
    [x, e], y, dy => {
        let zero = R::lit(0.0);
        let by_x = R::select(e.eq(zero), zero, dy.times(e * x.pow(e - 1.0)));
        // y · ln x at x = 0 is 0 for every y, the limit of the product.
        let by_e = R::select(x.eq(zero), zero, dy.times(y * x.ln()));
        [by_x, by_e]
    };

    Atan2[2] "atan2" Float [Divisor, Divisor], reads [X | X1, X | X1];
    [y, x] => y.atan2(x);
    [y, x], _, dy => {
        let norm = x * x + y * y;
        let at_origin = norm.eq(R::lit(0.0));
        let scale = R::select(at_origin, R::lit(0.0), dy / norm);
        [scale * x, -(scale * y)]
    };

    Hypot[2] "hypot" Float [Divisor, Divisor], reads [X | Y, X1 | Y];
    [a, b] => {
        // Scaled by the larger side, so that squares neither overflow nor vanish.
        let (a, b) = (a.abs(), b.abs());
        let (large, small) = (a.max(b), a.min(b));
        let ratio = R::select(large.eq(R::lit(0.0)), R::lit(0.0), small / large);
        let ratio = R::select(ratio.is_nan(), R::lit(1.0), ratio);
        R::select(large.is_nan(), large, large * (ratio * ratio + 1.0).sqrt())
    };
    [a, b], y, dy => {
        let scale = R::select(y.eq(R::lit(0.0)), R::lit(0.0), dy / y);
        [scale * a, scale * b]
    };

    Minimum[2] "minimum" Arithmetic [Apart, Any], reads [X | X1, X | X1];
    [a, b] => a.min(b);
    [a, b], _, dy => {
        let half = R::lit(0.5);
        let share = R::select(a.lt(b), R::lit(1.0), R::select(a.eq(b), half, R::lit(0.0)));
        [dy * share, dy * (-share + 1.0)]
    };

    Maximum[2] "maximum" Arithmetic [Apart, Any], reads [X | X1, X | X1];
    [a, b] => a.max(b);
    [a, b], _, dy => {
        let half = R::lit(0.5);
        let share = R::select(a.gt(b), R::lit(1.0), R::select(a.eq(b), half, R::lit(0.0)));
        [dy * share, dy * (-share + 1.0)]
    };

    /// Bounds win over x; at a bound the gradient passes. NaN stays.
    Clamp[3] "clamp" Arithmetic [Apart, Any, Positive], reads [X | X1 | X2, X | X1 | X2, X | X1 | X2];
    [x, low, high] => x.max(low).min(high);
    [x, low, high], _, dy => {
        let zero = R::lit(0.0);
        let above = x.gt(high);
        let below = R::and(x.lt(low), low.lt(high));
        let swapped = high.lt(low);
        let to_high = R::or(above, swapped);
        let to_low = R::and(below, R::not(swapped));
        let inside = R::not(R::or(to_low, to_high));
        [R::select(inside, dy, zero), R::select(to_low, dy, zero), R::select(to_high, dy, zero)]
    };

    Where[3] "where" Select [Mask, Any, Any], reads [NEVER, X, X];
    [mask, a, b] => R::select(mask.ne(R::lit(0.0)), a, b);
    [mask, _, _], _, dy => {
        let (zero, yes) = (R::lit(0.0), mask.ne(R::lit(0.0)));
        [zero, R::select(yes, dy, zero), R::select(yes, zero, dy)]
    };

    /// The second operand in the shape of the first: the target of a copy in place.
    Copy[2] "copy" Arithmetic [Any, Any], reads [NEVER, PASS];
    [_, b] => b;
    _, _, dy => [dy, dy];

    /// a + weight · (b - a)
    Lerp[3] "lerp" Float [Any, Any, Any], reads [X2, X2, X | X1];
    [a, b, weight] => a + weight * (b - a);
    [a, b, weight], _, dy => [dy * (-weight + 1.0), dy * weight, dy * (b - a)];

    /// x with the sign of s.
    Copysign[2] "copysign" Float [Apart, Apart], reads [X | X1, NOTHING];
    [x, s] => R::select(R::or(s.lt(R::lit(0.0)), s.recip().lt(R::lit(0.0))), -x.abs(), x.abs());
    [x, s], _, dy => {
        let sign = R::select(R::or(s.lt(R::lit(0.0)), s.recip().lt(R::lit(0.0))), R::lit(-1.0), R::lit(1.0));
        [dy * x.sign() * sign, R::lit(0.0)]
    };

    /// NaN, +inf and -inf replaced by three numbers; the gradient passes where x was finite.
    NanToNum[3] "nan_to_num" Arithmetic [Any, Any, Any], reads [X, NEVER, NEVER];
    [x, nan, large] => {
        let finite = R::select(x.abs().eq(R::lit(f64::INFINITY)), large * x.sign(), x);
        R::select(x.is_nan(), nan, finite)
    };
    [x, _, _], _, dy => {
        let zero = R::lit(0.0);
        let finite = R::not(R::or(x.is_nan(), x.abs().eq(R::lit(f64::INFINITY))));
        [R::select(finite, dy, zero), zero, zero]
    };
}
