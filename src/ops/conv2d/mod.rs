//! 2-d convolution and its two gradients. Each of the three is a product of the other two's operands, so that their vjps
//! are each other and gradients of any order are convolutions again. Transposed convolution is the gradient of the data.
//!
//! Images are [n, c, h, w] by name and channels last in memory.

mod joined;

use self::joined::WeightGradientOfMap;
use super::args::{Args, flag, int, ints};
use super::laws::{Domain, Exact, Sample};
use super::reduce::on_gpu::scratch;
use super::registry::{self, Entry};
use super::run::{self, workspace};
use super::{Back, Cost, Layouts, Mask, Metas, Op, OpRef, Saves, V, expect_float, expect_inputs, one_device};
use crate::arena::on_paper;
use crate::device::cpu::conv::{self, Conv};
use crate::device::gpu::Gpu;
use crate::device::gpu::conv::{How, Plan};
use crate::dtype::DType;
use crate::error::{self, Error, Result};
use crate::shape::{self, Layout};
use crate::tensor::{Meta, Tensor};
use smallvec::SmallVec;

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "conv2d", build: Conv2d::build, samples: Conv2d::samples });
    list.push(Entry { name: "conv2d_data_gradient", build: DataGradient::build, samples: DataGradient::samples });
    list.push(Entry { name: "conv2d_weight_gradient", build: WeightGradient::build, samples: WeightGradient::samples });
}

/// Elements of a padded batch above which no memory could hold what a convolution needs; also bounds each attribute.
const MOST: usize = 1 << 48;

/// What convolutions differ in besides their sizes. Pairs are vertical, horizontal.
#[derive(Clone, Copy, Debug)]
struct Steps {
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
}

/// A list of exactly two sizes.
fn pair(args: &mut Args, op: &str, name: &str, least: usize) -> Result<[usize; 2]> {
    let list = args.sizes(name)?;
    match list.as_slice() {
        &[a, b] if a.max(b) > MOST => Err(Error::value(format!("{op}: {name} is {list:?}; at most 2⁴⁸ is possible"))),
        &[a, b] if a >= least && b >= least => Ok([a, b]),
        [_, _] => Err(Error::value(format!("{op}: {name} is {list:?}; {least} or more is needed"))),
        _ => Err(Error::value(format!("{op}: {name} is {list:?}; two sizes are needed"))),
    }
}

impl Steps {
    fn read(args: &mut Args, op: &str) -> Result<Steps> {
        let (stride, padding) = (pair(args, op, "stride", 1)?, pair(args, op, "padding", 0)?);
        let (dilation, groups) = (pair(args, op, "dilation", 1)?, args.size("groups")?);
        if groups == 0 {
            return Err(Error::value(format!("{op}: groups is 0; 1 or more is needed")));
        }
        Ok(Steps { stride, padding, dilation, groups })
    }

    fn attributes(&self) -> [super::args::Attribute; 4] {
        [ints(&self.stride), ints(&self.padding), ints(&self.dilation), int(self.groups as i64)]
    }

    /// The convolution of images with a weight, of these shapes, if there is one.
    fn conv(&self, op: &str, x: &[usize], weight: &[usize]) -> Result<Conv> {
        let (&[n, c_in, h, w], &[c_out, depth, kh, kw]) = (x, weight) else {
            return Err(Error::shape(format!(
                "{op}: images {x:?} with a weight {weight:?}; [n, c, h, w] and [out, c / groups, kh, kw] are needed"
            )));
        };
        if [c_in, h, w, c_out, depth, kh, kw].contains(&0) {
            return Err(Error::shape(format!(
                "{op}: images {x:?} with a weight {weight:?}; only the number of images may be 0"
            )));
        }
        let groups = self.groups;
        if depth.checked_mul(groups) != Some(c_in) {
            return Err(Error::shape(format!(
                "{op}: {c_in} channels of {x:?} for a weight {weight:?} in {groups} groups; {} channels are needed",
                depth.saturating_mul(groups)
            )));
        }
        if !c_out.is_multiple_of(groups) {
            return Err(Error::shape(format!(
                "{op}: {c_out} output channels of a weight {weight:?} in {groups} groups; the groups must be equal"
            )));
        }
        let mut padded = [n.max(1), c_in.max(c_out), 0, 0];
        for (i, (size, taps)) in [(h, kh), (w, kw)].into_iter().enumerate() {
            // No overflow: tensors have fewer than 2⁶⁰ elements, and the attributes are at most `MOST`.
            let full = size + 2 * self.padding[i];
            let reach = self.dilation[i].checked_mul(taps - 1).map_or(usize::MAX, |r| r.saturating_add(1));
            if reach > full {
                return Err(Error::shape(format!(
                    "{op}: a kernel of {reach} with dilation {} on {full} with padding {}, {} of {x:?}; \
                     the kernel must fit",
                    self.dilation[i],
                    self.padding[i],
                    ["rows", "columns"][i]
                )));
            }
            padded[2 + i] = full;
        }
        if shape::numel(op, &padded)? > MOST || shape::numel(op, weight)? > MOST {
            return Err(error::too_large(op, &padded));
        }
        let Steps { stride, padding, dilation, groups } = *self;
        Ok(Conv { n, c_in, h, w, c_out, kh, kw, stride, padding, dilation, groups })
    }
}

/// One type, floating, on one device.
fn expect_alike(op: &str, x: &[&Meta]) -> Result<()> {
    one_device(op, x)?;
    x.iter().try_for_each(|m| expect_float(op, m))?;
    match x.iter().find(|m| m.dtype != x[0].dtype) {
        None => Ok(()),
        Some(m) => Err(Error::dtype(format!(
            "{op}: dtypes {} and {} differ; cast one of them (help: x.to(y.dtype))",
            x[0].dtype.name(),
            m.dtype.name()
        ))),
    }
}

/// One output of images, channels last.
fn images(op: &str, like: &Meta, shape: &[usize]) -> Result<Metas> {
    let layout = Layout::channels_last(op, shape)?;
    Ok(SmallVec::from_iter([Meta { layout, dtype: like.dtype, device: like.device }]))
}

fn y_shape(s: &Conv) -> [usize; 4] {
    [s.n, s.c_out, s.out_h(), s.out_w()]
}

fn x_shape(s: &Conv) -> [usize; 4] {
    [s.n, s.c_in, s.h, s.w]
}

/// Two for each product of an output, a weight element and an input.
fn cost(s: &Conv, x: &[&Meta], y: &[Meta]) -> Cost {
    let products = (s.n * s.out_h() * s.out_w() * s.c_out) as f64 * (s.c_in / s.groups * s.kh * s.kw) as f64;
    Cost { flops: 2.0 * products, ..Cost::streaming(x, y, 0.0) }
}

/// One of the three from the other two, on a GPU; `bias` is as `How` says.
fn product_on(
    gpu: &Gpu,
    op: &'static str,
    how: How,
    s: &Conv,
    [a, b]: [&Tensor; 2],
    bias: Option<&Tensor>,
    y: &Tensor,
) -> Result<()> {
    let plan = Plan::new(op, how, s);
    let scratch = scratch(op, plan.scratch_bytes(), y)?;
    let bias = bias.map(Tensor::buffer);
    plan.run(gpu, [&a.buffer(), &b.buffer()], bias.as_ref(), &y.buffer(), scratch.as_ref().map(Tensor::place))
}

/// Calls `term(x, weight, y)` with the indices of each product in the definition, all in row-major NCHW.
fn each_term(s: &Conv, mut term: impl FnMut(usize, usize, usize)) {
    let (depth, width) = (s.c_in / s.groups, s.c_out / s.groups);
    let (oh, ow) = (s.out_h(), s.out_w());
    let along = |i: usize, out: usize, tap: usize| {
        (out * s.stride[i] + tap * s.dilation[i]).checked_sub(s.padding[i]).filter(|&at| at < [s.h, s.w][i])
    };
    for (image, out) in (0..s.n).flat_map(|image| (0..s.c_out).map(move |out| (image, out))) {
        for (row, col) in (0..oh).flat_map(|row| (0..ow).map(move |col| (row, col))) {
            for (ky, kx) in (0..s.kh).flat_map(|ky| (0..s.kw).map(move |kx| (ky, kx))) {
                let (Some(y), Some(x)) = (along(0, row, ky), along(1, col, kx)) else { continue };
                for channel in 0..depth {
                    term(
                        ((image * s.c_in + out / width * depth + channel) * s.h + y) * s.w + x,
                        ((out * depth + channel) * s.kh + ky) * s.kw + kx,
                        ((image * s.c_out + out) * oh + row) * ow + col,
                    );
                }
            }
        }
    }
}

/// Odd sizes, every attribute, depthwise, 1×1 and an empty batch: (x, weight, stride, padding, dilation, groups).
type Case = ([usize; 4], [usize; 4], [usize; 2], [usize; 2], [usize; 2], usize);
const CASES: [Case; 9] = [
    ([2, 3, 5, 7], [4, 3, 3, 3], [1, 1], [1, 1], [1, 1], 1),
    ([1, 4, 6, 5], [6, 2, 3, 2], [2, 1], [0, 1], [1, 1], 2),
    ([2, 3, 7, 6], [5, 3, 2, 3], [3, 2], [1, 2], [2, 1], 1),
    ([1, 5, 6, 7], [5, 1, 3, 3], [1, 2], [1, 1], [1, 2], 5),
    ([2, 2, 5, 5], [6, 1, 3, 3], [2, 2], [1, 1], [1, 1], 2),
    ([2, 19, 3, 3], [17, 19, 1, 1], [1, 1], [0, 0], [1, 1], 1),
    ([2, 3, 5, 4], [4, 3, 1, 1], [2, 2], [0, 0], [1, 1], 1),
    ([1, 2, 1, 9], [3, 2, 1, 3], [1, 2], [0, 1], [1, 1], 1),
    ([0, 2, 4, 4], [3, 2, 3, 3], [1, 1], [1, 1], [1, 1], 1),
];

fn steps(case: &Case) -> Steps {
    Steps { stride: case.2, padding: case.3, dilation: case.4, groups: case.5 }
}

/// y = x ⋆ weight + bias.
#[derive(Debug)]
pub struct Conv2d {
    steps: Steps,
    bias: bool,
}

impl Conv2d {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(Conv2d { steps: Steps::read(args, "conv2d")?, bias: args.flag("has_bias")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |(i, case): (usize, &Case)| {
            let bias = i % 2 == 0;
            let own = [case.1[0]];
            let mut inputs: Vec<(&[usize], Domain)> = vec![(&case.0, Domain::Any), (&case.1, Domain::Any)];
            inputs.extend(bias.then_some((own.as_slice(), Domain::Any)));
            let attributes: Vec<_> = steps(case).attributes().into_iter().chain([flag(bias)]).collect();
            Sample::of(Self::build, &attributes, &inputs)
        };
        CASES.iter().enumerate().map(of).collect()
    }
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs("conv2d", x, 2 + usize::from(self.bias))?;
        expect_alike("conv2d", x)?;
        let s = self.steps.conv("conv2d", x[0].shape(), x[1].shape())?;
        if let Some(bias) = x.get(2)
            && bias.shape() != [s.c_out]
        {
            return Err(Error::shape(format!(
                "conv2d: a bias {:?} for a weight {:?}; [{}] is needed",
                bias.shape(),
                x[1].shape(),
                s.c_out
            )));
        }
        images("conv2d", x[0], &y_shape(&s))
    }
    fn saves(&self, needs: Mask) -> Saves {
        Saves::inputs((needs & 1) << 1 | (needs & 2) >> 1)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        self.steps.conv("conv2d", x[0].shape(), x[1].shape()).map_or(Cost::default(), |s| cost(&s, x, y))
    }
    fn layouts(&self, input: usize) -> Layouts {
        if input == 0 { Layouts::ChannelsLast } else { Layouts::Contiguous }
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let s = self.steps.conv("conv2d", x[0].shape(), x[1].shape())?;
        fn go<E: conv::Float + crate::dtype::Element>(s: &Conv, x: &[&Tensor], y: &Tensor) -> Result<()> {
            let scratch = workspace::<E>(conv::forward_workspace(s))?;
            if on_paper() {
                return Ok(());
            }
            let bias = x.get(2).map(|b| b.view().slice::<E>());
            conv::forward(s, x[0].view().slice(), x[1].view().slice(), bias, y.view().out(), scratch.view().out());
            Ok(())
        }
        if y[0].dtype() == DType::F64 { go::<f64>(&s, x, &y[0]) } else { go::<f32>(&s, x, &y[0]) }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let s = self.steps.conv("conv2d", x[0].shape(), x[1].shape())?;
        product_on(gpu, "conv2d", How::Forward { bias: self.bias }, &s, [x[0], x[1]], x.get(2).copied(), &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (dy, biased) = (back.dy(), self.bias && back.needs(2));
        let mut dbias = None;
        if back.needs(0) {
            let weight = back.input(1)?;
            let dx = self.steps.data_gradient(back, dy, weight, back.input_meta(0).shape())?;
            back.give(0, dx);
        }
        if back.needs(1) {
            let dweight = match WeightGradientOfMap::find(&self.steps, back, biased)? {
                Some((op, mut operands)) => {
                    operands.push(dy);
                    back.apply(op, &operands)?
                }
                None => {
                    let x = back.input(0)?;
                    self.steps.weight_gradient(back, x, dy, back.input_meta(1).shape(), biased)?
                }
            };
            dbias = biased.then(|| back.next(dweight, 1));
            back.give(1, dweight);
        }
        if biased {
            let dbias = dbias.map_or_else(|| back.sum(dy, &[0, 2, 3], false), Ok)?;
            back.give(2, dbias);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let s = self.steps.conv("conv2d", &x[0].shape, &x[1].shape).ok()?;
        let mut y = Exact::build(&y_shape(&s), |index| if self.bias { x[2].data[index[1]] } else { 0.0 });
        each_term(&s, |a, b, at| y.data[at] += x[0].data[a] * x[1].data[b]);
        Some(vec![y])
    }
}

impl Steps {
    fn forward(&self, back: &mut Back, x: V, weight: V, bias: Option<V>) -> Result<V> {
        let operands: SmallVec<[V; 3]> = [x, weight].into_iter().chain(bias).collect();
        back.apply(Conv2d { steps: *self, bias: bias.is_some() }, &operands)
    }
    fn data_gradient(&self, back: &mut Back, dy: V, weight: V, x: &[usize]) -> Result<V> {
        back.apply(DataGradient { steps: *self, size: [x[2], x[3]] }, &[dy, weight])
    }
    /// That of the bias follows, if it is asked for.
    fn weight_gradient(&self, back: &mut Back, x: V, dy: V, weight: &[usize], bias: bool) -> Result<V> {
        back.apply(WeightGradient { steps: *self, kernel: [weight[2], weight[3]], bias }, &[x, dy])
    }
}

/// dx [n, c, h, w] from dy and the weight, for images of `size` h, w.
#[derive(Debug)]
pub struct DataGradient {
    steps: Steps,
    size: [usize; 2],
}

const DATA: &str = "conv2d_data_gradient";

impl DataGradient {
    fn build(args: &mut Args) -> Result<OpRef> {
        Ok(DataGradient { steps: Steps::read(args, DATA)?, size: pair(args, DATA, "size", 1)? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |case: &Case| {
            let s = steps(case).conv(DATA, &case.0, &case.1).expect("bug: a bad sample");
            let attributes: Vec<_> = steps(case).attributes().into_iter().chain([ints(&case.0[2..])]).collect();
            Sample::of(Self::build, &attributes, &[(&y_shape(&s), Domain::Any), (&case.1, Domain::Any)])
        };
        CASES.iter().map(of).collect()
    }

    fn conv(&self, dy: &[usize], weight: &[usize]) -> Result<Conv> {
        let (&[n, ..], &[_, depth, ..]) = (dy, weight) else {
            return Err(Error::shape(format!(
                "{DATA}: images {dy:?} with a weight {weight:?}; [n, out, h, w] and [out, c / groups, kh, kw] are needed"
            )));
        };
        let c_in = depth.checked_mul(self.steps.groups).ok_or_else(|| error::too_large(DATA, weight))?;
        let s = self.steps.conv(DATA, &[n, c_in, self.size[0], self.size[1]], weight)?;
        if dy != y_shape(&s) {
            return Err(Error::shape(format!(
                "{DATA}: images {dy:?} with a weight {weight:?} and a result of {:?}; images {:?} are needed",
                self.size,
                y_shape(&s)
            )));
        }
        Ok(s)
    }
}

impl Op for DataGradient {
    fn name(&self) -> &'static str {
        DATA
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(DATA, x, 2)?;
        expect_alike(DATA, x)?;
        images(DATA, x[0], &x_shape(&self.conv(x[0].shape(), x[1].shape())?))
    }
    fn saves(&self, needs: Mask) -> Saves {
        Saves::inputs((needs & 1) << 1 | (needs & 2) >> 1)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        self.conv(x[0].shape(), x[1].shape()).map_or(Cost::default(), |s| cost(&s, x, y))
    }
    fn layouts(&self, input: usize) -> Layouts {
        if input == 0 { Layouts::ChannelsLast } else { Layouts::Contiguous }
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let s = self.conv(x[0].shape(), x[1].shape())?;
        fn go<E: conv::Float + crate::dtype::Element>(s: &Conv, x: &[&Tensor], y: &Tensor) -> Result<()> {
            let scratch = workspace::<E>(conv::backward_data_workspace(s))?;
            if on_paper() {
                return Ok(());
            }
            conv::backward_data(s, x[0].view().slice(), x[1].view().slice(), y.view().out::<E>(), scratch.view().out());
            Ok(())
        }
        if y[0].dtype() == DType::F64 { go::<f64>(&s, x, &y[0]) } else { go::<f32>(&s, x, &y[0]) }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let s = self.conv(x[0].shape(), x[1].shape())?;
        product_on(gpu, DATA, How::Data, &s, [x[0], x[1]], None, &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let ddx = back.dy();
        if back.needs(0) {
            let weight = back.input(1)?;
            let ddy = self.steps.forward(back, ddx, weight, None)?;
            back.give(0, ddy);
        }
        if back.needs(1) {
            let dy = back.input(0)?;
            let dweight = self.steps.weight_gradient(back, ddx, dy, back.input_meta(1).shape(), false)?;
            back.give(1, dweight);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let s = self.conv(&x[0].shape, &x[1].shape).ok()?;
        let mut dx = Exact::zeros(&x_shape(&s));
        each_term(&s, |at, b, a| dx.data[at] += x[0].data[a] * x[1].data[b]);
        Some(vec![dx])
    }
}

/// dweight [out, c / groups, kh, kw] from x and dy, for a `kernel` of kh, kw; and dbias [out].
#[derive(Debug)]
pub struct WeightGradient {
    steps: Steps,
    kernel: [usize; 2],
    bias: bool,
}

const WEIGHT: &str = "conv2d_weight_gradient";

impl WeightGradient {
    fn build(args: &mut Args) -> Result<OpRef> {
        let (steps, kernel) = (Steps::read(args, WEIGHT)?, pair(args, WEIGHT, "kernel", 1)?);
        Ok(WeightGradient { steps, kernel, bias: args.flag("has_bias")? }.into())
    }

    fn samples() -> Vec<Sample> {
        let of = |(case, bias): (&Case, bool)| {
            let s = steps(case).conv(WEIGHT, &case.0, &case.1).expect("bug: a bad sample");
            let own = [ints(&case.1[2..]), flag(bias)];
            let attributes: Vec<_> = steps(case).attributes().into_iter().chain(own).collect();
            Sample::of(Self::build, &attributes, &[(&case.0, Domain::Any), (&y_shape(&s), Domain::Any)])
        };
        CASES.iter().flat_map(|case| [(case, false), (case, true)]).map(of).collect()
    }

    fn conv(&self, x: &[usize], dy: &[usize]) -> Result<Conv> {
        let (&[_, c_in, ..], &[_, c_out, ..]) = (x, dy) else {
            return Err(Error::shape(format!(
                "{WEIGHT}: images {x:?} and {dy:?}; [n, c, h, w] and [n, out, h', w'] are needed"
            )));
        };
        let groups = self.steps.groups;
        if !c_in.is_multiple_of(groups) {
            return Err(Error::shape(format!(
                "{WEIGHT}: {c_in} channels of {x:?} in {groups} groups; the groups must be equal"
            )));
        }
        let s = self.steps.conv(WEIGHT, x, &[c_out, c_in / groups, self.kernel[0], self.kernel[1]])?;
        if dy != y_shape(&s) {
            return Err(Error::shape(format!(
                "{WEIGHT}: images {x:?} and {dy:?} with a kernel of {:?}; {:?} is needed for the second",
                self.kernel,
                y_shape(&s)
            )));
        }
        Ok(s)
    }
}

impl WeightGradient {
    /// dbias, the second result, where it is asked for.
    fn sum_bias(&self, dy: &Tensor, y: &[Tensor]) -> Result<()> {
        if !self.bias {
            return Ok(());
        }
        let sum = registry::build("sum", &[ints(&[0, 2, 3]), flag(false)])?;
        run::into(&*sum, &[dy], &y[1..])
    }
}

impl Op for WeightGradient {
    fn name(&self) -> &'static str {
        WEIGHT
    }
    fn visible(&self) -> usize {
        1 + usize::from(self.bias)
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        expect_inputs(WEIGHT, x, 2)?;
        expect_alike(WEIGHT, x)?;
        let s = self.conv(x[0].shape(), x[1].shape())?;
        let mut y = super::output(WEIGHT, x, &[s.c_out, s.c_in / s.groups, s.kh, s.kw], x[0].dtype)?;
        if self.bias {
            y.extend(super::output(WEIGHT, x, &[s.c_out], x[0].dtype)?);
        }
        Ok(y)
    }
    fn saves(&self, needs: Mask) -> Saves {
        Saves::inputs((needs & 1) << 1 | (needs & 2) >> 1)
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        self.conv(x[0].shape(), x[1].shape()).map_or(Cost::default(), |s| cost(&s, x, y))
    }
    fn layouts(&self, _input: usize) -> Layouts {
        Layouts::ChannelsLast
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let s = self.conv(x[0].shape(), x[1].shape())?;
        fn go<E: conv::Float + crate::dtype::Element>(s: &Conv, x: &[&Tensor], y: &Tensor) -> Result<()> {
            let scratch = workspace::<E>(conv::backward_weight_workspace(s, false))?;
            if on_paper() {
                return Ok(());
            }
            let (x, dy) = (x[0].view().slice(), x[1].view().slice());
            conv::backward_weight(s, x, dy, y.view().out::<E>(), scratch.view().out());
            Ok(())
        }
        if y[0].dtype() == DType::F64 {
            go::<f64>(&s, x, &y[0])?
        } else {
            go::<f32>(&s, x, &y[0])?
        };
        self.sum_bias(x[1], y)
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        let s = self.conv(x[0].shape(), x[1].shape())?;
        product_on(gpu, WEIGHT, How::Weight { bias: self.bias }, &s, [x[1], x[0]], y.get(1), &y[0])
    }
    fn gpu_takes_half(&self) -> bool {
        true
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let (ddweight, ddbias) = (back.dy_of(0), if self.bias { back.dy_of(1) } else { None });
        if let (true, Some(ddweight)) = (back.needs(0), ddweight) {
            let dy = back.input(1)?;
            let dx = self.steps.data_gradient(back, dy, ddweight, back.input_meta(0).shape())?;
            back.give(0, dx);
        }
        if back.needs(1) {
            let ddy = match (ddweight, ddbias) {
                (Some(ddweight), ddbias) => {
                    let x = back.input(0)?;
                    self.steps.forward(back, x, ddweight, ddbias)?
                }
                (None, ddbias) => {
                    let (ddbias, dy) = (ddbias.expect("bug: a vjp without a gradient"), back.input_meta(1).shape());
                    let ddbias = back.reshape(ddbias, &[dy[1], 1, 1])?;
                    back.expand(ddbias, dy)?
                }
            };
            back.give(1, ddy);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let s = self.conv(&x[0].shape, &x[1].shape).ok()?;
        let mut dweight = Exact::zeros(&[s.c_out, s.c_in / s.groups, s.kh, s.kw]);
        each_term(&s, |a, at, b| dweight.data[at] += x[0].data[a] * x[1].data[b]);
        let mut dbias = Exact::zeros(&[s.c_out]);
        let plane = s.out_h() * s.out_w();
        x[1].data.iter().enumerate().for_each(|(at, dy)| dbias.data[at / plane % s.c_out] += dy);
        Some([dweight].into_iter().chain(self.bias.then_some(dbias)).collect())
    }
}
