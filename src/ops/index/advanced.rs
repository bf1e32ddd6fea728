//! Advanced indexing: int64 tensors of one shape S name places in the leading dims of a tensor, from either end.
//!
//! Whatever Python allows beyond that (slices, ellipsis, masks, indices that broadcast or that are not in front) is
//! brought into this form by views before.

use super::super::args::{Args, flag};
use super::super::laws::{Domain, Exact, Sample};
use super::super::registry::Entry;
use super::super::{Back, Cost, Layouts, Mask, Metas, Op, OpRef, Saves, V, expect_index, output, run};
use super::{begin_as, expect_number, expect_same_type, keep_winners, on_gpu, ordinals};
use crate::arena::ledger::Category;
use crate::arena::on_paper;
use crate::device::cpu::slices::{self, Ends, Rows};
use crate::device::gpu::Gpu;
use crate::device::gpu::faults::{Check, Valid};
use crate::device::gpu::places::{self, Meeting, Walk};
use crate::device::gpu::pointwise::Buffer;
use crate::dtype::DType;
use crate::error::{self, Error, Result};
use crate::shape::{self, Dims, Layout};
use crate::tensor::{Meta, Tensor};
use smallvec::SmallVec;

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "index_get", build: IndexGet::build, samples: IndexGet::samples });
    list.push(Entry { name: "index_put", build: IndexPut::build, samples: IndexPut::samples });
}

/// The shape of what the indices name: S, then the dims that are not indexed.
fn named(op: &str, x: &Meta, indices: &[&Meta]) -> Result<Dims> {
    let Some(first) = indices.first() else {
        return Err(error::arity(op, 1, "a tensor and at least one index"));
    };
    if indices.len() > x.rank() {
        return Err(Error::shape(format!(
            "{op}: {} indices for {:?}; at most one a dim is possible",
            indices.len(),
            x.shape()
        )));
    }
    for index in indices {
        expect_index(op, index)?;
        if index.shape() != first.shape() {
            return Err(Error::shape(format!(
                "{op}: indices of shapes {:?} and {:?}; expand them to one shape",
                first.shape(),
                index.shape()
            )));
        }
    }
    Ok(first.shape().iter().chain(&x.shape()[indices.len()..]).copied().collect())
}

fn rows<'a>(op: &'static str, x: &[usize], indices: &'a [&Tensor]) -> (Rows<'a>, usize) {
    let views: SmallVec<[_; 4]> = indices.iter().map(|t| t.view()).collect();
    (Rows::new(op, &views, &x[..indices.len()], Ends::Both), x[indices.len()..].iter().product())
}

/// As `rows`, for a GPU: what is walked over, and how indices are checked.
fn walk(op: &'static str, x: &[usize], indices: &[&Tensor]) -> (Walk, Check) {
    let (front, rest) = x.split_at(indices.len());
    let positions = indices[0].numel();
    let walk = Walk { outer: 1, count: front.iter().product(), inner: rest.iter().product(), positions, lines: false };
    (walk, Check::new(op, front, Valid::FromBothEnds))
}

/// The place in x that an element of the result comes from.
fn source(indices: &[Exact], index: &[usize]) -> Dims {
    let (position, rest) = index.split_at(indices[0].shape.len());
    indices.iter().map(|i| i.at(position) as usize).chain(rest.iter().copied()).collect()
}

/// x[i1, i2, …]: inputs x [d1 … dk, rest…] and k indices of shape S → [S, rest…].
#[derive(Debug)]
pub struct IndexGet;

impl IndexGet {
    fn build(_: &mut Args) -> Result<OpRef> {
        Ok(OpRef::Static(&IndexGet))
    }

    fn samples() -> Vec<Sample> {
        let of = |x: &[usize], indices: usize, at: &[usize]| {
            let mut inputs = vec![(x, Domain::Any)];
            inputs.extend((0..indices).map(|i| (at, Domain::Index(x[i]))));
            Sample::of(Self::build, &[], &inputs)
        };
        vec![
            of(&[5, 3], 1, &[2, 4]),
            of(&[4, 3, 5], 2, &[7]),
            of(&[4, 3], 2, &[]),
            of(&[9], 1, &[11]),
            of(&[4, 3], 1, &[0]),
            of(&[2, 3, 0], 2, &[2]),
        ]
    }
}

impl Op for IndexGet {
    fn name(&self) -> &'static str {
        "index_get"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        let Some((first, indices)) = x.split_first() else {
            return Err(error::arity("index", 0, "a tensor and at least one index"));
        };
        output("index", x, &named("index", first, indices)?, first.dtype)
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(!1)
    }
    fn differentiable(&self) -> Mask {
        1
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        let indices: usize = x[1..].iter().map(|m| m.bytes()).sum();
        Cost { flops: 0.0, bytes: (indices + 2 * y[0].bytes()) as f64 }
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let (rows, inner) = rows("index", x[0].shape(), &x[1..]);
        slices::take(&x[0].view(), &rows, 1, inner, &y[0].view())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let (walk, check) = walk("index", x[0].shape(), &x[1..]);
        if let ([index], true) = (&x[1..], y[0].numel() > 0) {
            return places::take(gpu, walk, check, &x[0].buffer(), &index.buffer(), &y[0].buffer());
        }
        let indices: SmallVec<[Buffer; 4]> = x[1..].iter().map(|t| t.buffer()).collect();
        let rows = places::rows(gpu, check.clone(), &indices)?;
        places::take_rows(gpu, walk, check, &x[0].buffer(), &rows, &y[0].buffer())
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let x = back.input_meta(0);
        let zeros = back.full(0.0, x.shape(), x.dtype)?;
        let mut operands: SmallVec<[V; 6]> = SmallVec::from_slice(&[zeros, back.dy()]);
        for i in 1..back.inputs() {
            operands.push(back.input(i)?);
        }
        let dx = back.apply(IndexPut { accumulate: true }, &operands)?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let indices = &x[1..];
        let shape: Dims = indices[0].shape.iter().chain(&x[0].shape[indices.len()..]).copied().collect();
        Some(vec![Exact::build(&shape, |index| x[0].at(&source(indices, index)))])
    }
}

/// x with values written (or added) at [i1, i2, …]: inputs x [d1 … dk, rest…], values that broadcast to [S, rest…], and k
/// indices of shape S.
#[derive(Debug)]
pub struct IndexPut {
    accumulate: bool,
}

impl IndexPut {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(IndexPut { accumulate: args.flag("accumulate")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |accumulate: bool, x: &[usize], values: &[usize], indices: usize, at: &[usize]| {
            let mut inputs = vec![(x, Domain::Any), (values, Domain::Any)];
            inputs.extend((0..indices).map(|i| (at, Domain::Index(x[i]))));
            Sample::of(Self::build, &[flag(accumulate)], &inputs)
        };
        let both = |accumulate: bool| {
            [
                of(accumulate, &[5, 3], &[2, 4, 3], 1, &[2, 4]),
                of(accumulate, &[4, 3, 5], &[5], 2, &[7]),
                of(accumulate, &[4, 3], &[], 2, &[]),
                of(accumulate, &[9], &[11], 1, &[11]),
                of(accumulate, &[9], &[1], 1, &[4]),
                of(accumulate, &[4, 3], &[0, 3], 1, &[0]),
            ]
        };
        both(false).into_iter().chain(both(true)).collect()
    }
}

impl Op for IndexPut {
    fn name(&self) -> &'static str {
        "index_put"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        let [first, values, indices @ ..] = x else {
            return Err(error::arity("index_put", x.len(), "a tensor, values and at least one index"));
        };
        let target = named("index_put", first, indices)?;
        expect_same_type("index_put", first, values)?;
        if self.accumulate {
            expect_number("index_put", first)?;
        }
        let joint = shape::broadcast("index_put", values.shape(), &target);
        if !joint.is_ok_and(|joint| joint == target) {
            return Err(Error::shape(format!(
                "index_put: values of shape {:?} cannot be broadcast to the indexed shape {:?}",
                values.shape(),
                target.as_slice()
            )));
        }
        output("index_put", x, first.shape(), first.dtype)
    }
    fn saves(&self, needs: Mask) -> Saves {
        if self.accumulate && needs & 0b10 == 0 { Saves::NOTHING } else { Saves::inputs(!0b11) }
    }
    fn differentiable(&self) -> Mask {
        0b11
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        let rest: usize = x[0].shape()[x.len() - 2..].iter().product();
        let flops = if self.accumulate { (x[2].numel() * rest) as f64 } else { 0.0 };
        Cost { flops, ..Cost::streaming(x, y, 0.0) }
    }
    fn layouts(&self, input: usize) -> Layouts {
        if input < 2 { Layouts::Any } else { Layouts::Contiguous }
    }
    fn takes_half(&self) -> bool {
        !self.accumulate
    }
    fn overwrites(&self, x: &Tensor) -> bool {
        x.layout().is_contiguous()
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let metas: SmallVec<[&Meta; 4]> = x[2..].iter().map(|t| &t.meta).collect();
        let target = named("index_put", &x[0].meta, &metas)?;
        let (rows, inner) = rows("index_put", x[0].shape(), &x[2..]);
        let spread;
        let values = if x[1].shape() == target.as_slice() && x[1].layout().is_contiguous() {
            x[1]
        } else {
            let strides = shape::broadcast_strides(x[1].layout(), &target);
            let window = x[1].with_layout(Layout::strided(&target, &strides), x[1].offset());
            spread = run::relaid(&window, Layout::contiguous("index_put", &target)?, Category::Workspace)?;
            &spread
        };
        if on_paper() {
            return Ok(());
        }
        if x[0].shares_storage(&y[0]) {
            // In place: an index out of range must leave the target as it was.
            slices::check(&rows)?;
        } else {
            begin_as(x[0], &y[0]);
        }
        match self.accumulate {
            true => slices::add(&y[0].view(), &rows, &values.view(), 1, inner, None),
            false => slices::put(&y[0].view(), &rows, &values.view(), 1, inner),
        }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let device = y[0].device();
        let indices = x[2..].iter().map(|t| on_gpu::laid(t, device)).collect::<Result<SmallVec<[Tensor; 4]>>>()?;
        let references: SmallVec<[&Tensor; 4]> = indices.iter().collect();
        let (walk, check) = walk("index_put", x[0].shape(), &references);
        let buffers: SmallVec<[Buffer; 4]> = indices.iter().map(Tensor::buffer).collect();
        let rows = places::rows(gpu, check, &buffers)?;
        let metas: SmallVec<[&Meta; 4]> = indices.iter().map(|t| &t.meta).collect();
        let target = named("index_put", &x[0].meta, &metas)?;
        let strides = shape::broadcast_strides(x[1].layout(), &target);
        let spread = x[1].with_layout(Layout::strided(&target, &strides), x[1].offset());
        let values = on_gpu::laid(&spread, device)?;
        let meeting = if self.accumulate { Meeting::Add } else { Meeting::Replace };
        on_gpu::meet(gpu, "index_put", walk, meeting, x[0], &y[0], &rows, &values, None)
    }
    fn gpu_takes_half(&self) -> bool {
        !self.accumulate
    }
    fn takes_numbers(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, shape) = (back.dy(), Dims::from(back.input_meta(0).shape()));
        let mut indices: SmallVec<[V; 6]> = SmallVec::new();
        if !self.accumulate || back.needs(1) {
            for i in 2..back.inputs() {
                indices.push(back.input(i)?);
            }
        }
        let with = |front: &[V], indices: &[V]| -> SmallVec<[V; 6]> { front.iter().chain(indices).copied().collect() };
        if back.needs(0) {
            let dx = if self.accumulate {
                dy
            } else {
                let zero = back.number(0.0, back.meta(dy).dtype)?;
                back.apply(IndexPut { accumulate: false }, &with(&[dy, zero], &indices))?
            };
            back.give(0, dx);
        }
        if back.needs(1) {
            let mut dvalues = back.apply(OpRef::Static(&IndexGet), &with(&[dy], &indices))?;
            if !self.accumulate {
                let numbers = ordinals(back, indices[0])?;
                let nowhere = back.full(-1.0, &shape[..indices.len()], DType::I64)?;
                let stayed = back.apply(IndexPut { accumulate: false }, &with(&[nowhere, numbers], &indices))?;
                let winners = back.apply(OpRef::Static(&IndexGet), &with(&[stayed], &indices))?;
                dvalues = keep_winners(back, winners, numbers, dvalues)?;
            }
            back.give(1, dvalues);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let indices = &x[2..];
        let shape: Dims = indices[0].shape.iter().chain(&x[0].shape[indices.len()..]).copied().collect();
        let mut y = x[0].clone();
        Exact::build(&shape, |index| {
            let place = y.at_mut(&source(indices, index));
            *place = x[1].at_broadcast(index) + if self.accumulate { *place } else { 0.0 };
            0.0
        });
        Some(vec![y])
    }
}
