//! The linear layer: a product that adds a bias on the way, and the gradients of weight and bias, which read dy once.

use super::args::{Args, flag, ints};
use super::laws::{Domain, Exact, Sample};
use super::matmul::{as_shape, matched_types, product, product_on, rows, weight_gradient};
use super::reduce::on_gpu::scratch;
use super::registry::{self, Entry};
use super::{Back, Cost, Layouts, Mask, Metas, Op, OpRef, Saves, V, bit, expect_inputs, output, run};
use crate::device::gpu::{Gpu, gemm};
use crate::error::{Error, Result};
use crate::shape::{Dims, Layout};
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "linear", build: Linear::build, samples: Linear::samples });
    list.push(Entry { name: GRADIENT, build: Gradient::build, samples: Gradient::samples });
}

/// y = x · wᵀ + b: x [.., k], w [n, k], b [n] (optional) → [.., n]
#[derive(Debug)]
pub struct Linear;

impl Linear {
    fn build(_: &mut Args) -> Result<OpRef> {
        Ok(OpRef::Static(&Linear))
    }

    fn samples() -> Vec<Sample> {
        let of = |x: &[usize], w: &[usize], bias: bool| {
            let mut inputs = vec![(x, Domain::Any), (w, Domain::Any)];
            let n = [w[0]];
            if bias {
                inputs.push((&n, Domain::Any));
            }
            Sample::of(Self::build, &[], &inputs)
        };
        vec![
            of(&[4, 5], &[3, 5], true),
            of(&[4, 5], &[3, 5], false),
            of(&[2, 3, 5], &[7, 5], true),
            of(&[5], &[3, 5], true),
            of(&[0, 5], &[3, 5], true),
            of(&[4, 0], &[3, 0], true),
            of(&[40, 33], &[70, 33], true),
        ]
    }
}

impl Linear {
    /// The product's sides and its result: one long matrix where the strides allow it, a batch of matrices where not.
    fn sides(x: &[&Tensor], y: &[Tensor]) -> Result<[Tensor; 3]> {
        let wide = Dims::from_slice(&[1, x[0].numel()]);
        let input = if x[0].shape().len() == 1 { as_shape(x[0], &wide) } else { x[0].clone() };
        let mut out = Dims::from_slice(input.shape());
        *out.last_mut().expect("bug: a 0-d input passed") = x[1].shape()[0];
        let out = y[0].with_layout(Layout::contiguous("linear", &out)?, 0);
        let w = x[1].layout();
        let turned = Layout::strided(&[w.shape()[1], w.shape()[0]], &[w.strides()[1], w.strides()[0]]);
        Ok([input, x[1].with_layout(turned, x[1].offset()), out])
    }
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        if x.len() != 2 && x.len() != 3 {
            return Err(crate::error::arity("linear", x.len(), "2 or 3"));
        }
        let (input, weight) = (x[0].shape(), x[1].shape());
        if weight.len() != 2 || input.is_empty() || input[input.len() - 1] != weight[1] {
            return Err(Error::shape(format!(
                "linear: input {input:?} with weight {weight:?}; the weight must be [out, in] and the input's last dim in"
            )));
        }
        if let Some(bias) = x.get(2)
            && bias.shape() != [weight[0]]
        {
            return Err(Error::shape(format!(
                "linear: bias {:?} with weight {weight:?}; the bias must be [{}]",
                bias.shape(),
                weight[0]
            )));
        }
        let mut y = Dims::from_slice(input);
        *y.last_mut().expect("bug: a 0-d input passed") = weight[0];
        output("linear", x, &y, matched_types("linear", x)?)
    }
    fn saves(&self, needs: Mask) -> Saves {
        Saves::inputs(if needs & bit(0) != 0 { bit(1) } else { 0 } | if needs & bit(1) != 0 { bit(0) } else { 0 })
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost { flops: 2.0 * y[0].numel() as f64 * x[1].shape()[1] as f64, ..Cost::streaming(x, y, 0.0) }
    }
    fn layouts(&self, input: usize) -> Layouts {
        if input == 2 { Layouts::Contiguous } else { Layouts::Any }
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let [input, weight, out] = Linear::sides(x, y)?;
        product(&input, &weight, x.get(2).copied(), &out)
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let [input, weight, out] = Linear::sides(x, y)?;
        product_on(gpu, &input, &weight, x.get(2).copied(), &out)
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let dy = back.dy();
        if back.needs(0) {
            let w = back.input(1)?;
            let dx = back.matmul(dy, w)?;
            back.give(0, dx);
        }
        if back.needs(1) {
            let x = back.input(0)?;
            if back.inputs() > 2 && back.needs(2) {
                let [dw, db] = affine_gradient(back, dy, x)?;
                back.give(1, dw);
                back.give(2, db);
            } else {
                let dw = weight_gradient(back, dy, x)?;
                back.give(1, dw);
            }
        } else if back.inputs() > 2 && back.needs(2) {
            // The sweep sums a gradient down to its input's shape.
            back.give(2, dy);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let mut shape = Dims::from(x[0].shape.as_slice());
        let (rank, k) = (shape.len(), shape[shape.len() - 1]);
        shape[rank - 1] = x[1].shape[0];
        Some(vec![Exact::build(&shape, |index| {
            let mut at = Dims::from(index);
            let n = index[rank - 1];
            let term = |p: usize| {
                at[rank - 1] = p;
                x[0].at(&at) * x[1].at(&[n, p])
            };
            (0..k).map(term).sum::<f64>() + x.get(2).map_or(0.0, |b| b.at(&[n]))
        })])
    }
}

/// The gradients of weight and bias: dy [.., n], x [.., k] → [n, k], [n].
pub(super) fn affine_gradient(back: &mut Back, dy: V, x: V) -> Result<[V; 2]> {
    let (dy, x) = (rows(back, dy)?, rows(back, x)?);
    let dw = back.apply(OpRef::Static(&Gradient), &[dy, x])?;
    Ok([dw, back.next(dw, 1)])
}

const GRADIENT: &str = "linear_gradient";

/// dw = dyᵀ · x and db = Σ dy: dy [m, n], x [m, k] → [n, k], [n]
#[derive(Debug)]
struct Gradient;

impl Gradient {
    fn build(_: &mut Args) -> Result<OpRef> {
        Ok(OpRef::Static(&Gradient))
    }

    fn samples() -> Vec<Sample> {
        let of = |m: usize, n: usize, k: usize| {
            Sample::of(Self::build, &[], &[(&[m, n], Domain::Any), (&[m, k], Domain::Any)])
        };
        vec![of(4, 3, 5), of(0, 3, 5), of(4, 3, 0), of(1, 7, 2), of(66, 68, 70)]
    }

    /// dy with its sides exchanged.
    fn turned(dy: &Tensor) -> Tensor {
        let layout = dy.layout();
        let [m, n] = [0, 1].map(|i| (layout.shape()[i], layout.strides()[i]));
        dy.with_layout(Layout::strided(&[n.0, m.0], &[n.1, m.1]), dy.offset())
    }

    fn sums(dy: &Tensor, db: &Tensor) -> Result<()> {
        let sum = registry::build("sum", &[ints(&[0]), flag(false)])?;
        run::into(&*sum, &[dy], std::slice::from_ref(db))
    }
}

impl Op for Gradient {
    fn name(&self) -> &'static str {
        GRADIENT
    }
    fn visible(&self) -> usize {
        2
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(GRADIENT, x, 2)?;
        let (&[m, n], &[rows, k]) = (x[0].shape(), x[1].shape()) else {
            return Err(Error::shape(format!(
                "{GRADIENT}: {:?} and {:?}; two matrices are needed",
                x[0].shape(),
                x[1].shape()
            )));
        };
        if m != rows {
            return Err(Error::shape(format!("{GRADIENT}: {m} rows and {rows}; both sides must have as many")));
        }
        let dtype = matched_types(GRADIENT, x)?;
        let mut y = output(GRADIENT, x, &[n, k], dtype)?;
        y.extend(output(GRADIENT, x, &[n], dtype)?);
        Ok(y)
    }
    fn saves(&self, needs: Mask) -> Saves {
        Saves::inputs((needs & 1) << 1 | (needs & 2) >> 1)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        let (products, sums) = (y[0].numel() * x[0].shape()[0], x[0].numel());
        Cost { flops: 2.0 * products as f64 + sums as f64, ..Cost::streaming(x, y, 0.0) }
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        product(&Gradient::turned(x[0]), x[1], None, &y[0])?;
        Gradient::sums(x[0], &y[1])
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        if y[0].numel() == 0 {
            return Gradient::sums(x[0], &y[1]);
        }
        let turned = Gradient::turned(x[0]);
        let (left, right, db, dw) = (turned.buffer(), x[1].buffer(), y[1].buffer(), y[0].buffer());
        let plan = gemm::plan(GRADIENT, &left, &right, [None, Some(&db)], &dw)?.expect("bug: matrices without a batch");
        let scratch = scratch(GRADIENT, plan.scratch_bytes(), &y[0])?;
        plan.run(gpu, scratch.as_ref().map(Tensor::place))
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (ddw, ddb) = (back.dy_of(0), back.dy_of(1));
        if back.needs(0) {
            // x · ddwᵀ + ddb, each where it is there.
            let ddy = match (ddw, ddb) {
                (Some(ddw), ddb) => {
                    let x = back.input(1)?;
                    let operands: Vec<V> = [x, ddw].into_iter().chain(ddb).collect();
                    back.apply(OpRef::Static(&Linear), &operands)?
                }
                (None, ddb) => back.expand(ddb.expect("bug: a vjp without a gradient"), back.input_meta(0).shape())?,
            };
            back.give(0, ddy);
        }
        if let (true, Some(ddw)) = (back.needs(1), ddw) {
            let dy = back.input(0)?;
            let dx = back.matmul(dy, ddw)?;
            back.give(1, dx);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let (m, n, k) = (x[0].shape[0], x[0].shape[1], x[1].shape[1]);
        let column = |j: usize| (0..m).map(move |row| (row, j));
        let dw =
            Exact::build(&[n, k], |at| column(at[0]).map(|(row, j)| x[0].at(&[row, j]) * x[1].at(&[row, at[1]])).sum());
        let db = Exact::build(&[n], |at| column(at[0]).map(|(row, j)| x[0].at(&[row, j])).sum());
        Some(vec![dw, db])
    }
}
