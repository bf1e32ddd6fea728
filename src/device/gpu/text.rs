//! The WGSL reading of a formula: evaluating it over handles writes down its steps, which become the lines of a function.
//!
//! What WGSL does not promise (accuracy, NaN, infinities) is in `math.wgsl`, whose functions are called by name.

use super::kernel::call_names;
use crate::device::formula::{Formula, MOST};
use crate::dtype::DType;
use crate::real::Real;
use std::cell::RefCell;
use std::fmt::Write;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// A step of a formula, by its place in the list of this thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(u32);

/// How a step is written over floats and over integers; `$0 $1 $2` are its operands.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Form {
    float: &'static str,
    int: &'static str,
    truth: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Operand(usize),
    Literal(u64),
    Call(Form, [Word; 3], usize),
}

thread_local! {
    static STEPS: RefCell<Vec<Step>> = const { RefCell::new(Vec::new()) };
}

/// Notes a step, or finds it again: common parts are computed once.
fn step(new: Step) -> Word {
    STEPS.with_borrow_mut(|steps| {
        let at = steps.iter().position(|old| *old == new).unwrap_or_else(|| {
            steps.push(new);
            steps.len() - 1
        });
        Word(at as u32)
    })
}

fn call(float: &'static str, int: &'static str, truth: bool, x: &[Word]) -> Word {
    let mut operands = [Word(0); 3];
    operands[..x.len()].copy_from_slice(x);
    step(Step::Call(Form { float, int, truth }, operands, x.len()))
}

fn is_zero(x: Word) -> bool {
    STEPS.with_borrow(|steps| steps[x.0 as usize] == Step::Literal(0f64.to_bits()))
}

macro_rules! operators {
    ($($trait:ident $method:ident $float:literal $int:literal),*) => { $(
        impl $trait for Word {
            type Output = Word;
            fn $method(self, other: Word) -> Word { call($float, $int, false, &[self, other]) }
        }
        impl $trait<f64> for Word {
            type Output = Word;
            fn $method(self, other: f64) -> Word { $trait::$method(self, Word::lit(other)) }
        }
    )* };
}
operators!(Add add "$0 + $1" "$0 + $1", Sub sub "$0 - $1" "$0 - $1", Div div "$0 / $1" "i_div($0, $1)");

impl Mul for Word {
    type Output = Word;
    fn mul(self, other: Word) -> Word {
        // A driver may take x · 0 for 0 even where x is infinite.
        match (is_zero(self), is_zero(other)) {
            (false, true) => call("m_times_zero($0)", "0i", false, &[self]),
            (true, false) => call("m_times_zero($0)", "0i", false, &[other]),
            _ => call("$0 * $1", "$0 * $1", false, &[self, other]),
        }
    }
}

impl Mul<f64> for Word {
    type Output = Word;
    fn mul(self, other: f64) -> Word {
        self * Word::lit(other)
    }
}

impl Neg for Word {
    type Output = Word;
    fn neg(self) -> Word {
        call("-$0", "-$0", false, &[self])
    }
}

macro_rules! calls {
    ($($method:ident $float:literal $int:literal),* $(,)?) => {
        $(fn $method(self) -> Word { call($float, $int, false, &[self]) })*
    };
}
macro_rules! pairs {
    ($($method:ident $float:literal $int:literal),* $(,)?) => {
        $(fn $method(self, other: Word) -> Word { call($float, $int, false, &[self, other]) })*
    };
}
macro_rules! tests {
    ($($method:ident $text:literal),* $(,)?) => {
        $(fn $method(self, other: Word) -> Word { call($text, $text, true, &[self, other]) })*
    };
}

impl Real for Word {
    type Mask = Word;

    fn lit(x: f64) -> Word {
        step(Step::Literal(x.to_bits()))
    }

    // Of integers only the arithmetic is ever asked for: the rest promotes them to floats first.
    calls! {
        abs "abs($0)" "abs($0)", sqrt "sqrt($0)" "0i", rsqrt "inverseSqrt($0)" "0i", exp "m_exp($0)" "0i",
        exp2 "m_exp2($0)" "0i", expm1 "m_expm1($0)" "0i", ln "m_log($0)" "0i", log1p "m_log1p($0)" "0i",
        log2 "m_log2($0)" "0i", log10 "m_log10($0)" "0i", sin "m_sin($0)" "0i", cos "m_cos($0)" "0i",
        tan "m_tan($0)" "0i", asin "m_asin($0)" "0i", acos "m_acos($0)" "0i", atan "m_atan($0)" "0i",
        sinh "m_sinh($0)" "0i", cosh "m_cosh($0)" "0i", tanh "m_tanh($0)" "0i", asinh "m_asinh($0)" "0i",
        acosh "m_acosh($0)" "0i", atanh "m_atanh($0)" "0i", erf "m_erf($0)" "0i", erfc "m_erfc($0)" "0i",
        sigmoid "m_sigmoid($0)" "0i", floor "floor($0)" "$0", ceil "ceil($0)" "$0", round "round($0)" "$0",
        trunc "trunc($0)" "$0",
    }
    pairs! {
        pow "m_pow($0, $1)" "i_pow($0, $1)", atan2 "m_atan2($0, $1)" "0i", min "m_min($0, $1)" "min($0, $1)",
        max "m_max($0, $1)" "max($0, $1)", floor_div "m_floor_div($0, $1)" "i_floor_div($0, $1)",
        rem "m_rem($0, $1)" "i_rem($0, $1)",
    }
    // "Not equal" by way of "equal", as the comparison of the target is false where either is NaN.
    tests! { lt "$0 < $1", le "$0 <= $1", gt "$0 > $1", ge "$0 >= $1", eq "$0 == $1", ne "!($0 == $1)" }

    fn is_nan(self) -> Word {
        call("m_is_nan($0)", "false", true, &[self])
    }
    fn and(a: Word, b: Word) -> Word {
        call("$0 && $1", "$0 && $1", true, &[a, b])
    }
    fn or(a: Word, b: Word) -> Word {
        call("$0 || $1", "$0 || $1", true, &[a, b])
    }
    fn not(a: Word) -> Word {
        call("!$0", "!$0", true, &[a])
    }
    fn select(mask: Word, yes: Word, no: Word) -> Word {
        call("select($2, $1, $0)", "select($2, $1, $0)", false, &[mask, yes, no])
    }
}

/// A formula as text, made when it is first needed.
#[derive(Clone, Copy)]
pub struct Text {
    pub arity: usize,
    source: Source,
}

#[derive(Clone, Copy)]
enum Source {
    Formula(fn([Word; MOST]) -> Word),
    Written(fn(DType) -> String),
}

impl Text {
    pub const fn of<F: Formula>() -> Text {
        Text { arity: F::ARITY, source: Source::Formula(F::eval::<Word>) }
    }

    /// A formula that is written as text.
    pub const fn written(arity: usize, write: fn(DType) -> String) -> Text {
        Text { arity, source: Source::Written(write) }
    }

    /// `fn formula(x0: T, …) -> T`, where T is f32, or i32 for integers.
    pub fn function(&self, compute: DType) -> String {
        match self.source {
            Source::Formula(eval) => write(eval, self.arity, compute),
            Source::Written(write) => write(compute),
        }
    }

    /// Tells formulas apart. Two that are equal may be one to the linker, which does no harm.
    pub fn key(&self) -> usize {
        match self.source {
            Source::Formula(eval) => eval as usize,
            Source::Written(write) => write as usize,
        }
    }
}

fn write(eval: fn([Word; MOST]) -> Word, arity: usize, compute: DType) -> String {
    STEPS.with_borrow_mut(Vec::clear);
    let result = eval(std::array::from_fn(|i| step(Step::Operand(i))));
    let steps = STEPS.with_borrow(Clone::clone);
    let mut wanted = vec![false; steps.len()];
    wanted[result.0 as usize] = true;
    for at in (0..steps.len()).rev() {
        if let (true, Step::Call(_, operands, n)) = (wanted[at], steps[at]) {
            operands[..n].iter().for_each(|o| wanted[o.0 as usize] = true);
        }
    }
    let float = compute.is_float();
    let kind = if float { "f32" } else { "i32" };
    let list: Vec<String> = (0..arity).map(|i| format!("x{i}: {kind}")).collect();
    let mut text = format!("fn formula({}) -> {kind} {{\n", list.join(", "));
    let name = |w: Word| match steps[w.0 as usize] {
        Step::Operand(i) => format!("x{i}"),
        Step::Literal(bits) => literal(f64::from_bits(bits), float),
        Step::Call(..) => format!("t{}", w.0),
    };
    for (at, step) in steps.iter().enumerate() {
        let (true, Step::Call(form, operands, n)) = (wanted[at], step) else { continue };
        let mut line = if float { form.float } else { form.int }.to_string();
        for (i, o) in operands[..*n].iter().enumerate() {
            line = line.replace(&format!("${i}"), &name(*o));
        }
        let kind = if form.truth { "bool" } else { kind };
        let _ = writeln!(text, "    let t{at}: {kind} = {line};");
    }
    let _ = writeln!(text, "    return {};\n}}", name(result));
    debug_assert!(call_names(&text).is_ok());
    text
}

/// A number as WGSL writes it; what is no number comes from the library, as a constant expression may not be one.
fn literal(x: f64, float: bool) -> String {
    if !float {
        let whole = (x as i64).clamp(i64::from(i32::MIN), i64::from(i32::MAX));
        return if whole == i64::from(i32::MIN) { "(-2147483647i - 1i)".into() } else { format!("({whole}i)") };
    }
    let x = x as f32;
    if x.is_nan() {
        "m_nan()".into()
    } else if x.is_infinite() {
        if x > 0.0 { "m_inf()".into() } else { "(-m_inf())".into() }
    } else {
        format!("({x:e}f)")
    }
}
