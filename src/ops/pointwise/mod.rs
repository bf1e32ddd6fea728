//! Elementwise ops: one formula each, for its value and for its derivative; everything else is shared.
//!
//! The formulas stand in the files beside this one, by family. Attributes such as a slope or a bound are 0-d tensors, so
//! that a formula has operands only.

mod activation;
mod arithmetic;
mod compare;
mod exponential;
pub mod expr;
mod split;

use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::{Back, Cost, Layouts, Mask, Metas, Op, OpRef, Saves, bit, expect_inputs, one_device};
use crate::arena::on_paper;
use crate::device::Device;
use crate::device::cpu::pointwise::{Kernels, launch};
use crate::device::cpu::view::View;
use crate::device::formula::{Formula, MOST};
use crate::device::gpu::pointwise::{Source, launch as launch_on};
use crate::device::gpu::text::Text;
use crate::device::gpu::{self, Gpu};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::real::Real;
use crate::shape::{self, Dims, Layout, Strides};
use crate::tensor::{Meta, Tensor};
use expr::Expr;
use smallvec::SmallVec;
use std::fmt;

/// How the result's type follows from the inputs' types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Promoted; integers stay integers.
    Arithmetic,
    /// Promoted, and integers become float32.
    Float,
    /// Bool, from operands promoted among each other.
    Compare,
    /// The first input chooses, the others are promoted.
    Select,
}

/// What the gradient of one input reads: one bit an input, and `Y` for the output.
pub const X: u8 = 1;
pub const X1: u8 = 2;
pub const X2: u8 = 4;
pub const Y: u8 = 0x40;
/// Reads nothing but the incoming gradient.
pub const NOTHING: u8 = 0;
/// The gradient is the incoming one as it is, so there is nothing to compute.
pub const PASS: u8 = 0x80;
/// There is no gradient of this input.
pub const NEVER: u8 = 0xff;

/// A differentiable function of N numbers.
pub trait Pointwise<const N: usize>: Send + Sync + 'static {
    const NAME: &'static str;
    const RULE: Rule;
    const READS: [u8; N];
    /// Where the function and its derivative are smooth, for the samples of the laws.
    const DOMAINS: [Domain; N];
    /// Rough operations an element.
    const FLOPS: f64 = 1.0;
    /// What stands for the op once its slope is known, where the vjp is dy times a slope that shares work with the value.
    const SPLIT: Option<fn() -> OpRef> = None;

    fn forward<R: Real>(x: [R; N]) -> R;

    /// dx from x, y = f(x) and dy. Operands that `READS` does not name are NaN here.
    fn vjp<R: Real>(x: [R; N], y: R, dy: R) -> [R; N];
}

/// The op of a formula: what its trait says, as values, so that one implementation of [`Op`] serves them all.
pub struct Elementwise {
    name: &'static str,
    rule: Rule,
    reads: &'static [u8],
    domains: &'static [Domain],
    flops: f64,
    split: Option<fn() -> OpRef>,
    kernels: Kernels,
    text: Text,
    /// The derivative by each input; where there is none, the value, which is never called.
    slopes: &'static [(Kernels, Text); 3],
    exact: fn(&[f64]) -> f64,
    recorded: fn(&[Expr], Expr, Expr) -> [Expr; 3],
}

impl Elementwise {
    const fn of<P: Pointwise<N>, const N: usize>() -> Elementwise {
        let value = const { (Kernels::of::<(P, Value<N>)>(), Text::of::<(P, Value<N>)>()) };
        Elementwise {
            name: P::NAME,
            rule: P::RULE,
            reads: const { &P::READS },
            domains: const { &P::DOMAINS },
            flops: P::FLOPS,
            split: P::SPLIT,
            kernels: value.0,
            text: value.1,
            slopes: const { &[slope::<P, N, 0>(), slope::<P, N, 1>(), slope::<P, N, 2>()] },
            exact: |x| P::forward(array(x)),
            recorded: |x, y, dy| {
                let dx = P::vjp(array::<Expr, N>(x), y, dy);
                std::array::from_fn(|i| dx[i.min(N - 1)])
            },
        }
    }

    fn entry<P: Pointwise<N>, const N: usize>() -> Entry {
        Entry {
            name: P::NAME,
            build: |_| Ok(Elementwise::op::<P, N>()),
            samples: || samples(const { &Elementwise::of::<P, N>() }),
        }
    }

    fn op<P: Pointwise<N>, const N: usize>() -> OpRef {
        OpRef::Static(const { &Elementwise::of::<P, N>() })
    }

    fn promoted(&self, types: impl Iterator<Item = DType>) -> DType {
        let from = if self.rule == Rule::Select { 1 } else { 0 };
        types.skip(from).reduce(DType::promote).unwrap_or(DType::F32)
    }

    /// The type the formula is evaluated in. Integers that it cannot be evaluated on are an error.
    fn compute(&self, x: &[&Tensor]) -> Result<DType> {
        let promoted = self.promoted(x.iter().map(|t| t.dtype()));
        let compute = if self.rule == Rule::Float { promoted.to_float().compute() } else { promoted.compute() };
        if self.rule == Rule::Arithmetic && !compute.is_float() {
            arithmetic::check_integers(self.name, x)?;
        }
        Ok(compute)
    }
}

impl fmt::Debug for Elementwise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The derivative by input I, where there is one.
const fn slope<P: Pointwise<N>, const N: usize, const I: usize>() -> (Kernels, Text) {
    if I < N && P::READS[I % N] != NEVER {
        (Kernels::of::<(P, Derivative<N, I>)>(), Text::of::<(P, Derivative<N, I>)>())
    } else {
        (Kernels::of::<(P, Value<N>)>(), Text::of::<(P, Value<N>)>())
    }
}

#[inline(always)]
fn array<R: Copy, const N: usize>(x: &[R]) -> [R; N] {
    std::array::from_fn(|i| x[i])
}

/// The value, as a formula of x…
struct Value<const N: usize>;

impl<P: Pointwise<N>, const N: usize> Formula for (P, Value<N>) {
    const ARITY: usize = N;
    const INTEGERS: bool = !matches!(P::RULE, Rule::Float);
    #[inline(always)]
    fn eval<R: Real>(x: [R; MOST]) -> R {
        P::forward(first::<R, N>(x))
    }
}

/// The derivative by input I, as a formula of x…, y, dy.
struct Derivative<const N: usize, const I: usize>;

impl<P: Pointwise<N>, const N: usize, const I: usize> Formula for (P, Derivative<N, I>) {
    const ARITY: usize = N + 2;
    const INTEGERS: bool = false;
    #[inline(always)]
    fn eval<R: Real>(x: [R; MOST]) -> R {
        if I < N { P::vjp(first::<R, N>(x), x[N], x[N + 1])[I] } else { R::lit(0.0) }
    }
}

#[inline(always)]
fn first<R: Real, const N: usize>(x: [R; MOST]) -> [R; N] {
    let mut out = [x[0]; N];
    let mut i = 0;
    while i < N {
        out[i] = x[i];
        i += 1;
    }
    out
}

impl Op for Elementwise {
    fn name(&self) -> &'static str {
        self.name
    }

    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(self.name, x, self.reads.len())?;
        let device = one_device(self.name, x)?;
        let promoted = self.promoted(x.iter().map(|m| m.dtype));
        let dtype = match self.rule {
            Rule::Arithmetic | Rule::Select => promoted,
            Rule::Float => promoted.to_float(),
            Rule::Compare => DType::Bool,
        };
        Ok(SmallVec::from_iter([Meta { layout: elementwise_layout(self.name, x)?, dtype, device }]))
    }

    fn differentiable(&self) -> Mask {
        self.reads.iter().enumerate().filter(|(_, r)| **r != NEVER).map(|(i, _)| bit(i)).sum()
    }

    fn saves(&self, needs: Mask) -> Saves {
        let reads = self.reads.iter().enumerate().filter(|(i, r)| needs & bit(*i) != 0 && **r != NEVER);
        let reads = reads.fold(0, |all, (_, r)| all | r);
        Saves { inputs: Mask::from(reads & (Y - 1)), outputs: Mask::from(reads & Y != 0) }
    }

    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, self.flops)
    }

    fn cheap(&self) -> bool {
        self.reads.len() <= 2 && self.reads.iter().all(|reads| reads & Y == 0)
    }

    fn split(&self) -> Option<OpRef> {
        self.split.map(|op| op())
    }

    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }

    fn takes_half(&self) -> bool {
        true
    }

    fn overwrites(&self, _x: &Tensor) -> bool {
        true
    }

    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let compute = self.compute(x)?;
        let views: SmallVec<[Option<View>; 3]> = x.iter().map(|t| Some(t.view())).collect();
        launch(&self.kernels, compute, &views, &y[0].view());
        Ok(())
    }

    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let compute = self.compute(x)?;
        let sources: SmallVec<[Source; 3]> = x.iter().map(|t| source(t)).collect();
        launch_on(gpu, self.name, &self.text, compute, &sources, &y[0].buffer())
    }

    fn takes_numbers(&self) -> bool {
        true
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }

    fn vjp(&self, back: &mut Back) -> Result<()> {
        if back.records() {
            return expr::recorded_vjp(back, self.reads, self.recorded);
        }
        for (i, &reads) in self.reads.iter().enumerate() {
            if !back.needs(i) || reads == NEVER {
                continue;
            }
            if reads == PASS {
                let dy = back.dy();
                back.give(i, dy);
                continue;
            }
            let mut operands: SmallVec<[super::V; MOST]> = SmallVec::new();
            for k in 0..self.reads.len() {
                if reads & (1 << k) != 0 {
                    operands.push(back.input(k)?);
                }
            }
            if reads & Y != 0 {
                operands.push(back.output(0)?);
            }
            operands.push(back.dy());
            let (kernels, text) = &self.slopes[i];
            let slope = Slope { name: self.name, kernels, text, inputs: self.reads.len(), reads };
            let dx = back.apply(slope, &operands)?;
            back.give(i, dx);
        }
        Ok(())
    }

    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let shape = x.iter().try_fold(Dims::new(), |s, e| shape::broadcast(self.name, &s, &e.shape)).ok()?;
        Some(vec![Exact::build(&shape, |index| {
            let values: SmallVec<[f64; 3]> = x.iter().map(|e| e.at_broadcast(index)).collect();
            (self.exact)(&values)
        })])
    }
}

/// The fused derivative of a formula by one input. Runs inside a sweep that is not recorded, so it needs no vjp.
struct Slope {
    name: &'static str,
    kernels: &'static Kernels,
    text: &'static Text,
    inputs: usize,
    reads: u8,
}

impl fmt::Debug for Slope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slope of {}", self.name)
    }
}

impl Op for Slope {
    fn name(&self) -> &'static str {
        self.name
    }

    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        let dtype = x.iter().map(|m| m.dtype).filter(|d| d.is_float()).reduce(DType::promote).unwrap_or(DType::F32);
        let device = one_device(self.name, x)?;
        Ok(SmallVec::from_iter([Meta { layout: elementwise_layout(self.name, x)?, dtype, device }]))
    }

    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }

    fn takes_half(&self) -> bool {
        true
    }

    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let mut given = x.iter();
        let mut take = |read: bool| if read { given.next().map(|t| t.view()) } else { None };
        let mut views: SmallVec<[Option<View>; MOST]> =
            (0..self.inputs).map(|k| take(self.reads & (1 << k) != 0)).collect();
        views.push(take(self.reads & Y != 0));
        views.push(take(true));
        launch(self.kernels, y[0].dtype().compute(), &views, &y[0].view());
        Ok(())
    }

    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let mut given = x.iter();
        let mut take =
            |read: bool| if read { given.next().map_or(Source::Absent, |t| source(t)) } else { Source::Absent };
        let mut sources: SmallVec<[Source; MOST]> =
            (0..self.inputs).map(|k| take(self.reads & (1 << k) != 0)).collect();
        sources.push(take(self.reads & Y != 0));
        sources.push(take(true));
        launch_on(gpu, self.name, self.text, y[0].dtype().compute(), &sources, &y[0].buffer())
    }

    fn takes_numbers(&self) -> bool {
        true
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }

    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Err(Error::internal(format!("bug: the fused derivative of {} was recorded", self.name)))
    }

    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}

/// The layout of an elementwise result: that of an input which already has the full shape and no gaps, so that a chain of
/// channels-last tensors stays so; else contiguous.
fn elementwise_layout(op: &str, x: &[&Meta]) -> Result<std::sync::Arc<Layout>> {
    if let [a] = x
        && a.layout.is_dense()
    {
        return Ok(a.layout.clone());
    }
    if let [a, b] = x
        && a.layout.is_dense()
        && a.layout == b.layout
    {
        return Ok(a.layout.clone());
    }
    let mut shape = Dims::new();
    for m in x {
        shape = shape::broadcast(op, &shape, m.shape())?;
    }
    let full = x.iter().find(|m| m.shape() == shape.as_slice() && m.layout.is_dense());
    full.map_or_else(|| Layout::contiguous(op, &shape), |m| Ok(m.layout.clone()))
}

struct Identity;

impl Formula for Identity {
    const ARITY: usize = 1;
    const INTEGERS: bool = true;
    #[inline(always)]
    fn eval<R: Real>(x: [R; MOST]) -> R {
        x[0]
    }
}

/// Copies `from`, broadcast, into every element of `to`, converting as needed; both are on one device, or `from` is a number.
pub fn copy_into(from: &Tensor, to: &Tensor) -> Result<()> {
    if let Device::Gpu(number) = to.device() {
        return copy_on(gpu::open(number)?, from, to);
    }
    if on_paper() {
        return Ok(());
    }
    const COPY: Kernels = Kernels::of::<Identity>();
    launch(&COPY, from.dtype().compute(), &[Some(from.view())], &to.view());
    Ok(())
}

/// As `copy_into`, on a GPU.
pub fn copy_on(gpu: &Gpu, from: &Tensor, to: &Tensor) -> Result<()> {
    const COPY: Text = Text::of::<Identity>();
    if from.dtype() == DType::I64 && to.dtype() == DType::I64 && from.device() != Device::Cpu {
        // Kernels compute integers in 32 bits; as two of those each, all 64 are copied.
        return copy_on(gpu, &halves(from), &halves(to));
    }
    launch_on(gpu, "copy", &COPY, from.dtype().compute(), &[source(from)], &to.buffer())
}

/// An int64 tensor as int32: [..] as [.., 2].
fn halves(t: &Tensor) -> Tensor {
    let (mut shape, mut strides) = (Dims::from(t.shape()), Strides::from(t.layout().strides()));
    strides.iter_mut().for_each(|s| *s *= 2);
    shape.push(2);
    strides.push(1);
    let meta = Meta { layout: Layout::strided(&shape, &strides), dtype: DType::I32, device: t.device() };
    Tensor::on(meta, t.storage().clone(), 2 * t.offset())
}

/// What a kernel of a GPU reads of a tensor: a buffer, or the number that a tensor of the host is.
fn source(t: &Tensor) -> Source<'_> {
    match t.device() {
        Device::Cpu => Source::Number(t.first()),
        Device::Gpu(_) => Source::Buffer(t.buffer()),
    }
}

/// The shapes every formula is tried on: plain, broadcast both ways, 0-d, empty, and longer than any vector.
fn samples(op: &'static Elementwise) -> Vec<Sample> {
    let shapes: [[&[usize]; 3]; 6] = [
        [&[3, 5], &[3, 5], &[3, 5]],
        [&[4, 1, 3], &[2, 1], &[3]],
        [&[], &[], &[]],
        [&[0, 2], &[1, 2], &[2]],
        [&[71], &[1], &[71]],
        [&[2, 3, 2, 5], &[3, 1, 5], &[]],
    ];
    let sample = |list: &[&[usize]; 3]| {
        let inputs = list.iter().zip(op.domains).map(|(shape, domain)| (shape.to_vec(), *domain));
        Sample::new(OpRef::Static(op), inputs)
    };
    shapes.iter().map(sample).collect()
}

pub fn register(list: &mut Vec<Entry>) {
    arithmetic::register(list);
    compare::register(list);
    exponential::register(list);
    activation::register(list);
}

/// Declares formulas. `reads` says what the gradient of each input reads; `splits` that the vjp is written as dy times a slope
/// which shares most of its work with the value.
macro_rules! pointwise {
    (@split $type:ident splits) => {
        const SPLIT: Option<fn() -> $crate::ops::OpRef> = Some($crate::ops::pointwise::split::Split::<$type>::op);
    };
    ($($(#[$doc:meta])* $type:ident[$n:literal] $name:literal $rule:ident $domains:expr, reads $reads:expr
            $(, $splits:ident)?;
        $x:pat => $forward:expr;
        $vx:pat, $y:pat, $dy:pat => $vjp:expr;)*) => {
        $($(#[$doc])* struct $type;
        impl $crate::ops::pointwise::Pointwise<$n> for $type {
            const NAME: &'static str = $name;
            const RULE: $crate::ops::pointwise::Rule = $crate::ops::pointwise::Rule::$rule;
            const READS: [u8; $n] = $reads;
            const DOMAINS: [$crate::ops::laws::Domain; $n] = $domains;
            $($crate::ops::pointwise::pointwise!(@split $type $splits);)?
            #[inline(always)]
            fn forward<R: $crate::real::Real>($x: [R; $n]) -> R { $forward }
            #[inline(always)]
            fn vjp<R: $crate::real::Real>($vx: [R; $n], $y: R, $dy: R) -> [R; $n] { $vjp }
        })*
        pub fn register(list: &mut Vec<$crate::ops::registry::Entry>) {
            list.extend([$($crate::ops::pointwise::Elementwise::entry::<$type, $n>()),*]);
        }
    };
}
use pointwise;
