//! Activations and elementwise losses. ReLU keeps one bit an element and has a folder of its own.

use super::{NEVER, PASS, X, X1, X2, Y, pointwise};
use crate::ops::laws::Domain::{AboveOne, Any, Apart, Positive, Unit};

/// √(2/π)
const SQRT_2_PI: f64 = 0.797_884_560_802_865_4;

pointwise! {
    Sigmoid[1] "sigmoid" Float [Any], reads [Y];
    [x] => x.sigmoid();
    _, y, dy => [dy * y * (-y + 1.0)];

    /// ln σ(x) = -softplus(-x)
    LogSigmoid[1] "logsigmoid" Float [Any], reads [X];
    [x] => x.min(R::lit(0.0)) - (-x.abs()).exp().log1p();
    [x], _, dy => [dy * (-x).sigmoid()];

    /// x · σ(x).   Elfwing et al. 2017, arXiv:1702.03118
    Silu[1] "silu" Float [Any], reads [X], splits;
    [x] => x * x.sigmoid();
    [x], _, dy => {
        let s = x.sigmoid();
        [dy * (s + x * s * (-s + 1.0))]
    };

    /// x · Φ(x).   Hendrycks & Gimpel 2016, arXiv:1606.08415.
    Gelu[1] "gelu" Float [Any], reads [X], splits;
    [x] => x * x.normal_cdf();
    [x], _, dy => [dy * (x.normal_cdf() + x * x.normal_pdf())];

    /// The tanh form of GELU.
    GeluTanh[1] "gelu_tanh" Float [Any], reads [X], splits;
    [x] => x * ((x + x * x * x * 0.044715) * (2.0 * SQRT_2_PI)).sigmoid();
    [x], _, dy => {
        // ½(1 + tanh u) = σ(2u): one exponential, and no cancellation far below zero.
        let s = ((x + x * x * x * 0.044715) * (2.0 * SQRT_2_PI)).sigmoid();
        let slope = (x * x * (3.0 * 0.044715) + 1.0) * (2.0 * SQRT_2_PI);
        [dy * (s + x * s * (-s + 1.0) * slope)]
    };

    /// x · tanh(softplus(x)).   Misra 2019, arXiv:1908.08681
    Mish[1] "mish" Float [Any], reads [X], splits;
    [x] => x * (x.max(R::lit(0.0)) + (-x.abs()).exp().log1p()).tanh();
    [x], _, dy => {
        let t = (x.max(R::lit(0.0)) + (-x.abs()).exp().log1p()).tanh();
        [dy * (t + x * x.sigmoid() * (-(t * t) + 1.0))]
    };

    /// ln(1 + e^(βx)) / β, and x itself once βx exceeds the threshold.
    Softplus[3] "softplus" Float [Any, Positive, AboveOne], reads [X | X1 | X2, NEVER, NEVER];
    [x, beta, threshold] => {
        let z = x * beta;
        let soft = (z.max(R::lit(0.0)) + (-z.abs()).exp().log1p()) / beta;
        R::select(z.gt(threshold), x, soft)
    };
    [x, beta, threshold], _, dy => {
        let z = x * beta;
        let zero = R::lit(0.0);
        [R::select(z.gt(threshold), dy, dy * z.sigmoid()), zero, zero]
    };

    LeakyRelu[2] "leaky_relu" Float [Apart, Positive], reads [X | X1, NEVER];
    [x, slope] => R::select(x.gt(R::lit(0.0)), x, x * slope);
    [x, slope], _, dy => [R::select(x.gt(R::lit(0.0)), dy, dy * slope), R::lit(0.0)];

    /// A leaky ReLU whose slope is learned.   He et al. 2015, arXiv:1502.01852
    Prelu[2] "prelu" Float [Apart, Positive], reads [X | X1, X];
    [x, slope] => R::select(x.gt(R::lit(0.0)), x, x * slope);
    [x, slope], _, dy => {
        let on = x.gt(R::lit(0.0));
        [R::select(on, dy, dy * slope), R::select(on, R::lit(0.0), dy * x)]
    };

    /// scale · (x where x > 0, else α(e^(x·γ) - 1)): ELU, SELU and CELU by their constants.
    Elu[3] "elu" Float [Apart, Positive, Positive], reads [X | X1 | X2, NEVER, NEVER];
    [x, alpha, scale] => R::select(x.gt(R::lit(0.0)), x, x.expm1() * alpha) * scale;
    [x, alpha, scale], _, dy => {
        let slope = R::select(x.gt(R::lit(0.0)), R::lit(1.0), x.min(R::lit(0.0)).exp() * alpha);
        [dy * slope * scale, R::lit(0.0), R::lit(0.0)]
    };

    Celu[2] "celu" Float [Apart, Positive], reads [X | X1, NEVER];
    [x, alpha] => R::select(x.gt(R::lit(0.0)), x, (x / alpha).expm1() * alpha);
    [x, alpha], _, dy => {
        let slope = R::select(x.gt(R::lit(0.0)), R::lit(1.0), (x.min(R::lit(0.0)) / alpha).exp());
        [dy * slope, R::lit(0.0)]
    };

    HardSigmoid[1] "hardsigmoid" Float [Apart], reads [X];
    [x] => ((x + 3.0) / 6.0).max(R::lit(0.0)).min(R::lit(1.0));
    [x], _, dy => [R::select(x.abs().lt(R::lit(3.0)), dy / 6.0, R::lit(0.0))];

    HardSwish[1] "hardswish" Float [Apart], reads [X];
    [x] => x * ((x + 3.0) / 6.0).max(R::lit(0.0)).min(R::lit(1.0));
    [x], _, dy => {
        let inside = dy * (x / 3.0 + 0.5);
        [R::select(x.le(R::lit(-3.0)), R::lit(0.0), R::select(x.ge(R::lit(3.0)), dy, inside))]
    };

    Softsign[1] "softsign" Float [Apart], reads [X];
    [x] => x / (x.abs() + 1.0);
    [x], _, dy => {
        let d = x.abs() + 1.0;
        [dy / (d * d)]
    };

    HardShrink[2] "hardshrink" Float [Apart, Positive], reads [X | X1, NEVER];
    [x, lambda] => R::select(x.abs().gt(lambda), x, R::select(x.is_nan(), x, R::lit(0.0)));
    [x, lambda], _, dy => [R::select(x.abs().gt(lambda), dy, R::lit(0.0)), R::lit(0.0)];

    SoftShrink[2] "softshrink" Float [Apart, Positive], reads [X | X1, NEVER];
    [x, lambda] => {
        let moved = x - lambda * x.sign();
        R::select(x.abs().gt(lambda), moved, R::select(x.is_nan(), x, R::lit(0.0)))
    };
    [x, lambda], _, dy => [R::select(x.abs().gt(lambda), dy, R::lit(0.0)), R::lit(0.0)];

    Threshold[3] "threshold" Arithmetic [Apart, Positive, Any], reads [X | X1, NEVER, NEVER];
    [x, threshold, value] => R::select(x.le(threshold), value, x);
    [x, threshold, _], _, dy => [R::select(x.le(threshold), R::lit(0.0), dy), R::lit(0.0), R::lit(0.0)];

    /// ½d²/β within β, |d| - ½β beyond; d = x - target.   Girshick 2015, arXiv:1504.08083
    SmoothL1[3] "smooth_l1" Float [Apart, Any, Positive], reads [X | X1 | X2, X | X1 | X2, NEVER];
    [x, target, beta] => {
        let d = (x - target).abs();
        R::select(d.lt(beta), d * d * 0.5 / beta, d - beta * 0.5)
    };
    [x, target, beta], _, dy => {
        let d = x - target;
        let slope = R::select(d.abs().lt(beta), d / beta, d.sign());
        [dy * slope, -(dy * slope), R::lit(0.0)]
    };

    /// ½d² within δ, δ(|d| - ½δ) beyond.   Huber 1964
    Huber[3] "huber" Float [Apart, Any, Positive], reads [X | X1 | X2, X | X1 | X2, NEVER];
    [x, target, delta] => {
        let d = (x - target).abs();
        R::select(d.le(delta), d * d * 0.5, delta * (d - delta * 0.5))
    };
    [x, target, delta], _, dy => {
        let d = x - target;
        let slope = R::select(d.abs().le(delta), d, delta * d.sign());
        [dy * slope, -(dy * slope), R::lit(0.0)]
    };

    /// -t·ln σ(x) - (1-t)·ln(1 - σ(x)), from the logit x.
    BceWithLogits[2] "bce_with_logits" Float [Any, Unit], reads [X | X1, X];
    [x, t] => x.max(R::lit(0.0)) - x * t + (-x.abs()).exp().log1p();
    [x, t], _, dy => [dy * (x.sigmoid() - t), dy * -x];

    /// The gradient goes through as it is: marks a value on its way, for the laws of the sweep.
    Identity[1] "identity" Arithmetic [Any], reads [PASS];
    [x] => x;
    _, _, dy => [dy];
}
