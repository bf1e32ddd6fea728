//! Elementwise kernels, made from a formula: any layout, any broadcasting, any mix of element types.
//!
//! A thread takes four elements in the order of the output's memory where it may write whole words, else one. Operands are
//! read four at once where they lie as the output does, and by coordinates where they do not. The text of a kernel depends
//! on the formula, the types and the ways of access; sizes and strides are params. Integers are computed in 32 bits.

use super::Gpu;
use super::faults::{self, Check, Valid};
use super::kernel::{Grid, Words, index};
use super::text::Text;
use crate::arena::space::Place;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::{Layout, Strides, broadcast_strides};
use smallvec::SmallVec;
use std::fmt::Write;

/// Axes that a kernel takes after neighbours have been merged.
const AXES: usize = 12;

/// A tensor in the memory of the GPU.
#[derive(Clone, Copy)]
pub struct Buffer<'a> {
    pub place: Place,
    pub layout: &'a Layout,
    /// Of the first element, in elements.
    pub offset: usize,
    pub dtype: DType,
    /// True when it is all of its storage, so that the rest of the last word is nobody's.
    pub whole: bool,
}

/// What a formula reads.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    Buffer(Buffer<'a>),
    /// One number of the host, for all elements.
    Number(f64),
    /// The formula does not read it.
    Absent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Access {
    Absent,
    Number,
    /// One element for all.
    One,
    /// In the output's order, four at once.
    Four,
    /// In the output's order, one by one.
    Line,
    /// By coordinates.
    Strided,
}

use Access::*;

struct Operand {
    access: Access,
    dtype: DType,
    strides: SmallVec<[isize; 6]>,
}

/// A launch worked out: what its text depends on, and the numbers it is given.
struct Plan {
    compute: DType,
    sizes: SmallVec<[usize; 6]>,
    inputs: SmallVec<[Operand; 6]>,
    out: Operand,
    words: Words,
}

/// y = f(inputs), every operand broadcast to the shape of `out`.
pub fn launch(gpu: &Gpu, op: &'static str, text: &Text, compute: DType, inputs: &[Source], out: &Buffer) -> Result<()> {
    debug_assert_eq!(inputs.len(), text.arity);
    let n = out.layout.numel();
    if n == 0 {
        return Ok(());
    }
    let doubles = inputs.iter().any(|s| matches!(s, Source::Buffer(b) if b.dtype == DType::F64));
    if compute == DType::F64 || out.dtype == DType::F64 || doubles {
        return Err(super::no_float64(op));
    }
    let plan = plan(op, compute, inputs, out)?;
    let mut key: SmallVec<[u32; 16]> = SmallVec::new();
    let text_key = text.key() as u64;
    key.extend([text_key as u32, (text_key >> 32) as u32, plan.compute as u32, plan.sizes.len() as u32]);
    let code = |o: &Operand| (o.dtype as u32) << 8 | o.access as u32;
    key.push(code(&plan.out));
    key.extend(plan.inputs.iter().map(code));
    let mut bindings: SmallVec<[Place; 6]> = SmallVec::new();
    for (source, operand) in inputs.iter().zip(&plan.inputs) {
        if let (Source::Buffer(b), true) = (source, operand.in_memory()) {
            bindings.push(b.place);
        }
    }
    bindings.push(out.place);
    if plan.is_guarded() {
        bindings.push(faults::PLACE);
    }
    let threads = if plan.out.access == Four { n.div_ceil(4) } else { n };
    gpu.run_text(op, &key, &|| plan.text(text), &bindings, &plan.words, Grid::threads(threads))
}

impl Operand {
    fn in_memory(&self) -> bool {
        !matches!(self.access, Absent | Number)
    }
}

/// True when strides are those of a gapless run in the order of the axes.
fn in_order(sizes: &[usize], strides: &[isize]) -> bool {
    let mut step = 1isize;
    sizes.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == step;
        step *= size as isize;
        fits
    })
}

fn plan(op: &'static str, compute: DType, inputs: &[Source], out: &Buffer) -> Result<Plan> {
    let n = out.layout.numel();
    let shape = out.layout.shape();
    let strides: SmallVec<[Option<Strides>; 6]> = inputs
        .iter()
        .map(|s| match s {
            Source::Buffer(b) => Some(broadcast_strides(b.layout, shape)),
            _ => None,
        })
        .collect();
    let mut order: SmallVec<[usize; 6]> = (0..shape.len()).filter(|&i| shape[i] != 1).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(out.layout.strides()[i].unsigned_abs()));
    let mut sizes: SmallVec<[usize; 6]> = SmallVec::new();
    let mut lists: SmallVec<[SmallVec<[isize; 6]>; 7]> = SmallVec::from_elem(SmallVec::new(), inputs.len() + 1);
    let stride = |list: usize, axis: usize| {
        if list == inputs.len() { out.layout.strides()[axis] } else { strides[list].as_ref().map_or(0, |s| s[axis]) }
    };
    for &axis in &order {
        let size = shape[axis];
        let merges = !sizes.is_empty()
            && (0..lists.len()).all(|l| lists[l].last().is_some_and(|s| *s == stride(l, axis) * size as isize));
        for (l, list) in lists.iter_mut().enumerate() {
            if merges {
                list.pop();
            }
            list.push(stride(l, axis));
        }
        match sizes.last_mut() {
            Some(last) if merges => *last *= size,
            _ => sizes.push(size),
        }
    }
    if sizes.len() > AXES {
        return Err(Error::device(format!(
            "{op}: strides that need {} loops; kernels of a GPU take {AXES} (help: contiguous())",
            sizes.len()
        )));
    }
    let out_strides = lists.pop().unwrap_or_default();
    let straight = in_order(&sizes, &out_strides);
    let wide = straight && out.offset.is_multiple_of(4) && (out.whole || n.is_multiple_of(4));
    let access = if wide {
        Four
    } else if straight {
        Line
    } else {
        Strided
    };
    let out_operand = Operand { access, dtype: out.dtype, strides: out_strides };
    let operands: SmallVec<[Operand; 6]> = inputs
        .iter()
        .zip(lists)
        .map(|(source, strides)| match source {
            Source::Absent => Operand { access: Absent, dtype: compute, strides },
            Source::Number(_) => Operand { access: Number, dtype: compute, strides },
            Source::Buffer(b) => {
                let access = if strides.iter().all(|&s| s == 0) {
                    One
                } else if in_order(&sizes, &strides) && straight {
                    if wide && b.offset.is_multiple_of(4) { Four } else { Line }
                } else {
                    Strided
                };
                Operand { access, dtype: b.dtype, strides }
            }
        })
        .collect();
    let mut plan = Plan { compute, sizes, inputs: operands, out: out_operand, words: Words::new() };
    plan.fill(op, inputs, out, n)?;
    Ok(plan)
}

impl Plan {
    /// True when it reads int64, of which it sees the lower half: numbers beyond that are noted.
    fn is_guarded(&self) -> bool {
        self.inputs.iter().any(|o| o.in_memory() && o.dtype == DType::I64)
    }

    fn by_coordinates(&self) -> bool {
        self.inputs.iter().chain([&self.out]).any(|o| o.access == Strided)
    }

    /// The numbers, in the order in which `params` declares them.
    fn fill(&mut self, op: &'static str, inputs: &[Source], out: &Buffer, n: usize) -> Result<()> {
        let mut words = Words::new();
        words.push(index(op, n)?);
        words.push(index(op, out.offset)?);
        if self.by_coordinates() {
            for &size in &self.sizes {
                words.push(index(op, size)?);
            }
        }
        let put = |words: &mut Words, operand: &Operand| -> Result<()> {
            if operand.access == Strided {
                for &stride in &operand.strides {
                    index(op, stride.unsigned_abs())?;
                    words.push(stride as i32 as u32);
                }
            }
            Ok(())
        };
        put(&mut words, &self.out)?;
        for (source, operand) in inputs.iter().zip(&self.inputs) {
            match source {
                Source::Absent => {}
                Source::Number(v) if self.compute.is_float() => words.push((*v as f32).to_bits()),
                Source::Number(v) => words.push(whole(op, *v)? as u32),
                Source::Buffer(b) => words.push(index(op, b.offset)?),
            }
            put(&mut words, operand)?;
        }
        if self.is_guarded() {
            words.push(Check::new(op, &[], Valid::Narrow).site());
        }
        self.words = words;
        Ok(())
    }

    fn kind(&self) -> &'static str {
        if self.compute.is_float() { "f32" } else { "i32" }
    }

    fn params(&self) -> String {
        let mut text = "struct Params { n: u32, out_at: u32, ".to_string();
        let axes = 0..self.sizes.len();
        if self.by_coordinates() {
            axes.clone().for_each(|a| text += &format!("size{a}: u32, "));
        }
        if self.out.access == Strided {
            axes.clone().for_each(|a| text += &format!("out_step{a}: i32, "));
        }
        for (i, operand) in self.inputs.iter().enumerate() {
            match operand.access {
                Absent => {}
                Number => text += &format!("x{i}: {}, ", self.kind()),
                _ => text += &format!("x{i}_at: u32, "),
            }
            if operand.access == Strided {
                axes.clone().for_each(|a| text += &format!("x{i}_step{a}: i32, "));
            }
        }
        if self.is_guarded() {
            text += "site: u32, ";
        }
        text + "}\n@group(1) @binding(0) var<uniform> p: Params;\n"
    }

    fn text(&self, formula: &Text) -> String {
        let mut text = self.params();
        let mut binding = 0;
        for (i, operand) in self.inputs.iter().enumerate().filter(|(_, o)| o.in_memory()) {
            let element = element_type(operand.dtype, operand.access == Four);
            let _ = writeln!(text, "@group(0) @binding({binding}) var<storage, read_write> b{i}: array<{element}>;");
            binding += 1;
        }
        let element = match (self.out.access, self.out.dtype.bytes()) {
            (Line | Strided, 1 | 2) => "atomic<u32>",
            (access, _) => element_type(self.out.dtype, access == Four),
        };
        let _ = writeln!(text, "@group(0) @binding({binding}) var<storage, read_write> out: array<{element}>;");
        if self.is_guarded() {
            let _ = writeln!(text, "const FAULTS: u32 = {}u;\nconst ENDS: u32 = 0u;", binding + 1);
            text += include_str!("faults.wgsl");
            text += NARROW;
        }
        text += &formula.function(self.compute);
        for (i, operand) in self.inputs.iter().enumerate() {
            text += &self.load(i, operand);
        }
        text += &self.store();
        text += "@compute @workgroup_size(256)\nfn main(@builtin(global_invocation_id) id: vec3<u32>, \
                 @builtin(num_workgroups) groups: vec3<u32>) {\n    let t = thread(id, groups);\n";
        let four = self.out.access == Four;
        text += if four { "    if (t * 4u >= p.n) { return; }\n" } else { "    if (t >= p.n) { return; }\n" };
        for (i, operand) in self.inputs.iter().enumerate() {
            match operand.access {
                Four => _ = writeln!(text, "    let v{i} = load{i}(t);"),
                One => _ = writeln!(text, "    let v{i} = load{i}(p.x{i}_at);"),
                _ => {}
            }
        }
        if four {
            let kind = self.kind();
            let _ = writeln!(text, "    var y: vec4<{kind}>;");
            for lane in 0..4 {
                // Beyond the end the last element again, so that no operand is read outside.
                let _ = writeln!(text, "    {{\n        let e = min(t * 4u + {lane}u, p.n - 1u);");
                text += &self.coordinates();
                let _ = writeln!(text, "        y[{lane}] = formula({});\n    }}", self.arguments(Some(lane)));
            }
            text += "    store(t, y);\n}\n";
        } else {
            text += "    let e = t;\n";
            text += &self.coordinates();
            let at = if self.out.access == Strided { self.place("p.out_at", "out") } else { "p.out_at + e".into() };
            let _ = writeln!(text, "    store({at}, formula({}));\n}}", self.arguments(None));
        }
        text
    }

    /// `c0 …`: where element `e` lies on each axis.
    fn coordinates(&self) -> String {
        let mut text = String::new();
        if !self.by_coordinates() {
            return text;
        }
        let last = self.sizes.len() - 1;
        let mut rest = "e".to_string();
        for axis in (1..=last).rev() {
            let _ = writeln!(text, "        let c{axis} = {rest} % p.size{axis}; let r{axis} = {rest} / p.size{axis};");
            rest = format!("r{axis}");
        }
        let _ = writeln!(text, "        let c0 = {rest};");
        text
    }

    fn place(&self, start: &str, name: &str) -> String {
        let steps: Vec<String> = (0..self.sizes.len()).map(|a| format!("i32(c{a}) * p.{name}_step{a}")).collect();
        format!("u32(i32({start}) + {})", steps.join(" + "))
    }

    fn arguments(&self, lane: Option<usize>) -> String {
        let one = |(i, operand): (usize, &Operand)| match operand.access {
            Absent => format!("{}(0)", self.kind()),
            Number => format!("p.x{i}"),
            One => format!("v{i}"),
            Four => format!("v{i}[{}]", lane.unwrap_or(0)),
            Line => format!("load{i}(p.x{i}_at + e)"),
            Strided => format!("load{i}({})", self.place(&format!("p.x{i}_at"), &format!("x{i}"))),
        };
        self.inputs.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
    }

    /// `load`: element `at`, or the four from `4 · q` on counted from the operand's start, as numbers to compute with.
    fn load(&self, i: usize, operand: &Operand) -> String {
        let kind = self.kind();
        // From a type that a register holds.
        let as_kind = |value: &str, float: bool| match (self.compute.is_float(), float) {
            (true, true) | (false, false) => value.to_string(),
            (true, false) => format!("f32({value})"),
            (false, true) => format!("s_to_i32({value})"),
        };
        if !operand.in_memory() {
            return String::new();
        }
        if operand.access == Four {
            let lanes = |lane: &dyn Fn(usize) -> String| (0..4).map(lane).collect::<Vec<_>>().join(", ");
            let (read, values) = match operand.dtype {
                DType::F32 | DType::I32 => (
                    format!("let w = b{i}[(p.x{i}_at >> 2u) + q];"),
                    lanes(&|l| as_kind(&format!("w[{l}]"), operand.dtype == DType::F32)),
                ),
                DType::I64 => {
                    let element = |l| format!("narrow(b{i}[at + {l}u], q * 4u + {l}u < p.n)");
                    (format!("let at = p.x{i}_at + q * 4u;"), lanes(&|l| as_kind(&element(l), false)))
                }
                DType::F16 | DType::BF16 => (
                    format!("let w = b{i}[(p.x{i}_at >> 2u) + q];"),
                    lanes(&|l| {
                        let half = format!("((w[{}] >> {}u) & 0xffffu)", l / 2, l % 2 * 16);
                        let name = if operand.dtype == DType::F16 { "f16" } else { "bf16" };
                        as_kind(&format!("s_from_{name}({half})"), true)
                    }),
                ),
                _ => (
                    format!("let w = b{i}[(p.x{i}_at >> 2u) + q];"),
                    lanes(&|l| as_kind(&byte(operand.dtype, &format!("((w >> {}u) & 0xffu)", l * 8)), false)),
                ),
            };
            return format!(
                "fn load{i}(q: u32) -> vec4<{kind}> {{\n    {read}\n    return vec4<{kind}>({values});\n}}\n"
            );
        }
        let value = match operand.dtype {
            DType::F32 => as_kind(&format!("b{i}[at]"), true),
            DType::I32 => as_kind(&format!("b{i}[at]"), false),
            DType::I64 => as_kind(&format!("narrow(b{i}[at], true)"), false),
            DType::F16 => as_kind(&format!("s_from_f16((b{i}[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu)"), true),
            DType::BF16 => as_kind(&format!("s_from_bf16((b{i}[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu)"), true),
            _ => {
                let bits = format!("((b{i}[at >> 2u] >> ((at & 3u) * 8u)) & 0xffu)");
                as_kind(&byte(operand.dtype, &bits), false)
            }
        };
        format!("fn load{i}(at: u32) -> {kind} {{\n    return {value};\n}}\n")
    }

    /// `store`: one number at an element's place, or four from `4 · q` on.
    fn store(&self) -> String {
        let kind = self.kind();
        let float = self.compute.is_float();
        let whole = |value: &str| if float { format!("s_to_i32({value})") } else { value.to_string() };
        let real = |value: &str| if float { value.to_string() } else { format!("f32({value})") };
        // The bits of a small type.
        let small = |value: &str| match self.out.dtype {
            DType::F16 => format!("s_to_f16({})", real(value)),
            DType::BF16 => format!("s_to_bf16({})", real(value)),
            DType::Bool if float => format!("select(1u, 0u, {value} == 0.0f)"),
            DType::Bool => format!("select(1u, 0u, {value} == 0i)"),
            _ => format!("(u32({}) & 0xffu)", whole(value)),
        };
        let pair = |value: &str| {
            let value = whole(value);
            format!("vec2<i32>({value}, {value} >> 31u)")
        };
        if self.out.access == Four {
            let lane = |f: &dyn Fn(&str) -> String, l: usize| f(&format!("v[{l}]"));
            let lanes = |f: &dyn Fn(&str) -> String| (0..4).map(|l| lane(f, l)).collect::<Vec<_>>().join(", ");
            let body = match self.out.dtype {
                DType::F32 => format!("out[(p.out_at >> 2u) + q] = vec4<f32>({});", lanes(&real)),
                DType::I32 => format!("out[(p.out_at >> 2u) + q] = vec4<i32>({});", lanes(&whole)),
                DType::I64 => (0..4)
                    .map(|l| {
                        format!("if (q * 4u + {l}u < p.n) {{ out[p.out_at + q * 4u + {l}u] = {}; }}", lane(&pair, l))
                    })
                    .collect::<Vec<_>>()
                    .join("\n    "),
                DType::F16 | DType::BF16 => format!(
                    "out[(p.out_at >> 2u) + q] = vec2<u32>({} | ({} << 16u), {} | ({} << 16u));",
                    lane(&small, 0),
                    lane(&small, 1),
                    lane(&small, 2),
                    lane(&small, 3)
                ),
                _ => format!(
                    "out[(p.out_at >> 2u) + q] = {} | ({} << 8u) | ({} << 16u) | ({} << 24u);",
                    lane(&small, 0),
                    lane(&small, 1),
                    lane(&small, 2),
                    lane(&small, 3)
                ),
            };
            return format!("fn store(q: u32, v: vec4<{kind}>) {{\n    {body}\n}}\n");
        }
        // Neighbours in a word belong to other threads.
        let part = |per: u32, bits: u32, mask: &str| {
            format!(
                "let shift = (at & {}u) * {bits}u;\n    atomicAnd(&out[at >> {}u], ~({mask} << shift));\n    \
                 atomicOr(&out[at >> {}u], {} << shift);",
                per - 1,
                per.ilog2(),
                per.ilog2(),
                small("v")
            )
        };
        let body = match self.out.dtype {
            DType::F32 => format!("out[at] = {};", real("v")),
            DType::I32 => format!("out[at] = {};", whole("v")),
            DType::I64 => format!("out[at] = {};", pair("v")),
            DType::F16 | DType::BF16 => part(2, 16, "0xffffu"),
            _ => part(4, 8, "0xffu"),
        };
        format!("fn store(at: u32, v: {kind}) {{\n    {body}\n}}\n")
    }
}

/// The lower half of an int64. Behind the last element there may be anything.
const NARROW: &str = "fn narrow(v: vec2<i32>, is_element: bool) -> i32 {
    if (is_element && v.y != (v.x >> 31u)) {
        note(v, p.site, 0u);
    }
    return v.x;
}
";

/// A number of the host among integers.
fn whole(op: &str, v: f64) -> Result<i32> {
    i32::try_from(v as i64).map_err(|_| {
        Error::device(format!(
            "{op}: the number {v} among integers, which GPUs compute in 32 bits; -2147483648 to 2147483647 are possible \
             (help: x.cpu())"
        ))
    })
}

/// A byte as an i32; any bit of a bool makes it 1.
fn byte(dtype: DType, bits: &str) -> String {
    if dtype == DType::Bool { format!("select(0i, 1i, {bits} != 0u)") } else { format!("i32({bits})") }
}

fn element_type(dtype: DType, four: bool) -> &'static str {
    match (dtype, four) {
        (DType::F32, true) => "vec4<f32>",
        (DType::F32, false) => "f32",
        (DType::I32, true) => "vec4<i32>",
        (DType::I32, false) => "i32",
        (DType::I64, _) => "vec2<i32>",
        (DType::F16 | DType::BF16, true) => "vec2<u32>",
        _ => "u32",
    }
}
