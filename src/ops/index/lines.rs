//! Single elements along a dim: gather, scatter and scatter_add.

use super::super::args::{Args, int, ints};
use super::super::laws::{Domain, Exact, Sample};
use super::super::pointwise::copy_on;
use super::super::registry::Entry;
use super::super::{Back, Cost, Layouts, Mask, Metas, Op, OpRef, Saves, V, expect_index, expect_inputs, output};
use super::{along, begin_as, expect_number, expect_same_type, keep_winners, on_gpu, ordinals};
use crate::device::cpu::lines::{self, Meeting};
use crate::device::gpu::Gpu;
use crate::device::gpu::faults::{Check, Valid};
use crate::device::gpu::places::{self, Walk};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::{self, Dims, Layout};
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.extend([
        Entry { name: "gather", build: Gather::build, samples: Gather::samples },
        Entry { name: "scatter", build: Scatter::build_replace, samples: Scatter::replace_samples },
        Entry { name: "scatter_add", build: Scatter::build_add, samples: Scatter::add_samples },
    ]);
}

/// The dim, when the index has no line that the tensor lacks.
fn lined_up(op: &str, dim: i64, x: &Meta, index: &Meta) -> Result<usize> {
    expect_index(op, index)?;
    let dim = shape::dim(op, dim, x.shape())?;
    let (sizes, wanted) = (index.shape(), x.shape());
    if sizes.len() != wanted.len() || (0..sizes.len()).any(|i| i != dim && sizes[i] > wanted[i]) {
        return Err(Error::shape(format!(
            "{op}: an index of shape {sizes:?} on {wanted:?}; the same number of dims is needed, with no larger sizes but in \
             dim {dim}"
        )));
    }
    Ok(dim)
}

/// For a GPU: lines of a tensor of the index's shape, but for the dim.
fn walk(x: &[usize], index: &[usize], dim: usize) -> Walk {
    let ([outer, count, inner], [_, positions, _]) = (on_gpu::around(x, dim), on_gpu::around(index, dim));
    Walk { outer, count, inner, positions, lines: true }
}

/// Where an index's element points to.
fn target(index: &Exact, dim: usize, at: &[usize]) -> Dims {
    let mut to = Dims::from(at);
    if let Some(place) = to.get_mut(dim) {
        *place = index.at(at) as usize;
    }
    to
}

/// y[i][j] = x[index[i][j]][j] for dim 0, and so on: the shape is the index's.
#[derive(Debug)]
pub struct Gather {
    dim: i64,
}

impl Gather {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Gather { dim: args.int("dim")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |dim: i64, x: &[usize], index: &[usize]| {
            let at = if dim < 0 { x.len() as i64 + dim } else { dim } as usize;
            let size = x.get(at).copied().unwrap_or(1);
            Sample::of(Self::build, &[int(dim)], &[(x, Domain::Any), (index, Domain::Index(size))])
        };
        vec![
            of(1, &[3, 5], &[3, 4]),
            of(0, &[3, 5], &[7, 5]),
            of(1, &[3, 4, 5], &[2, 6, 3]),
            of(-1, &[4, 9], &[4, 1]),
            of(0, &[5], &[3]),
            of(0, &[], &[]),
            of(0, &[3, 2], &[0, 2]),
        ]
    }
}

impl Op for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("gather", x, 2)?;
        lined_up("gather", self.dim, x[0], x[1])?;
        output("gather", x, x[1].shape(), x[0].dtype)
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(0b10)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost { flops: 0.0, bytes: (x[1].bytes() + 2 * y[0].bytes()) as f64 }
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let dim = shape::dim("gather", self.dim, x[0].shape())?;
        lines::gather("gather", &x[0].view(), &x[1].view(), dim, &y[0].view())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let dim = shape::dim("gather", self.dim, x[0].shape())?;
        let index = on_gpu::laid(x[1], y[0].device())?;
        let from = on_gpu::laid(&on_gpu::shared(x[0], index.shape(), dim), y[0].device())?;
        let walk = walk(from.shape(), index.shape(), dim);
        let check = Check::new("gather", &[walk.count], Valid::FromStart);
        places::take(gpu, walk, check, &from.buffer(), &index.buffer(), &y[0].buffer())
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, index, x) = (back.dy(), back.input(1)?, back.input_meta(0));
        let dim = shape::dim("gather", self.dim, x.shape())?;
        let zeros = back.full(0.0, x.shape(), x.dtype)?;
        let dx = back.call("scatter_add", &[zeros, index, dy], &along(dim))?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let dim = shape::dim("gather", self.dim, &x[0].shape).ok()?;
        Some(vec![Exact::build(&x[1].shape, |at| x[0].at(&target(&x[1], dim, at)))])
    }
}

/// x with src[i][j] written to (or added at) [index[i][j]][j] for dim 0, and so on. src may be larger than the index; its
/// rest is not used.
#[derive(Debug)]
pub struct Scatter {
    dim: i64,
    adds: bool,
}

impl Scatter {
    fn build_replace(args: &mut Args) -> Result<OpRef> {
        Ok(Scatter { dim: args.int("dim")?, adds: false }.into())
    }
    fn build_add(args: &mut Args) -> Result<OpRef> {
        Ok(Scatter { dim: args.int("dim")?, adds: true }.into())
    }

    fn replace_samples() -> Vec<Sample> {
        Self::samples(Self::build_replace)
    }
    fn add_samples() -> Vec<Sample> {
        Self::samples(Self::build_add)
    }
    fn samples(build: fn(&mut Args) -> Result<OpRef>) -> Vec<Sample> {
        let of = |dim: i64, x: &[usize], index: &[usize], src: &[usize]| {
            let at = if dim < 0 { x.len() as i64 + dim } else { dim } as usize;
            let size = x.get(at).copied().unwrap_or(1);
            Sample::of(build, &[int(dim)], &[(x, Domain::Any), (index, Domain::Index(size)), (src, Domain::Any)])
        };
        vec![
            of(1, &[3, 5], &[3, 4], &[3, 4]),
            of(0, &[3, 5], &[7, 5], &[7, 5]),
            of(1, &[3, 4, 5], &[2, 6, 3], &[3, 6, 4]),
            of(-1, &[4, 9], &[4, 1], &[4, 1]),
            of(0, &[5], &[3], &[3]),
            of(0, &[], &[], &[]),
            of(0, &[3, 2], &[0, 2], &[0, 2]),
        ]
    }

    fn of(&self, x: &Meta) -> Result<usize> {
        shape::dim(self.name(), self.dim, x.shape())
    }

    /// What src receives, without the part of it that was not used.
    fn gathered(&self, back: &mut Back, dy: V, index: V) -> Result<V> {
        let x = back.input_meta(0);
        let dim = self.of(x)?;
        let dsrc = back.call("gather", &[dy, index], &along(dim))?;
        if self.adds {
            return Ok(dsrc);
        }
        let numbers = ordinals(back, index)?;
        let nowhere = back.full(-1.0, x.shape(), DType::I64)?;
        let stayed = back.call("scatter", &[nowhere, index, numbers], &along(dim))?;
        let winners = back.call("gather", &[stayed, index], &along(dim))?;
        keep_winners(back, winners, numbers, dsrc)
    }
}

impl Op for Scatter {
    fn name(&self) -> &'static str {
        if self.adds { "scatter_add" } else { "scatter" }
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        let op = self.name();
        expect_inputs(op, x, 3)?;
        lined_up(op, self.dim, x[0], x[1])?;
        expect_same_type(op, x[0], x[2])?;
        if self.adds {
            expect_number(op, x[0])?;
        }
        let (index, src) = (x[1].shape(), x[2].shape());
        if src.len() != index.len() || index.iter().zip(src).any(|(i, s)| i > s) {
            return Err(Error::shape(format!(
                "{op}: values of shape {src:?} for an index of shape {index:?}; at least one value an index is needed"
            )));
        }
        output(op, x, x[0].shape(), x[0].dtype)
    }
    fn saves(&self, needs: Mask) -> Saves {
        if needs & 0b100 != 0 || !self.adds { Saves::inputs(0b10) } else { Saves::NOTHING }
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        let flops = if self.adds { x[1].numel() as f64 } else { 0.0 };
        Cost { flops, ..Cost::streaming(x, y, 0.0) }
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        !self.adds
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        begin_as(x[0], &y[0]);
        let meeting = if self.adds { Meeting::Add } else { Meeting::Replace };
        let dim = self.of(&x[0].meta)?;
        lines::scatter(self.name(), &y[0].view(), &x[1].view(), &x[2].view(), dim, meeting)
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let (op, device, dim) = (self.name(), y[0].device(), self.of(&x[0].meta)?);
        let index = on_gpu::laid(x[1], device)?;
        let src = x[2].with_layout(Layout::strided(index.shape(), x[2].layout().strides()), x[2].offset());
        let src = on_gpu::laid(&src, device)?;
        let part = on_gpu::shared(&y[0], index.shape(), dim);
        let walk = walk(part.shape(), index.shape(), dim);
        let check = Check::new(op, &[walk.count], Valid::FromStart);
        let rows = places::rows(gpu, check, &[index.buffer()])?;
        let meeting = if self.adds { places::Meeting::Add } else { places::Meeting::Replace };
        if part.shape() == y[0].shape() {
            return on_gpu::meet(gpu, op, walk, meeting, x[0], &y[0], &rows, &src, None);
        }
        // Lines that the index has not stay as they are.
        copy_on(gpu, x[0], &y[0])?;
        let begin = on_gpu::laid(&part, device)?;
        on_gpu::meet(gpu, op, walk, meeting, &begin, &begin, &rows, &src, None)?;
        copy_on(gpu, &begin, &part)
    }
    fn gpu_takes_half(&self) -> bool {
        !self.adds
    }
    fn takes_numbers(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        if back.needs(0) {
            let dx = if self.adds {
                dy
            } else {
                let index = back.input(1)?;
                let (sizes, dtype) = (back.shape(index), back.meta(dy).dtype);
                let zeros = back.full(0.0, &sizes, dtype)?;
                let dim = self.of(back.input_meta(0))?;
                back.call("scatter", &[dy, index, zeros], &along(dim))?
            };
            back.give(0, dx);
        }
        if back.needs(2) {
            let index = back.input(1)?;
            let mut dsrc = self.gathered(back, dy, index)?;
            let (used, whole) = (back.shape(dsrc), back.input_meta(2).shape());
            if used.as_slice() != whole {
                let (starts, steps) = (Dims::from_elem(0, used.len()), Dims::from_elem(1, used.len()));
                dsrc = back.call("embed", &[dsrc], &[ints(&starts), ints(&steps), ints(&used), ints(whole)])?;
            }
            back.give(2, dsrc);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let dim = shape::dim("scatter", self.dim, &x[0].shape).ok()?;
        let mut y = x[0].clone();
        Exact::build(&x[1].shape, |at| {
            let place = y.at_mut(&target(&x[1], dim, at));
            *place = x[2].at(at) + if self.adds { *place } else { 0.0 };
            0.0
        });
        Some(vec![y])
    }
}
