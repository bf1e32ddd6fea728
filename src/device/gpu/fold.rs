//! Folds over axes: floats in float32, integers in 64 bits.

use super::Gpu;
use super::element::{Number, reader, writer};
use super::group::{Head, NO_FINISH, Span};
use super::halves::Halves;
use super::kernel::{Bindings, Grid, Params as _, index, params};
use super::pointwise::{self, Buffer};
use crate::arena::space::Place;
use crate::dtype::DType;
use crate::error::Result;
use smallvec::SmallVec;
use std::sync::Arc;

params!(Params {
    outputs: u32,
    terms: u32,
    splits: u32,
    run: u32,
    scale: f32,
    number: f32,
    x_at: u32,
    other_at: u32,
    own_at: u32,
    more_at: u32,
    y_at: u32,
    z_at: u32,
    kept1: u32,
    kept2: u32,
    kept3: u32,
    step0: i32,
    step1: i32,
    step2: i32,
    step3: i32,
    gone1: u32,
    gone2: u32,
    gone3: u32,
    move0: i32,
    move1: i32,
    move2: i32,
    move3: i32,
});

/// What is folded, and into what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum How {
    /// scale · Σ x
    Sum,
    Product,
    Largest,
    Smallest,
    /// Is any element not 0?
    Any,
    All,
    /// √Σ x²
    Norm,
    /// ln Σ exp(x - own) + own, own being 0 where it is not finite
    Exponentials,
    /// scale · Σ (x - mean)², and the mean; `number` is how many there are.   Chan, Golub and LeVeque 1979
    Moments,
    /// The largest and where it is: the first of equals, NaN before numbers.
    LargestPlace,
    SmallestPlace,
    /// Σ x · other, and Σ other
    Products,
    /// Σ other · (x - own) / √(more + number), and Σ other
    Centred,
    /// Σ other · (x - own₀) · own₁ with the two of an element's row, and Σ other; rows are folded.
    Normal,
}

use How::*;

/// WGSL: the type that is carried, what joins with anything to itself, the term of an element `v`, `join` of `a` and `b`,
/// and how the total `t` of output `o` is written, or handed to `finish`.
struct Parts {
    total: &'static str,
    first: &'static str,
    term: &'static str,
    join: &'static str,
    end: &'static str,
}

const PAIR: &str = "y_put(p.y_at + o, t.x); z_put(p.z_at + o, t.y);";

impl How {
    fn parts(self, number: Number) -> Parts {
        let of = |total, first, term, join, end| Parts { total, first, term, join, end };
        let plain = "y[p.y_at + o] = t;";
        let found = match number {
            Number::Float => "y_put(p.y_at + o, t.value); z[p.z_at + o] = vec2<u32>(t.place, 0u);",
            Number::Wide => "y[p.y_at + o] = t.value; z[p.z_at + o] = vec2<u32>(t.place, 0u);",
        };
        let truth = "y[p.y_at + o] = vec2<u32>(t, 0u);";
        match (self, number) {
            (Sum, Number::Float) => of("f32", "0.0f", "v", "a + b", "finish(o, t * p.scale);"),
            (Sum, Number::Wide) => of("N", "N(0u, 0u)", "v", "i_wide_add(a, b)", plain),
            // The exponent apart, so that no part of a product overflows where the whole does not.
            (Product, Number::Float) => of(
                "vec2<f32>",
                "T(1.0f, 0.0f)",
                "parted(v, 0.0f)",
                "parted(a.x * b.x, a.y + b.y)",
                "finish(o, m_scale(t.x, i32(clamp(t.y, -252.0f, 254.0f))));",
            ),
            (Product, Number::Wide) => of("N", "N(1u, 0u)", "v", "i_wide_mul(a, b)", plain),
            (Largest, Number::Float) => of("f32", "-m_inf()", "v", "m_max(a, b)", "finish(o, t);"),
            (Largest, Number::Wide) => of("N", "N(0u, 0x80000000u)", "v", "select(a, b, i_wide_less(a, b))", plain),
            (Smallest, Number::Float) => of("f32", "m_inf()", "v", "m_min(a, b)", "finish(o, t);"),
            (Smallest, Number::Wide) => {
                of("N", "N(0xffffffffu, 0x7fffffffu)", "v", "select(a, b, i_wide_less(b, a))", plain)
            }
            (Any, _) => of("u32", "0u", "select(0u, 1u, counts(v))", "a | b", truth),
            (All, _) => of("u32", "1u", "select(0u, 1u, counts(v))", "a & b", truth),
            (Norm, _) => of("f32", "0.0f", "v * v", "a + b", "finish(o, sqrt(t));"),
            (Exponentials, _) => of("f32", "0.0f", "m_exp(v - shift(o))", "a + b", "finish(o, m_log(t) + shift(o));"),
            // How many, their mean, Σ (x - mean)², and their sum, which is infinite where one is.
            (Moments, _) => of(
                "vec4<f32>",
                "T(0.0f, 0.0f, 0.0f, 0.0f)",
                "T(1.0f, v, 0.0f, v)",
                "moments(a, b)",
                "z_put(p.z_at + o, select(t.w / p.number, t.y, m_is_finite(t.y) && t.x > 0.0f)); \
                 y_put(p.y_at + o, select(m_nan(), t.z, m_is_finite(t.y)) * p.scale);",
            ),
            (LargestPlace, _) => of("Found", "nothing()", "Found(v, r)", "better(a, b)", found),
            (SmallestPlace, _) => of("Found", "nothing()", "Found(v, r)", "better(a, b)", found),
            (Products, _) => of("vec2<f32>", "T(0.0f, 0.0f)", "T(v * second(at), second(at))", "a + b", PAIR),
            (Centred, _) => of(
                "vec2<f32>",
                "T(0.0f, 0.0f)",
                "T(second(at) * (v - own[p.own_at + o]), second(at))",
                "a + b",
                "y_put(p.y_at + o, t.x * inverseSqrt(more[p.more_at + o] + p.number)); z_put(p.z_at + o, t.y);",
            ),
            (Normal, _) => of(
                "vec2<f32>",
                "T(0.0f, 0.0f)",
                "T(second(at) * ((v - own[p.own_at + 2u * r]) * own[p.own_at + 2u * r + 1u]), second(at))",
                "a + b",
                PAIR,
            ),
        }
    }

    /// Functions that the parts call.
    fn calls(self, number: Number) -> String {
        let wins = match (self, number) {
            (LargestPlace, Number::Float) => "a > b",
            (LargestPlace, Number::Wide) => "i_wide_less(b, a)",
            (SmallestPlace, Number::Float) => "a < b",
            (SmallestPlace, Number::Wide) => "i_wide_less(a, b)",
            (Any | All, Number::Float) => return "fn counts(v: N) -> bool {\n    return !(v == 0.0f);\n}\n".into(),
            (Any | All, Number::Wide) => {
                return "fn counts(v: N) -> bool {\n    return any(v != N(0u, 0u));\n}\n".into();
            }
            (Exponentials, _) => {
                return "fn shift(o: u32) -> f32 {\n    let top = own[p.own_at + o];\n    \
                        return select(0.0f, top, m_is_finite(top));\n}\n"
                    .into();
            }
            (Product, Number::Float) => {
                return "fn parted(v: f32, exponent: f32) -> vec2<f32> {\n    let bits = bitcast<u32>(v);\n    \
                        let own = (bits >> 23u) & 0xffu;\n    \
                        let size = bitcast<f32>((bits & 0x807fffffu) | 0x3f800000u);\n    \
                        return vec2<f32>(select(v, size, own != 0u && own != 255u), exponent + \
                        select(0.0f, f32(own) - 127.0f, own != 0u && own != 255u));\n}\n"
                    .into();
            }
            (Moments, _) => {
                return "fn moments(a: T, b: T) -> T {\n    let n = a.x + b.x;\n    let share = b.x / max(n, 1.0f);\n    \
                        let gap = b.y - a.y;\n    \
                        return T(n, a.y + gap * share, a.z + b.z + gap * (a.x * share) * gap, a.w + b.w);\n}\n"
                    .into();
            }
            (Products | Centred | Normal, _) => {
                return "fn second(at: u32) -> f32 {\n    return other_at(at - p.x_at + p.other_at);\n}\n".into();
            }
            _ => return String::new(),
        };
        let odd = if number == Number::Float { " || m_is_nan(a) && !m_is_nan(b)" } else { "" };
        format!(
            "fn wins(a: N, b: N) -> bool {{\n    return {wins}{odd};\n}}\n\
             fn nothing() -> Found {{\n    return Found(N(), 0xffffffffu);\n}}\n\
             fn better(a: Found, b: Found) -> Found {{\n    \
             if (a.place == 0xffffffffu) {{\n        return b;\n    }}\n    \
             if (b.place == 0xffffffffu || wins(a.value, b.value)) {{\n        return a;\n    }}\n    \
             if (wins(b.value, a.value) || b.place < a.place) {{\n        return b;\n    }}\n    return a;\n}}\n"
        )
    }

    /// True when its result is one float, which goes to the elementwise ops behind it first.
    fn hands_on(self, number: Number) -> bool {
        number == Number::Float && matches!(self, Sum | Product | Largest | Smallest | Norm | Exponentials)
    }

    /// True when the result is a number of the fold's own kind; the others are int64.
    fn result(self, number: Number) -> Number {
        if matches!(self, Any | All) { Number::Wide } else { number }
    }

    /// Bytes of what is carried, as an array has it.
    fn carried_bytes(self, number: Number) -> usize {
        match (self, number) {
            (LargestPlace | SmallestPlace, Number::Wide) | (Moments, _) => 16,
            (LargestPlace | SmallestPlace | Products | Centred | Normal, _) => 8,
            (Product, Number::Float) => 8,
            (Any | All, _) | (_, Number::Float) => 4,
            (_, Number::Wide) => 8,
        }
    }

    /// The text behind the declaration of the params.
    fn text(self, types: Types, [who, stage, gone]: [u32; 3]) -> String {
        let number = Number::of(types.x);
        let parts = self.parts(number);
        let mut text = format!(
            "const WHO: u32 = {who}u;\nconst SIDE: u32 = {SIDE}u;\nconst STAGE: u32 = {stage}u;\nconst GONE: u32 = {gone}u;\n"
        );
        text += &(reader("x", 0, types.x) + &reader("other", 1, types.other));
        for (binding, name, element) in [(2, "own", "f32"), (3, "more", "f32"), (4, "part", "T")] {
            text += &format!("@group(0) @binding({binding}) var<storage, read_write> {name}: array<{element}>;\n");
        }
        if !self.hands_on(number) {
            text += &result("y", 5, types.y, types.halves);
            text += &result("z", 6, types.z, types.halves);
        }
        let Parts { total, first, term, join, end } = parts;
        text += &format!("alias N = {};\nalias T = {total};\n", number.wgsl());
        text += "struct Found {\n    value: N,\n    place: u32,\n}\n";
        text += &self.calls(number);
        text += &format!(
            "fn first() -> T {{\n    return {first};\n}}\n\
             fn term(at: u32, o: u32, r: u32) -> T {{\n    let v = x_at(at);\n    return {term};\n}}\n\
             fn join(a: T, b: T) -> T {{\n    return {join};\n}}\n\
             fn conclude(o: u32, t: T) {{\n    {end}\n}}\n"
        );
        text + include_str!("fold.wgsl")
    }
}

/// The types of what a fold reads and writes.
#[derive(Clone, Copy)]
struct Types {
    x: DType,
    other: DType,
    y: DType,
    z: DType,
    halves: Halves,
}

impl Types {
    fn key(self) -> u32 {
        let types = [self.x, self.other, self.y, self.z];
        types.iter().fold(self.halves.key(), |key, dtype| key << 4 | *dtype as u32)
    }
}

/// A result: numbers that are put, or int64.
fn result(name: &str, binding: u32, dtype: DType, halves: Halves) -> String {
    if dtype.is_float() {
        return writer(name, binding, dtype, halves);
    }
    format!("@group(0) @binding({binding}) var<storage, read_write> {name}: array<vec2<u32>>;\n")
}

/// Tells these texts apart from other generated ones; no formula has the address that such a key begins with.
const TEXT: u32 = 1;

/// Axes of each kind that the kernel takes.
const AXES: usize = 4;

/// Below this many elements an output, a thread folds them alone.
const ALONE: usize = 64;
/// Fewer outputs side by side are less than what memory brings at once.
const FEW: usize = 4;
/// Elements that a group folds at most: 64 a thread.
const RUN: usize = 64 * 256;
/// Outputs side by side that a group folds together, and the threads that share one of them.
const SIDE: usize = 8;
const LANES: usize = 256 / SIDE;
/// Elements that such a thread folds in a row at most.
const LONGEST: usize = 1024;
/// Threads that keep a GPU busy.
const BUSY: usize = 1 << 15;

/// Sizes and strides of the flagged axes, neighbours merged, filled up in front; `None` when there are too many.
fn merged(x: &Buffer, flags: &[bool], wanted: bool) -> Option<([usize; AXES], [isize; AXES])> {
    let mut list: SmallVec<[(usize, isize); 6]> = SmallVec::new();
    for (axis, _) in flags.iter().enumerate().filter(|(_, f)| **f == wanted) {
        let (size, stride) = (x.layout.shape()[axis], x.layout.strides()[axis]);
        match list.last_mut() {
            _ if size == 1 => {}
            Some(last) if last.1 == stride * size as isize => *last = (last.0 * size, stride),
            _ => list.push((size, stride)),
        }
    }
    let spare = AXES.checked_sub(list.len())?;
    let (mut sizes, mut strides) = ([1; AXES], [0; AXES]);
    for (i, (size, stride)) in list.into_iter().enumerate() {
        (sizes[spare + i], strides[spare + i]) = (size, stride);
    }
    Some((sizes, strides))
}

/// What a fold reads besides x, and writes. y, and z where there is a second result, are contiguous, of a type that it writes
/// (`writes`), and not empty; `other` lies as x does.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    pub x: Buffer<'a>,
    pub other: Option<Buffer<'a>>,
    pub own: Option<Buffer<'a>>,
    pub more: Option<Buffer<'a>>,
    pub y: Buffer<'a>,
    pub z: Option<Buffer<'a>>,
}

/// The type of a fold's first result.
pub fn dtype(how: How, x: DType) -> DType {
    how.result(Number::of(x)).dtype()
}

/// True when the first result may be of type y.
pub fn writes(how: How, x: DType, y: DType) -> bool {
    dtype(how, x) == y || how.result(Number::of(x)) == Number::Float && y.is_half()
}

/// A fold worked out.
pub struct Plan {
    how: How,
    params: Params,
    who: Who,
}

/// Who folds: a thread alone, a group one output, or a group `SIDE` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Thread,
    Group,
    Side,
}

/// How x is folded over the flagged axes; `None` when x has too many axes of different strides: then it must be copied
/// first. `scale` and `number` are those of the formula.
pub fn plan(
    op: &'static str,
    how: How,
    x: &Buffer,
    flags: &[bool],
    [scale, own_number]: [f64; 2],
) -> Result<Option<Plan>> {
    let (Some((kept, steps)), Some((gone, moves))) = (merged(x, flags, false), merged(x, flags, true)) else {
        return Ok(None);
    };
    let product = |wanted: bool| -> usize {
        x.layout.shape().iter().zip(flags).filter(|(_, f)| **f == wanted).map(|(&size, _)| size).product()
    };
    let (outputs, count) = (product(false), product(true));
    let number = |v: usize| index(op, v);
    number(x.layout.numel())?;
    // Threads side by side read side by side where the fastest axis is a kept one.
    let across = steps[AXES - 1].unsigned_abs() <= moves[AXES - 1].unsigned_abs() && outputs >= FEW;
    let who = match () {
        _ if count < ALONE || across && 4 * outputs >= BUSY => Who::Thread,
        _ if across => Who::Side,
        _ => Who::Group,
    };
    let splits = match who {
        Who::Thread => (BUSY / outputs.max(1)).clamp(1, count.div_ceil(ALONE).max(1)),
        Who::Group => count.div_ceil(RUN),
        // None where lanes have no more to do than a thread alone; more where a sum in a row would lose digits.
        Who::Side => {
            (BUSY / (LANES * outputs)).clamp(1, count.div_ceil(ALONE * LANES)).max(count.div_ceil(LONGEST * LANES))
        }
    };
    let run = count.div_ceil(splits.max(1));
    let splits = count.div_ceil(run.max(1)).max(1);
    let params = Params {
        outputs: number(outputs)?,
        terms: number(count)?,
        splits: number(splits)?,
        run: number(run)?,
        scale: scale as f32,
        number: own_number as f32,
        x_at: number(x.offset)?,
        other_at: 0,
        own_at: 0,
        more_at: 0,
        y_at: 0,
        z_at: 0,
        kept1: kept[1] as u32,
        kept2: kept[2] as u32,
        kept3: kept[3] as u32,
        step0: steps[0] as i32,
        step1: steps[1] as i32,
        step2: steps[2] as i32,
        step3: steps[3] as i32,
        // Nothing is divided by a size of an empty fold.
        gone1: gone[1].max(1) as u32,
        gone2: gone[2].max(1) as u32,
        gone3: gone[3].max(1) as u32,
        move0: moves[0] as i32,
        move1: moves[1] as i32,
        move2: moves[2] as i32,
        move3: moves[3] as i32,
    };
    Ok(Some(Plan { how, params, who }))
}

impl Plan {
    /// Bytes of scratch memory.
    pub fn scratch_bytes(&self, x: DType) -> usize {
        match self.params.splits {
            1 => 0,
            splits => splits as usize * self.params.outputs as usize * self.how.carried_bytes(Number::of(x)),
        }
    }

    pub fn run(&self, gpu: &Gpu, op: &'static str, of: Operands, scratch: Option<Place>) -> Result<()> {
        let at = |b: Option<Buffer>| index(op, b.map_or(0, |b| b.offset));
        let params = Params {
            other_at: at(of.other)?,
            own_at: at(of.own)?,
            more_at: at(of.more)?,
            y_at: at(Some(of.y))?,
            z_at: at(of.z)?,
            ..self.params
        };
        // A binding that is not there shows something that is not read.
        let place = |b: Option<Buffer>| b.map_or(of.y.place, |b| b.place);
        let part = scratch.unwrap_or(of.y.place);
        let bindings = [of.x.place, place(of.other), place(of.own), place(of.more), part, of.y.place, place(of.z)];
        let (own, hands_on) = (dtype(self.how, of.x.dtype), self.how.hands_on(Number::of(of.x.dtype)));
        let types = Types {
            x: of.x.dtype,
            other: of.other.map_or(DType::F32, |b| b.dtype),
            y: if hands_on { own } else { of.y.dtype },
            z: of.z.map_or(own, |b| b.dtype),
            halves: gpu.halves(),
        };
        let how = self.how;
        let stage = |who: Who, stage: u32, params: Params| {
            let lanes = [1, 256, LANES][who as usize];
            gpu.expect_rounds(op, params.run as usize / lanes)?;
            let one = params.gone1 == 1 && params.gone2 == 1 && params.terms <= params.gone3 || stage == 2;
            let constants = [who as u32, stage, u32::from(one)];
            let (outputs, splits) = (params.outputs as usize, params.splits as usize);
            let grid = match who {
                Who::Thread => Grid::threads(outputs * splits),
                Who::Group => Grid::groups(outputs * splits),
                Who::Side => Grid::groups(outputs.div_ceil(SIDE) * splits),
            };
            let [c0, c1, c2] = constants;
            let key = [u32::MAX, TEXT, how as u32, types.key(), c0, c1, c2];
            let text = move || how.text(types, constants);
            if !hands_on || stage == 1 {
                let end = if hands_on { NO_FINISH } else { "" };
                let bindings = if hands_on { &bindings[..5] } else { &bindings };
                let text = || Params::WGSL.to_string() + &text() + end;
                return gpu.run_text(op, &key, &text, Bindings::reading(4, bindings), &params, grid);
            }
            let reads = [Some(of.x.place), of.own.map(|b| b.place), scratch];
            let head = Head {
                key: SmallVec::from_slice(&key),
                params: Params::WGSL,
                text: Arc::new(text),
                bindings: SmallVec::from_slice(&bindings[..5]),
                words: params.words(),
                grid,
                reads: reads.into_iter().flatten().map(Span::of).collect(),
                writes: SmallVec::new(),
            };
            gpu.hold(op, SmallVec::from_iter([pointwise::head(op, head, &of.y)?]))
        };
        if params.splits == 1 {
            return stage(self.who, 0, params);
        }
        stage(self.who, 1, params)?;
        let splits = params.splits;
        let join = if splits as usize >= ALONE { Who::Group } else { Who::Thread };
        stage(join, 2, Params { terms: splits, splits: 1, run: splits, ..params })
    }
}
