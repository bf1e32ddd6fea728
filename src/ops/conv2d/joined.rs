//! The gradient of a weight from images that were not kept and are a map of each channel, such as a batch norm and its ReLU:
//! the kernel copies what it reads of them anyway, and maps it on the way.

use super::{Steps, WEIGHT, WeightGradient, cost};
use crate::arena::on_paper;
use crate::device::Device;
use crate::device::cpu::channels::Affine;
use crate::device::cpu::conv;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::laws::Exact;
use crate::ops::run::workspace;
use crate::ops::{Back, Cost, Layouts, Metas, Op, OpRef, V, expect_inputs, fused_was_recorded};
use crate::tensor::{Meta, Tensor};
use smallvec::SmallVec;

/// dweight, and dbias, from what `maker` reads, and dy as the last; not recorded.
#[derive(Debug)]
pub(super) struct WeightGradientOfMap {
    gradient: WeightGradient,
    maker: OpRef,
}

impl WeightGradientOfMap {
    /// For the vjp of a convolution whose images were not kept: this op and all that it reads but dy.
    pub fn find(steps: &Steps, back: &mut Back, bias: bool) -> Result<Option<(WeightGradientOfMap, SmallVec<[V; 6]>)>> {
        let (x, weight) = (back.input_meta(0), back.input_meta(1).shape());
        let depthwise = steps.conv(WEIGHT, x.shape(), weight)?.is_depthwise();
        if x.dtype != DType::F32 || x.device != Device::Cpu || depthwise {
            return Ok(None);
        }
        let found = back.maker(0)?.filter(|(maker, _)| maker.as_channel_map().is_some());
        let gradient = WeightGradient { steps: *steps, kernel: [weight[2], weight[3]], bias };
        Ok(found.map(|(maker, operands)| (WeightGradientOfMap { gradient, maker }, operands)))
    }

    fn conv(&self, x: &[&Meta]) -> Result<conv::Conv> {
        self.gradient.conv(x[0].shape(), x[x.len() - 1].shape())
    }
}

impl Op for WeightGradientOfMap {
    fn name(&self) -> &'static str {
        WEIGHT
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(WEIGHT, x, x.len().max(2))?;
        self.gradient.infer(&[x[0], x[x.len() - 1]], false)
    }
    fn visible(&self) -> usize {
        self.gradient.visible()
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        self.conv(x).map_or(Cost::default(), |s| cost(&s, x, y))
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::ChannelsLast
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let metas: SmallVec<[&Meta; 6]> = x.iter().map(|t| &t.meta).collect();
        let (s, (dy, read)) = (self.conv(&metas)?, x.split_last().expect("bug: a gradient of nothing"));
        let scratch = workspace::<f32>(conv::backward_weight_workspace(&s, true))?;
        let numbers = workspace::<f32>(3 * s.c_in)?;
        if !on_paper() {
            let numbers = numbers.view().out::<f32>();
            let map = self.maker.as_channel_map().expect("bug: the maker is no map of channels");
            map.numbers(read, numbers);
            let (x, dy, dweight) = (read[0].view().slice(), dy.view().slice(), y[0].view().out());
            conv::backward_weight_of_map(&s, x, Affine::of(numbers), dy, dweight, scratch.view().out());
        }
        self.gradient.sum_bias(dy, y)
    }
    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Err(fused_was_recorded(WEIGHT))
    }
    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}
