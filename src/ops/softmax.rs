//! Softmax and its logarithm along one dim. Saves the output only.

use super::args::{Args, int};
use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::run::relaid;
use super::{Back, Cost, Mask, Metas, Op, OpRef, Saves, V, expect_float, expect_inputs, output};
use crate::arena::ledger::Category;
use crate::arena::on_paper;
use crate::device::cpu::rows;
use crate::device::gpu::{Gpu, rows as on_gpu};
use crate::dtype::DType;
use crate::error::Result;
use crate::shape::{self, Dims, Layout, Strides};
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "softmax", build: |a| build(a, false), samples: || samples(false) });
    list.push(Entry { name: "log_softmax", build: |a| build(a, true), samples: || samples(true) });
}

fn build(args: &mut Args, log: bool) -> Result<OpRef> {
    Ok(Softmax { dim: args.int("dim")?, log }.into())
}

fn samples(log: bool) -> Vec<Sample> {
    let of = |dim: i64, x: &[usize]| {
        Sample::of(if log { |a| build(a, true) } else { |a| build(a, false) }, &[int(dim)], &[(x, Domain::Any)])
    };
    vec![
        of(-1, &[3, 5]),
        of(0, &[7, 3]),
        of(1, &[2, 19, 3]),
        of(0, &[]),
        of(-1, &[0, 4]),
        of(1, &[2, 0]),
        of(-1, &[4, 37]),
    ]
}

/// softmax(x)ᵢ = e^(xᵢ - max) / Σ e^(xⱼ - max)
#[derive(Debug)]
pub struct Softmax {
    dim: i64,
    log: bool,
}

/// The sizes before, along and after a dim.
fn sizes(x: &[usize], dim: usize) -> [usize; 3] {
    [x[..dim].iter().product(), x.get(dim).copied().unwrap_or(1), x.iter().skip(dim + 1).product()]
}

/// The same elements with `dim` moved to the end, as a view.
fn dim_last(x: &Tensor, dim: usize) -> Tensor {
    let mut order: Dims = (0..x.shape().len()).collect();
    let axis = order.remove(dim);
    order.push(axis);
    let sizes: Dims = order.iter().map(|&i| x.shape()[i]).collect();
    let steps: Strides = order.iter().map(|&i| x.layout().strides()[i]).collect();
    x.with_layout(Layout::strided(&sizes, &steps), x.offset())
}

/// Runs a row kernel with `dim` as the fastest axis: on the tensors themselves when it is, else through copies.
fn along(
    dim: usize,
    x: &[&Tensor],
    y: &Tensor,
    kernel: impl Fn(&[Tensor], &Tensor, usize) -> Result<()>,
) -> Result<()> {
    let rank = y.shape().len();
    let columns = y.shape().get(dim).copied().unwrap_or(1);
    if y.numel() == 0 {
        return Ok(());
    }
    if rank == 0 || dim == rank - 1 {
        if on_paper() {
            return Ok(());
        }
        let inputs: Vec<Tensor> = x.iter().map(|t| (*t).clone()).collect();
        return kernel(&inputs, y, columns);
    }
    let target = dim_last(y, dim);
    let layout = Layout::contiguous("softmax", target.shape())?;
    let moved = |t: &&Tensor| relaid(&dim_last(t, dim), layout.clone(), Category::Workspace);
    let inputs: Vec<Tensor> = x.iter().map(moved).collect::<Result<_>>()?;
    let out = Tensor::empty(Meta { layout: layout.clone(), ..y.meta.clone() }, Category::Workspace)?;
    if on_paper() {
        return Ok(());
    }
    kernel(&inputs, &out, columns)?;
    super::pointwise::copy_into(&out, &target)?;
    Ok(())
}

impl Softmax {
    fn axis(&self, shape: &[usize]) -> Result<usize> {
        shape::dim(self.name(), self.dim, shape)
    }
}

impl Op for Softmax {
    fn name(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(self.name(), x, 1)?;
        expect_float(self.name(), x[0])?;
        self.axis(x[0].shape())?;
        output(self.name(), x, x[0].shape(), x[0].dtype)
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::outputs(1)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 4.0)
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        along(self.axis(x[0].shape())?, x, &y[0], |x, y, columns| {
            match y.dtype() {
                DType::F64 => rows::softmax(x[0].view().slice::<f64>(), y.view().out(), columns, self.log),
                _ => rows::softmax(x[0].view().slice::<f32>(), y.view().out(), columns, self.log),
            }
            Ok(())
        })
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let sizes = sizes(x[0].shape(), self.axis(x[0].shape())?);
        on_gpu::softmax(gpu, &x[0].buffer(), None, sizes, self.log, &y[0].buffer())
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, y) = (back.dy(), back.output(0)?);
        let axis = self.axis(back.input_meta(0).shape())?;
        let dx = if back.records() {
            self.recorded(back, y, dy, axis)?
        } else {
            back.apply(SoftmaxBack { axis, log: self.log }, &[y, dy])?
        };
        back.give(0, dx);
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let (x, axis) = (&x[0], self.axis(&x[0].shape).ok()?);
        Some(vec![Exact::build(&x.shape, |index| {
            let mut at = Dims::from(index);
            let size = x.shape.get(axis).copied().unwrap_or(1);
            let mut value = |j: usize| {
                if let Some(place) = at.get_mut(axis) {
                    *place = j;
                }
                x.at(&at)
            };
            let top = (0..size).map(&mut value).fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = (0..size).map(|j| (value(j) - top).exp()).sum();
            let own = x.at(index) - top;
            if self.log { own - total.ln() } else { own.exp() / total }
        })])
    }
}

impl Softmax {
    /// The same gradient in ops that have gradients.
    fn recorded(&self, back: &mut Back, y: V, dy: V, axis: usize) -> Result<V> {
        let dims: &[usize] = if back.input_meta(0).rank() == 0 { &[] } else { &[axis] };
        if self.log {
            let total = back.sum(dy, dims, true)?;
            let p = back.call("exp", &[y], &[])?;
            let share = back.mul(p, total)?;
            return back.sub(dy, share);
        }
        let product = back.mul(y, dy)?;
        let total = back.sum(product, dims, true)?;
        let rest = back.sub(dy, total)?;
        back.mul(y, rest)
    }
}

/// The fused gradient; not recorded.
#[derive(Debug)]
struct SoftmaxBack {
    axis: usize,
    log: bool,
}

impl Op for SoftmaxBack {
    fn name(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        output(self.name(), x, x[0].shape(), x[0].dtype)
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        along(self.axis, x, &y[0], |x, y, columns| {
            let (a, b) = (x[0].view(), x[1].view());
            match y.dtype() {
                DType::F64 => rows::softmax_back(a.slice::<f64>(), b.slice(), y.view().out(), columns, self.log),
                _ => rows::softmax_back(a.slice::<f32>(), b.slice(), y.view().out(), columns, self.log),
            }
            Ok(())
        })
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let sizes = sizes(x[0].shape(), self.axis);
        on_gpu::softmax(gpu, &x[0].buffer(), Some(&x[1].buffer()), sizes, self.log, &y[0].buffer())
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Err(super::fused_was_recorded(self.name()))
    }
    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}
