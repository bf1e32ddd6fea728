//! The recorded reading of a formula: evaluating it writes down which registered ops it is made of.
//!
//! `create_graph=True` needs the derivative as recorded ops, of any order. Reading the same formula once more, over
//! handles instead of numbers, gives them; nothing is derived twice by hand.

use super::NEVER;
use crate::error::Result;
use crate::ops::{Back, V};
use crate::real::Real;
use smallvec::SmallVec;
use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// A step of a formula, by its place in the list of this thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expr(u32);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Operand(usize),
    Literal(f64),
    Call(&'static str, [Expr; 3], usize),
}

thread_local! {
    static STEPS: RefCell<Vec<Step>> = const { RefCell::new(Vec::new()) };
}

/// Notes a step, or finds it again: a formula's common parts are computed once.
fn step(new: Step) -> Expr {
    STEPS.with_borrow_mut(|steps| {
        let at = steps.iter().position(|old| *old == new).unwrap_or_else(|| {
            steps.push(new);
            steps.len() - 1
        });
        Expr(at as u32)
    })
}

fn call(name: &'static str, x: &[Expr]) -> Expr {
    let mut operands = [Expr(0); 3];
    operands[..x.len()].copy_from_slice(x);
    step(Step::Call(name, operands, x.len()))
}

macro_rules! operators {
    ($($trait:ident $method:ident $name:literal),*) => { $(
        impl $trait for Expr {
            type Output = Expr;
            fn $method(self, other: Expr) -> Expr { call($name, &[self, other]) }
        }
        impl $trait<f64> for Expr {
            type Output = Expr;
            fn $method(self, other: f64) -> Expr { call($name, &[self, Expr::lit(other)]) }
        }
    )* };
}
operators!(Add add "add", Sub sub "sub", Mul mul "mul", Div div "div");

impl Neg for Expr {
    type Output = Expr;
    fn neg(self) -> Expr {
        call("neg", &[self])
    }
}

macro_rules! calls {
    ($($method:ident $name:literal $($other:ident)*),* $(,)?) => {
        $(fn $method(self $(, $other: Expr)*) -> Expr { call($name, &[self $(, $other)*]) })*
    };
}

impl Real for Expr {
    type Mask = Expr;

    fn lit(x: f64) -> Expr {
        step(Step::Literal(x))
    }

    calls! {
        abs "abs", sqrt "sqrt", rsqrt "rsqrt", exp "exp", exp2 "exp2", expm1 "expm1", ln "log", log1p "log1p",
        log2 "log2", log10 "log10", sin "sin", cos "cos", tan "tan", asin "asin", acos "acos", atan "atan",
        sinh "sinh", cosh "cosh", tanh "tanh", asinh "asinh", acosh "acosh", atanh "atanh", erf "erf", erfc "erfc",
        sigmoid "sigmoid", floor "floor", ceil "ceil", round "round", trunc "trunc", pow "pow" e, atan2 "atan2" x,
        min "minimum" o, max "maximum" o, floor_div "floor_divide" o, rem "remainder" o,
        lt "lt" o, le "le" o, gt "gt" o, ge "ge" o, eq "eq" o, ne "ne" o, is_nan "isnan",
    }

    fn and(a: Expr, b: Expr) -> Expr {
        call("logical_and", &[a, b])
    }
    fn or(a: Expr, b: Expr) -> Expr {
        call("logical_or", &[a, b])
    }
    fn not(a: Expr) -> Expr {
        call("logical_not", &[a])
    }
    fn select(mask: Expr, yes: Expr, no: Expr) -> Expr {
        call("where", &[mask, yes, no])
    }
}

/// The vjp of a formula, written with recorded ops. `vjp` takes the inputs, the output and its gradient.
pub fn recorded_vjp(back: &mut Back, reads: &[u8], vjp: fn(&[Expr], Expr, Expr) -> [Expr; 3]) -> Result<()> {
    let n = reads.len();
    STEPS.with_borrow_mut(Vec::clear);
    let operands: SmallVec<[Expr; 5]> = (0..n + 2).map(|i| step(Step::Operand(i))).collect();
    let roots = &vjp(&operands[..n], operands[n], operands[n + 1])[..n];
    let steps = STEPS.with_borrow(Clone::clone);

    let mut wanted = vec![false; steps.len()];
    let gives = |i: usize, back: &Back| back.needs(i) && reads[i] != NEVER;
    for (i, root) in roots.iter().enumerate() {
        wanted[root.0 as usize] |= gives(i, back);
    }
    for at in (0..steps.len()).rev() {
        if let (true, Step::Call(_, operands, n)) = (wanted[at], steps[at]) {
            operands[..n].iter().for_each(|o| wanted[o.0 as usize] = true);
        }
    }

    let dtype = back.meta(back.dy()).dtype;
    let mut values: Vec<Option<V>> = vec![None; steps.len()];
    for at in 0..steps.len() {
        if !wanted[at] {
            continue;
        }
        values[at] = Some(match steps[at] {
            Step::Operand(i) if i == n + 1 => back.dy(),
            Step::Operand(i) if i == n => back.output(0)?,
            Step::Operand(i) => back.input(i)?,
            Step::Literal(c) => back.number(c, dtype)?,
            Step::Call(name, operands, n) => {
                let of = |o: &Expr| values[o.0 as usize].expect("bug: a step before its operand");
                let list: SmallVec<[V; 3]> = operands[..n].iter().map(of).collect();
                back.call(name, &list, &[])?
            }
        });
    }
    for (i, root) in roots.iter().enumerate() {
        if gives(i, back) {
            let dx = values[root.0 as usize].expect("bug: a gradient without a step");
            // A gradient that is a literal, or reads only a broadcast operand, is spread over all elements.
            let shape = back.shape(back.dy());
            let dx = back.expand(dx, &shape)?;
            back.give(i, dx);
        }
    }
    Ok(())
}
