//! Batch norm by the statistics of the batch, and an affine map of each channel, which is batch norm by given ones.
//!
//! Batch norm saves x and two numbers a channel.   Ioffe and Szegedy 2015, arXiv:1502.03167

mod again;

use self::again::{BatchNormAgain, Known};
use super::args::{Args, flag, float};
use super::laws::{Domain, Exact, Sample};
use super::reduce::on_gpu::{self, More};
use super::registry::Entry;
use super::run::{relaid, workspace};
use super::{Back, Cost, Layouts, Mask, Metas, Op, OpRef, Saves, V, bit, expect_float, expect_inputs, one_device};
use crate::arena::ledger::Category;
use crate::arena::on_paper;
use crate::device::cpu::channels::{self, Affine, Channels};
use crate::device::cpu::rows::Float;
use crate::device::gpu::fold::How;
use crate::device::gpu::{Gpu, channels as maps};
use crate::dtype::DType;
use crate::error::{self, Error, Result};
use crate::shape::{Dims, Layout};
use crate::tensor::{Meta, Tensor};
use smallvec::SmallVec;
use std::sync::Arc;

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "batch_norm", build: BatchNorm::build, samples: BatchNorm::samples });
    list.push(Entry { name: "channel_affine", build: ChannelAffine::build, samples: ChannelAffine::samples });
}

/// [n, c, …] as the kernels see it, in the memory order of `layout`.
fn channels(layout: &Layout) -> Channels {
    let shape = layout.shape();
    let s = shape[2..].iter().product();
    // One channel lies either way; planes are then longer than rows.
    let last = s == 1 || layout.is_channels_last() && !layout.is_contiguous();
    Channels { n: shape[0], c: shape[1], s, last }
}

/// The memory order that the kernels work in: the input's own where it is channels last or contiguous.
fn order(op: &str, x: &Meta) -> Result<Arc<Layout>> {
    let kept = x.layout.is_contiguous() || x.layout.is_channels_last();
    if kept { Ok(x.layout.clone()) } else { Layout::contiguous(op, x.shape()) }
}

/// The tensor itself when it lies as `layout` says, else a copy that does.
fn in_order(x: &Tensor, layout: &Arc<Layout>) -> Result<Tensor> {
    let lies = x.layout().strides() == layout.strides();
    if lies { Ok(x.clone()) } else { relaid(x, layout.clone(), Category::Workspace) }
}

/// x [n, c, …], and any number of [c] of the same type.
fn expect_channels(op: &str, x: &[&Meta], names: &[&str]) -> Result<()> {
    one_device(op, x)?;
    expect_float(op, x[0])?;
    if x[0].rank() < 2 {
        return Err(Error::shape(format!("{op}: input {:?}; [n, c, …] is needed", x[0].shape())));
    }
    let c = x[0].shape()[1];
    for (m, name) in x[1..].iter().zip(names) {
        if m.shape() != [c] || m.dtype != x[0].dtype {
            return Err(Error::shape(format!(
                "{op}: {name} {:?} {} for input {:?} {}; [{c}] of the input's dtype is needed",
                m.shape(),
                m.dtype.name(),
                x[0].shape(),
                x[0].dtype.name()
            )));
        }
    }
    Ok(())
}

/// All dims but the channels.
fn others(rank: usize) -> Dims {
    (0..rank).filter(|&i| i != 1).collect()
}

fn other_flags(rank: usize) -> Vec<bool> {
    (0..rank).map(|i| i != 1).collect()
}

/// A map of each channel of x into y, which lies alike, for a GPU.
fn affine_on<'a>(x: &'a Tensor, y: &'a Tensor) -> maps::Channels<'a> {
    maps::Channels {
        x: x.buffer(),
        dy: None,
        known: None,
        weight: None,
        shift: None,
        product: None,
        y: y.buffer(),
        eps: 0.0,
    }
}

/// [c] as [1, c, 1, …], to broadcast.
fn spread(back: &mut Back, v: V, rank: usize) -> Result<V> {
    let mut shape = Dims::from_elem(1, rank);
    shape[1] = back.shape(v)[0];
    back.reshape(v, &shape)
}

fn per_channel(op: &str, x: &Meta, dtype: DType) -> Result<Meta> {
    Meta::contiguous(op, &[x.shape()[1]], dtype, x.device)
}

/// Calls `visit(element, channel)` for a row-major [n, c, …].
fn each_element(shape: &[usize], mut visit: impl FnMut(usize, usize)) {
    let s: usize = shape[2..].iter().product();
    (0..shape[0] * shape[1] * s).for_each(|at| visit(at, at / s % shape[1]));
}

/// y = (x - mean) / √(variance + eps) · weight + bias over all dims but the second; also the mean and the variance.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    eps: f64,
    weight: bool,
    bias: bool,
}

impl BatchNorm {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(BatchNorm { eps: args.float("eps")?, weight: args.flag("has_weight")?, bias: args.flag("has_bias")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |x: &[usize], weight: bool, bias: bool| {
            let own = &x[1..2];
            let mut inputs = vec![(x, Domain::Any)];
            inputs.extend(weight.then_some((own, Domain::Any)));
            inputs.extend(bias.then_some((own, Domain::Any)));
            Sample::of(Self::build, &[float(1e-3), flag(weight), flag(bias)], &inputs)
        };
        vec![
            of(&[5, 3], true, true),
            of(&[4, 3, 5], true, true),
            of(&[2, 19, 3, 5], true, true),
            of(&[3, 4, 2, 3, 2], false, false),
            of(&[2, 3, 4, 5], true, false),
            of(&[2, 3, 5], false, true),
            of(&[150, 17], true, true),
            of(&[2, 2, 11, 13], true, true),
        ]
    }

    fn wanted(&self) -> usize {
        1 + usize::from(self.weight) + usize::from(self.bias)
    }
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }
    fn visible(&self) -> usize {
        3
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("batch_norm", x, self.wanted())?;
        expect_channels("batch_norm", x, if self.weight { &["weight", "bias"] } else { &["bias"] })?;
        let layout = order("batch_norm", x[0])?;
        let s = channels(&layout);
        if s.c == 0 || s.rows() < 2 {
            return Err(Error::shape(format!(
                "batch_norm: {} values a channel of {:?}; at least 2 are needed to train (help: model.eval())",
                s.rows(),
                x[0].shape()
            )));
        }
        let own = per_channel("batch_norm", x[0], x[0].dtype.compute())?;
        Ok(SmallVec::from_iter([Meta { layout, ..x[0].clone() }, own.clone(), own]))
    }
    fn saves(&self, needs: Mask) -> Saves {
        let weight = if self.weight && needs & 1 != 0 { bit(1) } else { 0 };
        Saves::inputs(1 | weight).and_outputs(0b110)
    }
    fn cheap(&self) -> bool {
        true
    }
    fn again(&self) -> Option<OpRef> {
        Some(BatchNormAgain { norm: self.clone(), relu: false }.into())
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 7.0)
    }
    fn layouts(&self, input: usize) -> Layouts {
        if input == 0 { Layouts::Any } else { Layouts::Contiguous }
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        fn go<E: Float>(op: &BatchNorm, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
            let s = channels(y[0].layout());
            let weight = op.weight.then(|| x[1].view().slice::<E>());
            let bias = op.bias.then(|| x[op.wanted() - 1].view().slice::<E>());
            let x = in_order(x[0], y[0].layout())?;
            let (x, mean, variance) = (x.view().slice::<E>(), y[1].view().out::<E>(), y[2].view().out::<E>());
            let scratch = workspace::<f64>(s.scratch())?;
            let numbers = workspace::<E>(2 * s.c)?;
            if on_paper() {
                return Ok(());
            }
            channels::moments(&s, x, mean, variance, scratch.view().out());
            let known = Known { eps: op.eps, mean, variance, weight, bias };
            known.normalise(&s, x, numbers.view().out(), false, y[0].view().out());
            Ok(())
        }
        if y[0].dtype() == DType::F64 { go::<f64>(self, x, y) } else { go::<f32>(self, x, y) }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let ordered = in_order(x[0], y[0].layout())?;
        let flags = other_flags(x[0].shape().len());
        let n = (x[0].numel() / x[0].shape()[1]) as f64;
        let with = More { second: Some(&y[1]), numbers: [1.0 / n, n], ..More::default() };
        on_gpu::run(gpu, "batch_norm", How::Moments, &ordered, &flags, with, &y[2])?;
        self.normalise_on(gpu, &ordered, [&y[1], &y[2]], x, &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (Some(dy), None, None, false) = (back.dy_of(0), back.dy_of(1), back.dy_of(2), back.records()) else {
            return self.recorded(back);
        };
        let (x, mean, variance) = (back.input(0)?, back.output(1)?, back.output(2)?);
        let mut operands: SmallVec<[V; 5]> = SmallVec::from_slice(&[x, dy, mean, variance]);
        let weight = self.weight && back.needs(0);
        if weight {
            operands.push(back.input(1)?);
        }
        let fused = BatchNormBack { eps: self.eps, weight, dx: back.needs(0) };
        let dx = back.apply(fused, &operands)?;
        if back.needs(0) {
            back.give(0, dx);
        }
        if self.weight && back.needs(1) {
            let dweight = back.next(dx, 1);
            back.give(1, dweight);
        }
        let at = self.wanted() - 1;
        if self.bias && back.needs(at) {
            let dbias = back.next(dx, 2);
            back.give(at, dbias);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let shape = &x[0].shape;
        let rows = (x[0].data.len() / shape[1]) as f64;
        let (mut mean, mut variance) = (Exact::zeros(&shape[1..2]), Exact::zeros(&shape[1..2]));
        each_element(shape, |at, c| mean.data[c] += x[0].data[at] / rows);
        each_element(shape, |at, c| variance.data[c] += (x[0].data[at] - mean.data[c]).powi(2) / rows);
        let mut y = x[0].clone();
        each_element(shape, |at, c| {
            let normal = (x[0].data[at] - mean.data[c]) / (variance.data[c] + self.eps).sqrt();
            let scaled = if self.weight { normal * x[1].data[c] } else { normal };
            y.data[at] = if self.bias { scaled + x[self.wanted() - 1].data[c] } else { scaled };
        });
        Some(vec![y, mean, variance])
    }
}

impl BatchNorm {
    /// The gradient in ops that have gradients. Mean and variance are outputs, so they bring their own history.
    fn recorded(&self, back: &mut Back) -> Result<()> {
        let (x, meta) = (back.input(0)?, back.input_meta(0));
        let (rank, rows) = (meta.rank(), (meta.numel() / meta.shape()[1]) as f64);
        let others = others(rank);
        let average = |back: &mut Back, v: V| back.call("mean", &[v], &[super::args::ints(&others), flag(true)]);
        let mean = back.output(1)?;
        let mean = spread(back, mean, rank)?;
        let centred = back.sub(x, mean)?;
        let mut dx = None;
        if let Some(dy) = back.dy_of(0) {
            let variance = back.output(2)?;
            let eps = back.number(self.eps, back.tensor(variance).dtype())?;
            let shifted = back.add(variance, eps)?;
            let rstd = back.call("rsqrt", &[shifted], &[])?;
            let rstd = spread(back, rstd, rank)?;
            let normal = back.mul(centred, rstd)?;
            if back.needs(0) {
                let g = if self.weight {
                    let weight = back.input(1)?;
                    let weight = spread(back, weight, rank)?;
                    back.mul(dy, weight)?
                } else {
                    dy
                };
                let along = back.mul(g, normal)?;
                let (sum, along) = (average(back, g)?, average(back, along)?);
                let along = back.mul(normal, along)?;
                let rest = back.sub(g, sum)?;
                let rest = back.sub(rest, along)?;
                dx = Some(back.mul(rest, rstd)?);
            }
            if self.weight && back.needs(1) {
                let product = back.mul(dy, normal)?;
                let dweight = back.sum(product, &others, false)?;
                back.give(1, dweight);
            }
            let at = self.wanted() - 1;
            if self.bias && back.needs(at) {
                let dbias = back.sum(dy, &others, false)?;
                back.give(at, dbias);
            }
        }
        if !back.needs(0) {
            return Ok(());
        }
        let mut add = |back: &mut Back, more: V| -> Result<()> {
            dx = Some(dx.map_or(Ok(more), |sum| back.add(sum, more))?);
            Ok(())
        };
        if let Some(dmean) = back.dy_of(1) {
            let share = back.scale(dmean, 1.0 / rows)?;
            let share = spread(back, share, rank)?;
            let share = back.expand(share, meta.shape())?;
            add(back, share)?;
        }
        if let Some(dvariance) = back.dy_of(2) {
            let share = back.scale(dvariance, 2.0 / rows)?;
            let share = spread(back, share, rank)?;
            let share = back.mul(centred, share)?;
            add(back, share)?;
        }
        if let Some(dx) = dx {
            back.give(0, dx);
        }
        Ok(())
    }
}

impl BatchNorm {
    /// y from `ordered`, which lies as y does, by known numbers, and weight and bias among the inputs `x`.
    fn normalise_on(&self, gpu: &Gpu, ordered: &Tensor, known: [&Tensor; 2], x: &[&Tensor], y: &Tensor) -> Result<()> {
        let map = maps::Channels {
            known: Some(known.map(Tensor::buffer)),
            weight: self.weight.then(|| x[1].buffer()),
            shift: self.bias.then(|| x[self.wanted() - 1].buffer()),
            eps: self.eps,
            ..affine_on(ordered, y)
        };
        map.run(gpu, "batch_norm")
    }
}

/// The fused gradient: dx, dweight, dbias from x, dy, mean, variance and (with `weight`) the weight; not recorded.
#[derive(Debug)]
struct BatchNormBack {
    eps: f64,
    weight: bool,
    /// False when x wants no gradient; the first output is then one number that means nothing.
    dx: bool,
}

impl Op for BatchNormBack {
    fn name(&self) -> &'static str {
        "batch_norm"
    }
    fn visible(&self) -> usize {
        3
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("batch_norm", x, 4 + usize::from(self.weight))?;
        let layout = if self.dx { order("batch_norm", x[0])? } else { Layout::contiguous("batch_norm", &[1])? };
        let own = per_channel("batch_norm", x[0], x[0].dtype)?;
        Ok(SmallVec::from_iter([Meta { layout, ..x[0].clone() }, own.clone(), own]))
    }
    fn layouts(&self, input: usize) -> Layouts {
        if input < 2 { Layouts::Any } else { Layouts::Contiguous }
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        fn go<E: Float>(op: &BatchNormBack, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
            let layout = order("batch_norm", &x[0].meta)?;
            let (s, weight) = (channels(&layout), op.weight.then(|| x[4].view().slice::<E>()));
            let (mean, variance) = (x[2].view().slice::<E>(), x[3].view().slice::<E>());
            let (x, dy) = (in_order(x[0], &layout)?, in_order(x[1], &layout)?);
            let (x, dy) = (x.view().slice::<E>(), dy.view().slice::<E>());
            let (dweight, dbias) = (y[1].view().out::<E>(), y[2].view().out::<E>());
            let scratch = workspace::<f64>(s.scratch())?;
            let numbers = workspace::<E>(3 * s.c)?;
            if on_paper() {
                return Ok(());
            }
            channels::sums(&s, x, dy, mean, [&mut *dbias, &mut *dweight], scratch.view().out());
            // dx = weight · rstd · (dy - Σdy / m - (x - mean) · rstd² · Σdy(x - mean) / m)
            let (scale, rest) = numbers.view().out::<E>().split_at_mut(s.c);
            let (shift, slope) = rest.split_at_mut(s.c);
            let rows = s.rows() as f64;
            for i in 0..s.c {
                let rstd = 1.0 / (variance[i].into() + op.eps).sqrt();
                let (sum, product) = (dbias[i].into(), dweight[i].into());
                let factor = weight.map_or(1.0, |w| w[i].into()) * rstd;
                slope[i] = E::from_f64(factor);
                scale[i] = E::from_f64(-factor * rstd * rstd * product / rows);
                shift[i] = E::from_f64(-factor * sum / rows);
                dweight[i] = E::from_f64(product * rstd);
            }
            if op.dx {
                let map = Affine { center: mean, scale, shift };
                channels::affine(&s, x, map, Some((dy, slope)), y[0].view().out());
            }
            Ok(())
        }
        if y[0].dtype() == DType::F64 { go::<f64>(self, x, y) } else { go::<f32>(self, x, y) }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let layout = order("batch_norm", &x[0].meta)?;
        let (flags, [mean, variance]) = (other_flags(x[0].shape().len()), [x[2], x[3]]);
        let (weight, x, dy) = (self.weight.then(|| x[4]), in_order(x[0], &layout)?, in_order(x[1], &layout)?);
        // The map reads the sums as they are, also where those that go out are halves.
        let exact = |t: &Tensor| match t.dtype() {
            DType::F32 => Ok(t.clone()),
            _ => Tensor::empty(Meta { dtype: DType::F32, ..t.meta.clone() }, Category::Workspace),
        };
        let (product, shift) = (exact(&y[1])?, exact(&y[2])?);
        let with = More {
            other: Some(&dy),
            own: Some(mean),
            more: Some(variance),
            second: Some(&shift),
            numbers: [1.0, self.eps],
        };
        on_gpu::run(gpu, "batch_norm", How::Centred, &x, &flags, with, &product)?;
        for (sums, out) in [(&product, &y[1]), (&shift, &y[2])].into_iter().filter(|(_, out)| out.dtype() != DType::F32)
        {
            super::pointwise::copy_on(gpu, sums, out)?;
        }
        if !self.dx {
            return Ok(());
        }
        let map = maps::Channels {
            dy: Some(dy.buffer()),
            known: Some([mean.buffer(), variance.buffer()]),
            weight: weight.map(Tensor::buffer),
            shift: Some(shift.buffer()),
            product: Some(product.buffer()),
            eps: self.eps,
            ..affine_on(&x, &y[0])
        };
        map.run(gpu, "batch_norm")
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Err(super::fused_was_recorded("batch_norm"))
    }
    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}

/// y = x · scale + shift, with one scale and one shift a channel.
#[derive(Clone, Debug)]
pub struct ChannelAffine {
    shift: bool,
}

impl ChannelAffine {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(ChannelAffine { shift: args.flag("has_shift")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |x: &[usize], shift: bool| {
            let own = &x[1..2];
            let mut inputs = vec![(x, Domain::Any), (own, Domain::Any)];
            inputs.extend(shift.then_some((own, Domain::Any)));
            Sample::of(Self::build, &[flag(shift)], &inputs)
        };
        vec![
            of(&[5, 3], true),
            of(&[2, 19, 3, 5], true),
            of(&[3, 4, 7], false),
            of(&[0, 4, 7], true),
            of(&[2, 0, 3], true),
            of(&[150, 17], true),
            of(&[2, 3, 2, 3, 2], true),
        ]
    }
}

impl Op for ChannelAffine {
    fn name(&self) -> &'static str {
        "channel_affine"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("channel_affine", x, 2 + usize::from(self.shift))?;
        expect_channels("channel_affine", x, &["scale", "shift"])?;
        Ok(SmallVec::from_iter([Meta { layout: order("channel_affine", x[0])?, ..x[0].clone() }]))
    }
    fn saves(&self, needs: Mask) -> Saves {
        Saves::inputs((needs & 1) << 1 | (needs & 2) >> 1)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        Cost::streaming(x, y, 2.0)
    }
    fn layouts(&self, input: usize) -> Layouts {
        if input == 0 { Layouts::Any } else { Layouts::Contiguous }
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        fn go<E: Float>(x: &[&Tensor], y: &Tensor) -> Result<()> {
            let s = channels(y.layout());
            let zeros = workspace::<E>(s.c)?;
            let ordered = in_order(x[0], y.layout())?;
            if on_paper() {
                return Ok(());
            }
            let zeros = zeros.view().out::<E>();
            zeros.fill(E::from_f64(0.0));
            let shift = x.get(2).map_or(&*zeros, |t| t.view().slice::<E>());
            let map = Affine { center: zeros, scale: x[1].view().slice::<E>(), shift };
            channels::affine(&s, ordered.view().slice::<E>(), map, None, y.view().out());
            Ok(())
        }
        if y[0].dtype() == DType::F64 { go::<f64>(x, &y[0]) } else { go::<f32>(x, &y[0]) }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let ordered = in_order(x[0], y[0].layout())?;
        let (weight, shift) = (Some(x[1].buffer()), x.get(2).map(|t| t.buffer()));
        maps::Channels { weight, shift, ..affine_on(&ordered, &y[0]) }.run(gpu, "channel_affine")
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, others) = (back.dy(), others(back.input_meta(0).rank()));
        if back.needs(0) {
            let scale = back.input(1)?;
            let dx = back.apply(ChannelAffine { shift: false }, &[dy, scale])?;
            back.give(0, dx);
        }
        let shift = self.shift && back.needs(2);
        if back.needs(1) && !back.records() {
            let x = back.input(0)?;
            let dscale = back.apply(ChannelSums, &[x, dy])?;
            back.give(1, dscale);
            if shift {
                let dshift = back.next(dscale, 1);
                back.give(2, dshift);
            }
            return Ok(());
        }
        if back.needs(1) {
            let x = back.input(0)?;
            let product = back.mul(x, dy)?;
            let dscale = back.sum(product, &others, false)?;
            back.give(1, dscale);
        }
        if shift {
            let dshift = back.sum(dy, &others, false)?;
            back.give(2, dshift);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let mut y = x[0].clone();
        each_element(&x[0].shape, |at, c| {
            let shift = if self.shift { x[2].data[c] } else { 0.0 };
            y.data[at] = x[0].data[at] * x[1].data[c] + shift;
        });
        Some(vec![y])
    }
}

/// Σ x · dy and Σ dy of each channel, in one pass; not recorded.
#[derive(Debug)]
struct ChannelSums;

impl Op for ChannelSums {
    fn name(&self) -> &'static str {
        "channel_affine"
    }
    fn visible(&self) -> usize {
        2
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        if x.len() != 2 {
            return Err(error::arity("channel_affine", x.len(), "2"));
        }
        let own = per_channel("channel_affine", x[0], x[0].dtype)?;
        Ok(SmallVec::from_iter([own.clone(), own]))
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        fn go<E: Float>(x: &[&Tensor], y: &[Tensor]) -> Result<()> {
            let layout = order("channel_affine", &x[0].meta)?;
            let s = channels(&layout);
            let (x, dy) = (in_order(x[0], &layout)?, in_order(x[1], &layout)?);
            let zeros = workspace::<E>(s.c)?;
            let scratch = workspace::<f64>(s.scratch())?;
            if on_paper() {
                return Ok(());
            }
            let zeros = zeros.view().out::<E>();
            zeros.fill(E::from_f64(0.0));
            let (product, plain) = (y[0].view().out::<E>(), y[1].view().out::<E>());
            let (x, dy) = (x.view().slice::<E>(), dy.view().slice::<E>());
            channels::sums(&s, x, dy, zeros, [plain, product], scratch.view().out());
            Ok(())
        }
        if y[0].dtype() == DType::F64 { go::<f64>(x, y) } else { go::<f32>(x, y) }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let layout = order("channel_affine", &x[0].meta)?;
        let (x, dy) = (in_order(x[0], &layout)?, in_order(x[1], &layout)?);
        let with = More { other: Some(&dy), second: Some(&y[1]), ..More::default() };
        let flags = other_flags(x.shape().len());
        on_gpu::run(gpu, "channel_affine", How::Products, &x, &flags, with, &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Err(super::fused_was_recorded("channel_affine"))
    }
    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}
