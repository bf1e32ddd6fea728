//! The kernel of a group of elementwise steps: its text, its bindings and its numbers.
//!
//! A thread takes four elements in the order of the space where all results may be written in whole words, else one. Operands
//! are read four at once where they lie in that order, and by coordinates where they do not. The text depends on the formulas,
//! the types and the ways of access; sizes and strides are params. Integers are computed in 32 bits.
//!
//! Behind a head the elements come one by one, as the head's threads have them.
//!
//! A result that goes on to the next step in a register is rounded as memory would have rounded it, and passes an operation
//! that the driver cannot see through, so that nothing is contracted across steps: the bits are those of a kernel for each.

use super::element;
use super::faults;
use super::group::{Head, Input, Operand, Ready, Sizes, Step, Steps, in_order};
use super::halves::{self, Halves};
use super::kernel::{Grid, Words};
use crate::arena::space::Place;
use crate::dtype::DType;
use smallvec::SmallVec;
use std::fmt::Write;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Access {
    /// One element for all.
    One,
    /// In the order of the space, four at once.
    Four,
    /// In the order of the space, one by one.
    Line,
    /// By coordinates.
    Strided,
    /// One bit an element.
    Bits,
}

use Access::*;

/// An operand of the kernel: something it reads, or a result it writes.
struct Seen {
    operand: Operand,
    access: Access,
    binding: usize,
    /// Of an int64 that is read.
    site: u32,
}

#[derive(Clone, Copy)]
enum Argument {
    Absent,
    Number(usize),
    Read(usize),
    Made(usize),
}

/// A group worked out.
pub struct Woven {
    steps: Vec<Step>,
    /// Empty for steps that are left out.
    arguments: Vec<SmallVec<[Argument; 4]>>,
    kept: Vec<bool>,
    head: Option<Arc<Head>>,
    sizes: Sizes,
    four: bool,
    halves: Halves,
    reads: Vec<Seen>,
    /// With the steps they come from.
    results: Vec<(usize, Seen)>,
    numbers: Vec<(bool, u32)>,
    /// The type of the elements of each binding.
    elements: Vec<&'static str>,
    pub bindings: SmallVec<[Place; 6]>,
    pub key: SmallVec<[u32; 16]>,
    pub words: Words,
    pub grid: Grid,
}

/// Tells these texts apart from other generated ones.
const TEXT: u32 = 9;

/// Merges axes that are neighbours for all operands.
fn merge(sizes: &Sizes, operands: &mut [&mut Operand]) -> Sizes {
    let mut merged = Sizes::new();
    let mut lists: Vec<Steps> = operands.iter().map(|_| Steps::new()).collect();
    for (axis, &size) in sizes.iter().enumerate() {
        let joins = !merged.is_empty()
            && operands.iter().zip(&lists).all(|(o, list)| {
                o.bits || list.last().is_some_and(|stride| *stride == o.strides[axis] * size as isize)
            });
        for (operand, list) in operands.iter().zip(&mut lists).filter(|(o, _)| !o.bits) {
            if joins {
                list.pop();
            }
            list.push(operand.strides[axis]);
        }
        match merged.last_mut() {
            Some(last) if joins => *last *= size,
            _ => merged.push(size),
        }
    }
    for (operand, list) in operands.iter_mut().zip(lists) {
        operand.strides = list;
    }
    merged
}

/// Steps whose results are written, or used by such, and those that look for a fault.
fn kept(steps: &[Step], wanted: &[bool]) -> Vec<bool> {
    let writes = |step: &Step| step.head.as_ref().is_some_and(|head| !head.writes.is_empty());
    let must = |(step, wanted): (&Step, &bool)| *wanted || step.site > 0 || writes(step);
    let mut kept: Vec<bool> = steps.iter().zip(wanted).map(must).collect();
    for at in (0..steps.len()).rev() {
        let used = |input: &Input| if let Input::Made(from) = input { Some(*from) } else { None };
        let used: SmallVec<[usize; 4]> = steps[at].inputs.iter().filter_map(used).collect();
        let keeps = kept[at];
        used.iter().filter(|_| keeps).for_each(|from| kept[*from] = true);
    }
    kept
}

impl Woven {
    /// `None` when nothing would be left of it.
    pub fn new(ready: Ready, halves: Halves) -> Option<Woven> {
        let Ready { mut group, wanted } = ready;
        let (n, mut steps) = (group.count(), std::mem::take(&mut group.steps));
        let kept = kept(&steps, &wanted);
        if !kept.contains(&true) {
            return None;
        }
        let mut operands: Vec<&mut Operand> = vec![];
        for ((step, wanted), _) in steps.iter_mut().zip(&wanted).zip(&kept).filter(|(_, kept)| **kept) {
            let Step { inputs, out, .. } = step;
            for input in inputs {
                if let Input::Memory(operand) = input {
                    operands.push(operand);
                }
            }
            operands.extend(wanted.then_some(out));
        }
        let sizes = merge(&group.sizes, &mut operands);
        let head = steps[0].head.clone().filter(|_| kept[0]);
        let plain = |step: &Step| step.wide && step.out.at.is_multiple_of(4) && in_order(&sizes, &step.out.strides);
        let four =
            head.is_none() && steps.iter().zip(&wanted).all(|(step, wanted)| !wanted || step.out.bits || plain(step));
        let mut woven = Woven {
            steps: vec![],
            arguments: vec![],
            kept,
            head: head.clone(),
            sizes,
            four,
            halves,
            reads: vec![],
            results: vec![],
            numbers: vec![],
            elements: vec![],
            bindings: SmallVec::new(),
            key: SmallVec::from_slice(&[u32::MAX, TEXT, u32::from(four) << 2 | halves.key()]),
            words: Words::new(),
            grid: Grid::threads(if four { n.div_ceil(4) } else { n }),
        };
        if let Some(head) = head {
            woven.grid = head.grid;
            woven.key.push(head.key.len() as u32);
            woven.key.extend_from_slice(&head.key);
            woven.words = head.words.clone();
            woven.bindings.extend_from_slice(&head.bindings);
            // Of types that the steps do not share.
            woven.elements.resize(head.bindings.len(), "");
        }
        for (at, (step, wanted)) in steps.iter().zip(&wanted).enumerate() {
            woven.add(at, step, *wanted);
        }
        woven.steps = steps;
        if woven.is_guarded() {
            woven.bindings.push(faults::PLACE);
        }
        woven.key.push(woven.sizes.len() as u32);
        woven.fill(n);
        Some(woven)
    }

    /// The ops that are in it.
    pub fn names(&self) -> Vec<&'static str> {
        self.steps.iter().zip(&self.kept).filter(|(_, kept)| **kept).map(|(step, _)| step.name).collect()
    }

    /// Of its head, or of the last of its ops.
    pub fn name(&self) -> &'static str {
        let kept = |at: &usize| self.kept[*at];
        let own = if self.head.is_some() { Some(0) } else { (0..self.steps.len()).rfind(kept) };
        own.map_or("", |at| self.steps[at].name)
    }

    fn add(&mut self, at: usize, step: &Step, wanted: bool) {
        let mut arguments = SmallVec::new();
        if !self.kept[at] {
            self.key.push(u32::MAX);
            return self.arguments.push(arguments);
        }
        let text = step.text.key() as u64;
        self.key.extend([text as u32, (text >> 32) as u32, u32::from(step.float)]);
        for input in &step.inputs {
            let argument = match input {
                Input::Absent => Argument::Absent,
                Input::Number(bits) => {
                    self.numbers.push((step.float, *bits));
                    Argument::Number(self.numbers.len() - 1)
                }
                Input::Made(at) => Argument::Made(*at),
                Input::Memory(operand) => Argument::Read(self.read(operand, step.site)),
            };
            let (kind, number) = match argument {
                Argument::Absent => (0, 0),
                Argument::Number(i) => (1, i),
                Argument::Read(i) => (2, i),
                Argument::Made(i) => (3, i),
            };
            self.key.push(kind << 16 | number as u32);
            arguments.push(argument);
        }
        self.arguments.push(arguments);
        self.key.push((step.out.dtype as u32) << 8 | u32::from(step.out.bits) << 1 | u32::from(wanted));
        if wanted {
            let seen = self.seen(&step.out, true, 0);
            self.results.push((at, seen));
        }
    }

    /// The number of an operand among those that are read.
    fn read(&mut self, operand: &Operand, site: u32) -> usize {
        let again = |seen: &Seen| {
            seen.operand.same(operand) || seen.operand.bits && operand.bits && seen.operand.place == operand.place
        };
        if let Some(at) = self.reads.iter().position(again) {
            return at;
        }
        let seen = self.seen(operand, false, site);
        self.reads.push(seen);
        self.reads.len() - 1
    }

    fn seen(&mut self, operand: &Operand, written: bool, site: u32) -> Seen {
        let access = if operand.bits {
            Bits
        } else if !written && operand.strides.iter().all(|s| *s == 0) {
            One
        } else if in_order(&self.sizes, &operand.strides) {
            if self.four && operand.at.is_multiple_of(4) { Four } else { Line }
        } else {
            Strided
        };
        let small = operand.dtype.bytes() < 4 && !operand.bits;
        let element = match access {
            Line | Strided if written && small => self.halves.written(operand.dtype).unwrap_or("atomic<u32>"),
            _ => element_type(operand.dtype, access == Four),
        };
        let mut all = self.bindings.iter().zip(&self.elements);
        let binding = all.position(|(place, own)| *place == operand.place && *own == element);
        let binding = binding.unwrap_or_else(|| {
            self.bindings.push(operand.place);
            self.elements.push(element);
            self.elements.len() - 1
        });
        self.key.push((operand.dtype as u32) << 16 | (access as u32) << 8 | binding as u32);
        Seen { operand: operand.clone(), access, binding, site }
    }

    fn operands(&self) -> impl Iterator<Item = (String, &Seen)> {
        let reads = self.reads.iter().enumerate().map(|(i, seen)| (format!("x{i}"), seen));
        reads.chain(self.results.iter().map(|(at, seen)| (format!("y{at}"), seen)))
    }

    /// True when it reads int64, of which it sees the lower half: numbers beyond that are noted.
    fn is_guarded(&self) -> bool {
        self.reads.iter().any(|seen| seen.operand.dtype == DType::I64)
    }

    fn by_coordinates(&self) -> bool {
        self.operands().any(|(_, seen)| seen.access == Strided)
    }

    /// The numbers, in the order in which `params` declares them.
    fn fill(&mut self, n: usize) {
        let mut words = std::mem::take(&mut self.words);
        words.extend([n as u32, 0]);
        if self.by_coordinates() {
            words.extend(self.sizes.iter().map(|size| *size as u32));
        }
        for (_, seen) in self.operands() {
            words.push(seen.operand.at as u32);
            if seen.access == Strided {
                words.extend(seen.operand.strides.iter().map(|stride| *stride as i32 as u32));
            }
            if seen.site > 0 {
                words.push(seen.site);
            }
        }
        words.extend(self.numbers.iter().map(|(_, bits)| *bits));
        self.words = words;
    }

    fn params(&self) -> String {
        // `nothing` is 0, which the driver cannot know.
        const OWN: &str = "struct Params { }\n@group(1) @binding(0) var<uniform> p: Params;\n";
        let (before, after) =
            self.head.as_ref().map_or(OWN, |head| head.params).split_once('}').expect("bug: no params");
        let mut text = format!("{before}count: u32, nothing: u32, ");
        let axes = 0..self.sizes.len();
        if self.by_coordinates() {
            axes.clone().for_each(|a| text += &format!("axis{a}: u32, "));
        }
        for (name, seen) in self.operands() {
            text += &format!("{name}_at: u32, ");
            if seen.access == Strided {
                axes.clone().for_each(|a| text += &format!("{name}_step{a}: i32, "));
            }
            if seen.site > 0 {
                text += &format!("{name}_site: u32, ");
            }
        }
        for (i, (float, _)) in self.numbers.iter().enumerate() {
            text += &format!("number{i}: {}, ", kind(*float));
        }
        text + "}" + after
    }

    pub fn text(&self) -> String {
        let mut text = self.params();
        if let Some(head) = &self.head {
            text += &(head.text)();
        }
        for (binding, element) in self.elements.iter().enumerate().filter(|(_, element)| !element.is_empty()) {
            let _ =
                writeln!(text, "@group(0) @binding({binding}) var<storage, read_write> b{binding}: array<{element}>;");
        }
        if self.is_guarded() {
            let _ = writeln!(text, "const FAULTS: u32 = {}u;\nconst ENDS: u32 = 0u;", self.elements.len());
            text += include_str!("faults.wgsl");
            text += NARROW;
        }
        for (at, step) in self.steps.iter().enumerate().filter(|(at, _)| self.kept[*at]) {
            text += &passed(at, step);
            if step.head.is_some() {
                continue;
            }
            let dtype = if step.float { DType::F32 } else { DType::I32 };
            text += &step.text.function(dtype).replacen("fn formula(", &format!("fn formula{at}("), 1);
        }
        self.reads.iter().enumerate().for_each(|(i, seen)| text += &self.load(i, seen));
        for (at, seen) in &self.results {
            match seen.access {
                Bits => _ = writeln!(text, "var<workgroup> bits{at}: array<atomic<u32>, {}>;", self.bit_words()),
                _ => text += &self.store(*at, seen),
            }
        }
        if self.head.is_some() {
            return text + "fn finish(e: u32, r0: f32) {\n" + &self.body() + "}\n";
        }
        text += "@compute @workgroup_size(256)\nfn main(@builtin(global_invocation_id) id: vec3<u32>, \
                 @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {\n    \
                 let t = thread(id, groups);\n";
        let bits: Vec<usize> = self.results.iter().filter(|(_, s)| s.access == Bits).map(|(at, _)| *at).collect();
        if !bits.is_empty() {
            let _ = writeln!(text, "    if (own < {}u) {{", self.bit_words());
            bits.iter().for_each(|at| text += &format!("        atomicStore(&bits{at}[own], 0u);\n"));
            text += "    }\n    workgroupBarrier();\n";
        }
        let _ = writeln!(text, "    if (t{} < p.count) {{", if self.four { " * 4u" } else { "" });
        text += &self.body();
        text += "    }\n";
        if !bits.is_empty() {
            let per = if self.four { 4 } else { 1 };
            text += "    workgroupBarrier();\n";
            let _ = writeln!(text, "    let first = (t - own) * {per}u + own * 32u;");
            let _ = writeln!(text, "    if (own < {}u && first < p.count) {{", self.bit_words());
            for (at, seen) in self.results.iter().filter(|(_, s)| s.access == Bits) {
                let _ = writeln!(text, "        b{}[first >> 5u] = atomicLoad(&bits{at}[own]);", seen.binding);
            }
            text += "    }\n";
        }
        text + "}\n"
    }

    /// Words of bits that the threads of a group fill.
    fn bit_words(&self) -> usize {
        if self.four { 32 } else { 8 }
    }

    fn body(&self) -> String {
        let mut text = String::new();
        for (i, seen) in self.reads.iter().enumerate() {
            match seen.access {
                Four => _ = writeln!(text, "        let v{i} = load{i}(t);"),
                One => _ = writeln!(text, "        let v{i} = load{i}(p.x{i}_at);"),
                _ => {}
            }
        }
        for (at, seen) in &self.results {
            match seen.access {
                Bits => _ = writeln!(text, "        var mask{at} = 0u;"),
                _ if self.four => _ = writeln!(text, "        var y{at}: vec4<{}>;", kind(self.steps[*at].float)),
                _ => {}
            }
        }
        for lane in 0..if self.four { 4 } else { 1 } {
            // Beyond the end the last element again, so that no operand is read outside.
            let e = if self.four { format!("min(t * 4u + {lane}u, p.count - 1u)") } else { "t".into() };
            text += "        {\n";
            if self.head.is_none() {
                let _ = writeln!(text, "            let e = {e};");
            }
            text += &self.coordinates();
            for at in (0..self.steps.len()).filter(|at| self.kept[*at] && self.steps[*at].head.is_none()) {
                let _ = writeln!(text, "            let r{at} = formula{at}({});", self.arguments(at, lane));
            }
            for (at, seen) in &self.results {
                let y = format!("y{at}");
                let _ = match seen.access {
                    Bits => writeln!(
                        text,
                        "            mask{at} |= select(0u, {}u, r{at} != 0.0f && t * {}u + {lane}u < p.count);",
                        1 << lane,
                        if self.four { 4 } else { 1 }
                    ),
                    _ if self.four => writeln!(text, "            y{at}[{lane}] = r{at};"),
                    Strided => writeln!(text, "            store{at}({}, r{at});", self.place(&y)),
                    _ => writeln!(text, "            store{at}(p.y{at}_at + e, r{at});"),
                };
            }
            text += "        }\n";
        }
        for (at, seen) in &self.results {
            let _ = match (seen.access, self.four) {
                (Bits, four) => {
                    let first = if four { "own * 4u" } else { "own" };
                    writeln!(text, "        atomicOr(&bits{at}[({first}) >> 5u], mask{at} << (({first}) & 31u));")
                }
                (_, true) => writeln!(text, "        store{at}(t, y{at});"),
                _ => Ok(()),
            };
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
            let _ =
                writeln!(text, "            let c{axis} = {rest} % p.axis{axis}; let d{axis} = {rest} / p.axis{axis};");
            rest = format!("d{axis}");
        }
        let _ = writeln!(text, "            let c0 = {rest};");
        text
    }

    fn place(&self, name: &str) -> String {
        let steps: Vec<String> = (0..self.sizes.len()).map(|a| format!("i32(c{a}) * p.{name}_step{a}")).collect();
        format!("u32(i32(p.{name}_at) + {})", steps.join(" + "))
    }

    fn arguments(&self, at: usize, lane: usize) -> String {
        let float = self.steps[at].float;
        let one = |argument: &Argument| match *argument {
            Argument::Absent => format!("{}(0)", kind(float)),
            Argument::Number(i) => format!("p.number{i}"),
            Argument::Made(from) => {
                let step = &self.steps[from];
                converted(&format!("passed{from}(r{from})"), step.out.dtype.is_float(), float)
            }
            Argument::Read(i) => {
                let seen = &self.reads[i];
                let value = match seen.access {
                    One => format!("v{i}"),
                    Four => format!("v{i}[{lane}]"),
                    Line => format!("load{i}(p.x{i}_at + e)"),
                    Strided => format!("load{i}({})", self.place(&format!("x{i}"))),
                    Bits => format!("load{i}(e)"),
                };
                converted(&value, seen.operand.dtype.is_float(), float)
            }
        };
        self.arguments[at].iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// `load`: element `at`, or the four from `4 · q` on counted from the operand's start, as f32 or i32.
    fn load(&self, i: usize, seen: &Seen) -> String {
        let (b, dtype) = (format!("b{}", seen.binding), seen.operand.dtype);
        let kind = kind(dtype.is_float());
        if seen.access == Bits {
            return format!("fn load{i}(e: u32) -> i32 {{\n    return i32(({b}[e >> 5u] >> (e & 31u)) & 1u);\n}}\n");
        }
        if seen.access == Four {
            let lanes = |lane: &dyn Fn(usize) -> String| (0..4).map(lane).collect::<Vec<_>>().join(", ");
            let word = format!("let w = {b}[(p.x{i}_at >> 2u) + q];");
            let (read, values) = match dtype {
                DType::F32 | DType::I32 => (word, lanes(&|l| format!("w[{l}]"))),
                DType::I64 => {
                    let element = |l| format!("narrow({b}[at + {l}u], q * 4u + {l}u < p.count, p.x{i}_site)");
                    (format!("let at = p.x{i}_at + q * 4u;"), lanes(&element))
                }
                DType::F16 | DType::BF16 => {
                    let half = |l: usize| format!("((w[{}] >> {}u) & 0xffffu)", l / 2, l % 2 * 16);
                    (word, lanes(&|l| halves::number(dtype, &half(l))))
                }
                _ => (word, lanes(&|l| byte(dtype, &format!("((w >> {}u) & 0xffu)", l * 8)))),
            };
            return format!(
                "fn load{i}(q: u32) -> vec4<{kind}> {{\n    {read}\n    return vec4<{kind}>({values});\n}}\n"
            );
        }
        let value = match dtype {
            DType::F32 | DType::I32 => format!("{b}[at]"),
            DType::I64 => format!("narrow({b}[at], true, p.x{i}_site)"),
            DType::F16 | DType::BF16 => halves::number(dtype, &halves::bits(&format!("{b}[at >> 1u]"), "at")),
            _ => byte(dtype, &format!("(({b}[at >> 2u] >> ((at & 3u) * 8u)) & 0xffu)")),
        };
        format!("fn load{i}(at: u32) -> {kind} {{\n    return {value};\n}}\n")
    }

    /// `store`: one number at an element's place, or four from `4 · q` on.
    fn store(&self, at: usize, seen: &Seen) -> String {
        let (b, dtype, float) = (format!("b{}", seen.binding), seen.operand.dtype, self.steps[at].float);
        let kind = kind(float);
        let whole = |value: &str| converted(value, float, false);
        let real = |value: &str| converted(value, float, true);
        let small = |value: &str| small(dtype, value, float);
        let pair = |value: &str| format!("vec2<i32>({0}, {0} >> 31u)", whole(value));
        if seen.access == Four {
            let start = format!("{b}[(p.y{at}_at >> 2u) + q]");
            let lane = |f: &dyn Fn(&str) -> String, l: usize| f(&format!("v[{l}]"));
            let lanes = |f: &dyn Fn(&str) -> String| (0..4).map(|l| lane(f, l)).collect::<Vec<_>>().join(", ");
            let packed = |from: usize, count: usize, bits: usize| {
                let part = |l: usize| format!("({} << {}u)", lane(&small, from + l), l * bits);
                (0..count).map(part).collect::<Vec<_>>().join(" | ")
            };
            let body = match dtype {
                DType::F32 => format!("{start} = vec4<f32>({});", lanes(&real)),
                DType::I32 => format!("{start} = vec4<i32>({});", lanes(&whole)),
                DType::I64 => (0..4)
                    .map(|l| {
                        let value = lane(&pair, l);
                        format!("if (q * 4u + {l}u < p.count) {{ {b}[p.y{at}_at + q * 4u + {l}u] = {value}; }}")
                    })
                    .collect::<Vec<_>>()
                    .join("\n    "),
                DType::F16 | DType::BF16 => {
                    format!("{start} = vec2<u32>({}, {});", packed(0, 2, 16), packed(2, 2, 16))
                }
                _ => format!("{start} = {};", packed(0, 4, 8)),
            };
            return format!("fn store{at}(q: u32, v: vec4<{kind}>) {{\n    {body}\n}}\n");
        }
        let body = match dtype {
            DType::F32 => format!("{b}[at] = {};", real("v")),
            DType::I32 => format!("{b}[at] = {};", whole("v")),
            DType::I64 => format!("{b}[at] = {};", pair("v")),
            DType::F16 | DType::BF16 if self.halves.written(dtype).is_some() => {
                format!("{b}[at] = {};", halves::stored(dtype, &real("v")))
            }
            _ => element::in_word(&b, dtype.bytes() as u32, &small("v")),
        };
        format!("fn store{at}(at: u32, v: {kind}) {{\n    {body}\n}}\n")
    }
}

fn kind(float: bool) -> &'static str {
    if float { "f32" } else { "i32" }
}

/// A number of one kind as one of the other.
fn converted(value: &str, float: bool, wanted: bool) -> String {
    match (float, wanted) {
        (true, true) | (false, false) => value.to_string(),
        (true, false) => format!("s_to_i32({value})"),
        (false, true) => format!("f32({value})"),
    }
}

/// The bits that a number has in a type of 8 or 16.
fn small(dtype: DType, value: &str, float: bool) -> String {
    match dtype {
        DType::F16 | DType::BF16 => halves::rounded(dtype, &converted(value, float, true)),
        DType::Bool if float => format!("select(1u, 0u, {value} == 0.0f)"),
        DType::Bool => format!("select(1u, 0u, {value} == 0i)"),
        _ => format!("(u32({}) & 0xffu)", converted(value, float, false)),
    }
}

/// `passed`: what a later step would read back of a result.
fn passed(at: usize, step: &Step) -> String {
    let dtype = step.out.dtype;
    let value = match dtype {
        DType::F32 => {
            format!("bitcast<f32>(bitcast<u32>({}) ^ p.nothing)", converted("v", step.float, true))
        }
        DType::I32 | DType::I64 => converted("v", step.float, false),
        DType::F16 | DType::BF16 => halves::number(dtype, &small(dtype, "v", step.float)),
        _ => byte(dtype, &small(dtype, "v", step.float)),
    };
    format!("fn passed{at}(v: {}) -> {} {{\n    return {value};\n}}\n", kind(step.float), kind(dtype.is_float()))
}

/// The lower half of an int64. Behind the last element there may be anything.
const NARROW: &str = "fn narrow(v: vec2<i32>, is_element: bool, site: u32) -> i32 {
    if (is_element && v.y != (v.x >> 31u)) {
        note(v, site, 0u);
    }
    return v.x;
}
";

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
