//! Convolutions of channels-last images and their two gradients, as products whose operands are gathered on the way.

use super::Gpu;
use super::kernel::{Params as _, index, params};
use super::pointwise::Buffer;
use super::tiles::{self, Cut, Sizes};
use crate::arena::space::Place;
use crate::device::cpu::conv::Conv;
use crate::error::Result;
use smallvec::SmallVec;

params!(Params {
    batch: u32,
    m: u32,
    k: u32,
    n: u32,
    splits: u32,
    run: u32,
    h: u32,
    w: u32,
    c_in: u32,
    out_h: u32,
    out_w: u32,
    c_out: u32,
    depth: u32,
    width: u32,
    kw: u32,
    taps: u32,
    stride_y: u32,
    stride_x: u32,
    padding_y: u32,
    padding_x: u32,
    dilation_y: u32,
    dilation_x: u32,
    groups: u32,
    phases_x: u32,
    steps_y: u32,
    steps_x: u32,
    apart_y: u32,
    apart_x: u32,
    spread_y: u32,
    spread_x: u32,
    a_at: u32,
    b_at: u32,
    bias_at: u32,
    sums_at: u32,
});

/// Tells these texts apart from other generated ones.
const TEXT: u32 = 3;

/// Groups of fewer channels are no tiles.
const NARROW: usize = 16;

/// Which of the three is made of the other two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// y from x, the weight, and a bias [out].
    Forward { bias: bool },
    /// dx from dy and the weight.
    Data,
    /// dweight from dy and x, and dbias [out].
    Weight { bias: bool },
}

/// The gradient of the images along an axis. Their elements fall into `phases` of `steps`, a stride apart, and those of a phase
/// are met by every `apart`-th tap, `spread` elements of y apart.
#[derive(Clone, Copy, Debug)]
struct Axis {
    stride: usize,
    dilation: usize,
    phases: usize,
    steps: usize,
    apart: usize,
    spread: usize,
    /// The most taps of a phase.
    taps: usize,
}

impl Axis {
    fn new(s: &Conv, i: usize) -> Axis {
        let (size, kernel) = ([s.h, s.w][i], [s.kh, s.kw][i]);
        // A longer stride has one place, and a longer dilation one tap.
        let full = size + 2 * s.padding[i];
        let (stride, dilation) = (s.stride[i].min(full), s.dilation[i].min(full));
        let (mut common, mut rest) = (stride, dilation);
        while rest > 0 {
            (common, rest) = (rest, common % rest);
        }
        // Where they are further apart than the kernel is long, a phase has one.
        let apart = (stride / common).min(kernel);
        let (phases, steps) = (stride.min(size), size.div_ceil(stride));
        Axis { stride, dilation, phases, steps, apart, spread: dilation / common, taps: kernel.div_ceil(apart) }
    }
}

/// A convolution worked out.
pub struct Plan<'a> {
    op: &'static str,
    how: How,
    s: &'a Conv,
    axes: [Axis; 2],
    sizes: Sizes,
    cut: Cut,
}

impl<'a> Plan<'a> {
    pub fn new(op: &'static str, how: How, s: &'a Conv) -> Plan<'a> {
        let (depth, width, taps) = (s.c_in / s.groups, s.c_out / s.groups, s.kh * s.kw);
        let outside = s.n * s.out_h() * s.out_w();
        let axes = [Axis::new(s, 0), Axis::new(s, 1)];
        let all = |number: fn(&Axis) -> usize| axes.iter().map(number).product::<usize>();
        let phases = if how == How::Data { all(|axis| axis.phases) } else { 1 };
        let (m, k, n) = match how {
            How::Forward { .. } => (outside, taps * depth, width),
            How::Data => (s.n * all(|axis| axis.steps), all(|axis| axis.taps) * width, depth),
            How::Weight { .. } => (width, outside, taps * depth),
        };
        let sizes = Sizes { batch: phases * s.groups, m, k, n };
        let narrow = s.is_depthwise() || s.groups > 1 && depth.max(width) < NARROW;
        // Sums of phases do not lie in the order of the images, in which parts would be joined.
        let cut = Cut::new(sizes, narrow, how != How::Forward { bias: true } && phases == 1);
        let cut = if how == (How::Weight { bias: true }) { cut.summing_rows(sizes) } else { cut };
        Plan { op, how, s, axes, sizes, cut }
    }

    pub fn scratch_bytes(&self) -> usize {
        self.cut.scratch_bytes()
    }

    /// Images are channels last, the weight contiguous, all gapless; `bias` is read by the first way, and written by the last.
    pub fn run(
        &self,
        gpu: &Gpu,
        [a, b]: [&Buffer; 2],
        bias: Option<&Buffer>,
        y: &Buffer,
        scratch: Option<Place>,
    ) -> Result<()> {
        let (s, Sizes { batch, m, k, n }) = (self.s, self.sizes);
        let number = |v: usize| index(self.op, v);
        for b in [a, b, y] {
            number(b.layout.numel())?;
        }
        let (depth, width) = (s.c_in / s.groups, s.c_out / s.groups);
        let [down, across] = self.axes;
        let weighs = matches!(self.how, How::Weight { .. });
        let (bias, sums) = if weighs { (None, bias) } else { (bias, None) };
        for i in 0..2 {
            number([s.h, s.w][i] + 2 * s.padding[i])?;
        }
        // Where phases end beyond the images there are more sums than elements.
        number(batch * m * n)?;
        if self.how == How::Data {
            gpu.expect_rounds(self.op, down.apart + across.apart)?;
        }
        let params = Params {
            batch: number(batch)?,
            m: number(m)?,
            k: number(k)?,
            n: number(n)?,
            splits: number(self.cut.splits)?,
            run: number(self.cut.run)?,
            h: number(s.h)?,
            w: number(s.w)?,
            c_in: number(s.c_in)?,
            out_h: number(s.out_h())?,
            out_w: number(s.out_w())?,
            c_out: number(s.c_out)?,
            depth: number(depth)?,
            width: number(width)?,
            kw: number(s.kw)?,
            taps: number(s.kh * s.kw)?,
            stride_y: number(down.stride)?,
            stride_x: number(across.stride)?,
            padding_y: number(s.padding[0])?,
            padding_x: number(s.padding[1])?,
            dilation_y: number(down.dilation)?,
            dilation_x: number(across.dilation)?,
            groups: number(s.groups)?,
            phases_x: number(across.phases)?,
            steps_y: number(down.steps)?,
            steps_x: number(across.steps)?,
            apart_y: number(down.apart)?,
            apart_x: number(across.apart)?,
            spread_y: number(down.spread)?,
            spread_x: number(across.spread)?,
            a_at: number(a.offset)?,
            b_at: number(b.offset)?,
            bias_at: number(bias.map_or(0, |b| b.offset))?,
            sums_at: number(sums.map_or(0, |b| b.offset))?,
        };
        let how = match self.how {
            How::Forward { .. } => 0,
            How::Data => 1,
            How::Weight { .. } => 2,
        };
        let constants = [
            ("HOW", how),
            ("HAS_BIAS", u32::from(bias.is_some())),
            ("LEFT_M", u32::from(weighs)),
            ("RIGHT_N", u32::from(how > 0)),
            // As on the CPU, whose kernels for one channel a group leave the padding out.
            ("SKIPS", u32::from(s.is_depthwise())),
        ];
        number(y.offset)?;
        // Channels lie side by side; those of a weight do where it has one tap.
        let whole = |channels: usize, all: usize, b: &Buffer| {
            channels.is_multiple_of(4) && all.is_multiple_of(4) && b.offset.is_multiple_of(4)
        };
        let one_tap = s.kh * s.kw == 1;
        let fours = match self.how {
            How::Forward { .. } => [whole(depth, s.c_in, a), one_tap && whole(depth, depth, b)],
            How::Data => [whole(width, s.c_out, a), one_tap && whole(depth, depth, b)],
            How::Weight { .. } => [whole(width, s.c_out, a), whole(depth, s.c_in, b)],
        };
        let product = tiles::Product {
            op: self.op,
            cut: self.cut,
            key: self.cut.key(TEXT, &constants),
            constants: SmallVec::from_slice(&constants),
            params: Params::WGSL,
            operands: include_str!("conv.wgsl"),
            words: params.words(),
            fours,
        };
        // Sums lie as [groups, m, n]; images as [pixel, channel], a weight as [out, channel, tap].
        let order = match self.how {
            How::Weight { .. } => [(s.c_out, n), (depth, 1), (s.kh * s.kw, depth)],
            _ => [(m, n), (batch, m * n), (n, 1)],
        };
        product.run(gpu, [a, b], [bias, sums], y, scratch, order)
    }
}
