//! Scaled dot-product attention in blocks. Saves its operands, its output and one log-sum-exp a row, never the scores.
//!
//! Dao et al. 2022, arXiv:2205.14135. Dropout keeps no mask: the draw is a function of key and offset.

use super::args::{Args, Attribute, flag, float, int};
use super::laws::{Domain, Exact, Sample};
use super::registry::Entry;
use super::run::{relaid, workspace};
use super::{Back, Cost, Layouts, Mask, Metas, Op, OpRef, Saves, V, expect_float, output};
use crate::arena::ledger::Category;
use crate::arena::on_paper;
use crate::device::Device;
use crate::device::cpu::attention::views::{Gradients, Job, takes};
use crate::device::cpu::attention::{Dropout, Number};
use crate::device::cpu::random::Stream;
use crate::device::gpu::{Gpu, attention as on_gpu};
use crate::dtype::{DType, Element};
use crate::error::{self, Error, Result};
use crate::shape::{self, Dims, Layout, Strides};
use crate::tensor::{Meta, Tensor};
use std::sync::Arc;

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "attention", build: Attention::build, samples: Attention::samples });
}

/// softmax(scale · q kᵀ + mask) · v: q [.., t, d], k [.., s, d], v [.., s, e], mask [.., t, s] (optional) → [.., t, e].
///
/// A bool mask is true where a key counts, one of q's dtype is added; a row without a key gives 0. All leading dims, and
/// both of the mask's last ones, broadcast.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Query i sees the keys j ≤ i.
    causal: bool,
    /// 1 / √d where none is given.
    scale: Option<f64>,
    p: f64,
    stream: Stream,
}

/// The sizes of one application: the broadcast leading dims, then those of the formula.
struct Sizes {
    lead: Dims,
    queries: usize,
    keys: usize,
    width: usize,
    value_width: usize,
}

impl Sizes {
    fn of(x: &[&Meta]) -> Result<Sizes> {
        let (q, k, v) = (x[0].shape(), x[1].shape(), x[2].shape());
        let wrong = |what: &str| {
            Err(Error::shape(format!(
                "attention: query {q:?}, key {k:?}, value {v:?}: {what}; [.., t, d], [.., s, d], [.., s, e] is needed"
            )))
        };
        if q.len() < 2 || k.len() < 2 || v.len() < 2 {
            return wrong("each needs 2 dims or more");
        }
        let at = |s: &[usize], from_end: usize| s[s.len() - from_end];
        if at(q, 1) != at(k, 1) {
            return wrong("the last dims of query and key differ");
        }
        if at(k, 2) != at(v, 2) {
            return wrong("key and value differ in length");
        }
        let lead = |s: &[usize]| Dims::from(&s[..s.len() - 2]);
        let mut all = shape::broadcast("attention", &lead(q), &lead(k))?;
        all = shape::broadcast("attention", &all, &lead(v))?;
        let sizes = Sizes { lead: all, queries: at(q, 2), keys: at(k, 2), width: at(q, 1), value_width: at(v, 1) };
        let Some(mask) = x.get(3) else { return Ok(sizes) };
        let (mask, scores) = (mask.shape(), sizes.rows(sizes.keys));
        let fits = mask.len() >= 2 && mask[mask.len() - 2..].iter().zip(&scores[scores.len() - 2..]).all(fits_size);
        if !fits {
            return Err(Error::shape(format!(
                "attention: a mask {mask:?} for scores {scores:?}; a shape that broadcasts to the scores is needed"
            )));
        }
        let lead = shape::broadcast("attention", &sizes.lead, &lead(mask))?;
        Ok(Sizes { lead, ..sizes })
    }

    /// [lead.., queries, last]
    fn rows(&self, last: usize) -> Dims {
        self.lead.iter().copied().chain([self.queries, last]).collect()
    }

    /// [lead.., keys, last]
    fn columns(&self, last: usize) -> Dims {
        self.lead.iter().copied().chain([self.keys, last]).collect()
    }

    fn log_sums(&self) -> Dims {
        self.lead.iter().copied().chain([self.queries]).collect()
    }

    /// Multiply-adds of one product of both, and exponentials.
    fn scores(&self, causal: bool) -> f64 {
        let (t, s) = (self.queries as f64, self.keys as f64);
        let seen = if causal { (0..self.queries).map(|i| (i + 1).min(self.keys) as f64).sum() } else { t * s };
        seen * self.lead.iter().product::<usize>() as f64
    }
}

fn fits_size((own, full): (&usize, &usize)) -> bool {
    own == full || *own == 1
}

/// A gapless layout whose axes lie in memory in the order of those of `like`, the last one fastest. Heads that were cut
/// from the rows of a projection thus give an output, and gradients, that join to rows again without a copy.
fn laid_like(like: &Meta, shape: &[usize]) -> Result<Arc<Layout>> {
    let (strides, rank) = (like.layout.strides(), shape.len());
    if like.rank() != rank || like.layout.is_contiguous() || strides.contains(&0) {
        return Layout::contiguous("attention", shape);
    }
    shape::numel("attention", shape)?;
    let mut order: Dims = (0..rank).collect();
    order[..rank - 1].sort_by_key(|&i| std::cmp::Reverse(strides[i].unsigned_abs()));
    let mut own: Strides = Strides::from_elem(0, rank);
    let mut step = 1isize;
    for &axis in order.iter().rev() {
        own[axis] = step;
        step *= shape[axis].max(1) as isize;
    }
    Ok(Layout::strided(shape, &own))
}

/// The tensor, or a copy whose last dim is contiguous.
fn readable(t: &Tensor) -> Result<Tensor> {
    if takes(t.layout().strides(), t.shape()) {
        return Ok(t.clone());
    }
    relaid(t, Layout::contiguous("attention", t.shape())?, Category::Workspace)
}

impl Attention {
    fn build(args: &mut Args) -> Result<OpRef> {
        let (causal, scale) = (args.flag("causal")?, args.float_or_none("scale")?);
        let p = args.float_or_none("dropout_p")?.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&p) {
            return Err(Error::value(format!("attention: dropout_p is {p}; a probability from 0 to 1 is needed")));
        }
        let mut stream = Stream { key: 0, offset: 0 };
        if p > 0.0 {
            stream = Stream { key: args.int("key")? as u64, offset: args.int("offset")? as u64 };
        }
        Ok(Attention { causal, scale, p, stream }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |attributes: &[Attribute], q: &[usize], k: &[usize], v: &[usize], mask: Option<(&[usize], Domain)>| {
            let mut inputs = vec![(q, Domain::Any), (k, Domain::Any), (v, Domain::Any)];
            inputs.extend(mask);
            Sample::of(Self::build, attributes, &inputs)
        };
        let heads: [&[usize]; 3] = [&[2, 3, 5, 4], &[2, 3, 7, 4], &[2, 3, 7, 6]];
        let [q, k, v] = heads;
        let plain = [flag(false)];
        let causal = [flag(true), float(0.3)];
        let dropped = [flag(false), Attribute::None, float(0.3), int(7), int(2)];
        let causal_dropped = [flag(true), Attribute::None, float(0.5), int(7), int(3)];
        vec![
            of(&plain, q, k, v, None),
            of(&causal, q, k, v, None),
            of(&causal, k, q, &[2, 3, 5, 3], None),
            of(&plain, q, k, v, Some((&[5, 7], Domain::Mask))),
            of(&plain, q, k, v, Some((&[2, 1, 1, 7], Domain::Mask))),
            of(&plain, q, k, v, Some((&[2, 3, 5, 7], Domain::Any))),
            of(&causal, q, k, v, Some((&[3, 1, 7], Domain::Any))),
            of(&dropped, q, k, v, None),
            of(&causal_dropped, q, k, v, Some((&[5, 1], Domain::Any))),
            of(&plain, &[5, 4], &[7, 4], &[7, 2], None),
            of(&plain, &[3, 5, 4], &[7, 4], &[2, 1, 7, 2], None),
            of(&dropped, &[2, 2, 2, 3, 4], &[2, 1, 2, 3, 4], &[3, 4], None),
            of(&plain, &[1, 33, 17], &[1, 131, 17], &[1, 131, 19], None),
            of(&causal, &[2, 197, 5], &[2, 197, 5], &[2, 197, 5], None),
            of(&causal, &[2, 0, 4], &[2, 3, 4], &[2, 3, 4], None),
            of(&plain, &[2, 3, 4], &[2, 0, 4], &[2, 0, 4], None),
            of(&plain, &[0, 3, 4], &[0, 5, 4], &[0, 5, 4], None),
        ]
    }

    fn factor(&self, width: usize) -> f64 {
        self.scale.unwrap_or(if width == 0 { 1.0 } else { 1.0 / (width as f64).sqrt() })
    }

    fn job<'a>(&self, sizes: &'a Sizes, x: &[&'a Tensor], mask: Option<&'a Tensor>) -> Job<'a> {
        let dropout = (self.p > 0.0).then_some(Dropout { stream: self.stream, keep: 1.0 - self.p });
        Job {
            lead: &sizes.lead,
            q: x[0].view(),
            k: x[1].view(),
            v: x[2].view(),
            mask: mask.map(Tensor::view),
            scale: self.factor(sizes.width),
            causal: self.causal,
            dropout,
        }
    }
}

impl Attention {
    /// As `job`, for a GPU.
    fn job_on<'a>(&self, sizes: &'a Sizes, x: &[&'a Tensor], mask: Option<&'a Tensor>) -> on_gpu::Job<'a> {
        let dropout = (self.p > 0.0).then_some(on_gpu::Dropout { stream: self.stream, keep: 1.0 - self.p });
        on_gpu::Job {
            lead: &sizes.lead,
            q: x[0].buffer(),
            k: x[1].buffer(),
            v: x[2].buffer(),
            mask: mask.map(Tensor::buffer),
            scale: self.factor(sizes.width),
            causal: self.causal,
            dropout,
        }
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn infer(&self, x: &[&Meta], recording: bool) -> Result<Metas> {
        if x.len() != 3 && x.len() != 4 {
            return Err(error::arity("attention", x.len(), "3 or 4"));
        }
        let dtype = x[0].dtype;
        x[..3].iter().try_for_each(|m| expect_float("attention", m))?;
        if let Some(other) = x[1..3].iter().find(|m| m.dtype != dtype) {
            return Err(Error::dtype(format!(
                "attention: dtypes {} and {} differ; cast one of them (help: x.to(y.dtype))",
                dtype.name(),
                other.dtype.name()
            )));
        }
        if let Some(mask) = x.get(3)
            && mask.dtype != DType::Bool
            && mask.dtype != dtype
        {
            return Err(Error::dtype(format!(
                "attention: a mask of dtype {} for a query of {1}; bool or {1} is needed",
                mask.dtype.name(),
                dtype.name()
            )));
        }
        let sizes = Sizes::of(x)?;
        let shape = sizes.rows(sizes.value_width);
        let mut y = output("attention", x, &shape, dtype)?;
        y[0].layout = laid_like(x[0], &shape)?;
        if recording {
            let dtype = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
            y.push(Meta::contiguous("attention", &sizes.log_sums(), dtype, x[0].device)?);
        }
        Ok(y)
    }
    fn saves(&self, needs: Mask) -> Saves {
        // The gradient of the mask is that of the scores, made again without the output.
        Saves::inputs(0b1111).and_outputs(if needs & 0b1000 == 0 { 0b11 } else { 0b10 })
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        let flops =
            Sizes::of(x).map_or(0.0, |s| s.scores(self.causal) * (2.0 * (s.width + s.value_width) as f64 + 5.0));
        Cost { flops, ..Cost::streaming(x, y, 0.0) }
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::Any
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        fn go<E: Number + Element>(job: Job, y: &[Tensor]) -> Result<()> {
            let spare;
            let log_sums = match y.get(1) {
                Some(log_sums) => log_sums.view().out::<E>(),
                None => {
                    let rows = job.lead.iter().product::<usize>() * job.q.shape()[job.q.shape().len() - 2];
                    spare = workspace::<E>(rows)?;
                    spare.view().out::<E>()
                }
            };
            let o = y[0].view();
            let scratch = workspace::<E>(job.forward_workspace::<E>(&o))?;
            if on_paper() {
                return Ok(());
            }
            job.forward::<E>(&o, log_sums, scratch.view().out::<E>());
            Ok(())
        }
        let sizes = Sizes::of(&x.iter().map(|t| &t.meta).collect::<Vec<_>>())?;
        let (q, k, v) = (readable(x[0])?, readable(x[1])?, readable(x[2])?);
        let job = self.job(&sizes, &[&q, &k, &v], x.get(3).copied());
        if y[0].dtype() == DType::F64 { go::<f64>(job, y) } else { go::<f32>(job, y) }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let sizes = Sizes::of(&x.iter().map(|t| &t.meta).collect::<Vec<_>>())?;
        let spare;
        let sums = match y.get(1) {
            Some(sums) => sums,
            None => {
                let meta = Meta::contiguous("attention", &sizes.log_sums(), DType::F32, y[0].device())?;
                spare = Tensor::empty(meta, Category::Workspace)?;
                &spare
            }
        };
        self.job_on(&sizes, x, x.get(3).copied()).forward(gpu, y[0].buffer(), &sums.buffer())
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let masked = back.inputs() > 3;
        if back.records() || masked && back.needs(3) {
            return self.recorded(back);
        }
        let mut operands = vec![back.input(0)?, back.input(1)?, back.input(2)?];
        operands.extend([back.output(0)?, back.output(1)?, back.dy()]);
        if masked {
            operands.push(back.input(3)?);
        }
        let dq = back.apply(AttentionBack { of: *self }, &operands)?;
        for i in 0..3 {
            if back.needs(i) {
                let dx = back.next(dq, i as u32);
                back.give(i, dx);
            }
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let metas: Vec<Meta> = x
            .iter()
            .map(|x| Meta::contiguous("attention", &x.shape, DType::F64, Device::Cpu))
            .collect::<Result<_>>()
            .ok()?;
        let sizes = Sizes::of(&metas.iter().collect::<Vec<_>>()).ok()?;
        let scale = self.factor(sizes.width);
        // Only samples tell a bool mask from an added one by its values, so the reference is told by them as well.
        let keeps = x.get(3).is_some_and(|m| m.data.iter().all(|&v| v == 0.0 || v == 1.0));
        let mut row = 0u64;
        let rank = sizes.lead.len();
        let mut y = Exact::zeros(&sizes.rows(sizes.value_width));
        Exact::build(&sizes.log_sums(), |index| {
            let at = |i: usize, j: usize| -> Dims { index[..rank].iter().copied().chain([i, j]).collect() };
            let i = index[rank];
            let score = |j: usize| {
                let dot: f64 =
                    (0..sizes.width).map(|c| x[0].at_broadcast(&at(i, c)) * x[1].at_broadcast(&at(j, c))).sum();
                let mask = x.get(3).map(|m| m.at_broadcast(&at(i, j)));
                let hidden = self.causal && j > i || keeps && mask == Some(0.0);
                let added = if keeps { 0.0 } else { mask.unwrap_or(0.0) };
                if hidden { f64::NEG_INFINITY } else { scale * dot + added }
            };
            let scores: Vec<f64> = (0..sizes.keys).map(score).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            for (j, s) in scores.iter().enumerate().filter(|_| top > f64::NEG_INFINITY) {
                let draw = f64::from(self.stream.uniform(row * sizes.keys as u64 + j as u64));
                let kept = if self.p == 0.0 {
                    1.0
                } else if draw < 1.0 - self.p {
                    1.0 / (1.0 - self.p)
                } else {
                    0.0
                };
                for c in 0..sizes.value_width {
                    *y.at_mut(&at(i, c)) += (s - top).exp() / total * kept * x[2].at_broadcast(&at(j, c));
                }
            }
            row += 1;
            0.0
        });
        Some(vec![y])
    }
}

impl Attention {
    /// The gradient in ops that have gradients, and that of an added mask: the scores are computed as a whole.
    fn recorded(&self, back: &mut Back) -> Result<()> {
        let metas: Vec<&Meta> = (0..back.inputs()).map(|i| back.input_meta(i)).collect();
        let (sizes, dtype) = (Sizes::of(&metas)?, metas[0].dtype);
        let (q, k, v, dy) = (back.input(0)?, back.input(1)?, back.input(2)?, back.dy());
        let p = self.probabilities(back, &sizes, q, k)?;
        let kept = self.dropped(back, p)?;
        if back.needs(2) {
            let turned = back.transpose(kept)?;
            let dv = back.matmul(turned, dy)?;
            back.give(2, dv);
        }
        if !(back.needs(0) || back.needs(1) || back.inputs() > 3 && back.needs(3)) {
            return Ok(());
        }
        let vt = back.transpose(v)?;
        let dp = back.matmul(dy, vt)?;
        let dp = self.dropped(back, dp)?;
        let share = back.mul(p, dp)?;
        let total = back.sum(share, &[sizes.lead.len() + 1], true)?;
        let rest = back.sub(dp, total)?;
        let ds = back.mul(p, rest)?;
        if back.inputs() > 3 && back.needs(3) {
            back.give(3, ds);
        }
        let scale = back.number(self.factor(sizes.width), dtype)?;
        let ds = back.mul(ds, scale)?;
        if back.needs(0) {
            let dq = back.matmul(ds, k)?;
            back.give(0, dq);
        }
        if back.needs(1) {
            let turned = back.transpose(ds)?;
            let dk = back.matmul(turned, q)?;
            back.give(1, dk);
        }
        Ok(())
    }

    /// [lead.., t, s] before dropout.
    fn probabilities(&self, back: &mut Back, sizes: &Sizes, q: V, k: V) -> Result<V> {
        let dtype = back.input_meta(0).dtype;
        let kt = back.transpose(k)?;
        let s = back.matmul(q, kt)?;
        let mut s = back.scale(s, self.factor(sizes.width))?;
        let never = back.number(f64::NEG_INFINITY, dtype)?;
        if self.causal {
            let seen: Vec<u8> =
                (0..sizes.queries * sizes.keys).map(|at| u8::from(at % sizes.keys <= at / sizes.keys)).collect();
            let seen = Tensor::from_slice("attention", &[sizes.queries, sizes.keys], &seen, Category::Temporary)?;
            let seen = match back.input_meta(0).device {
                Device::Cpu => seen,
                there => super::transfer::moved(&seen, there, Category::Temporary)?,
            };
            let seen = back.constant(seen);
            let seen = back.cast(seen, DType::Bool)?;
            s = back.call("where", &[seen, s, never], &[])?;
        }
        if back.inputs() > 3 {
            let mask = back.input(3)?;
            s = match back.input_meta(3).dtype {
                DType::Bool => back.call("where", &[mask, s, never], &[])?,
                _ => back.add(s, mask)?,
            };
        }
        let s = back.expand(s, &sizes.rows(sizes.keys))?;
        // A row without a key would be 0/0: it takes part as zeros, and its probabilities are set to 0 behind.
        let sums = back.output(1)?;
        let never = back.number(f64::NEG_INFINITY, back.tensor(sums).dtype())?;
        let dead = back.call("eq", &[sums, never], &[])?;
        let dead = back.reshape(dead, &sizes.rows(1))?;
        let zero = back.number(0.0, dtype)?;
        let s = back.call("where", &[dead, zero, s], &[])?;
        let p = back.call("softmax", &[s], &[int(-1)])?;
        back.call("where", &[dead, zero, p], &[])
    }

    fn dropped(&self, back: &mut Back, p: V) -> Result<V> {
        if self.p == 0.0 {
            return Ok(p);
        }
        back.call("dropout", &[p], &[float(self.p), int(self.stream.key as i64), int(self.stream.offset as i64)])
    }
}

/// The fused gradient: dq, dk, dv of the full leading shape from q, k, v, o, the log-sum-exps, dy and the mask (if any);
/// not recorded.
#[derive(Debug)]
struct AttentionBack {
    of: Attention,
}

impl Op for AttentionBack {
    fn name(&self) -> &'static str {
        "attention"
    }
    fn visible(&self) -> usize {
        3
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        if x.len() < 6 {
            return Err(error::arity("attention", x.len(), "6"));
        }
        let sizes = Sizes::of(&Self::operands(x))?;
        let shapes = [sizes.rows(sizes.width), sizes.columns(sizes.width), sizes.columns(sizes.value_width)];
        let one = |(x, shape): (&&Meta, &Dims)| Ok(Meta { layout: laid_like(x, shape)?, ..(*x).clone() });
        x[..3].iter().zip(&shapes).map(one).collect()
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        let flops = Sizes::of(&Self::operands(x))
            .map_or(0.0, |s| s.scores(self.of.causal) * (2.0 * (3 * s.width + 2 * s.value_width) as f64 + 5.0));
        Cost { flops, ..Cost::streaming(x, y, 0.0) }
    }
    fn layouts(&self, input: usize) -> Layouts {
        if input == 4 { Layouts::Contiguous } else { Layouts::Any }
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        fn go<E: Number + Element>(job: Job, gradients: Gradients, log_sums: &Tensor) -> Result<()> {
            let scratch = workspace::<E>(job.backward_workspace::<E>(&gradients))?;
            if on_paper() {
                return Ok(());
            }
            job.backward::<E>(&gradients, log_sums.view().slice::<E>(), scratch.view().out::<E>());
            Ok(())
        }
        let sizes = Sizes::of(&Self::operands(&x.iter().map(|t| &t.meta).collect::<Vec<_>>()))?;
        let (q, k, v) = (readable(x[0])?, readable(x[1])?, readable(x[2])?);
        let (o, d_o) = (readable(x[3])?, readable(x[5])?);
        let job = self.of.job(&sizes, &[&q, &k, &v], x.get(6).copied());
        let (dq, dk, dv) = (y[0].view(), y[1].view(), y[2].view());
        let gradients = Gradients { o: o.view(), d_o: d_o.view(), dq, dk, dv };
        if y[0].dtype() == DType::F64 { go::<f64>(job, gradients, x[4]) } else { go::<f32>(job, gradients, x[4]) }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let sizes = Sizes::of(&Self::operands(&x.iter().map(|t| &t.meta).collect::<Vec<_>>()))?;
        if sizes.queries == 0 {
            let zero = Tensor::scalar(0.0, DType::F32)?;
            return y.iter().try_for_each(|dx| super::pointwise::copy_on(gpu, &zero, dx));
        }
        let job = self.of.job_on(&sizes, x, x.get(6).copied());
        let dx = [y[0].buffer(), y[1].buffer(), y[2].buffer()];
        job.backward(gpu, x[3].buffer(), &x[4].buffer(), x[5].buffer(), dx)
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Err(super::fused_was_recorded("attention"))
    }
    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}

impl AttentionBack {
    /// q, k, v and the mask.
    fn operands<'a>(x: &[&'a Meta]) -> Vec<&'a Meta> {
        x[..3].iter().chain(x.get(6)).copied().collect()
    }
}
