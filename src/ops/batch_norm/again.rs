//! Batch norm made again from what its node kept, for what reads it on the way back: by itself, with the ReLU that follows, or
//! as the numbers of a map for a kernel that makes it on the way.

use super::{BatchNorm, channels, in_order, order};
use crate::arena::on_paper;
use crate::device::cpu::channels::{self as kernels, Affine, Channels};
use crate::device::cpu::rows::Float;
use crate::device::gpu::Gpu;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::laws::Exact;
use crate::ops::run::workspace;
use crate::ops::{Back, ChannelMap, Layouts, Metas, Op, OpRef, expect_inputs, fused_was_recorded};
use crate::tensor::{Meta, Tensor};
use smallvec::SmallVec;

/// What is needed to normalise.
pub(super) struct Known<'a, E> {
    pub eps: f64,
    pub mean: &'a [E],
    pub variance: &'a [E],
    pub weight: Option<&'a [E]>,
    pub bias: Option<&'a [E]>,
}

impl<E: Float> Known<'_, E> {
    /// What a channel is multiplied by, and what is added to it.
    fn map(&self, scale: &mut [E], shift: &mut [E]) {
        for i in 0..scale.len() {
            let weight = self.weight.map_or(1.0, |w| w[i].into());
            scale[i] = E::from_f64(weight / (self.variance[i].into() + self.eps).sqrt());
            shift[i] = self.bias.map_or(E::from_f64(0.0), |b| b[i]);
        }
    }

    /// `numbers` is room for two a channel.
    pub fn normalise(&self, s: &Channels, x: &[E], numbers: &mut [E], relu: bool, y: &mut [E]) {
        let (scale, shift) = numbers.split_at_mut(s.c);
        self.map(scale, shift);
        let map = Affine { center: self.mean, scale, shift };
        if relu { kernels::affine_relu(s, x, map, y) } else { kernels::affine(s, x, map, None, y) }
    }
}

/// The normalised values once more, from the inputs and the mean and variance that were saved; not recorded.
#[derive(Debug)]
pub(super) struct BatchNormAgain {
    pub norm: BatchNorm,
    /// Of the CPU's values, what a ReLU makes of them.
    pub relu: bool,
}

impl BatchNormAgain {
    fn known<'a, E: Float>(&self, x: &[&'a Tensor]) -> Known<'a, E> {
        let (op, inputs) = (&self.norm, self.norm.wanted());
        let of = |i: usize| x[i].view().slice::<E>();
        Known {
            eps: op.eps,
            mean: of(inputs),
            variance: of(inputs + 1),
            weight: op.weight.then(|| of(1)),
            bias: op.bias.then(|| of(inputs - 1)),
        }
    }
}

impl ChannelMap for BatchNormAgain {
    fn numbers(&self, x: &[&Tensor], numbers: &mut [f32]) {
        let known = self.known::<f32>(x);
        let (center, rest) = numbers.split_at_mut(known.mean.len());
        let (scale, shift) = rest.split_at_mut(center.len());
        center.copy_from_slice(known.mean);
        known.map(scale, shift);
    }
}

impl Op for BatchNormAgain {
    fn name(&self) -> &'static str {
        "batch_norm"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("batch_norm", x, self.norm.wanted() + 2)?;
        Ok(SmallVec::from_iter([Meta { layout: order("batch_norm", x[0])?, ..x[0].clone() }]))
    }
    fn layouts(&self, input: usize) -> Layouts {
        self.norm.layouts(input)
    }
    fn as_channel_map(&self) -> Option<&dyn ChannelMap> {
        self.relu.then_some(self)
    }
    fn with_relu(&self) -> Option<OpRef> {
        Some(BatchNormAgain { norm: self.norm.clone(), relu: true }.into())
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        fn go<E: Float>(op: &BatchNormAgain, x: &[&Tensor], y: &Tensor) -> Result<()> {
            let (s, known) = (channels(y.layout()), op.known::<E>(x));
            let x = in_order(x[0], y.layout())?;
            let numbers = workspace::<E>(2 * s.c)?;
            if !on_paper() {
                known.normalise(&s, x.view().slice(), numbers.view().out(), op.relu, y.view().out());
            }
            Ok(())
        }
        if y[0].dtype() == DType::F64 { go::<f64>(self, x, &y[0]) } else { go::<f32>(self, x, &y[0]) }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let inputs = self.norm.wanted();
        self.norm.normalise_on(gpu, &in_order(x[0], y[0].layout())?, [x[inputs], x[inputs + 1]], x, &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Err(fused_was_recorded("batch_norm"))
    }
    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}
