//! Layer norm over the last dims. Saves x and two numbers a row.   Ba et al. 2016, arXiv:1607.06450

use super::args::{Args, flag, float, int};
use super::laws::{Domain, Exact, Sample};
use super::reduce::on_gpu::{self, More};
use super::registry::Entry;
use super::{Back, Cost, Mask, Metas, Op, OpRef, Saves, V, bit, expect_float, output};
use crate::arena::on_paper;
use crate::device::cpu::rows;
use crate::device::gpu::fold::How;
use crate::device::gpu::{Gpu, rows as rows_on_gpu};
use crate::dtype::DType;
use crate::error::{self, Error, Result};
use crate::shape::{Dims, Layout};
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "layer_norm", build: LayerNorm::build, samples: LayerNorm::samples });
}

/// y = (x - mean) / √(variance + eps) · weight + bias over the last `rank` dims.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    rank: usize,
    eps: f64,
    weight: bool,
    bias: bool,
}

impl LayerNorm {
    fn build(args: &mut Args) -> Result<OpRef> {
        let (rank, eps) = (args.size("rank")?, args.float("eps")?);
        Ok(LayerNorm { rank, eps, weight: args.flag("has_weight")?, bias: args.flag("has_bias")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |x: &[usize], rank: usize, weight: bool, bias: bool| {
            let own = &x[x.len() - rank..];
            let mut inputs = vec![(x, Domain::Any)];
            inputs.extend(weight.then_some((own, Domain::Any)));
            inputs.extend(bias.then_some((own, Domain::Any)));
            Sample::of(Self::build, &[int(rank as i64), float(1e-5), flag(weight), flag(bias)], &inputs)
        };
        vec![
            of(&[3, 5], 1, true, true),
            of(&[4, 37], 1, true, true),
            of(&[2, 3, 4, 5], 2, true, true),
            of(&[3, 7], 1, false, false),
            of(&[3, 7], 1, true, false),
            of(&[0, 7], 1, true, true),
            of(&[130, 17], 1, true, true),
        ]
    }

    fn rows(&self, x: &Meta) -> usize {
        x.shape()[..x.rank() - self.rank].iter().product()
    }

    fn wanted(&self) -> usize {
        1 + usize::from(self.weight) + usize::from(self.bias)
    }
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }
    fn infer(&self, x: &[&Meta], recording: bool) -> Result<Metas> {
        super::expect_inputs("layer_norm", x, self.wanted())?;
        expect_float("layer_norm", x[0])?;
        if self.rank == 0 || self.rank > x[0].rank() {
            return Err(Error::shape(format!(
                "layer_norm: {} normalised dims of {:?}; 1 to {} are possible",
                self.rank,
                x[0].shape(),
                x[0].rank()
            )));
        }
        let own = &x[0].shape()[x[0].rank() - self.rank..];
        for (m, name) in x[1..].iter().zip(["weight", "bias"]) {
            let name = if self.weight { name } else { "bias" };
            if m.shape() != own || m.dtype != x[0].dtype {
                return Err(Error::shape(format!(
                    "layer_norm: {name} {:?} {} for input {:?} {}; {own:?} of the input's dtype is needed",
                    m.shape(),
                    m.dtype.name(),
                    x[0].shape(),
                    x[0].dtype.name()
                )));
            }
        }
        let mut y = output("layer_norm", x, x[0].shape(), x[0].dtype)?;
        if recording {
            let dtype = if x[0].dtype == DType::F64 { DType::F64 } else { DType::F32 };
            y.push(Meta::contiguous("layer_norm", &[self.rows(x[0]), 2], dtype, x[0].device)?);
        }
        Ok(y)
    }
    fn saves(&self, needs: Mask) -> Saves {
        let weight = if self.weight && needs & 1 != 0 { bit(1) } else { 0 };
        Saves::inputs(1 | weight).and_outputs(0b10)
    }
    fn cheap(&self) -> bool {
        true
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 8.0)
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        fn go<E: rows::Float>(op: &LayerNorm, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
            let weight = op.weight.then(|| x[1].view().slice::<E>());
            let bias = op.bias.then(|| x[op.wanted() - 1].view().slice::<E>());
            let spare;
            let stats = match y.get(1) {
                Some(stats) => stats.view().out::<E>(),
                None => {
                    spare = super::run::workspace::<E>(2 * op.rows(&x[0].meta))?;
                    spare.view().out::<E>()
                }
            };
            if on_paper() {
                return Ok(());
            }
            rows::layer_norm(x[0].view().slice::<E>(), weight, bias, y[0].view().out::<E>(), stats, op.eps);
            Ok(())
        }
        if y[0].dtype() == DType::F64 { go::<f64>(self, x, y) } else { go::<f32>(self, x, y) }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let kernel = rows_on_gpu::LayerNorm {
            x: x[0].buffer(),
            weight: self.weight.then(|| x[1].buffer()),
            bias: self.bias.then(|| x[self.wanted() - 1].buffer()),
            stats: y.get(1).map(Tensor::buffer),
            dy: None,
            y: y[0].buffer(),
            columns: x[0].shape()[x[0].shape().len() - self.rank..].iter().product(),
            eps: self.eps,
        };
        kernel.run(gpu)
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        if back.records() {
            return self.recorded(back);
        }
        let (dy, x, stats) = (back.dy(), back.input(0)?, back.output(1)?);
        let mut operands = vec![x, stats, dy];
        let scaled = self.weight && back.needs(0);
        if scaled {
            operands.push(back.input(1)?);
        }
        let fused = LayerNormBack {
            columns: back.input_meta(0).shape()[back.input_meta(0).rank() - self.rank..].into(),
            scaled,
        };
        let dx = back.apply(fused, &operands)?;
        if back.needs(0) {
            back.give(0, dx);
        }
        let mut at = 1;
        if self.weight {
            if back.needs(at) {
                let dweight = back.next(dx, 1);
                back.give(at, dweight);
            }
            at += 1;
        }
        if self.bias && back.needs(at) {
            let dbias = back.next(dx, 2);
            back.give(at, dbias);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let columns: usize = x[0].shape[x[0].shape.len() - self.rank..].iter().product();
        let mut data = x[0].data.clone();
        for row in data.chunks_mut(columns.max(1)) {
            let n = row.len() as f64;
            let mean = row.iter().sum::<f64>() / n;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            for (j, v) in row.iter_mut().enumerate() {
                *v = (*v - mean) / (variance + self.eps).sqrt();
                if self.weight {
                    *v *= x[1].data[j];
                }
                if self.bias {
                    *v += x[self.wanted() - 1].data[j];
                }
            }
        }
        Some(vec![Exact::new(&x[0].shape, data)])
    }
}

impl LayerNorm {
    /// The gradient in ops that have gradients: mean and rstd are computed again from x, so that they have a history.
    fn recorded(&self, back: &mut Back) -> Result<()> {
        let (dy, x) = (back.dy(), back.input(0)?);
        let meta = back.input_meta(0);
        let dims: Dims = (meta.rank() - self.rank..meta.rank()).collect();
        let average = |back: &mut Back, v: V| back.call("mean", &[v], &[super::args::ints(&dims), flag(true)]);
        let mean = average(back, x)?;
        let centred = back.sub(x, mean)?;
        let square = back.mul(centred, centred)?;
        let variance = average(back, square)?;
        let eps = back.number(self.eps, meta.dtype)?;
        let shifted = back.add(variance, eps)?;
        let rstd = back.call("rsqrt", &[shifted], &[])?;
        let normal = back.mul(centred, rstd)?;
        if back.needs(0) {
            let g = if self.weight {
                let weight = back.input(1)?;
                back.mul(dy, weight)?
            } else {
                dy
            };
            let along = back.mul(g, normal)?;
            let (sum, along) = (average(back, g)?, average(back, along)?);
            let along = back.mul(normal, along)?;
            let rest = back.sub(g, sum)?;
            let rest = back.sub(rest, along)?;
            let dx = back.mul(rest, rstd)?;
            back.give(0, dx);
        }
        // The sweep sums a gradient down to its input's shape.
        if self.weight && back.needs(1) {
            let dweight = back.mul(dy, normal)?;
            back.give(1, dweight);
        }
        let at = self.wanted() - 1;
        if self.bias && back.needs(at) {
            back.give(at, dy);
        }
        Ok(())
    }
}

/// The fused gradient: dx, dweight, dbias from x, the rows' numbers, dy and (with `scaled`) the weight; not recorded.
#[derive(Debug)]
struct LayerNormBack {
    columns: Dims,
    scaled: bool,
}

impl Op for LayerNormBack {
    fn name(&self) -> &'static str {
        "layer_norm"
    }
    fn visible(&self) -> usize {
        3
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        if x.len() < 3 {
            return Err(error::arity("layer_norm", x.len(), "3"));
        }
        let mut y = output("layer_norm", x, x[0].shape(), x[0].dtype)?;
        for _ in 0..2 {
            y.push(Meta::contiguous("layer_norm", &self.columns, x[0].dtype, x[0].device)?);
        }
        Ok(y)
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        fn go<E: rows::Float>(op: &LayerNormBack, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
            let (n, rows) = (op.columns.iter().product::<usize>(), x[1].shape()[0]);
            let sums = super::run::workspace::<E>(2 * n * rows::norm_chunks(rows))?;
            if on_paper() {
                return Ok(());
            }
            let sums = sums.view().out::<E>();
            let weight = op.scaled.then(|| x[3].view().slice::<E>());
            let (stats, dy) = (x[1].view().slice::<E>(), x[2].view().slice::<E>());
            rows::layer_norm_back(x[0].view().slice::<E>(), weight, stats, dy, y[0].view().out::<E>(), sums);
            y[1].view().out::<E>().copy_from_slice(&sums[..n]);
            y[2].view().out::<E>().copy_from_slice(&sums[n..2 * n]);
            Ok(())
        }
        if y[0].dtype() == DType::F64 { go::<f64>(self, x, y) } else { go::<f32>(self, x, y) }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let (columns, rows) = (self.columns.iter().product(), x[1].shape()[0]);
        let kernel = rows_on_gpu::LayerNorm {
            x: x[0].buffer(),
            weight: self.scaled.then(|| x[3].buffer()),
            bias: None,
            stats: Some(x[1].buffer()),
            dy: Some(x[2].buffer()),
            y: y[0].buffer(),
            columns,
            eps: 0.0,
        };
        kernel.run(gpu)?;
        let layout = Layout::contiguous("layer_norm", &[rows, columns])?;
        let [x, stats, dy] = [x[0], x[1], x[2]];
        let matrix = |t: &Tensor| t.with_layout(layout.clone(), t.offset());
        let with = More { other: Some(&matrix(dy)), own: Some(stats), second: Some(&y[2]), ..More::default() };
        on_gpu::run(gpu, "layer_norm", How::Normal, &matrix(x), &[true, false], with, &y[1])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Err(super::fused_was_recorded("layer_norm"))
    }
    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}
