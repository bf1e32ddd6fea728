//! Elementwise ops, made from a formula: any layout, any broadcasting, any mix of element types.
//!
//! An op is worked out as a step over the elements of its result in the order of their memory, and handed to the queue, which
//! joins it with others (`group`) before it is sent as a kernel (`woven`).

use super::Gpu;
use super::faults::{Check, Valid};
use super::group::{Head, Input, Operand, Owner, Sizes, Step, Steps, in_order};
use super::kernel::index;
use super::text::Text;
use crate::arena::space::Place;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::{Layout, broadcast_strides};
use smallvec::SmallVec;
use std::sync::Arc;

/// Axes that a kernel takes after neighbours have been merged.
const AXES: usize = 12;

/// Who holds a block.
pub trait Holder: Send + Sync {
    fn watch(&self) -> Owner;
}

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
    /// `None` where it is kept until what uses it has been sent.
    pub holder: Option<&'a dyn Holder>,
}

/// What a formula reads.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    Buffer(Buffer<'a>),
    /// One bit an element in the order of the result, which is gapless, from the start of the block.
    Bits(Buffer<'a>),
    /// One number of the host, for all elements.
    Number(f64),
    /// The formula does not read it.
    Absent,
}

/// Where results go: elements of a tensor, or one bit for each element of a gapless one, from the start of a block.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    Elements(Buffer<'a>),
    Bits { of: Buffer<'a>, to: Buffer<'a> },
}

/// y = f(inputs), every operand broadcast to the shape of `out`.
pub fn launch(gpu: &Gpu, op: &'static str, text: &Text, compute: DType, inputs: &[Source], out: &Buffer) -> Result<()> {
    let made = step(op, text, compute, inputs, &Target::Elements(*out))?;
    gpu.hold(op, made.into_iter().collect())
}

/// A launch worked out, to be held by the queue; `None` when there are no elements.
pub fn step(op: &'static str, text: &Text, compute: DType, inputs: &[Source], to: &Target) -> Result<Option<Step>> {
    debug_assert_eq!(inputs.len(), text.arity);
    let (space, result) = match to {
        Target::Elements(out) => (out, out),
        Target::Bits { of, to } => (of, to),
    };
    let n = space.layout.numel();
    if n == 0 {
        return Ok(None);
    }
    let doubles = inputs.iter().any(|s| matches!(s, Source::Buffer(b) if b.dtype == DType::F64));
    if compute == DType::F64 || space.dtype == DType::F64 || doubles {
        return Err(super::no_float64(op));
    }
    index(op, n)?;
    let (sizes, mut lists) = walk(op, inputs, space)?;
    let numbers = sizes.iter().copied().chain(lists.iter().flatten().map(|stride| stride.unsigned_abs()));
    numbers.into_iter().try_for_each(|n| index(op, n).map(|_| ()))?;
    let out = lists.pop().unwrap_or_default();
    let wide = match to {
        Target::Elements(to) => {
            (to.whole || n.is_multiple_of(4)) && to.offset.is_multiple_of(4) && in_order(&sizes, &out)
        }
        Target::Bits { .. } => true,
    };
    let operand = |b: &Buffer, strides: Steps, all: bool| -> Result<Operand> {
        index(op, b.offset)?;
        Ok(Operand::new(b.place, b.offset, b.dtype, &sizes, strides, all))
    };
    let float = compute.is_float();
    let mut list = SmallVec::new();
    for (source, strides) in inputs.iter().zip(lists) {
        list.push(match source {
            Source::Absent => Input::Absent,
            Source::Number(v) if float => Input::Number((*v as f32).to_bits()),
            Source::Number(v) => Input::Number(whole(op, *v)? as u32),
            Source::Bits(b) => Input::Memory(Operand::bits(b.place)),
            Source::Buffer(b) => Input::Memory(operand(b, strides, false)?),
        });
    }
    let guarded = inputs.iter().any(|s| matches!(s, Source::Buffer(b) if b.dtype == DType::I64));
    Ok(Some(Step {
        name: op,
        head: None,
        text: *text,
        float,
        inputs: list,
        out: match to {
            Target::Elements(out_of) => operand(out_of, out, out_of.whole)?,
            Target::Bits { to, .. } => Operand::bits(to.place),
        },
        wide,
        owner: result.holder.map(Holder::watch),
        seen: false,
        site: if guarded { Check::new(op, &[], Valid::Narrow).site() } else { 0 },
        sizes,
    }))
}

/// What a group begins with: a kernel of float32 that hands over the elements of y, which is gapless, in the order of memory.
pub fn head(op: &'static str, head: Head, y: &Buffer) -> Result<Step> {
    let (sizes, mut lists) = walk(op, &[], y)?;
    let strides = lists.pop().unwrap_or_default();
    Ok(Step {
        name: op,
        head: Some(Arc::new(head)),
        text: Text::written(0, |_| String::new()),
        float: true,
        inputs: SmallVec::new(),
        out: Operand::new(y.place, y.offset, y.dtype, &sizes, strides, y.whole),
        wide: false,
        owner: y.holder.map(Holder::watch),
        seen: false,
        site: 0,
        sizes,
    })
}

/// The sizes of the space in the order of the result's memory, neighbours merged, and the strides of the inputs and of the
/// result along them.
fn walk(op: &'static str, inputs: &[Source], out: &Buffer) -> Result<(Sizes, SmallVec<[Steps; 7]>)> {
    let shape = out.layout.shape();
    let strides: SmallVec<[Steps; 7]> = inputs
        .iter()
        .map(|s| match s {
            Source::Buffer(b) => broadcast_strides(b.layout, shape).as_slice().into(),
            _ => SmallVec::from_elem(0, shape.len()),
        })
        .chain([out.layout.strides().into()])
        .collect();
    let mut order: SmallVec<[usize; 6]> = (0..shape.len()).filter(|&i| shape[i] != 1).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(out.layout.strides()[i].unsigned_abs()));
    let mut sizes = Sizes::new();
    let mut lists: SmallVec<[Steps; 7]> = SmallVec::from_elem(Steps::new(), strides.len());
    for &axis in &order {
        let size = shape[axis];
        let step = |list: usize| strides[list][axis];
        let merges = !sizes.is_empty()
            && (0..lists.len()).all(|l| lists[l].last().is_some_and(|s| *s == step(l) * size as isize));
        for (l, list) in lists.iter_mut().enumerate() {
            if merges {
                list.pop();
            }
            list.push(step(l));
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
    Ok((sizes, lists))
}

/// A number of the host among integers.
fn whole(op: &str, v: f64) -> Result<i32> {
    i32::try_from(v as i64).map_err(|_| {
        Error::device(format!(
            "{op}: the number {v} among integers, which GPUs compute in 32 bits; -2147483648 to 2147483647 are possible \
             (help: x.cpu())"
        ))
    })
}
