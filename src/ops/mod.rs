//! What can be computed. An op is data: a name, a shape rule, what it saves, what it costs, a forward and a vjp.
//!
//! Imports everything above `graph`. An op never asks which device it is on, never undoes broadcasting (the sweep does),
//! and never allocates except through the engine that runs it.

pub mod args;
pub mod attention;
pub mod batch_norm;
pub mod cast;
pub mod cat;
pub mod conv2d;
pub mod cross_entropy;
pub mod dropout;
pub mod index;
pub mod laws;
pub mod layer_norm;
pub mod linear;
pub mod matmul;
pub mod pointwise;
pub mod pooling;
pub mod rearrange;
pub mod recurrent;
pub mod reduce;
pub mod registry;
pub mod relu;
pub mod run;
pub mod scan;
pub mod softmax;
pub mod sorting;
pub mod split;
pub mod transfer;
pub mod views;

use crate::arena::ledger::Category;
use crate::device::Device;
use crate::device::gpu::{self, Gpu};
use crate::dtype::DType;
use crate::error::{self, Error, Result};
use crate::shape::{Dims, Layout};
use crate::tensor::{Meta, Tensor};
use laws::Exact;
use smallvec::SmallVec;
use std::fmt::Debug;
use std::sync::Arc;

/// A set of operands, one bit each. At most 32 inputs are tracked one by one; bit 31 stands for all from there on.
pub type Mask = u32;

pub fn bit(i: usize) -> Mask {
    1 << i.min(31)
}

pub type Metas = SmallVec<[Meta; 1]>;

/// What the vjp reads: the graph keeps these, and nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saves {
    pub inputs: Mask,
    pub outputs: Mask,
}

impl Saves {
    pub const NOTHING: Saves = Saves { inputs: 0, outputs: 0 };
    pub const fn inputs(mask: Mask) -> Saves {
        Saves { inputs: mask, outputs: 0 }
    }
    pub const fn outputs(mask: Mask) -> Saves {
        Saves { inputs: 0, outputs: mask }
    }
    pub const fn and_outputs(self, mask: Mask) -> Saves {
        Saves { inputs: self.inputs, outputs: self.outputs | mask }
    }
}

/// What one application costs: floating-point operations, and bytes read and written at least once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub flops: f64,
    pub bytes: f64,
}

impl Cost {
    /// Reads every input, writes every output, and does `flops_per_element` for each element of the largest of them.
    pub fn streaming(x: &[&Meta], y: &[Meta], flops_per_element: f64) -> Cost {
        let largest = x.iter().map(|m| m.numel()).chain(y.iter().map(Meta::numel)).max().unwrap_or(0);
        let bytes = x.iter().map(|m| m.bytes()).sum::<usize>() + y.iter().map(Meta::bytes).sum::<usize>();
        Cost { flops: largest as f64 * flops_per_element, bytes: bytes as f64 }
    }

    /// Seconds on a plain machine, a pure function of the shapes: 100 GFLOP/s, 20 GB/s, a microsecond to begin. On a plain
    /// GPU 10 TFLOP/s, 400 GB/s and five microseconds to launch, whatever GPU there is.
    pub fn seconds(&self, device: Device) -> f64 {
        let (flops, bytes, start) = match device {
            Device::Cpu => (1e11, 2e10, 1e-6),
            Device::Gpu(_) => (1e13, 4e11, 5e-6),
        };
        (self.flops / flops).max(self.bytes / bytes) + start
    }

    /// A rough time for deciding whether to release locks or wake threads: 20 GFLOP/s, 10 GB/s.
    pub fn rough_nanos(&self) -> f64 {
        (self.flops / 20.0).max(self.bytes / 10.0)
    }
}

/// How an op wants its inputs laid out; the engine copies what does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layouts {
    /// Row-major without gaps.
    Contiguous,
    /// Any strides, broadcast (0) and negative ones included.
    Any,
    /// Channels fastest: [n, c, …] stored as [n, …, c]; inputs of fewer than 3 dims contiguous.
    ChannelsLast,
}

/// One differentiable operation with its attributes.
pub trait Op: Debug + Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// The only shape rule: what comes out, or why nothing can. With `recording`, extra results that only the vjp reads
    /// (a bit mask, a mean, a log-sum-exp) follow after the `visible` ones.
    fn infer(&self, x: &[&Meta], recording: bool) -> Result<Metas>;

    /// How many of the outputs the caller sees.
    fn visible(&self) -> usize {
        1
    }

    /// What the vjp reads when the inputs in `needs` want gradients.
    fn saves(&self, needs: Mask) -> Saves {
        let _ = needs;
        Saves::NOTHING
    }

    /// The inputs that have a derivative. Integer inputs never do.
    fn differentiable(&self) -> Mask {
        Mask::MAX
    }

    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 1.0)
    }

    fn layouts(&self, input: usize) -> Layouts {
        let _ = input;
        Layouts::Contiguous
    }

    /// True when the kernels read and write 16-bit floats themselves; otherwise the engine computes in f32 around them.
    fn takes_half(&self) -> bool {
        false
    }

    /// True when it is a pass over memory, so that its result need not be kept where a dearer op reads it.
    fn cheap(&self) -> bool {
        false
    }

    /// True when the vjp can read the first output in the place of the one output that it saves, which is smaller. Where
    /// another op keeps the first as well, that is enough.
    fn reads_first(&self) -> bool {
        false
    }

    /// An op that makes the first output from all inputs and the saved outputs, the same bits with less work.
    fn again(&self) -> Option<OpRef> {
        None
    }

    /// An op that makes the first output as this one does, and the ReLU of it in the same pass.
    fn with_relu(&self) -> Option<OpRef> {
        None
    }

    fn is_relu(&self) -> bool {
        false
    }

    /// Where this op is no more than a map of each channel of its first input and the ReLU of that.
    fn as_channel_map(&self) -> Option<&dyn ChannelMap> {
        None
    }

    /// For an op of one input whose vjp is dy times a slope: an op that writes the value, its output, and the slope over its
    /// input. In a node whose saved input was written over so, it stands in the place of this one.
    fn split(&self) -> Option<OpRef> {
        None
    }

    /// True when the output may be the memory of `x`, the first input: no element is read after another was written there.
    fn overwrites(&self, x: &Tensor) -> bool {
        let _ = x;
        false
    }

    /// True when `cpu` leaves something in its inputs, so that it must come to its end.
    fn writes_inputs(&self) -> bool {
        false
    }

    /// For ops that move no data: the output as a window on the input's storage.
    fn view(&self, x: &Tensor) -> Option<Result<Tensor>> {
        let _ = x;
        None
    }

    /// As `view`, for ops with several outputs.
    fn views(&self, x: &Tensor) -> Option<Result<run::Outputs>> {
        self.view(x).map(|view| view.map(|view| SmallVec::from_iter([view])))
    }

    /// True for ops whose outputs are windows on their first input.
    fn is_view(&self) -> bool {
        false
    }

    /// True when `cpu` takes memory beside its outputs. On paper it then runs as far as its last allocation, and returns
    /// before it touches a number; `cpu` of other ops does not run on paper.
    fn allocates(&self) -> bool {
        false
    }

    /// Fills the outputs. Inputs have the layout that `layouts` asked for; outputs are fresh and laid out as inferred.
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()>;

    /// As `cpu`, by kernels of a GPU that run later; all tensors are there, but for numbers where `takes_numbers`.
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let _ = (x, y, gpu);
        Err(gpu::no_kernel(self.name()))
    }

    /// As `takes_half`, of the kernels of a GPU.
    fn gpu_takes_half(&self) -> bool {
        false
    }

    /// True when `gpu` takes tensors of the host that are one number (`is_number`), rather than copies of them.
    fn takes_numbers(&self) -> bool {
        false
    }

    /// Gives each needed input its gradient, written with ops so that it can be differentiated again.
    fn vjp(&self, back: &mut Back) -> Result<()>;

    /// The same function, computed naively in f64; what the laws compare with. `None` where the op has no visible numbers
    /// to compare (such as fresh randomness).
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>>;
}

/// y = max((x - center) · scale + shift, 0), with numbers of their own for each channel: an op that copies what it reads of
/// y can make it on the way.
pub trait ChannelMap {
    /// Centers, scales and shifts one after the other, from all inputs of the op; in f32.
    fn numbers(&self, x: &[&Tensor], numbers: &mut [f32]);
}

/// An op by reference: most are stateless and static, those with attributes are shared.
#[derive(Clone, Debug)]
pub enum OpRef {
    Static(&'static dyn Op),
    Shared(Arc<dyn Op>),
}

impl std::ops::Deref for OpRef {
    type Target = dyn Op;
    fn deref(&self) -> &dyn Op {
        match self {
            OpRef::Static(op) => *op,
            OpRef::Shared(op) => &**op,
        }
    }
}

impl<O: Op> From<O> for OpRef {
    fn from(op: O) -> OpRef {
        OpRef::Shared(Arc::new(op))
    }
}

/// A value inside a running vjp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V(pub u32);

/// Who runs the ops of a vjp: the graph, recording them or not.
pub trait Engine {
    /// Applies an op; the first output is returned, the others follow it.
    fn apply(&mut self, op: OpRef, x: &[V]) -> Result<V>;
    fn tensor(&self, v: V) -> &Tensor;
    /// A value without history.
    fn constant(&mut self, tensor: Tensor) -> V;
    fn input(&mut self, i: usize) -> Result<V>;
    /// For an input that was not kept: the op that makes it again, and what that reads, where one op does, here and now.
    fn maker(&mut self, i: usize) -> Result<Option<(OpRef, SmallVec<[V; 6]>)>> {
        let _ = i;
        Ok(None)
    }
    fn output(&mut self, i: usize) -> Result<V>;
    /// True when output `i` is among what was saved.
    fn has_output(&self, i: usize) -> bool;
    /// True when the ops applied are recorded (`create_graph`), so that fused backward kernels are of no use unless they
    /// have a vjp themselves.
    fn records(&self) -> bool;
}

/// What a vjp is given: the saved operands, the gradients of the outputs, and a place for those of the inputs.
pub struct Back<'a> {
    engine: &'a mut dyn Engine,
    needs: Mask,
    dy: &'a [Option<V>],
    x: &'a [Meta],
    y: &'a [Meta],
    dx: SmallVec<[Option<V>; 4]>,
}

impl<'a> Back<'a> {
    pub fn new(engine: &'a mut dyn Engine, needs: Mask, dy: &'a [Option<V>], x: &'a [Meta], y: &'a [Meta]) -> Back<'a> {
        Back { engine, needs, dy, x, y, dx: SmallVec::from_elem(None, x.len()) }
    }

    pub fn finish(self) -> SmallVec<[Option<V>; 4]> {
        self.dx
    }

    pub fn records(&self) -> bool {
        self.engine.records()
    }
    pub fn inputs(&self) -> usize {
        self.x.len()
    }
    /// True when input `i` wants a gradient.
    pub fn needs(&self, i: usize) -> bool {
        self.needs & bit(i) != 0
    }
    pub fn input(&mut self, i: usize) -> Result<V> {
        self.engine.input(i)
    }
    pub fn maker(&mut self, i: usize) -> Result<Option<(OpRef, SmallVec<[V; 6]>)>> {
        self.engine.maker(i)
    }
    pub fn output(&mut self, i: usize) -> Result<V> {
        self.engine.output(i)
    }
    pub fn has_output(&self, i: usize) -> bool {
        self.engine.has_output(i)
    }
    pub fn input_meta(&self, i: usize) -> &'a Meta {
        &self.x[i]
    }
    pub fn output_meta(&self, i: usize) -> &'a Meta {
        &self.y[i]
    }
    /// The gradient of output `i`, if anything depended on it.
    pub fn dy_of(&self, i: usize) -> Option<V> {
        self.dy[i]
    }
    /// The gradient of the first output. An op with several outputs asks `dy_of`, or `dy_or_zeros`.
    pub fn dy(&self) -> V {
        self.dy[0].expect("bug: a vjp ran without a gradient of its only output")
    }
    pub fn dy_or_zeros(&mut self, i: usize) -> Result<V> {
        match self.dy[i] {
            Some(dy) => Ok(dy),
            None => {
                let y = &self.y[i];
                self.full(0.0, y.shape(), y.dtype)
            }
        }
    }
    /// Sets the gradient of input `i`. The sweep sums it down to the input's shape and casts it to its type.
    pub fn give(&mut self, i: usize, dx: V) {
        self.dx[i] = Some(dx);
    }
    pub fn apply(&mut self, op: impl Into<OpRef>, x: &[V]) -> Result<V> {
        self.engine.apply(op.into(), x)
    }
    /// The op of this registry name, built from attributes.
    pub fn call(&mut self, name: &str, x: &[V], attributes: &[args::Attribute]) -> Result<V> {
        let op = registry::build(name, attributes)?;
        self.engine.apply(op, x)
    }
    pub fn tensor(&self, v: V) -> &Tensor {
        self.engine.tensor(v)
    }
    pub fn meta(&self, v: V) -> Meta {
        self.engine.tensor(v).meta.clone()
    }
    pub fn shape(&self, v: V) -> Dims {
        Dims::from_slice(self.engine.tensor(v).shape())
    }
    pub fn constant(&mut self, tensor: Tensor) -> V {
        self.engine.constant(tensor)
    }
    /// The output that follows `v` by `n` in the same application.
    pub fn next(&self, v: V, n: u32) -> V {
        V(v.0 + n)
    }

    // The words that vjps are written with.
    pub fn add(&mut self, a: V, b: V) -> Result<V> {
        self.call("add", &[a, b], &[])
    }
    pub fn sub(&mut self, a: V, b: V) -> Result<V> {
        self.call("sub", &[a, b], &[])
    }
    pub fn mul(&mut self, a: V, b: V) -> Result<V> {
        self.call("mul", &[a, b], &[])
    }
    pub fn div(&mut self, a: V, b: V) -> Result<V> {
        self.call("div", &[a, b], &[])
    }
    pub fn neg(&mut self, a: V) -> Result<V> {
        self.call("neg", &[a], &[])
    }
    /// a · c for a number c.
    pub fn scale(&mut self, a: V, c: f64) -> Result<V> {
        let c = self.number(c, self.tensor(a).dtype())?;
        self.mul(a, c)
    }
    pub fn number(&mut self, c: f64, dtype: DType) -> Result<V> {
        let c = Tensor::scalar(c, dtype)?;
        Ok(self.engine.constant(c))
    }
    /// A tensor of the host, where `like` is.
    pub fn beside(&mut self, tensor: Tensor, like: V) -> Result<V> {
        let device = self.engine.tensor(like).device();
        let stays = device == Device::Cpu;
        let tensor = if stays { tensor } else { transfer::moved(&tensor, device, Category::Temporary)? };
        Ok(self.engine.constant(tensor))
    }
    /// A number spread over a shape without data of that size.
    pub fn full(&mut self, c: f64, shape: &[usize], dtype: DType) -> Result<V> {
        let c = self.number(c, dtype)?;
        self.expand(c, shape)
    }
    /// An op that moves no data. Where nothing is recorded, its result is a window and no engine need run it.
    fn view(&mut self, op: impl Op, a: V) -> Result<V> {
        if !self.records()
            && let Some(window) = op.view(self.tensor(a))
        {
            let window = window?;
            return Ok(self.constant(window));
        }
        self.apply(op, &[a])
    }
    pub fn expand(&mut self, a: V, shape: &[usize]) -> Result<V> {
        if self.tensor(a).shape() == shape {
            return Ok(a);
        }
        self.view(views::Expand::to(shape), a)
    }
    pub fn reshape(&mut self, a: V, shape: &[usize]) -> Result<V> {
        if self.tensor(a).shape() == shape {
            return Ok(a);
        }
        self.view(views::Reshape::to(shape), a)
    }
    pub fn permute(&mut self, a: V, dims: &[usize]) -> Result<V> {
        self.view(views::Permute::to(dims), a)
    }
    /// Swaps the last two dims.
    pub fn transpose(&mut self, a: V) -> Result<V> {
        let rank = self.tensor(a).shape().len();
        let mut dims: Dims = (0..rank).collect();
        dims.swap(rank - 2, rank - 1);
        self.permute(a, &dims)
    }
    pub fn matmul(&mut self, a: V, b: V) -> Result<V> {
        self.call("matmul", &[a, b], &[])
    }
    pub fn sum(&mut self, a: V, dims: &[usize], keepdim: bool) -> Result<V> {
        if dims.is_empty() {
            return Ok(a);
        }
        self.call("sum", &[a], &[args::ints(dims), args::flag(keepdim)])
    }
    pub fn cast(&mut self, a: V, dtype: DType) -> Result<V> {
        if self.tensor(a).dtype() == dtype {
            return Ok(a);
        }
        self.call("cast", &[a], &[args::text(dtype.name())])
    }
}

/// Refuses the wrong number of inputs. Bindings pass tensors on as they come, so every op's `infer` starts with this.
pub fn expect_inputs(op: &str, x: &[&Meta], wanted: usize) -> Result<()> {
    if x.len() == wanted { Ok(()) } else { Err(error::arity(op, x.len(), &wanted.to_string())) }
}

/// True for a tensor of the host that is one number, spread or not: it may stand beside tensors of any device.
pub fn is_number(x: &Meta) -> bool {
    x.device == Device::Cpu && x.layout.strides().iter().all(|&s| s == 0)
}

/// All inputs on one device, numbers aside.
pub fn one_device(op: &str, x: &[&Meta]) -> Result<Device> {
    let Some(first) = x.first() else { return Ok(Device::Cpu) };
    if x.iter().all(|m| m.device == first.device) {
        return Ok(first.device);
    }
    let mut rest = x.iter().filter(|m| !is_number(m));
    let Some(first) = rest.next() else { return Ok(Device::Cpu) };
    match rest.find(|m| m.device != first.device) {
        None => Ok(first.device),
        Some(other) => Err(Error::device(format!(
            "{op}: tensors are on {} and {}; move them to one device (help: x.to(device))",
            first.device.name(),
            other.device.name()
        ))),
    }
}

pub fn expect_float(op: &str, x: &Meta) -> Result<()> {
    if x.dtype.is_float() { Ok(()) } else { Err(error::wants_float(op, x.dtype.name())) }
}

pub fn expect_index(op: &str, x: &Meta) -> Result<()> {
    match x.dtype {
        DType::I64 => Ok(()),
        other => Err(Error::dtype(format!(
            "{op}: indices of dtype {}; int64 is needed (help: x.to(bs.int64))",
            other.name()
        ))),
    }
}

/// A single contiguous output of the given shape and type on the device of the first input.
pub fn output(op: &str, x: &[&Meta], shape: &[usize], dtype: DType) -> Result<Metas> {
    let device = one_device(op, x)?;
    Ok(SmallVec::from_iter([Meta { layout: layout_like(op, x, shape)?, dtype, device }]))
}

/// A contiguous layout, shared with an input that has just this one.
pub fn layout_like(op: &str, x: &[&Meta], shape: &[usize]) -> Result<Arc<Layout>> {
    let same = x.iter().find(|m| m.layout.is_contiguous() && m.shape() == shape);
    same.map_or_else(|| Layout::contiguous(op, shape), |m| Ok(m.layout.clone()))
}

/// A fused gradient runs only in sweeps that are not recorded.
pub fn fused_was_recorded(op: &str) -> Error {
    Error::internal(format!("bug: the fused gradient of {op} was recorded"))
}
