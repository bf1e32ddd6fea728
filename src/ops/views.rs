//! Ops that move no data: reshape, permute, expand, slice; and embed, the way back of a slice.

use super::args::{Args, ints, signed};
use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::{Back, Cost, Layouts, Metas, Op, OpRef, expect_inputs, output};
use crate::device::gpu::Gpu;
use crate::error::{Error, Result};
use crate::shape::{self, Dims, Layout, Strides};
use crate::tensor::{Meta, Tensor};
use smallvec::SmallVec;
use std::sync::Arc;

pub fn register(list: &mut Vec<Entry>) {
    list.extend([
        Entry { name: "reshape", build: Reshape::build, samples: Reshape::samples },
        Entry { name: "permute", build: Permute::build, samples: Permute::samples },
        Entry { name: "expand", build: Expand::build, samples: Expand::samples },
        Entry { name: "slice", build: Slice::build, samples: Slice::samples },
        Entry { name: "embed", build: Embed::build, samples: Embed::samples },
    ]);
}

const FREE: Cost = Cost { flops: 0.0, bytes: 0.0 };

/// A window's layout as op output; the tensor itself comes from `view`.
fn window(x: &[&Meta], layout: Arc<Layout>) -> Result<Metas> {
    Ok(SmallVec::from_iter([Meta { layout, ..x[0].clone() }]))
}

fn no_kernel(op: &str) -> Error {
    Error::internal(format!("bug: {op} moves no data, yet its kernel was called"))
}

/// The same elements in row-major order under another shape; one size may be -1. Copies only where no strides will do.
#[derive(Debug)]
pub struct Reshape {
    shape: SmallVec<[i64; 6]>,
}

impl Reshape {
    /// Into a shape.
    pub fn to(shape: &[usize]) -> Reshape {
        Reshape { shape: shape.iter().map(|&size| size as i64).collect() }
    }

    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Reshape { shape: args.ints("shape")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |shape: &[i64], x: &[usize]| Sample::of(Self::build, &[signed(shape)], &[(x, Domain::Any)]);
        vec![of(&[6, 4], &[2, 3, 4]), of(&[-1], &[3, 5]), of(&[1, 3, 1], &[3]), of(&[0, 4], &[2, 0]), of(&[], &[1, 1])]
    }

    fn target(&self, x: &Meta) -> Result<Dims> {
        let given = self.shape.as_slice();
        let wrong = |what: &str| {
            Err(Error::shape(format!(
                "reshape: {:?} has {} elements and cannot become {given:?}; {what}",
                x.shape(),
                x.numel()
            )))
        };
        if given.iter().filter(|&&d| d == -1).count() > 1 {
            return wrong("at most one size may be -1");
        }
        if given.iter().any(|&d| d < -1) {
            return wrong("sizes must be zero or more, or -1");
        }
        let known: Dims = given.iter().filter(|&&d| d >= 0).map(|&d| d as usize).collect();
        let known_numel = shape::numel("reshape", &known)?;
        if !given.contains(&-1) {
            return if known_numel == x.numel() { Ok(known) } else { wrong("the numbers of elements must be equal") };
        }
        if known_numel == 0 || !x.numel().is_multiple_of(known_numel) {
            return wrong("the -1 would not be a whole number");
        }
        Ok(given.iter().map(|&d| if d == -1 { x.numel() / known_numel } else { d as usize }).collect())
    }
}

/// Strides that show a strided layout under another shape, if any do: each run of old axes must lie evenly in memory.
fn reshaped_strides(layout: &Layout, shape: &[usize]) -> Option<Strides> {
    if layout.is_contiguous() {
        return Some(shape::contiguous_strides(shape));
    }
    let old: SmallVec<[(usize, isize); 4]> =
        layout.shape().iter().zip(layout.strides()).filter(|(d, _)| **d != 1).map(|(&d, &s)| (d, s)).collect();
    let mut strides: Strides = SmallVec::from_elem(0, shape.len());
    let (mut o, mut n) = (0, 0);
    while o < old.len() {
        let (mut old_size, mut new_size) = (old[o].0, 1);
        let (first_old, first_new) = (o, n);
        loop {
            while new_size < old_size && n < shape.len() {
                new_size *= shape[n];
                n += 1;
            }
            if new_size == old_size {
                break;
            }
            o += 1;
            old_size *= old.get(o)?.0;
        }
        for pair in old[first_old..=o].windows(2) {
            if pair[0].1 != pair[1].1 * pair[1].0 as isize {
                return None;
            }
        }
        let mut step = old[o].1;
        for axis in (first_new..n).rev() {
            strides[axis] = step;
            step *= shape[axis] as isize;
        }
        o += 1;
    }
    Some(strides)
}

impl Op for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("reshape", x, 1)?;
        output("reshape", x, &self.target(x[0])?, x[0].dtype)
    }
    fn cost(&self, _x: &[&Meta], _y: &[Meta]) -> Cost {
        FREE
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn is_view(&self) -> bool {
        true
    }
    fn view(&self, x: &Tensor) -> Option<Result<Tensor>> {
        let shape = match self.target(&x.meta) {
            Ok(shape) => shape,
            Err(error) => return Some(Err(error)),
        };
        if x.numel() == 0 {
            return Some(Layout::contiguous("reshape", &shape).map(|layout| x.with_layout(layout, x.offset())));
        }
        let strides = reshaped_strides(x.layout(), &shape)?;
        Some(Ok(x.with_layout(Layout::strided(&shape, &strides), x.offset())))
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let same = y[0].with_layout(Layout::contiguous("reshape", x[0].shape())?, 0);
        super::pointwise::copy_into(x[0], &same)
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let same = y[0].with_layout(Layout::contiguous("reshape", x[0].shape())?, 0);
        super::pointwise::copy_on(gpu, x[0], &same)
    }
    fn takes_numbers(&self) -> bool {
        true
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, shape) = (back.dy(), Dims::from(back.input_meta(0).shape()));
        let dx = back.reshape(dy, &shape)?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let meta =
            Meta::contiguous("reshape", &x[0].shape, crate::dtype::DType::F64, crate::device::Device::Cpu).ok()?;
        Some(vec![Exact::new(&self.target(&meta).ok()?, x[0].data.clone())])
    }
}

/// Axes in another order.
#[derive(Debug)]
pub struct Permute {
    dims: SmallVec<[i64; 6]>,
}

impl Permute {
    /// Into this order of the axes.
    pub fn to(dims: &[usize]) -> Permute {
        Permute { dims: dims.iter().map(|&dim| dim as i64).collect() }
    }

    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Permute { dims: args.ints("dims")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |dims: &[i64], x: &[usize]| Sample::of(Self::build, &[signed(dims)], &[(x, Domain::Any)]);
        vec![of(&[1, 0], &[3, 5]), of(&[2, 0, -2], &[2, 3, 4]), of(&[], &[]), of(&[0, 3, 1, 2], &[2, 0, 3, 1])]
    }

    fn order(&self, shape: &[usize]) -> Result<Dims> {
        if self.dims.len() != shape.len() {
            return Err(Error::shape(format!(
                "permute: {:?} names {} dims and {shape:?} has {}; name each dim once",
                self.dims.as_slice(),
                self.dims.len(),
                shape.len()
            )));
        }
        let order: Dims = self.dims.iter().map(|&d| shape::dim("permute", d, shape)).collect::<Result<_>>()?;
        let once = (0..shape.len()).all(|i| order.contains(&i));
        if once {
            Ok(order)
        } else {
            Err(Error::value(format!("permute: {:?} repeats a dim; name each once", self.dims.as_slice())))
        }
    }
}

impl Op for Permute {
    fn name(&self) -> &'static str {
        "permute"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("permute", x, 1)?;
        let order = self.order(x[0].shape())?;
        let shape: Dims = order.iter().map(|&i| x[0].shape()[i]).collect();
        let strides: Strides = order.iter().map(|&i| x[0].layout.strides()[i]).collect();
        window(x, Layout::strided(&shape, &strides))
    }
    fn cost(&self, _x: &[&Meta], _y: &[Meta]) -> Cost {
        FREE
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn is_view(&self) -> bool {
        true
    }
    fn view(&self, x: &Tensor) -> Option<Result<Tensor>> {
        Some(self.infer(&[&x.meta], false).map(|m| x.with_layout(m[0].layout.clone(), x.offset())))
    }
    fn cpu(&self, _x: &[&Tensor], _y: &[Tensor]) -> Result<()> {
        Err(no_kernel("permute"))
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let order = self.order(back.input_meta(0).shape())?;
        let mut inverse: Dims = order.clone();
        order.iter().enumerate().for_each(|(i, &from)| inverse[from] = i);
        let dy = back.dy();
        let dx = back.permute(dy, &inverse)?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let order = self.order(&x[0].shape).ok()?;
        let shape: Dims = order.iter().map(|&i| x[0].shape[i]).collect();
        let mut source: Dims = shape.clone();
        Some(vec![Exact::build(&shape, |index| {
            order.iter().enumerate().for_each(|(i, &from)| source[from] = index[i]);
            x[0].at(&source)
        })])
    }
}

/// Sizes of 1 repeated without data; -1 keeps a size; new dims come in front.
#[derive(Debug)]
pub struct Expand {
    shape: SmallVec<[i64; 6]>,
}

impl Expand {
    /// Into a shape.
    pub fn to(shape: &[usize]) -> Expand {
        Expand { shape: shape.iter().map(|&size| size as i64).collect() }
    }

    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Expand { shape: args.ints("shape")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |shape: &[i64], x: &[usize]| Sample::of(Self::build, &[signed(shape)], &[(x, Domain::Any)]);
        vec![of(&[4, 3], &[1, 3]), of(&[2, -1, 5], &[3, 1]), of(&[3], &[]), of(&[0, 2], &[1, 2]), of(&[2, 2], &[2, 2])]
    }

    fn target(&self, from: &[usize]) -> Result<Dims> {
        let wrong = || {
            Err(Error::shape(format!(
                "expand: {from:?} cannot become {:?}; sizes must be equal, 1 in the tensor, or -1 to keep",
                self.shape.as_slice()
            )))
        };
        let Some(extra) = self.shape.len().checked_sub(from.len()) else { return wrong() };
        let mut shape = Dims::new();
        for (i, &wanted) in self.shape.iter().enumerate() {
            let own = i.checked_sub(extra).map(|j| from[j]);
            shape.push(match (own, wanted) {
                (Some(own), -1) => own,
                (Some(own), w) if w >= 0 && (own == 1 || own == w as usize) => w as usize,
                (None, w) if w >= 0 => w as usize,
                _ => return wrong(),
            });
        }
        shape::numel("expand", &shape)?;
        Ok(shape)
    }
}

impl Op for Expand {
    fn name(&self) -> &'static str {
        "expand"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("expand", x, 1)?;
        let shape = self.target(x[0].shape())?;
        let strides = shape::broadcast_strides(&x[0].layout, &shape);
        window(x, Layout::strided(&shape, &strides))
    }
    fn cost(&self, _x: &[&Meta], _y: &[Meta]) -> Cost {
        FREE
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn is_view(&self) -> bool {
        true
    }
    fn view(&self, x: &Tensor) -> Option<Result<Tensor>> {
        Some(self.infer(&[&x.meta], false).map(|m| x.with_layout(m[0].layout.clone(), x.offset())))
    }
    fn cpu(&self, _x: &[&Tensor], _y: &[Tensor]) -> Result<()> {
        Err(no_kernel("expand"))
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        // The sweep sums a gradient down to its input's shape.
        let dy = back.dy();
        back.give(0, dy);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let shape = self.target(&x[0].shape).ok()?;
        Some(vec![Exact::build(&shape, |index| x[0].at_broadcast(index))])
    }
}

/// Where a window begins on each axis, how far apart its elements are, and how many there are.
#[derive(Clone, Debug, PartialEq)]
struct Window {
    starts: SmallVec<[i64; 6]>,
    steps: SmallVec<[i64; 6]>,
    sizes: Dims,
}

impl Window {
    fn read(args: &mut Args) -> Result<Window> {
        Ok(Window { starts: args.ints("starts")?, steps: args.ints("steps")?, sizes: args.sizes("sizes")? })
    }

    fn check(&self, op: &str, shape: &[usize]) -> Result<()> {
        if self.starts.len() != shape.len() || self.steps.len() != shape.len() || self.sizes.len() != shape.len() {
            return Err(Error::shape(format!(
                "{op}: a window of {} dims on {shape:?}; give one per dim",
                self.starts.len()
            )));
        }
        for i in 0..shape.len() {
            let last = self.starts[i] + self.steps[i] * (self.sizes[i] as i64 - 1);
            let inside = |at: i64| at >= 0 && at < shape[i] as i64;
            if self.sizes[i] > 0 && !(inside(self.starts[i]) && inside(last)) {
                return Err(Error::index(format!("{op}: {} to {last} leaves dim {i} of {shape:?}", self.starts[i])));
            }
        }
        Ok(())
    }

    fn source(&self, index: &[usize]) -> Dims {
        (0..index.len()).map(|i| (self.starts[i] + self.steps[i] * index[i] as i64) as usize).collect()
    }

    /// The window on a tensor of the full shape.
    fn on(&self, x: &Tensor) -> Tensor {
        let strides = x.layout().strides();
        let empty = self.sizes.contains(&0);
        let start = |i: usize| if empty { 0 } else { self.starts[i] as isize * strides[i] };
        let offset: isize = (0..self.sizes.len()).map(start).sum();
        let steps: Strides = (0..self.sizes.len()).map(|i| self.steps[i] as isize * strides[i]).collect();
        x.with_layout(Layout::strided(&self.sizes, &steps), x.offset().wrapping_add_signed(offset))
    }
}

/// Every step-th element of each axis from a start on. Basic indexing in Python comes down to this.
#[derive(Debug)]
pub struct Slice {
    window: Window,
}

impl Slice {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Slice { window: Window::read(args)? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |starts: &[i64], steps: &[i64], sizes: &[usize], x: &[usize]| {
            Sample::of(Self::build, &[signed(starts), signed(steps), ints(sizes)], &[(x, Domain::Any)])
        };
        vec![
            of(&[1, 0], &[1, 2], &[2, 3], &[4, 6]),
            of(&[3, 5], &[-1, -2], &[4, 3], &[4, 6]),
            of(&[0], &[1], &[0], &[5]),
            of(&[], &[], &[], &[]),
        ]
    }
}

impl Op for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("slice", x, 1)?;
        self.window.check("slice", x[0].shape())?;
        let strides = x[0].layout.strides();
        let strides: Strides = self.window.steps.iter().zip(strides).map(|(&a, &b)| a as isize * b).collect();
        window(x, Layout::strided(&self.window.sizes, &strides))
    }
    fn cost(&self, _x: &[&Meta], _y: &[Meta]) -> Cost {
        FREE
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn is_view(&self) -> bool {
        true
    }
    fn view(&self, x: &Tensor) -> Option<Result<Tensor>> {
        Some(self.window.check("slice", x.shape()).map(|()| self.window.on(x)))
    }
    fn cpu(&self, _x: &[&Tensor], _y: &[Tensor]) -> Result<()> {
        Err(no_kernel("slice"))
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let embed = Embed { window: self.window.clone(), shape: back.input_meta(0).shape().into() };
        let dy = back.dy();
        let dx = back.apply(embed, &[dy])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        Some(vec![Exact::build(&self.window.sizes, |index| x[0].at(&self.window.source(index)))])
    }
}

/// Zeros of a shape with the input written into a window.
#[derive(Debug)]
pub struct Embed {
    window: Window,
    shape: Dims,
}

impl Embed {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Embed { window: Window::read(args)?, shape: args.sizes("shape")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |starts: &[i64], steps: &[i64], sizes: &[usize], shape: &[usize]| {
            let attributes = [signed(starts), signed(steps), ints(sizes), ints(shape)];
            Sample::of(Self::build, &attributes, &[(sizes, Domain::Any)])
        };
        vec![
            of(&[1, 0], &[1, 2], &[2, 3], &[4, 6]),
            of(&[3, 5], &[-1, -2], &[4, 3], &[4, 6]),
            of(&[0], &[1], &[0], &[3]),
        ]
    }
}

impl Op for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("embed", x, 1)?;
        self.window.check("embed", &self.shape)?;
        if x[0].shape() != self.window.sizes.as_slice() {
            return Err(Error::shape(format!(
                "embed: a value of shape {:?} for a window of {:?}; the shapes must be equal",
                x[0].shape(),
                self.window.sizes.as_slice()
            )));
        }
        output("embed", x, &self.shape, x[0].dtype)
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        super::pointwise::copy_into(&Tensor::scalar(0.0, y[0].dtype())?, &y[0])?;
        super::pointwise::copy_into(x[0], &self.window.on(&y[0]))
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        super::pointwise::copy_on(gpu, &Tensor::scalar(0.0, y[0].dtype())?, &y[0])?;
        super::pointwise::copy_on(gpu, x[0], &self.window.on(&y[0]))
    }
    fn takes_numbers(&self) -> bool {
        true
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        let dx = back.apply(Slice { window: self.window.clone() }, &[dy])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let mut y = Exact::zeros(&self.shape);
        let sizes = self.window.sizes.clone();
        Exact::build(&sizes, |index| {
            *y.at_mut(&self.window.source(index)) = x[0].at(index);
            0.0
        });
        Some(vec![y])
    }
}
