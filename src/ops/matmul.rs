//! Matrix products, with broadcasting batches.

use super::args::Args;
use super::laws::{Domain, Exact, Sample};
use super::reduce::on_gpu::scratch;
use super::registry::Entry;
use super::run::{relaid, workspace};
use super::{Back, Cost, Layouts, Mask, Metas, Op, OpRef, Saves, V, bit, expect_float, expect_inputs, output};
use crate::arena::ledger::Category;
use crate::arena::on_paper;
use crate::device::cpu::gemm::tile::Element as Number;
use crate::device::cpu::product::Product;
use crate::device::gpu::{Gpu, gemm};
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::shape::{self, Dims, Layout};
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "matmul", build: Matmul::build, samples: Matmul::samples });
}

/// a [.., m, k] · b [.., k, n] → [.., m, n]; a 1-d side is a row or a column whose dim is dropped again.
#[derive(Debug)]
pub struct Matmul;

/// The shapes of a, b and y with 1-d sides written as matrices.
fn matrices(a: &[usize], b: &[usize]) -> Result<[Dims; 3]> {
    if a.is_empty() || b.is_empty() {
        return Err(Error::shape(format!(
            "matmul: shapes {a:?} and {b:?}; each side needs at least 1 dim (help: use *)"
        )));
    }
    let row = |s: &[usize]| if s.len() == 1 { Dims::from_slice(&[1, s[0]]) } else { Dims::from_slice(s) };
    let column = |s: &[usize]| if s.len() == 1 { Dims::from_slice(&[s[0], 1]) } else { Dims::from_slice(s) };
    let (left, right) = (row(a), column(b));
    let (k, other) = (left[left.len() - 1], right[right.len() - 2]);
    if k != other {
        return Err(Error::shape(format!("matmul: inner dimensions differ: {a:?} × {b:?} ({k} vs {other})")));
    }
    let mut y = shape::broadcast("matmul", &left[..left.len() - 2], &right[..right.len() - 2]).map_err(|_| {
        Error::shape(format!(
            "matmul: batch dims of {a:?} × {b:?} do not broadcast; before the last two, sizes must be equal or 1"
        ))
    })?;
    y.push(left[left.len() - 2]);
    y.push(right[right.len() - 1]);
    Ok([left, right, y])
}

pub(super) fn matched_types(op: &str, x: &[&Meta]) -> Result<DType> {
    x.iter().try_for_each(|m| expect_float(op, m))?;
    match x.iter().find(|m| m.dtype != x[0].dtype) {
        None => Ok(x[0].dtype),
        Some(m) => Err(Error::dtype(format!(
            "{op}: dtypes {} and {} differ; cast one of them (help: x.to(y.dtype))",
            x[0].dtype.name(),
            m.dtype.name()
        ))),
    }
}

impl Matmul {
    fn build(_: &mut Args) -> Result<OpRef> {
        Ok(OpRef::Static(&Matmul))
    }

    fn samples() -> Vec<Sample> {
        let of = |a: &[usize], b: &[usize]| Sample::of(Self::build, &[], &[(a, Domain::Any), (b, Domain::Any)]);
        vec![
            of(&[3, 5], &[5, 4]),
            of(&[7], &[7]),
            of(&[7], &[7, 3]),
            of(&[2, 7], &[7]),
            of(&[2, 3, 5], &[5, 4]),
            of(&[2, 1, 3, 5], &[4, 5, 2]),
            of(&[3, 1, 2, 4], &[1, 5, 4, 2]),
            of(&[5], &[2, 5, 3]),
            of(&[0, 4], &[4, 3]),
            of(&[2, 0], &[0, 3]),
            of(&[33, 70], &[70, 40]),
        ]
    }
}

/// A tensor under another shape with the same elements: 1-d sides as matrices.
pub(super) fn as_shape(t: &Tensor, shape: &[usize]) -> Tensor {
    if t.shape() == shape {
        return t.clone();
    }
    let step = t.layout().strides()[0];
    let strides = if shape[0] == 1 { [0, step] } else { [step, 0] };
    t.with_layout(Layout::strided(shape, &strides), t.offset())
}

pub(super) fn product(a: &Tensor, b: &Tensor, bias: Option<&Tensor>, y: &Tensor) -> Result<()> {
    let product = Product { a: a.view(), b: b.view(), bias: bias.map(Tensor::view), y: y.view() };
    match y.dtype() {
        DType::F64 => multiply::<f64>(&product),
        _ => multiply::<f32>(&product),
    }
}

/// As `product`, on a GPU; sides whose batches are too scattered are copied first.
pub fn product_on(gpu: &Gpu, a: &Tensor, b: &Tensor, bias: Option<&Tensor>, y: &Tensor) -> Result<()> {
    if y.numel() == 0 || packed_product_on(gpu, a, b, bias, y)? {
        return Ok(());
    }
    let outer = y.shape().len() - 2;
    let packed = |t: &Tensor| -> Result<Tensor> {
        let mut full = Dims::from(&y.shape()[..outer]);
        full.extend_from_slice(&t.shape()[t.shape().len() - 2..]);
        let spread = Layout::strided(&full, &shape::broadcast_strides(t.layout(), &full));
        relaid(&t.with_layout(spread, t.offset()), Layout::contiguous("matmul", &full)?, Category::Workspace)
    };
    let (a, b) = (packed(a)?, packed(b)?);
    packed_product_on(gpu, &a, &b, bias, y).map(|_| ())
}

/// False when the batch is too scattered for the kernel.
fn packed_product_on(gpu: &Gpu, a: &Tensor, b: &Tensor, bias: Option<&Tensor>, y: &Tensor) -> Result<bool> {
    let k = a.shape()[a.shape().len() - 1];
    if let (Some(bias), true) = (bias, k > gemm::LONGEST_WITH_BIAS) {
        // Of halves the sum with the bias is rounded, and not the product before.
        let sums = match y.dtype() {
            DType::F32 => y.clone(),
            _ => Tensor::empty(Meta { dtype: DType::F32, ..y.meta.clone() }, Category::Workspace)?,
        };
        let done = packed_product_on(gpu, a, b, None, &sums)?;
        let add = super::registry::build("add", &[])?;
        return if done {
            super::run::into(&*add, &[&sums, bias], std::slice::from_ref(y)).map(|_| true)
        } else {
            Ok(false)
        };
    }
    let (left, right, bias, out) = (a.buffer(), b.buffer(), bias.map(Tensor::buffer), y.buffer());
    let Some(plan) = gemm::plan("matmul", &left, &right, [bias.as_ref(), None], &out)? else { return Ok(false) };
    let scratch = scratch("matmul", plan.scratch_bytes(), y)?;
    plan.run(gpu, scratch.as_ref().map(Tensor::place)).map(|_| true)
}

/// Runs a product in scratch memory of its own.
pub fn multiply<E: Number + Element>(product: &Product) -> Result<()> {
    let plan = product.plan::<E>();
    let scratch = workspace::<E>(plan.workspace())?;
    if !on_paper() {
        plan.run(scratch.view().out::<E>(), E::ONE);
    }
    Ok(())
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("matmul", x, 2)?;
        let (a, b) = (x[0].shape(), x[1].shape());
        let [_, _, mut y] = matrices(a, b)?;
        if b.len() == 1 {
            y.pop();
        }
        if a.len() == 1 {
            y.remove(y.len() - if b.len() == 1 { 1 } else { 2 });
        }
        output("matmul", x, &y, matched_types("matmul", x)?)
    }
    fn saves(&self, needs: Mask) -> Saves {
        Saves::inputs(if needs & bit(0) != 0 { bit(1) } else { 0 } | if needs & bit(1) != 0 { bit(0) } else { 0 })
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        let k = x[0].shape().last().copied().unwrap_or(0);
        Cost { flops: 2.0 * y[0].numel() as f64 * k as f64, ..Cost::streaming(x, y, 0.0) }
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let [a, b, whole] = matrices(x[0].shape(), x[1].shape())?;
        let out = y[0].with_layout(Layout::contiguous("matmul", &whole)?, 0);
        product(&as_shape(x[0], &a), &as_shape(x[1], &b), None, &out)
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let [a, b, whole] = matrices(x[0].shape(), x[1].shape())?;
        let out = y[0].with_layout(Layout::contiguous("matmul", &whole)?, 0);
        product_on(gpu, &as_shape(x[0], &a), &as_shape(x[1], &b), None, &out)
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (a_shape, b_shape) = (Dims::from(back.input_meta(0).shape()), Dims::from(back.input_meta(1).shape()));
        let [left, right, whole] = matrices(&a_shape, &b_shape)?;
        let dy = back.dy();
        let dy = back.reshape(dy, &whole)?;
        if back.needs(0) {
            let b = back.input(1)?;
            let b = back.reshape(b, &right)?;
            let bt = back.transpose(b)?;
            let da = back.matmul(dy, bt)?;
            let da = reduced(back, da, &left)?;
            let da = back.reshape(da, &a_shape)?;
            back.give(0, da);
        }
        if back.needs(1) {
            let a = back.input(0)?;
            let a = back.reshape(a, &left)?;
            // One matrix shared by a batch: the sum over the batch is part of one longer product.
            let db = if right.len() == 2 && left.len() > 2 {
                weight_gradient(back, a, dy)?
            } else {
                let at = back.transpose(a)?;
                let db = back.matmul(at, dy)?;
                reduced(back, db, &right)?
            };
            let db = back.reshape(db, &b_shape)?;
            back.give(1, db);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let [a_shape, b_shape, y_shape] = matrices(&x[0].shape, &x[1].shape).ok()?;
        let (a, b) = (Exact::new(&a_shape, x[0].data.clone()), Exact::new(&b_shape, x[1].data.clone()));
        let (rank, k) = (y_shape.len(), a_shape[a_shape.len() - 1]);
        let y = Exact::build(&y_shape, |index| {
            let (mut i, mut j) = (Dims::from(index), Dims::from(index));
            let term = |p: usize| {
                (i[rank - 1], j[rank - 2]) = (p, p);
                a.at_broadcast(&i) * b.at_broadcast(&j)
            };
            (0..k).map(term).sum()
        });
        let mut shape = y_shape;
        if x[1].shape.len() == 1 {
            shape.pop();
        }
        if x[0].shape.len() == 1 {
            shape.remove(shape.len() - if x[1].shape.len() == 1 { 1 } else { 2 });
        }
        Some(vec![Exact::new(&shape, y.data)])
    }
}

/// Sums a gradient over the batch dims that its input was broadcast along.
fn reduced(back: &mut Back, v: V, shape: &[usize]) -> Result<V> {
    let from = back.shape(v);
    let extra = from.len() - shape.len();
    let dims: Dims = (0..from.len()).filter(|&i| i < extra || shape[i - extra] == 1 && from[i] != 1).collect();
    let sum = back.sum(v, &dims, false)?;
    back.reshape(sum, shape)
}

/// xᵀ · dy over all leading dims at once: x [.., k], dy [.., n] → [k, n].
pub(super) fn weight_gradient(back: &mut Back, x: V, dy: V) -> Result<V> {
    let (x, dy) = (rows(back, x)?, rows(back, dy)?);
    let xt = back.transpose(x)?;
    back.matmul(xt, dy)
}

/// [.., n] as one matrix.
pub(super) fn rows(back: &mut Back, v: V) -> Result<V> {
    let shape = back.shape(v);
    let (last, outer) = shape.split_last().expect("bug: rows of a number");
    back.reshape(v, &[outer.iter().product(), *last])
}
