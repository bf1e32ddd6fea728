//! Running totals along a dim: cumsum, cumprod, and the linear recurrence that their derivatives are made of.
//!
//! The derivative of each is another of them, the other way round, so gradients of any order are.

use super::args::{Args, Attribute, flag, int, ints, signed};
use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::run::converted;
use super::{Back, Cost, Mask, Metas, Op, OpRef, Saves, V, expect_float, expect_inputs, output};
use crate::arena::ledger::Category;
use crate::device::cpu::scan::{self, Linear, Product, Sum};
use crate::device::gpu::{Gpu, scan as on_gpu};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::shape::{self, Dims};
use crate::tensor::{Meta, Tensor};
use smallvec::SmallVec;

pub fn register(list: &mut Vec<Entry>) {
    list.extend([
        Entry { name: "cumsum", build: |a| Running::build(a, false), samples: || Running::samples(false) },
        Entry { name: "cumprod", build: |a| Running::build(a, true), samples: || Running::samples(true) },
        Entry { name: "recurrence", build: Recurrence::build, samples: Recurrence::samples },
    ]);
}

/// The sizes before, along and after a dim.
fn sizes(op: &str, dim: i64, shape: &[usize]) -> Result<[usize; 3]> {
    let dim = shape::dim(op, dim, shape)?;
    let after = shape.get(dim + 1..).map_or(1, |rest| rest.iter().product());
    Ok([shape[..dim].iter().product(), shape.get(dim).copied().unwrap_or(1), after])
}

/// Attributes of an op along one dim.
pub fn along(dim: usize) -> [Attribute; 1] {
    [int(dim as i64)]
}

/// Calls `visit(line start, step, n)` for the naive reading of each line.
fn lines([outer, n, inner]: [usize; 3], mut visit: impl FnMut(usize, usize, usize)) {
    (0..outer * inner).for_each(|line| visit(line / inner * n * inner + line % inner, inner, n));
}

/// The sum, or the product, of all elements up to each along a dim; in reverse, of all from each on.
#[derive(Debug)]
pub struct Running {
    dim: i64,
    reverse: bool,
    product: bool,
}

impl Running {
    fn build(args: &mut Args, product: bool) -> Result<OpRef> {
        Ok(Running { dim: args.int("dim")?, reverse: args.flag("reverse")?, product }.into())
    }

    fn samples(product: bool) -> Vec<Sample> {
        let build: fn(&mut Args) -> Result<OpRef> =
            if product { |a| Running::build(a, true) } else { |a| Running::build(a, false) };
        let of = |dim: i64, reverse: bool, x: &[usize]| {
            Sample::of(build, &[int(dim), flag(reverse)], &[(x, Domain::Divisor)])
        };
        vec![
            of(0, false, &[7]),
            of(-1, true, &[3, 5]),
            of(0, true, &[6, 3]),
            of(1, false, &[2, 5, 3]),
            of(0, false, &[]),
            of(1, false, &[2, 0]),
            of(0, true, &[0, 2]),
            of(0, false, &[4, 67]),
        ]
    }
}

impl Op for Running {
    fn name(&self) -> &'static str {
        if self.product { "cumprod" } else { "cumsum" }
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(self.name(), x, 1)?;
        sizes(self.name(), self.dim, x[0].shape())?;
        let dtype = if x[0].dtype.is_float() { x[0].dtype } else { DType::I64 };
        output(self.name(), x, x[0].shape(), dtype)
    }
    fn saves(&self, _needs: Mask) -> Saves {
        if self.product { Saves::inputs(1).and_outputs(1) } else { Saves::NOTHING }
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let sizes = sizes(self.name(), self.dim, x[0].shape())?;
        macro_rules! go {
            ($t:ty, $x:expr) => {
                match self.product {
                    true => scan::along::<Product, $t>($x.view().slice(), None, y[0].view().out(), sizes, self.reverse),
                    false => scan::along::<Sum, $t>($x.view().slice(), None, y[0].view().out(), sizes, self.reverse),
                }
            };
        }
        match y[0].dtype() {
            DType::F64 => go!(f64, x[0]),
            DType::F32 => go!(f32, x[0]),
            _ => {
                let wide = Meta { dtype: DType::I64, ..x[0].meta.clone() };
                go!(i64, converted(x[0], wide, Category::Workspace)?);
            }
        }
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let sizes = sizes(self.name(), self.dim, x[0].shape())?;
        let how = if self.product { on_gpu::How::Product } else { on_gpu::How::Sum };
        on_gpu::scan(gpu, self.name(), how, &x[0].buffer(), sizes, self.reverse, &y[0].buffer())
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        if !self.product {
            let dx = back.call("cumsum", &[dy], &[Attribute::Int(self.dim), flag(!self.reverse)])?;
            back.give(0, dx);
            return Ok(());
        }
        let (x, y) = (back.input(0)?, back.output(0)?);
        let shape = Dims::from(back.input_meta(0).shape());
        let dx = match shape.is_empty() {
            true => dy,
            false => slope(back, [x, y, dy], shape::dim("cumprod", self.dim, &shape)?, self.reverse)?,
        };
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let mut y = x[0].clone();
        lines(sizes("cumsum", self.dim, &x[0].shape).ok()?, |start, step, n| {
            for j in 1..n {
                let at = |j: usize| start + step * if self.reverse { n - 1 - j } else { j };
                let before = y.data[at(j - 1)];
                let y = &mut y.data[at(j)];
                *y = if self.product { *y * before } else { *y + before };
            }
        });
        Some(vec![y])
    }
}

/// The gradient of a running product: that of factor k is the product of those before it, times what the sums from k on
/// receive: s_k = dy_k + x_{k+1} · s_{k+1}.
pub fn product_slope(back: &mut Back, x: V, y: V, dy: V, dim: usize) -> Result<V> {
    slope(back, [x, y, dy], dim, false)
}

fn slope(back: &mut Back, [x, y, dy]: [V; 3], dim: usize, reverse: bool) -> Result<V> {
    let before = shifted(back, y, dim, reverse, 1.0)?;
    // Forwards, a step of the recurrence has the factor of the place it goes to; here it is that of the place it left.
    let x = if reverse { shifted(back, x, dim, false, 1.0)? } else { x };
    let received = back.call("recurrence", &[dy, x], &[int(dim as i64), flag(!reverse)])?;
    back.mul(before, received)
}

/// The element before each along a dim, or in reverse the one behind it; `first` where there is none.
fn shifted(back: &mut Back, v: V, dim: usize, reverse: bool, first: f64) -> Result<V> {
    let mut shape = back.shape(v);
    if shape[dim] == 0 {
        return Ok(v);
    }
    let mut starts: SmallVec<[i64; 6]> = SmallVec::from_elem(0, shape.len());
    let steps: SmallVec<[i64; 6]> = SmallVec::from_elem(1, shape.len());
    starts[dim] = i64::from(reverse);
    shape[dim] -= 1;
    let rest = back.call("slice", &[v], &[signed(&starts), signed(&steps), ints(&shape)])?;
    shape[dim] = 1;
    let edge = Tensor::scalar(first, back.meta(v).dtype)?;
    let edge = back.beside(edge, v)?;
    let edge = back.expand(edge, &shape)?;
    let parts = if reverse { [rest, edge] } else { [edge, rest] };
    back.call("cat", &parts, &along(dim))
}

/// Zeros with a value in the last place along the last dim.
pub fn at_the_end(back: &mut Back, v: V, shape: &[usize]) -> Result<V> {
    let mut starts: Dims = Dims::from_elem(0, shape.len());
    starts[shape.len() - 1] = shape[shape.len() - 1] - 1;
    let (steps, sizes) = (Dims::from_elem(1, shape.len()), back.shape(v));
    back.call("embed", &[v], &[ints(&starts), ints(&steps), ints(&sizes), ints(shape)])
}

/// y_k = a_k + b_k · y_{k-1} along a dim; in reverse y_k = a_k + b_{k+1} · y_{k+1}. The first factor is not read.
#[derive(Debug)]
pub struct Recurrence {
    dim: i64,
    reverse: bool,
}

impl Recurrence {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Recurrence { dim: args.int("dim")?, reverse: args.flag("reverse")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |dim: i64, reverse: bool, x: &[usize]| {
            Sample::of(Self::build, &[int(dim), flag(reverse)], &[(x, Domain::Any), (x, Domain::Unit)])
        };
        vec![
            of(0, false, &[7]),
            of(-1, true, &[3, 5]),
            of(0, true, &[6, 3]),
            of(1, false, &[2, 5, 3]),
            of(0, false, &[]),
            of(1, true, &[2, 0]),
        ]
    }
}

impl Op for Recurrence {
    fn name(&self) -> &'static str {
        "recurrence"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("recurrence", x, 2)?;
        expect_float("recurrence", x[0])?;
        sizes("recurrence", self.dim, x[0].shape())?;
        if x[0].shape() != x[1].shape() || x[0].dtype != x[1].dtype {
            return Err(Error::shape(format!(
                "recurrence: terms {:?} {} and factors {:?} {}; shapes and dtypes must be equal",
                x[0].shape(),
                x[0].dtype.name(),
                x[1].shape(),
                x[1].dtype.name()
            )));
        }
        output("recurrence", x, x[0].shape(), x[0].dtype)
    }
    fn saves(&self, needs: Mask) -> Saves {
        if needs & 0b10 != 0 { Saves::inputs(0b10).and_outputs(1) } else { Saves::inputs(0b10) }
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 2.0)
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let sizes = sizes("recurrence", self.dim, x[0].shape())?;
        let (a, b, y) = (x[0].view(), x[1].view(), y[0].view());
        match y.dtype {
            DType::F64 => scan::along::<Linear, f64>(a.slice(), Some(b.slice()), y.out(), sizes, self.reverse),
            _ => scan::along::<Linear, f32>(a.slice(), Some(b.slice()), y.out(), sizes, self.reverse),
        }
        Ok(())
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let sizes = sizes("recurrence", self.dim, x[0].shape())?;
        let (a, b, y) = (x[0].buffer(), x[1].buffer(), y[0].buffer());
        on_gpu::scan(gpu, "recurrence", on_gpu::How::Linear(b), &a, sizes, self.reverse, &y)
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, b, shape) = (back.dy(), back.input(1)?, Dims::from(back.input_meta(0).shape()));
        let da = back.call("recurrence", &[dy, b], &[Attribute::Int(self.dim), flag(!self.reverse)])?;
        back.give(0, da);
        if !back.needs(1) {
            return Ok(());
        }
        let db = if shape.is_empty() {
            back.full(0.0, &[], back.input_meta(1).dtype)?
        } else {
            let (y, dim) = (back.output(0)?, shape::dim("recurrence", self.dim, &shape)?);
            // b_k takes y_{k-1} to y_k; in reverse it takes y_k to y_{k-1}.
            if self.reverse {
                let da = shifted(back, da, dim, false, 0.0)?;
                back.mul(da, y)?
            } else {
                let before = shifted(back, y, dim, false, 0.0)?;
                back.mul(da, before)?
            }
        };
        back.give(1, db);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let mut y = x[0].clone();
        lines(sizes("recurrence", self.dim, &x[0].shape).ok()?, |start, step, n| {
            for j in 1..n {
                let at = |j: usize| start + step * if self.reverse { n - 1 - j } else { j };
                let factor = x[1].data[at(if self.reverse { j - 1 } else { j })];
                y.data[at(j)] += factor * y.data[at(j - 1)];
            }
        });
        Some(vec![y])
    }
}
