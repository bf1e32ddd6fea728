//! Comparison and logic: bool results, no gradients.

use super::{NEVER, pointwise};
use crate::ops::laws::Domain::{Any, Mask};

pointwise! {
    Lt[2] "lt" Compare [Any, Any], reads [NEVER, NEVER];
    [a, b] => R::select(a.lt(b), R::lit(1.0), R::lit(0.0));
    _, _, dy => [dy, dy];

    Le[2] "le" Compare [Any, Any], reads [NEVER, NEVER];
    [a, b] => R::select(a.le(b), R::lit(1.0), R::lit(0.0));
    _, _, dy => [dy, dy];

    Gt[2] "gt" Compare [Any, Any], reads [NEVER, NEVER];
    [a, b] => R::select(a.gt(b), R::lit(1.0), R::lit(0.0));
    _, _, dy => [dy, dy];

    Ge[2] "ge" Compare [Any, Any], reads [NEVER, NEVER];
    [a, b] => R::select(a.ge(b), R::lit(1.0), R::lit(0.0));
    _, _, dy => [dy, dy];

    Eq[2] "eq" Compare [Any, Any], reads [NEVER, NEVER];
    [a, b] => R::select(a.eq(b), R::lit(1.0), R::lit(0.0));
    _, _, dy => [dy, dy];

    Ne[2] "ne" Compare [Any, Any], reads [NEVER, NEVER];
    [a, b] => R::select(a.ne(b), R::lit(1.0), R::lit(0.0));
    _, _, dy => [dy, dy];

    IsNan[1] "isnan" Compare [Any], reads [NEVER];
    [x] => R::select(x.is_nan(), R::lit(1.0), R::lit(0.0));
    _, _, dy => [dy];

    IsInf[1] "isinf" Compare [Any], reads [NEVER];
    [x] => R::select((x.abs() * 0.0).is_nan(), R::select(x.is_nan(), R::lit(0.0), R::lit(1.0)), R::lit(0.0));
    _, _, dy => [dy];

    IsFinite[1] "isfinite" Compare [Any], reads [NEVER];
    [x] => R::select((x * 0.0).is_nan(), R::lit(0.0), R::lit(1.0));
    _, _, dy => [dy];

    LogicalAnd[2] "logical_and" Compare [Mask, Mask], reads [NEVER, NEVER];
    [a, b] => R::select(R::and(a.ne(R::lit(0.0)), b.ne(R::lit(0.0))), R::lit(1.0), R::lit(0.0));
    _, _, dy => [dy, dy];

    LogicalOr[2] "logical_or" Compare [Mask, Mask], reads [NEVER, NEVER];
    [a, b] => R::select(R::or(a.ne(R::lit(0.0)), b.ne(R::lit(0.0))), R::lit(1.0), R::lit(0.0));
    _, _, dy => [dy, dy];

    LogicalXor[2] "logical_xor" Compare [Mask, Mask], reads [NEVER, NEVER];
    [a, b] => {
        let (zero, one) = (R::lit(0.0), R::lit(1.0));
        let (a, b) = (R::select(a.ne(zero), one, zero), R::select(b.ne(zero), one, zero));
        (a - b).abs()
    };
    _, _, dy => [dy, dy];

    LogicalNot[1] "logical_not" Compare [Mask], reads [NEVER];
    [x] => R::select(x.eq(R::lit(0.0)), R::lit(1.0), R::lit(0.0));
    _, _, dy => [dy];
}
