//! The same elements in other places: flip, roll, the triangles of matrices and their diagonals.

use super::args::{Args, int, ints, signed};
use super::laws::{Domain, Exact, Sample};
use super::pointwise::copy_on;
use super::registry::Entry;
use super::{Back, Cost, Layouts, Metas, Op, OpRef, expect_inputs, output};
use crate::device::cpu::{copy, triangle};
use crate::device::gpu::{Gpu, places};
use crate::error::{Error, Result};
use crate::shape::{self, Dims, Layout, Strides};
use crate::tensor::{Meta, Tensor};
use smallvec::SmallVec;

pub fn register(list: &mut Vec<Entry>) {
    list.extend([
        Entry { name: "flip", build: Flip::build, samples: Flip::samples },
        Entry { name: "roll", build: Roll::build, samples: Roll::samples },
        Entry { name: "tril", build: Triangle::build_lower, samples: Triangle::lower_samples },
        Entry { name: "triu", build: Triangle::build_upper, samples: Triangle::upper_samples },
        Entry { name: "diagonal", build: Diagonal::build, samples: Diagonal::samples },
        Entry { name: "diagonal_embed", build: DiagonalEmbed::build, samples: DiagonalEmbed::samples },
    ]);
}

/// The other way round along some dims. A copy, as in PyTorch.
#[derive(Clone, Debug)]
pub struct Flip {
    dims: SmallVec<[i64; 6]>,
}

impl Flip {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Flip { dims: args.ints("dims")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |dims: &[i64], x: &[usize]| Sample::of(Self::build, &[signed(dims)], &[(x, Domain::Any)]);
        vec![
            of(&[0], &[5]),
            of(&[1, -1], &[2, 3, 4]),
            of(&[0], &[3, 7]),
            of(&[], &[2, 3]),
            of(&[1], &[0, 3]),
            of(&[0], &[0]),
        ]
    }

    fn flags(&self, shape: &[usize]) -> Result<SmallVec<[bool; 4]>> {
        // For `shape::dims` no dims mean all of them.
        if self.dims.is_empty() {
            Ok(SmallVec::from_elem(false, shape.len()))
        } else {
            shape::dims("flip", &self.dims, shape)
        }
    }
}

impl Flip {
    /// The tensor seen the other way round.
    fn window(&self, x: &Tensor) -> Result<Tensor> {
        let mut strides: Strides = x.layout().strides().into();
        let mut start = x.offset();
        for (i, _) in self.flags(x.shape())?.iter().enumerate().filter(|(_, flip)| **flip) {
            start = start.wrapping_add_signed((x.shape()[i].max(1) - 1) as isize * strides[i]);
            strides[i] = -strides[i];
        }
        Ok(x.with_layout(Layout::strided(x.shape(), &strides), start))
    }
}

impl Op for Flip {
    fn name(&self) -> &'static str {
        "flip"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("flip", x, 1)?;
        self.flags(x[0].shape())?;
        output("flip", x, x[0].shape(), x[0].dtype)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 0.0)
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        copy::copy(&self.window(x[0])?.view(), &y[0].view());
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        copy_on(gpu, &self.window(x[0])?, &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        let dx = back.apply(self.clone(), &[dy])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let flags = self.flags(&x[0].shape).ok()?;
        Some(vec![Exact::build(&x[0].shape, |index| {
            let from = |(i, &at): (usize, &usize)| if flags[i] { x[0].shape[i] - 1 - at } else { at };
            x[0].at(&index.iter().enumerate().map(from).collect::<Dims>())
        })])
    }
}

/// Moved along some dims; what leaves at one end comes in at the other. Without dims, the elements in row-major order.
#[derive(Clone, Debug)]
pub struct Roll {
    shifts: SmallVec<[i64; 6]>,
    dims: SmallVec<[i64; 6]>,
}

impl Roll {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Roll { shifts: args.ints("shifts")?, dims: args.ints("dims")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |shifts: &[i64], dims: &[i64], x: &[usize]| {
            Sample::of(Self::build, &[signed(shifts), signed(dims)], &[(x, Domain::Any)])
        };
        vec![
            of(&[2], &[0], &[5]),
            of(&[-1, 7], &[0, -1], &[3, 4, 5]),
            of(&[3], &[], &[2, 4]),
            of(&[1, 1], &[0, 0], &[4]),
            of(&[5], &[1], &[2, 0]),
            of(&[1], &[], &[]),
        ]
    }

    /// The shape that is rolled, and by how much along each of its dims, from 0 on.
    fn plan(&self, shape: &[usize]) -> Result<(Dims, Dims)> {
        let wrong = |what: &str| {
            let (shifts, dims) = (self.shifts.as_slice(), self.dims.as_slice());
            Err(Error::value(format!("roll: shifts {shifts:?} and dims {dims:?}; {what}")))
        };
        let modulo = |shift: i64, size: usize| if size == 0 { 0 } else { shift.rem_euclid(size as i64) as usize };
        if self.dims.is_empty() {
            let [shift] = self.shifts.as_slice() else { return wrong("without dims, one shift is needed") };
            let numel = shape.iter().product();
            return Ok((SmallVec::from_elem(numel, 1), SmallVec::from_elem(modulo(*shift, numel), 1)));
        }
        if self.shifts.len() != self.dims.len() {
            return wrong("one shift a dim is needed");
        }
        let mut by = Dims::from_elem(0, shape.len());
        for (&shift, &d) in self.shifts.iter().zip(&self.dims) {
            let at = shape::dim("roll", d, shape)?;
            if let Some(sum) = by.get_mut(at) {
                *sum = modulo(*sum as i64 + modulo(shift, shape[at]) as i64, shape[at]);
            }
        }
        Ok((shape.into(), by))
    }
}

impl Roll {
    /// Copies each rolled dim in two parts; every combination of parts is a window on both sides.
    fn parts(&self, x: &Tensor, y: &Tensor, copy: impl Fn(&Tensor, &Tensor) -> Result<()>) -> Result<()> {
        let (shape, by) = self.plan(x.shape())?;
        let strides = shape::contiguous_strides(&shape);
        let rolled: SmallVec<[usize; 4]> = (0..shape.len()).filter(|&i| by[i] > 0).collect();
        for parts in 0..1usize << rolled.len() {
            let mut sizes = shape.clone();
            let (mut from, mut to) = (x.offset(), y.offset());
            for (k, &i) in rolled.iter().enumerate() {
                let (kept, wrapped) = (shape[i] - by[i], by[i]);
                let stride = strides[i] as usize;
                if parts >> k & 1 == 0 {
                    sizes[i] = kept;
                    to += wrapped * stride;
                } else {
                    sizes[i] = wrapped;
                    from += kept * stride;
                }
            }
            let layout = Layout::strided(&sizes, &strides);
            let (from, to) = (x.with_layout(layout.clone(), from), y.with_layout(layout, to));
            copy(&from, &to)?;
        }
        Ok(())
    }
}

impl Op for Roll {
    fn name(&self) -> &'static str {
        "roll"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("roll", x, 1)?;
        self.plan(x[0].shape())?;
        output("roll", x, x[0].shape(), x[0].dtype)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 0.0)
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        self.parts(x[0], &y[0], |from, to| {
            copy::copy(&from.view(), &to.view());
            Ok(())
        })
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        self.parts(x[0], &y[0], |from, to| copy_on(gpu, from, to))
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        let shifts = self.shifts.iter().map(|s| s.saturating_neg()).collect();
        let dx = back.apply(Roll { shifts, dims: self.dims.clone() }, &[dy])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let (shape, by) = self.plan(&x[0].shape).ok()?;
        let flat = Exact::new(&shape, x[0].data.clone());
        let rolled = Exact::build(&shape, |index| {
            let from = |(i, &at): (usize, &usize)| (at + shape[i] - by[i]) % shape[i];
            flat.at(&index.iter().enumerate().map(from).collect::<Dims>())
        });
        Some(vec![Exact::new(&x[0].shape, rolled.data)])
    }
}

/// Zeros where a matrix is above (tril) or below (triu) a diagonal, the matrix elsewhere.
#[derive(Clone, Debug)]
pub struct Triangle {
    upper: bool,
    diagonal: i64,
}

impl Triangle {
    fn build_lower(args: &mut Args) -> Result<OpRef> {
        Ok(Triangle { upper: false, diagonal: args.int_or_none("diagonal")?.unwrap_or(0) }.into())
    }
    fn build_upper(args: &mut Args) -> Result<OpRef> {
        Ok(Triangle { upper: true, diagonal: args.int_or_none("diagonal")?.unwrap_or(0) }.into())
    }

    fn lower_samples() -> Vec<Sample> {
        Self::samples(Self::build_lower)
    }
    fn upper_samples() -> Vec<Sample> {
        Self::samples(Self::build_upper)
    }
    fn samples(build: fn(&mut Args) -> Result<OpRef>) -> Vec<Sample> {
        let of = |diagonal: i64, x: &[usize]| Sample::of(build, &[int(diagonal)], &[(x, Domain::Any)]);
        vec![
            of(0, &[5, 5]),
            of(1, &[2, 3, 5]),
            of(-2, &[5, 3]),
            of(9, &[3, 4]),
            of(-9, &[3, 4]),
            of(0, &[0, 3]),
            of(0, &[3, 0]),
        ]
    }

    fn keeps(&self, row: usize, column: usize) -> bool {
        let above = column as i64 - row as i64;
        if self.upper { above >= self.diagonal } else { above <= self.diagonal }
    }
}

impl Op for Triangle {
    fn name(&self) -> &'static str {
        if self.upper { "triu" } else { "tril" }
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(self.name(), x, 1)?;
        if x[0].rank() < 2 {
            let shape = x[0].shape();
            return Err(Error::shape(format!("{}: {shape:?} is no matrix; at least 2 dims are needed", self.name())));
        }
        output(self.name(), x, x[0].shape(), x[0].dtype)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 0.0)
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let shape = x[0].shape();
        let matrix = [shape[shape.len() - 2], shape[shape.len() - 1]];
        triangle::keep(&x[0].view(), matrix, self.diagonal, self.upper, &y[0].view());
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let shape = x[0].shape();
        let matrix = [shape[shape.len() - 2], shape[shape.len() - 1]];
        places::triangle(gpu, &x[0].buffer(), matrix, self.diagonal, self.upper, &y[0].buffer())
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        let dx = back.apply(self.clone(), &[dy])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        Some(vec![Exact::build(&x[0].shape, |index| {
            let [.., row, column] = index else { return f64::NAN };
            if self.keeps(*row, *column) { x[0].at(index) } else { 0.0 }
        })])
    }
}

/// Which diagonal, of the matrices that two dims span.
#[derive(Clone, Debug)]
struct Which {
    offset: i64,
    rows: i64,
    columns: i64,
}

impl Which {
    fn read(args: &mut Args) -> Result<Which> {
        let offset = args.int_or_none("offset")?.unwrap_or(0);
        let (rows, columns) = (args.int_or_none("dim1")?, args.int_or_none("dim2")?);
        Ok(Which { offset, rows: rows.unwrap_or(0), columns: columns.unwrap_or(1) })
    }

    /// The two dims, where on them the diagonal begins, and the shape of the diagonals: the other dims, then its length.
    fn on(&self, op: &str, shape: &[usize]) -> Result<([usize; 2], [usize; 2], Dims)> {
        if shape.len() < 2 {
            return Err(Error::shape(format!("{op}: {shape:?} has no diagonal; at least 2 dims are needed")));
        }
        let dims = [shape::dim(op, self.rows, shape)?, shape::dim(op, self.columns, shape)?];
        if dims[0] == dims[1] {
            return Err(Error::value(format!("{op}: dim1 and dim2 are both {}; name two dims", dims[0])));
        }
        let along = self.offset.unsigned_abs() as usize;
        let start = if self.offset < 0 { [along, 0] } else { [0, along] };
        let left = |k: usize| shape[dims[k]].saturating_sub(start[k]);
        let others = (0..shape.len()).filter(|i| !dims.contains(i)).map(|i| shape[i]);
        let sizes = others.chain([left(0).min(left(1))]).collect();
        Ok((dims, start, sizes))
    }

    /// The diagonals as a window on a tensor.
    fn window(&self, op: &str, x: &Tensor) -> Result<Tensor> {
        let (dims, start, sizes) = self.on(op, x.shape())?;
        let strides = x.layout().strides();
        let others = (0..strides.len()).filter(|i| !dims.contains(i)).map(|i| strides[i]);
        let steps: Strides = others.chain([strides[dims[0]] + strides[dims[1]]]).collect();
        let step = |k: usize| if sizes.contains(&0) { 0 } else { start[k] as isize * strides[dims[k]] };
        let first = step(0) + step(1);
        Ok(x.with_layout(Layout::strided(&sizes, &steps), x.offset().wrapping_add_signed(first)))
    }

    /// Where an element of the diagonals stands.
    fn source(&self, shape: &[usize], index: &[usize]) -> Option<Dims> {
        let (dims, start, _) = self.on("diagonal", shape).ok()?;
        let (along, others) = index.split_last()?;
        let mut others = others.iter();
        let at = |i: usize| match dims.iter().position(|&d| d == i) {
            Some(k) => start[k] + along,
            None => *others.next().expect("bug: an index of too few dims"),
        };
        Some((0..shape.len()).map(at).collect())
    }
}

/// A diagonal of each matrix, as the last dim of a view.
#[derive(Debug)]
pub struct Diagonal {
    which: Which,
}

impl Diagonal {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Diagonal { which: Which::read(args)? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |offset: i64, dims: [i64; 2], x: &[usize]| {
            Sample::of(Self::build, &[int(offset), int(dims[0]), int(dims[1])], &[(x, Domain::Any)])
        };
        vec![of(0, [0, 1], &[3, 3]), of(1, [-1, 0], &[4, 2, 3]), of(-1, [0, 1], &[3, 5]), of(7, [0, 1], &[3, 3])]
    }
}

impl Op for Diagonal {
    fn name(&self) -> &'static str {
        "diagonal"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("diagonal", x, 1)?;
        let (_, _, sizes) = self.which.on("diagonal", x[0].shape())?;
        output("diagonal", x, &sizes, x[0].dtype)
    }
    fn cost(&self, _x: &[&Meta], _y: &[Meta]) -> Cost {
        Cost::default()
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
        Some(self.which.window("diagonal", x))
    }
    fn cpu(&self, _x: &[&Tensor], _y: &[Tensor]) -> Result<()> {
        Err(Error::internal("bug: diagonal moves no data, yet its kernel was called"))
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, shape) = (back.dy(), back.input_meta(0).shape().into());
        let dx = back.apply(DiagonalEmbed { which: self.which.clone(), shape }, &[dy])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let (_, _, sizes) = self.which.on("diagonal", &x[0].shape).ok()?;
        let value = |index: &[usize]| self.which.source(&x[0].shape, index).map_or(f64::NAN, |from| x[0].at(&from));
        Some(vec![Exact::build(&sizes, value)])
    }
}

/// Zeros of a shape with the input written on a diagonal: the way back of `diagonal`.
#[derive(Debug)]
pub struct DiagonalEmbed {
    which: Which,
    shape: Dims,
}

impl DiagonalEmbed {
    fn build(args: &mut Args) -> Result<OpRef> {
        let shape = args.sizes("shape")?;
        Ok(DiagonalEmbed { which: Which::read(args)?, shape }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |shape: &[usize], offset: i64, dims: [i64; 2], x: &[usize]| {
            let attributes = [ints(shape), int(offset), int(dims[0]), int(dims[1])];
            Sample::of(Self::build, &attributes, &[(x, Domain::Any)])
        };
        vec![of(&[3, 3], 0, [0, 1], &[3]), of(&[4, 2, 3], 1, [-1, 0], &[2, 3]), of(&[3, 3], 7, [0, 1], &[0])]
    }
}

impl Op for DiagonalEmbed {
    fn name(&self) -> &'static str {
        "diagonal_embed"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("diagonal_embed", x, 1)?;
        let (_, _, sizes) = self.which.on("diagonal_embed", &self.shape)?;
        if x[0].shape() != sizes.as_slice() {
            return Err(Error::shape(format!(
                "diagonal_embed: a value of shape {:?} for diagonals of shape {:?}; the shapes must be equal",
                x[0].shape(),
                sizes.as_slice()
            )));
        }
        output("diagonal_embed", x, &self.shape, x[0].dtype)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 0.0)
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        copy::zero(&y[0].view());
        copy::copy(&x[0].view(), &self.which.window("diagonal_embed", &y[0])?.view());
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        copy_on(gpu, &Tensor::scalar(0.0, y[0].dtype())?, &y[0])?;
        copy_on(gpu, x[0], &self.which.window("diagonal_embed", &y[0])?)
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        let dx = back.apply(Diagonal { which: self.which.clone() }, &[dy])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let mut y = Exact::zeros(&self.shape);
        Exact::build(&x[0].shape, |index| {
            if let Some(to) = self.which.source(&self.shape, index) {
                *y.at_mut(&to) = x[0].at(index);
            }
            0.0
        });
        Some(vec![y])
    }
}
