//! Whole slices along a dim: index_select and its way back index_add, embedding and its way back, and one_hot.

use super::super::args::{Args, Attribute, int};
use super::super::laws::{Domain, Exact, Sample};
use super::super::registry::Entry;
use super::super::{Back, Cost, Layouts, Mask, Metas, Op, OpRef, Saves, V, expect_index, expect_inputs, output};
use super::{along, begin_as, expect_number, expect_same_type, on_gpu};
use crate::device::cpu::copy;
use crate::device::cpu::slices::{self, Ends, Rows};
use crate::device::gpu::Gpu;
use crate::device::gpu::faults::{Check, Valid};
use crate::device::gpu::places::{self, Meeting, Walk};
use crate::dtype::DType;
use crate::error::{self, Error, Result};
use crate::shape::{self, Dims};
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.extend([
        Entry { name: "index_select", build: IndexSelect::build, samples: IndexSelect::samples },
        Entry { name: "index_add", build: IndexAdd::build, samples: IndexAdd::samples },
        Entry { name: "embedding", build: Embedding::build, samples: Embedding::samples },
        Entry { name: "embedding_grad", build: EmbeddingGrad::build, samples: EmbeddingGrad::samples },
        Entry { name: "one_hot", build: OneHot::build, samples: OneHot::samples },
    ]);
}

/// The product of the sizes before and after a dim.
fn around(shape: &[usize], dim: usize) -> (usize, usize) {
    (shape[..dim].iter().product(), shape[dim + 1..].iter().product())
}

/// The dim of a tensor that a list of indices picks from.
fn picked(op: &str, dim: i64, x: &Meta, index: &Meta) -> Result<usize> {
    expect_index(op, index)?;
    if index.rank() != 1 {
        return Err(Error::shape(format!(
            "{op}: an index of shape {:?}; a list of indices, 1-d, is needed",
            index.shape()
        )));
    }
    if x.rank() == 0 {
        return Err(Error::shape(format!("{op}: a 0-d tensor has no dim to index; reshape it to [1]")));
    }
    shape::dim(op, dim, x.shape())
}

/// For a GPU: what is walked over, and how indices are checked.
fn walk(op: &'static str, shape: &[usize], dim: usize, positions: usize) -> (Walk, Check) {
    let [outer, count, inner] = on_gpu::around(shape, dim);
    (Walk { outer, count, inner, positions, lines: false }, Check::new(op, &[count], Valid::FromStart))
}

/// Rows by number. Where there is nothing to move, an index out of range is still an error.
fn taken(gpu: &Gpu, walk: Walk, check: Check, x: &Tensor, index: &Tensor, y: &Tensor) -> Result<()> {
    if y.numel() == 0 {
        return places::rows(gpu, check, &[index.buffer()]).map(|_| ());
    }
    places::take(gpu, walk, check, &x.buffer(), &index.buffer(), &y.buffer())
}

/// The slices of x that a list of indices names along a dim.
#[derive(Debug)]
pub struct IndexSelect {
    dim: i64,
}

impl IndexSelect {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(IndexSelect { dim: args.int("dim")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |dim: i64, x: &[usize], n: usize| {
            let at = if dim < 0 { x.len() as i64 + dim } else { dim } as usize;
            Sample::of(Self::build, &[int(dim)], &[(x, Domain::Any), (&[n], Domain::Index(x[at]))])
        };
        vec![of(0, &[5, 3], 7), of(-1, &[3, 5], 2), of(1, &[2, 3, 5], 4), of(0, &[5], 0), of(0, &[4, 0], 3)]
    }
}

impl Op for IndexSelect {
    fn name(&self) -> &'static str {
        "index_select"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("index_select", x, 2)?;
        let dim = picked("index_select", self.dim, x[0], x[1])?;
        let mut target = Dims::from(x[0].shape());
        target[dim] = x[1].numel();
        output("index_select", x, &target, x[0].dtype)
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(0b10)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost { flops: 0.0, bytes: (x[1].bytes() + 2 * y[0].bytes()) as f64 }
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let dim = shape::dim("index_select", self.dim, x[0].shape())?;
        let (outer, inner) = around(x[0].shape(), dim);
        let rows = Rows::new("index_select", &[x[1].view()], &[x[0].shape()[dim]], Ends::Start);
        slices::take(&x[0].view(), &rows, outer, inner, &y[0].view())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let dim = shape::dim("index_select", self.dim, x[0].shape())?;
        let (walk, check) = walk("index_select", x[0].shape(), dim, x[1].numel());
        taken(gpu, walk, check, x[0], x[1], &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, index, x) = (back.dy(), back.input(1)?, back.input_meta(0));
        let dim = shape::dim("index_select", self.dim, x.shape())?;
        let zeros = back.full(0.0, x.shape(), x.dtype)?;
        let dx = back.call("index_add", &[zeros, index, dy], &along(dim))?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let dim = shape::dim("index_select", self.dim, &x[0].shape).ok()?;
        let mut target = x[0].shape.clone();
        target[dim] = x[1].data.len();
        Some(vec![Exact::build(&target, |index| {
            let mut from = Dims::from(index);
            from[dim] = x[1].data[index[dim]] as usize;
            x[0].at(&from)
        })])
    }
}

/// x with slices of src added where a list of indices says along a dim.
#[derive(Debug)]
pub struct IndexAdd {
    dim: i64,
}

impl IndexAdd {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(IndexAdd { dim: args.int("dim")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |dim: i64, x: &[usize], n: usize| {
            let at = if dim < 0 { x.len() as i64 + dim } else { dim } as usize;
            let mut src = x.to_vec();
            src[at] = n;
            let inputs = [(x, Domain::Any), (&[n], Domain::Index(x[at])), (&src, Domain::Any)];
            Sample::of(Self::build, &[int(dim)], &inputs)
        };
        vec![of(0, &[5, 3], 7), of(-1, &[3, 5], 2), of(1, &[2, 3, 5], 4), of(0, &[5], 0), of(0, &[3, 600], 40)]
    }
}

impl Op for IndexAdd {
    fn name(&self) -> &'static str {
        "index_add"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("index_add", x, 3)?;
        let dim = picked("index_add", self.dim, x[0], x[1])?;
        expect_number("index_add", x[0])?;
        expect_same_type("index_add", x[0], x[2])?;
        let mut wanted = Dims::from(x[0].shape());
        wanted[dim] = x[1].numel();
        if x[2].shape() != wanted.as_slice() {
            return Err(Error::shape(format!(
                "index_add: values of shape {:?} for {} indices along dim {dim} of {:?}; {:?} is needed",
                x[2].shape(),
                x[1].numel(),
                x[0].shape(),
                wanted.as_slice()
            )));
        }
        output("index_add", x, x[0].shape(), x[0].dtype)
    }
    fn saves(&self, needs: Mask) -> Saves {
        if needs & 0b100 != 0 { Saves::inputs(0b10) } else { Saves::NOTHING }
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost { flops: x[2].numel() as f64, ..Cost::streaming(x, y, 0.0) }
    }
    fn layouts(&self, input: usize) -> Layouts {
        if input == 0 { Layouts::Any } else { Layouts::Contiguous }
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        begin_as(x[0], &y[0]);
        let dim = shape::dim("index_add", self.dim, x[0].shape())?;
        let (outer, inner) = around(x[0].shape(), dim);
        let rows = Rows::new("index_add", &[x[1].view()], &[x[0].shape()[dim]], Ends::Start);
        slices::add(&y[0].view(), &rows, &x[2].view(), outer, inner, None)
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let dim = shape::dim("index_add", self.dim, x[0].shape())?;
        let (walk, check) = walk("index_add", x[0].shape(), dim, x[1].numel());
        let (index, src) = (on_gpu::laid(x[1], y[0].device())?, on_gpu::laid(x[2], y[0].device())?);
        let rows = places::rows(gpu, check, &[index.buffer()])?;
        on_gpu::meet(gpu, "index_add", walk, Meeting::Add, x[0], &y[0], &rows, &src, None)
    }
    fn takes_numbers(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        back.give(0, dy);
        if back.needs(2) {
            let index = back.input(1)?;
            let dim = shape::dim("index_add", self.dim, back.input_meta(0).shape())?;
            let dsrc = back.call("index_select", &[dy, index], &along(dim))?;
            back.give(2, dsrc);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let dim = shape::dim("index_add", self.dim, &x[0].shape).ok()?;
        let mut y = x[0].clone();
        Exact::build(&x[2].shape, |index| {
            let mut to = Dims::from(index);
            to[dim] = x[1].data[index[dim]] as usize;
            *y.at_mut(&to) += x[2].at(index);
            0.0
        });
        Some(vec![y])
    }
}

/// Padding: the row whose gradient is zero, counted from either end.
fn padding(op: &str, given: Option<i64>, rows: usize) -> Result<Option<usize>> {
    let Some(index) = given else { return Ok(None) };
    let at = if index < 0 { index + rows as i64 } else { index };
    if (0..rows as i64).contains(&at) { Ok(Some(at as usize)) } else { Err(error::index_out_of_range(op, index, rows)) }
}

/// Rows of a table by number: weight [v, d], indices of any shape → [..., d].
#[derive(Debug)]
pub struct Embedding {
    padding: Option<i64>,
}

impl Embedding {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Embedding { padding: args.int_or_none("padding_idx")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |padding: Option<i64>, weight: &[usize], indices: &[usize]| {
            let attribute = padding.map_or(Attribute::None, int);
            Sample::of(Self::build, &[attribute], &[(weight, Domain::Any), (indices, Domain::Index(weight[0]))])
        };
        // With a padding row the vjp is no derivative on purpose, so no sample has one that is used: see `tests`.
        vec![of(None, &[5, 3], &[2, 4]), of(None, &[7, 65], &[3]), of(None, &[3, 2], &[]), of(None, &[3, 2], &[0, 2])]
    }
}

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("embedding", x, 2)?;
        expect_index("embedding", x[1])?;
        let [v, d] = x[0].shape() else {
            let shape = x[0].shape();
            return Err(Error::shape(format!(
                "embedding: a weight of shape {shape:?}; a table [rows, columns] is needed"
            )));
        };
        padding("embedding", self.padding, *v)?;
        let mut target = Dims::from(x[1].shape());
        target.push(*d);
        output("embedding", x, &target, x[0].dtype)
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(0b10)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost { flops: 0.0, bytes: (x[1].bytes() + 2 * y[0].bytes()) as f64 }
    }
    fn takes_half(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let rows = Rows::new("embedding", &[x[1].view()], &x[0].shape()[..1], Ends::Start);
        slices::take(&x[0].view(), &rows, 1, x[0].shape()[1], &y[0].view())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let (walk, check) = walk("embedding", x[0].shape(), 0, x[1].numel());
        taken(gpu, walk, check, x[0], x[1], &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, indices, rows) = (back.dy(), back.input(1)?, back.input_meta(0).shape()[0]);
        let dx = back.apply(EmbeddingGrad { rows, padding: self.padding }, &[dy, indices])?;
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let mut target = x[1].shape.clone();
        target.push(x[0].shape[1]);
        Some(vec![Exact::build(&target, |index| {
            let (column, position) = index.split_last().expect("bug: an embedding of no dims");
            x[0].at(&[x[1].at(position) as usize, *column])
        })])
    }
}

/// The sum of the gradients of each row of a table; that of the padding row stays zero.
#[derive(Debug)]
pub struct EmbeddingGrad {
    rows: usize,
    padding: Option<i64>,
}

impl EmbeddingGrad {
    fn build(args: &mut Args) -> Result<OpRef> {
        let rows = args.size("rows")?;
        Ok(EmbeddingGrad { rows, padding: args.int_or_none("padding_idx")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |rows: usize, padding: Option<i64>, indices: &[usize], d: usize| {
            let dy: Vec<usize> = indices.iter().copied().chain([d]).collect();
            let attributes = [int(rows as i64), padding.map_or(Attribute::None, int)];
            Sample::of(Self::build, &attributes, &[(&dy, Domain::Any), (indices, Domain::Index(rows))])
        };
        vec![
            of(5, None, &[2, 4], 3),
            of(5, Some(-2), &[2, 9], 3),
            of(3, Some(0), &[40], 520),
            of(3, None, &[], 2),
            of(3, None, &[0], 2),
        ]
    }
}

impl Op for EmbeddingGrad {
    fn name(&self) -> &'static str {
        "embedding_grad"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("embedding_grad", x, 2)?;
        expect_index("embedding_grad", x[1])?;
        expect_number("embedding_grad", x[0])?;
        padding("embedding_grad", self.padding, self.rows)?;
        let (dy, indices) = (x[0].shape(), x[1].shape());
        match dy.split_last() {
            Some((&d, position)) if position == indices => output("embedding_grad", x, &[self.rows, d], x[0].dtype),
            _ => Err(Error::shape(format!(
                "embedding_grad: gradients of shape {dy:?} for indices of shape {indices:?}; one row an index is needed"
            ))),
        }
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs(0b10)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost { flops: x[0].numel() as f64, ..Cost::streaming(x, y, 0.0) }
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        copy::zero(&y[0].view());
        let rows = Rows::new("embedding_grad", &[x[1].view()], &[self.rows], Ends::Start);
        let skip = padding("embedding_grad", self.padding, self.rows)?;
        slices::add(&y[0].view(), &rows, &x[0].view(), 1, y[0].shape()[1], skip)
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let (walk, check) = walk("embedding_grad", y[0].shape(), 0, x[1].numel());
        let rows = places::rows(gpu, check, &[x[1].buffer()])?;
        let skip = padding("embedding_grad", self.padding, self.rows)?;
        let zero = Tensor::scalar(0.0, y[0].dtype())?;
        on_gpu::meet(gpu, "embedding_grad", walk, Meeting::Add, &zero, &y[0], &rows, x[0], skip)
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, indices) = (back.dy(), back.input(1)?);
        let mut dx = back.apply(Embedding { padding: self.padding }, &[dy, indices])?;
        if let Some(row) = padding("embedding_grad", self.padding, self.rows)? {
            dx = self.without(back, indices, row as f64, dx)?;
        }
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let skip = padding("embedding_grad", self.padding, self.rows).ok()?;
        let mut y = Exact::zeros(&[self.rows, *x[0].shape.last()?]);
        Exact::build(&x[0].shape, |index| {
            let (column, position) = index.split_last().expect("bug: gradients of no dims");
            let row = x[1].at(position) as usize;
            if skip != Some(row) {
                *y.at_mut(&[row, *column]) += x[0].at(index);
            }
            0.0
        });
        Some(vec![y])
    }
}

impl EmbeddingGrad {
    /// Zero in the rows whose index is `name`.
    fn without(&self, back: &mut Back, indices: V, name: f64, dx: V) -> Result<V> {
        let name = back.number(name, DType::I64)?;
        let others = back.call("ne", &[indices, name], &[])?;
        let mut shape = back.shape(others);
        shape.push(1);
        let others = back.reshape(others, &shape)?;
        let zero = back.number(0.0, back.meta(dx).dtype)?;
        back.call("where", &[others, dx, zero], &[])
    }
}

/// A row of int64 zeros for each class number, with a 1 at its place. Has no derivative.
#[derive(Debug)]
pub struct OneHot {
    classes: usize,
}

impl OneHot {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(OneHot { classes: args.size("classes")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |classes: usize, x: &[usize]| {
            Sample::of(Self::build, &[int(classes as i64)], &[(x, Domain::Index(classes))])
        };
        vec![of(5, &[2, 3]), of(3, &[]), of(4, &[0])]
    }
}

impl Op for OneHot {
    fn name(&self) -> &'static str {
        "one_hot"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("one_hot", x, 1)?;
        expect_index("one_hot", x[0])?;
        let mut target = Dims::from(x[0].shape());
        target.push(self.classes);
        output("one_hot", x, &target, DType::I64)
    }
    fn differentiable(&self) -> Mask {
        0
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 0.0)
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        copy::zero(&y[0].view());
        let (x, y) = (x[0].view().slice::<i64>(), y[0].view().out::<i64>());
        for (i, &class) in x.iter().enumerate() {
            let at = usize::try_from(class).ok().filter(|&at| at < self.classes);
            let at = at.ok_or_else(|| error::class_out_of_range("one_hot", class, self.classes))?;
            y[i * self.classes + at] = 1;
        }
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        places::one_hot(gpu, &x[0].buffer(), self.classes, &y[0].buffer())
    }
    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Err(error::not_differentiable("one_hot"))
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let mut target = x[0].shape.clone();
        target.push(self.classes);
        Some(vec![Exact::build(&target, |index| {
            let (class, position) = index.split_last().expect("bug: one_hot of no dims");
            f64::from(x[0].at(position) == *class as f64)
        })])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::ledger::Category;
    use crate::ops::run;

    fn longs(shape: &[usize], values: &[i64]) -> Tensor {
        Tensor::from_slice("test", shape, values, Category::Input).unwrap()
    }

    #[test]
    fn the_padding_row_has_no_gradient() {
        let dy = Tensor::from_slice("test", &[4, 1], &[1.0f32, 2.0, 4.0, 8.0], Category::Input).unwrap();
        let indices = longs(&[4], &[0, 2, 2, 0]);
        let sum = |padding| {
            let attributes = [int(3), padding];
            run::call("embedding_grad", &[&dy, &indices], &attributes).unwrap().to_f64()
        };
        assert_eq!(sum(Attribute::None), [9.0, 0.0, 6.0]);
        assert_eq!(sum(int(2)), [9.0, 0.0, 0.0]);
        assert_eq!(sum(int(-3)), [0.0, 0.0, 6.0]);
    }

    #[test]
    fn an_index_out_of_range_is_an_error_that_names_it() {
        let x = Tensor::from_slice("test", &[3, 2], &[0.0f32; 6], Category::Input).unwrap();
        for (index, text) in [
            (3, "index_select: index 3 is out of range for size 3; valid indices are 0 to 2"),
            (-1, "index_select: index -1 is out of range for size 3; valid indices are 0 to 2"),
        ] {
            let error = run::call("index_select", &[&x, &longs(&[2], &[0, index])], &[int(0)]).unwrap_err();
            assert_eq!(error.text(), text);
        }
        assert!(run::call("one_hot", &[&longs(&[1], &[-1])], &[int(3)]).is_err());
    }
}
