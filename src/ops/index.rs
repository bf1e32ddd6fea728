//! Reading and writing at places that tensors name: index_get and index_put along the first dims, gather and scatter_add
//! along one.
//!
//! Negative indices count from the end. Where two indices name one place, index_put keeps the last value, or adds all in
//! order when it accumulates; so does scatter_add.

use super::args::{Args, Attribute, flag, int};
use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::{Back, Mask, Metas, Op, OpRef, Saves, V, bit, expect_index, expect_inputs, output};
use crate::arena::ledger::Category;
use crate::dtype::{DType, Element};
use crate::error::{self, Error, Result};
use crate::shape::{self, Dims};
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.extend([
        Entry { name: "index_get", build: |_| Ok(IndexGet.into()), samples: IndexGet::samples },
        Entry { name: "index_put", build: IndexPut::build, samples: IndexPut::samples },
        Entry { name: "gather", build: |a| Ok(Gather { dim: a.int("dim")? }.into()), samples: Gather::samples },
        Entry {
            name: "scatter_add",
            build: |a| Ok(ScatterAdd { dim: a.int("dim")? }.into()),
            samples: ScatterAdd::samples,
        },
    ]);
}

/// An index counted from either end, as a position.
fn position(op: &str, index: i64, size: usize) -> Result<usize> {
    let at = if index < 0 { index + size as i64 } else { index };
    if (0..size as i64).contains(&at) { Ok(at as usize) } else { Err(error::index_out_of_range(op, index, size)) }
}

/// The positions that k index tensors name in the first k dims, flattened.
fn places(op: &str, sizes: &[usize], indices: &[&Tensor]) -> Result<Vec<usize>> {
    let mut places = vec![0usize; indices[0].numel()];
    for (&size, index) in sizes.iter().zip(indices) {
        for (place, &i) in places.iter_mut().zip(index.view().slice::<i64>()) {
            *place = *place * size + position(op, i, size)?;
        }
    }
    Ok(places)
}

/// The shape of what k index tensors pick: their common shape, then the dims they leave.
fn picked(op: &str, x: &Meta, indices: &[&Meta]) -> Result<Dims> {
    if indices.is_empty() || indices.len() > x.rank() {
        return Err(Error::shape(format!(
            "{op}: {} indices for {:?}; 1 to {} are needed",
            indices.len(),
            x.shape(),
            x.rank()
        )));
    }
    for index in indices {
        expect_index(op, index)?;
        if index.shape() != indices[0].shape() {
            return Err(Error::shape(format!(
                "{op}: indices of shapes {:?} and {:?}; one shape for all is needed",
                indices[0].shape(),
                index.shape()
            )));
        }
    }
    let mut shape = Dims::from(indices[0].shape());
    shape.extend_from_slice(&x.shape()[indices.len()..]);
    Ok(shape)
}

fn exact_places(sizes: &[usize], indices: &[Exact]) -> Vec<usize> {
    let count = indices[0].data.len();
    let place = |p: usize| {
        sizes
            .iter()
            .zip(indices)
            .fold(0, |at, (&size, i)| at * size + (i.data[p] as i64).rem_euclid(size as i64) as usize)
    };
    (0..count).map(place).collect()
}

/// x [d₁…d_k, rest…] at k index tensors of shape S → [S…, rest…]. An embedding is this with k = 1.
#[derive(Debug)]
pub struct IndexGet;

impl IndexGet {
    fn samples() -> Vec<Sample> {
        let of = |x: &[usize], indices: &[(&[usize], Domain)]| {
            let inputs = std::iter::once((x, Domain::Any)).chain(indices.iter().copied()).collect::<Vec<_>>();
            Sample::of(|_| Ok(IndexGet.into()), &[], &inputs)
        };
        vec![
            of(&[5, 3], &[(&[4], Domain::Index(5))]),
            of(&[7, 4], &[(&[2, 3], Domain::Index(7))]),
            of(&[4, 5, 2], &[(&[3], Domain::Index(4)), (&[3], Domain::Index(5))]),
            of(&[6], &[(&[], Domain::Index(6))]),
            of(&[3, 2], &[(&[0], Domain::Index(3))]),
        ]
    }
}

impl Op for IndexGet {
    fn name(&self) -> &'static str {
        "index_get"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        if x.len() < 2 {
            return Err(error::arity("index", x.len(), "2 or more"));
        }
        let shape = picked("index", x[0], &x[1..])?;
        output("index", &x[..1], &shape, x[0].dtype)
    }
    fn differentiable(&self) -> Mask {
        1
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(!1)
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let k = x.len() - 1;
        let row = x[0].shape()[k..].iter().product::<usize>() * x[0].dtype().bytes();
        let places = places("index", &x[0].shape()[..k], &x[1..])?;
        let from = x[0].view().raw();
        for (to, place) in y[0].view().raw_out().chunks_mut(row.max(1)).zip(places) {
            to.copy_from_slice(&from[place * row..(place + 1) * row]);
        }
        Ok(())
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let meta = back.input_meta(0).clone();
        let zeros = back.full(0.0, meta.shape(), meta.dtype)?;
        let mut operands = vec![zeros, back.dy()];
        for i in 1..back.inputs() {
            operands.push(back.input(i)?);
        }
        let dx = back.call("index_put", &operands, &[flag(true)])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let k = x.len() - 1;
        let row: usize = x[0].shape[k..].iter().product();
        let mut shape = Dims::from(x[1].shape.as_slice());
        shape.extend_from_slice(&x[0].shape[k..]);
        let places = exact_places(&x[0].shape[..k], &x[1..]);
        let data = places.iter().flat_map(|p| x[0].data[p * row..(p + 1) * row].to_vec()).collect();
        Some(vec![Exact::new(&shape, data)])
    }
}

/// A copy of x with `values` [S…, rest…] written, or added, at k index tensors of shape S.
#[derive(Debug)]
pub struct IndexPut {
    accumulate: bool,
}

impl IndexPut {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(IndexPut { accumulate: args.flag("accumulate")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |accumulate: bool, x: &[usize], values: &[usize], indices: &[(&[usize], Domain)]| {
            let mut inputs = vec![(x, Domain::Any), (values, Domain::Any)];
            inputs.extend(indices.iter().copied());
            Sample::of(Self::build, &[flag(accumulate)], &inputs)
        };
        vec![
            of(true, &[5, 3], &[4, 3], &[(&[4], Domain::Index(5))]),
            of(false, &[5, 3], &[5, 3], &[(&[5], Domain::Shuffled)]),
            of(true, &[4, 5, 2], &[3, 2], &[(&[3], Domain::Index(4)), (&[3], Domain::Index(5))]),
            of(false, &[6], &[], &[(&[], Domain::Index(6))]),
            of(false, &[3, 2], &[7, 2], &[(&[7], Domain::Index(3))]),
            of(true, &[3, 2], &[0, 2], &[(&[0], Domain::Index(3))]),
        ]
    }
}

impl IndexPut {
    /// A value that a later one overwrote had no effect: its gradient is 0.
    fn survivors(&self, back: &mut Back, dvalues: V, indices: &[V]) -> Result<V> {
        let sizes = Dims::from(&back.input_meta(0).shape()[..indices.len()]);
        let list: Vec<Tensor> = indices.iter().map(|v| back.tensor(*v).clone()).collect();
        let values: Vec<Vec<f64>> = list.iter().map(Tensor::to_f64).collect();
        let place = |p: usize| {
            sizes
                .iter()
                .zip(&values)
                .fold(0, |at, (&size, i)| at * size + (i[p] as i64).rem_euclid(size.max(1) as i64) as usize)
        };
        let mut last = std::collections::HashMap::new();
        (0..values[0].len()).for_each(|p| {
            last.insert(place(p), p);
        });
        if last.len() == values[0].len() {
            return Ok(dvalues);
        }
        let keep: Vec<f64> = (0..values[0].len()).map(|p| f64::from(u8::from(last[&place(p)] == p))).collect();
        let mut shape = Dims::from(list[0].shape());
        shape.resize(back.shape(dvalues).len(), 1);
        let keep = Tensor::from_slice("index_put", &shape, &keep, Category::Temporary)?;
        let dtype = back.meta(dvalues).dtype;
        let keep = back.constant(keep);
        let keep = back.cast(keep, dtype)?;
        back.mul(dvalues, keep)
    }
}

fn add_rows<T: Element + std::ops::AddAssign>(y: &Tensor, values: &Tensor, places: &[usize], row: usize) {
    let (y, values) = (y.view().out::<T>(), values.view().slice::<T>());
    for (from, place) in values.chunks(row.max(1)).zip(places) {
        y[place * row..(place + 1) * row].iter_mut().zip(from).for_each(|(a, b)| *a += *b);
    }
}

fn no_sum(op: &str, dtype: DType) -> Error {
    Error::dtype(format!("{op}: sums of {}; a floating dtype or int64 is needed", dtype.name()))
}

impl Op for IndexPut {
    fn name(&self) -> &'static str {
        "index_put"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        if x.len() < 3 {
            return Err(error::arity("index_put", x.len(), "3 or more"));
        }
        let shape = picked("index_put", x[0], &x[2..])?;
        if x[1].shape() != shape.as_slice() || x[1].dtype != x[0].dtype {
            return Err(Error::shape(format!(
                "index_put: values {:?} {} for places {:?} of {}; the shapes and dtypes must be equal",
                x[1].shape(),
                x[1].dtype.name(),
                shape.as_slice(),
                x[0].dtype.name()
            )));
        }
        output("index_put", &x[..1], x[0].shape(), x[0].dtype)
    }
    fn differentiable(&self) -> Mask {
        0b11
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(!0b11)
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let k = x.len() - 2;
        let row: usize = x[0].shape()[k..].iter().product();
        let places = places("index_put", &x[0].shape()[..k], &x[2..])?;
        y[0].view().raw_out().copy_from_slice(x[0].view().raw());
        if self.accumulate {
            match y[0].dtype() {
                DType::F32 => add_rows::<f32>(&y[0], x[1], &places, row),
                DType::F64 => add_rows::<f64>(&y[0], x[1], &places, row),
                DType::I64 => add_rows::<i64>(&y[0], x[1], &places, row),
                other => return Err(no_sum("index_put", other)),
            }
            return Ok(());
        }
        let width = row * y[0].dtype().bytes();
        let to = y[0].view().raw_out();
        for (from, place) in x[1].view().raw().chunks(width.max(1)).zip(places) {
            to[place * width..(place + 1) * width].copy_from_slice(from);
        }
        Ok(())
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        let mut indices = vec![];
        for i in 2..back.inputs() {
            indices.push(back.input(i)?);
        }
        if back.needs(0) {
            let dx = if self.accumulate {
                dy
            } else {
                let values = back.input_meta(1).clone();
                let zeros = back.full(0.0, values.shape(), back.meta(dy).dtype)?;
                let operands: Vec<_> = [dy, zeros].into_iter().chain(indices.iter().copied()).collect();
                back.call("index_put", &operands, &[flag(false)])?
            };
            back.give(0, dx);
        }
        if back.needs(1) {
            let operands: Vec<_> = std::iter::once(dy).chain(indices.iter().copied()).collect();
            let mut dvalues = back.call("index_get", &operands, &[])?;
            if !self.accumulate {
                dvalues = self.survivors(back, dvalues, &indices)?;
            }
            back.give(1, dvalues);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let k = x.len() - 2;
        let row: usize = x[0].shape[k..].iter().product();
        let mut y = x[0].clone();
        for (i, place) in exact_places(&x[0].shape[..k], &x[2..]).into_iter().enumerate() {
            for j in 0..row {
                let value = x[1].data[i * row + j];
                let to = &mut y.data[place * row + j];
                *to = if self.accumulate { *to + value } else { value };
            }
        }
        Some(vec![y])
    }
}

/// How gather and scatter_add walk: for each element of `index`, its place in a tensor of shape `sizes`.
fn walk(op: &str, index: &Tensor, sizes: &[usize], dim: usize, mut visit: impl FnMut(usize, usize)) -> Result<()> {
    let shape = index.shape();
    let strides = shape::contiguous_strides(sizes);
    let mut at: Dims = Dims::from_elem(0, shape.len());
    for (i, &named) in index.view().slice::<i64>().iter().enumerate() {
        let mut place = 0usize;
        for axis in 0..shape.len() {
            let along = if axis == dim { position(op, named, sizes[axis])? } else { at[axis] };
            place += along * strides[axis] as usize;
        }
        visit(i, if shape.is_empty() { position(op, named, 1)? } else { place });
        for axis in (0..shape.len()).rev() {
            at[axis] += 1;
            if at[axis] < shape[axis] {
                break;
            }
            at[axis] = 0;
        }
    }
    Ok(())
}

/// Index and tensor have the same rank, and the index is no larger outside `dim`.
fn check_gather(op: &str, dim: i64, x: &Meta, index: &Meta) -> Result<usize> {
    expect_index(op, index)?;
    let dim = shape::dim(op, dim, x.shape())?;
    let fits = index.rank() == x.rank() && (0..x.rank()).all(|i| i == dim || index.shape()[i] <= x.shape()[i]);
    if fits {
        return Ok(dim);
    }
    Err(Error::shape(format!(
        "{op}: index {:?} for {:?} along dim {dim}; the same rank, and no larger in the other dims, is needed",
        index.shape(),
        x.shape()
    )))
}

/// y[i…] = x[i… with the dim replaced by index[i…]]
#[derive(Debug)]
pub struct Gather {
    dim: i64,
}

impl Gather {
    fn samples() -> Vec<Sample> {
        let of = |dim: i64, x: &[usize], index: &[usize], n: usize| {
            Sample::of(
                |a| Ok(Gather { dim: a.int("dim")? }.into()),
                &[int(dim)],
                &[(x, Domain::Any), (index, Domain::Index(n))],
            )
        };
        vec![
            of(0, &[4, 3], &[2, 3], 4),
            of(-1, &[3, 5], &[3, 2], 5),
            of(1, &[2, 4, 3], &[1, 6, 3], 4),
            of(0, &[3], &[0], 3),
        ]
    }
}

impl Op for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("gather", x, 2)?;
        check_gather("gather", self.dim, x[0], x[1])?;
        output("gather", &x[..1], x[1].shape(), x[0].dtype)
    }
    fn differentiable(&self) -> Mask {
        1
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(0b10)
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let (width, dim) = (y[0].dtype().bytes(), shape::dim("gather", self.dim, x[0].shape())?);
        let (from, to) = (x[0].view().raw(), y[0].view().raw_out());
        walk("gather", x[1], x[0].shape(), dim, |i, place| {
            to[i * width..(i + 1) * width].copy_from_slice(&from[place * width..(place + 1) * width]);
        })
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, index, meta) = (back.dy(), back.input(1)?, back.input_meta(0).clone());
        let zeros = back.full(0.0, meta.shape(), meta.dtype)?;
        let dx = back.call("scatter_add", &[zeros, index, dy], &[Attribute::Int(self.dim)])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let dim = shape::dim("gather", self.dim, &x[0].shape).ok()?;
        Some(vec![Exact::build(&x[1].shape, |at| {
            let mut from = Dims::from(at);
            from[dim] = x[1].at(at) as usize;
            x[0].at(&from)
        })])
    }
}

/// A copy of x with src[i…] added at [i… with the dim replaced by index[i…]].
#[derive(Debug)]
pub struct ScatterAdd {
    dim: i64,
}

impl ScatterAdd {
    fn samples() -> Vec<Sample> {
        let of = |dim: i64, x: &[usize], index: &[usize], n: usize| {
            let inputs = [(x, Domain::Any), (index, Domain::Index(n)), (index, Domain::Any)];
            Sample::of(|a| Ok(ScatterAdd { dim: a.int("dim")? }.into()), &[int(dim)], &inputs)
        };
        vec![of(0, &[4, 3], &[2, 3], 4), of(-1, &[3, 5], &[3, 7], 5), of(0, &[3], &[0], 3)]
    }
}

fn add_at<T: Element + std::ops::AddAssign>(x: &[&Tensor], y: &Tensor, dim: usize) -> Result<()> {
    let (to, from) = (y.view().out::<T>(), x[2].view().slice::<T>());
    walk("scatter_add", x[1], x[0].shape(), dim, |i, place| to[place] += from[i])
}

impl Op for ScatterAdd {
    fn name(&self) -> &'static str {
        "scatter_add"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("scatter_add", x, 3)?;
        check_gather("scatter_add", self.dim, x[0], x[1])?;
        if x[2].shape() != x[1].shape() || x[2].dtype != x[0].dtype {
            return Err(Error::shape(format!(
                "scatter_add: src {:?} {} for index {:?} and {}; the shapes and dtypes must be equal",
                x[2].shape(),
                x[2].dtype.name(),
                x[1].shape(),
                x[0].dtype.name()
            )));
        }
        output("scatter_add", &x[..1], x[0].shape(), x[0].dtype)
    }
    fn differentiable(&self) -> Mask {
        bit(0) | bit(2)
    }
    fn saves(&self, needs: Mask) -> Saves {
        Saves::inputs(if needs & bit(2) != 0 { 0b10 } else { 0 })
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let dim = shape::dim("scatter_add", self.dim, x[0].shape())?;
        y[0].view().raw_out().copy_from_slice(x[0].view().raw());
        match y[0].dtype() {
            DType::F32 => add_at::<f32>(x, &y[0], dim),
            DType::F64 => add_at::<f64>(x, &y[0], dim),
            DType::I64 => add_at::<i64>(x, &y[0], dim),
            other => Err(no_sum("scatter_add", other)),
        }
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        if back.needs(0) {
            back.give(0, dy);
        }
        if back.needs(2) {
            let index = back.input(1)?;
            let dsrc = back.call("gather", &[dy, index], &[Attribute::Int(self.dim)])?;
            back.give(2, dsrc);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let dim = shape::dim("scatter_add", self.dim, &x[0].shape).ok()?;
        let mut y = x[0].clone();
        Exact::build(&x[1].shape, |at| {
            let mut to = Dims::from(at);
            to[dim] = x[1].at(at) as usize;
            *y.at_mut(&to) += x[2].at(at);
            0.0
        });
        Some(vec![y])
    }
}
