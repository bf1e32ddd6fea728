//! Exponentials, logarithms, roots, trigonometric and hyperbolic functions, and erf.

use super::{X, X1, Y, pointwise};
use crate::ops::laws::Domain::{AboveOne, Any, Positive, Unit};

pointwise! {
    Sqrt[1] "sqrt" Float [Positive], reads [Y];
    [x] => x.sqrt();
    _, y, dy => [dy.times(y.recip() * 0.5)];

    Rsqrt[1] "rsqrt" Float [Positive], reads [Y];
    [x] => x.rsqrt();
    _, y, dy => [dy.times(y * y * y * -0.5)];

    Exp[1] "exp" Float [Any], reads [Y];
    [x] => x.exp();
    _, y, dy => [dy.times(y)];

    Exp2[1] "exp2" Float [Any], reads [Y];
    [x] => x.exp2();
    _, y, dy => [dy.times(y * std::f64::consts::LN_2)];

    Expm1[1] "expm1" Float [Any], reads [Y];
    [x] => x.expm1();
    _, y, dy => [dy.times(y + 1.0)];

    /// dy · e^(x - y), and 0 where y is -∞: what one term of y = ln Σ eˣ gets of the gradient of y.
    ExpShare[3] "exp_share" Float [Any, Any, Any], reads [Y, Y, X | X1];
    [x, y, dy] => R::select(y.eq(R::lit(f64::NEG_INFINITY)), R::lit(0.0), dy.times((x - y).exp()));
    [x, y, _], share, g => {
        let by_x = g.times(share);
        let weight = R::select(y.eq(R::lit(f64::NEG_INFINITY)), R::lit(0.0), g.times((x - y).exp()));
        [by_x, -by_x, weight]
    };

    Log[1] "log" Float [Positive], reads [X];
    [x] => x.ln();
    [x], _, dy => [dy.times(x.recip())];

    Log1p[1] "log1p" Float [Positive], reads [X];
    [x] => x.log1p();
    [x], _, dy => [dy.times((x + 1.0).recip())];

    Log2[1] "log2" Float [Positive], reads [X];
    [x] => x.log2();
    [x], _, dy => [dy.times((x * std::f64::consts::LN_2).recip())];

    Log10[1] "log10" Float [Positive], reads [X];
    [x] => x.log10();
    [x], _, dy => [dy.times((x * std::f64::consts::LN_10).recip())];

    Sin[1] "sin" Float [Any], reads [X];
    [x] => x.sin();
    [x], _, dy => [dy.times(x.cos())];

    Cos[1] "cos" Float [Any], reads [X];
    [x] => x.cos();
    [x], _, dy => [dy.times(-x.sin())];

    Tan[1] "tan" Float [Unit], reads [Y];
    [x] => x.tan();
    _, y, dy => [dy.times(y * y + 1.0)];

    Asin[1] "asin" Float [Unit], reads [X];
    [x] => x.asin();
    [x], _, dy => [dy.times((-(x * x) + 1.0).rsqrt())];

    Acos[1] "acos" Float [Unit], reads [X];
    [x] => x.acos();
    [x], _, dy => [dy.times(-(-(x * x) + 1.0).rsqrt())];

    Atan[1] "atan" Float [Any], reads [X];
    [x] => x.atan();
    [x], _, dy => [dy / (x * x + 1.0)];

    Sinh[1] "sinh" Float [Any], reads [X];
    [x] => x.sinh();
    [x], _, dy => [dy.times(x.cosh())];

    Cosh[1] "cosh" Float [Any], reads [X];
    [x] => x.cosh();
    [x], _, dy => [dy.times(x.sinh())];

    Tanh[1] "tanh" Float [Any], reads [Y];
    [x] => x.tanh();
    _, y, dy => [dy * (-(y * y) + 1.0)];

    Asinh[1] "asinh" Float [Any], reads [X];
    [x] => x.asinh();
    [x], _, dy => [dy * (x * x + 1.0).rsqrt()];

    Acosh[1] "acosh" Float [AboveOne], reads [X];
    [x] => x.acosh();
    [x], _, dy => [dy.times((x * x - 1.0).rsqrt())];

    Atanh[1] "atanh" Float [Unit], reads [X];
    [x] => x.atanh();
    [x], _, dy => [dy.times((-(x * x) + 1.0).recip())];

    Erf[1] "erf" Float [Any], reads [X];
    [x] => x.erf();
    [x], _, dy => [dy * (-(x * x)).exp() * std::f64::consts::FRAC_2_SQRT_PI];

    Erfc[1] "erfc" Float [Any], reads [X];
    [x] => x.erfc();
    [x], _, dy => [dy * (-(x * x)).exp() * -std::f64::consts::FRAC_2_SQRT_PI];

    /// ln(eᵃ + eᵇ) without overflow.
    Logaddexp[2] "logaddexp" Float [Any, Any], reads [X | X1, X | X1];
    [a, b] => {
        let large = a.max(b);
        let sum = large + (-(a - b).abs()).exp().log1p();
        // Equal infinities: their difference is NaN, their sum is the infinity itself.
        R::select(a.eq(b), a + std::f64::consts::LN_2, sum)
    };
    [a, b], _, dy => {
        let equal = a.eq(b);
        let share = R::select(equal, R::lit(0.5), (a - b).sigmoid());
        [dy * share, dy * (-share + 1.0)]
    };

    /// x · ln y, 0 at x = 0 whatever y.
    Xlogy[2] "xlogy" Float [Positive, Positive], reads [X | X1, X | X1];
    [x, y] => R::select(R::and(x.eq(R::lit(0.0)), R::not(y.is_nan())), R::lit(0.0), x * y.ln());
    [x, y], _, dy => {
        let off = x.eq(R::lit(0.0));
        [R::select(off, R::lit(0.0), dy.times(y.ln())), dy.times(x / y)]
    };
}
