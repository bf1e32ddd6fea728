//! Folds on a GPU: scratch memory, and copies where a kernel's types or strides are not those of the tensors.

use crate::arena::ledger::Category;
use crate::device::gpu::Gpu;
use crate::device::gpu::fold::{self, How, Operands};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::pointwise::copy_on;
use crate::ops::run::relaid;
use crate::shape::Layout;
use crate::tensor::{Meta, Tensor};

/// What a fold reads besides its tensor (another that lies alike, and up to two of numbers that belong to the outputs), and
/// what it writes besides.
#[derive(Clone, Copy, Default)]
pub struct More<'a> {
    pub other: Option<&'a Tensor>,
    pub own: Option<&'a Tensor>,
    pub more: Option<&'a Tensor>,
    /// Where the second result goes, if there is one: float32, or int64 where it is a place.
    pub second: Option<&'a Tensor>,
    /// The numbers of the formula: a scale, and one of its own.
    pub numbers: [f64; 2],
}

/// Scratch memory of so many bytes, if any is needed.
pub fn scratch(op: &str, bytes: usize, like: &Tensor) -> Result<Option<Tensor>> {
    if bytes == 0 {
        return Ok(None);
    }
    let meta = Meta::contiguous(op, &[bytes / 4], DType::I32, like.device())?;
    Tensor::empty(meta, Category::Workspace).map(Some)
}

/// Folds the flagged dims of x into y, which is contiguous and may be of any type.
pub fn run(gpu: &Gpu, op: &'static str, how: How, x: &Tensor, flags: &[bool], with: More, y: &Tensor) -> Result<()> {
    if y.numel() == 0 {
        return Ok(());
    }
    if !fold::writes(how, x.dtype(), y.dtype()) {
        let own = fold::dtype(how, x.dtype());
        let out = Tensor::empty(Meta::contiguous(op, y.shape(), own, y.device())?, Category::Workspace)?;
        run(gpu, op, how, x, flags, with, &out)?;
        return copy_on(gpu, &out, y);
    }
    let Some(plan) = fold::plan(op, how, &x.buffer(), flags, with.numbers)? else {
        // Whatever lies alike is copied alike.
        let layout = Layout::contiguous(op, x.shape())?;
        let copied = |t: &Tensor| relaid(t, layout.clone(), Category::Workspace);
        let (x, other) = (copied(x)?, with.other.map(copied).transpose()?);
        return run(gpu, op, how, &x, flags, More { other: other.as_ref(), ..with }, y);
    };
    let scratch = scratch(op, plan.scratch_bytes(x.dtype()), y)?;
    let operands = Operands {
        x: x.buffer(),
        other: with.other.map(Tensor::buffer),
        own: with.own.map(Tensor::buffer),
        more: with.more.map(Tensor::buffer),
        y: y.buffer(),
        z: with.second.map(Tensor::buffer),
    };
    plan.run(gpu, op, operands, scratch.as_ref().map(Tensor::place))
}
