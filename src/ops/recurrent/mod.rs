//! LSTM and GRU: one layer in one direction as one op. Saves its operands, its output, the gates and one number a unit.
//!
//! The inputs' share of the gates is one product over all steps, and so are the gradients of weights and inputs; only
//! what depends on the step before runs step by step.

mod gru;
mod lstm;
mod on_gpu;

use super::args::{Args, flag};
use super::laws::{Domain, Exact, Sample};
use super::linear::affine_gradient;
use super::matmul::{multiply, weight_gradient};
use super::registry::Entry;
use super::run::workspace;
use super::{Back, Cost, Mask, Metas, Op, OpRef, Saves, V, expect_float, one_device};
use crate::arena::on_paper;
use crate::device::cpu::gemm::tile::Element as Number;
use crate::device::cpu::product::Product;
use crate::device::cpu::recurrent::{self as kernel, BackwardData, Cell, ForwardData, Gru, Lstm, Sizes, Weights};
use crate::device::gpu::Gpu;
use crate::dtype::{DType, Element};
use crate::error::{self, Error, Result};
use crate::shape::Layout;
use crate::tensor::{Meta, Tensor};

pub fn register(list: &mut Vec<Entry>) {
    list.push(Entry { name: "lstm", build: |a| build(a, Kind::Lstm), samples: || samples(Kind::Lstm) });
    list.push(Entry { name: "gru", build: |a| build(a, Kind::Gru), samples: || samples(Kind::Gru) });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lstm,
    Gru,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Lstm => "lstm",
            Kind::Gru => "gru",
        }
    }
    /// h, or h and c.
    fn states(self) -> usize {
        match self {
            Kind::Lstm => 2,
            Kind::Gru => 1,
        }
    }
    fn gates(self) -> usize {
        match self {
            Kind::Lstm => Lstm::GATES,
            Kind::Gru => Gru::GATES,
        }
    }
}

/// x [t, b, i], h0 [b, h], c0 [b, h] (lstm), w_ih [gates·h, i], w_hh [gates·h, h], b_ih and b_hh [gates·h] (optional)
/// → y [t, b, h], the last h, the last c (lstm). With `reverse` the steps run from the last to the first.
#[derive(Clone, Copy, Debug)]
pub struct Recurrent {
    kind: Kind,
    reverse: bool,
}

fn build(args: &mut Args, kind: Kind) -> Result<OpRef> {
    Ok(Recurrent { kind, reverse: args.flag("reverse")? }.into())
}

fn samples(kind: Kind) -> Vec<Sample> {
    let of = |[steps, batch, input, hidden]: [usize; 4], bias: bool, reverse: bool| {
        let rows = kind.gates() * hidden;
        let mut shapes: Vec<Vec<usize>> = vec![vec![steps, batch, input]];
        shapes.extend((0..kind.states()).map(|_| vec![batch, hidden]));
        shapes.extend([vec![rows, input], vec![rows, hidden]]);
        shapes.extend((0..2 * usize::from(bias)).map(|_| vec![rows]));
        let inputs: Vec<(&[usize], Domain)> = shapes.iter().map(|s| (s.as_slice(), Domain::Unit)).collect();
        let make: fn(&mut Args) -> Result<OpRef> = match kind {
            Kind::Lstm => |a| build(a, Kind::Lstm),
            Kind::Gru => |a| build(a, Kind::Gru),
        };
        Sample::of(make, &[flag(reverse)], &inputs)
    };
    vec![
        of([3, 2, 4, 5], true, false),
        of([3, 2, 4, 5], false, true),
        of([1, 3, 2, 1], true, false),
        of([2, 50, 3, 2], true, true),
        of([2, 5, 3, 35], true, false),
        of([2, 0, 3, 2], true, false),
        of([2, 3, 0, 2], true, false),
    ]
}

/// Where each input stands.
#[derive(Clone, Copy)]
struct Places {
    states: usize,
    biased: bool,
}

impl Places {
    fn w_ih(self) -> usize {
        1 + self.states
    }
    fn w_hh(self) -> usize {
        2 + self.states
    }
    fn b_ih(self) -> usize {
        3 + self.states
    }
    fn b_hh(self) -> usize {
        4 + self.states
    }
}

impl Recurrent {
    fn places(&self, inputs: usize) -> Places {
        Places { states: self.kind.states(), biased: inputs > 3 + self.kind.states() }
    }

    fn sizes(&self, x: &Meta, hidden: usize) -> Sizes {
        Sizes { steps: x.shape()[0], batch: x.shape()[1], hidden, reverse: self.reverse }
    }

    /// The numbers of the gates and of what a unit keeps: as extra results when they are recorded, else in scratch memory.
    fn extras(&self, x: &Meta, hidden: usize) -> [Result<Meta>; 2] {
        let dtype = if x.dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let (t, b) = (x.shape()[0], x.shape()[1]);
        [self.kind.gates() * hidden, hidden]
            .map(|last| Meta::contiguous(self.kind.name(), &[t, b, last], dtype, x.device))
    }

    fn check(&self, x: &[&Meta]) -> Result<usize> {
        let (name, states) = (self.kind.name(), self.kind.states());
        if x.len() != 3 + states && x.len() != 5 + states {
            return Err(error::arity(name, x.len(), &format!("{} or {}", 3 + states, 5 + states)));
        }
        one_device(name, x)?;
        expect_float(name, x[0])?;
        let places = self.places(x.len());
        let (input, w) = (x[0].shape(), x[places.w_hh()].shape());
        let gates = self.kind.gates();
        if input.len() != 3 || w.len() != 2 || w[0] != gates * w[1] {
            return Err(Error::shape(format!(
                "{name}: input {input:?} with a recurrent weight {w:?}; [t, b, i] and [{gates}·h, h] are needed"
            )));
        }
        if input[0] == 0 {
            return Err(Error::shape(format!("{name}: an input {input:?} of 0 steps; 1 step or more is needed")));
        }
        let (hidden, rows) = (w[1], w[0]);
        let mut wanted: Vec<(&str, Vec<usize>)> = vec![("input", input.into()), ("first h", vec![input[1], hidden])];
        wanted.extend((states > 1).then(|| ("first c", vec![input[1], hidden])));
        wanted.extend([("input weight", vec![rows, input[2]]), ("recurrent weight", vec![rows, hidden])]);
        wanted.extend([("input bias", vec![rows]), ("recurrent bias", vec![rows])]);
        for (m, (what, shape)) in x.iter().zip(&wanted) {
            if m.shape() != shape.as_slice() || m.dtype != x[0].dtype {
                return Err(Error::shape(format!(
                    "{name}: {what} {:?} {} for an input {input:?} {} and {hidden} hidden units; \
                     {shape:?} of the input's dtype is needed",
                    m.shape(),
                    m.dtype.name(),
                    x[0].dtype.name()
                )));
            }
        }
        Ok(hidden)
    }

    fn forward<C: Cell, E: Number + Element>(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let places = self.places(x.len());
        let hidden = x[places.w_hh()].shape()[1];
        let sizes = self.sizes(&x[0].meta, hidden);
        let own = |meta: Result<Meta>| Tensor::empty(meta?, crate::arena::ledger::Category::Workspace);
        let [gates, kept] = self.extras(&x[0].meta, hidden);
        let (gates, kept) = match y.get(1 + places.states..) {
            Some([gates, kept]) => (gates.clone(), kept.clone()),
            _ => (own(gates)?, own(kept)?),
        };
        // The inputs' share of the gates of all steps, as one matrix.
        let (rows, width) = (sizes.steps * sizes.batch, x[0].shape()[2]);
        let w = x[places.w_ih()];
        let turned = w.with_layout(Layout::strided(&[width, w.shape()[0]], &[1, width as isize]), w.offset());
        let flat = x[0].with_layout(Layout::contiguous("lstm", &[rows, width])?, x[0].offset());
        let share = gates.with_layout(Layout::contiguous("lstm", &[rows, w.shape()[0]])?, 0);
        let bias = places.biased.then(|| x[places.b_ih()].view());
        let product = Product { a: flat.view(), b: turned.view(), bias, y: share.view() };
        multiply::<E>(&product)?;

        let data =
            ForwardData { gates: gates.view().out::<E>(), kept: kept.view().out::<E>(), y: y[0].view().out::<E>() };
        let scratch = workspace::<E>(sizes.forward_workspace::<C, E>())?;
        if on_paper() {
            return Ok(());
        }
        kernel::forward::<C, E>(sizes, weights(places, x), data, scratch.view().out::<E>());
        let last = if self.reverse { 0 } else { (sizes.steps - 1) * sizes.batch * hidden };
        for (state, all) in y[1..=places.states].iter().zip([&y[0], &kept]) {
            let state = state.view().out::<E>();
            state.copy_from_slice(&all.view().slice::<E>()[last..last + state.len()]);
        }
        Ok(())
    }
}

fn weights<'a, E: Element>(places: Places, x: &[&'a Tensor]) -> Weights<'a, E> {
    Weights {
        w_hh: x[places.w_hh()].view().slice::<E>(),
        b_hh: places.biased.then(|| x[places.b_hh()].view().slice::<E>()),
        h0: x[1].view().slice::<E>(),
        c0: if places.states > 1 { x[2].view().slice::<E>() } else { &[] },
    }
}

impl Op for Recurrent {
    fn name(&self) -> &'static str {
        self.kind.name()
    }
    fn visible(&self) -> usize {
        1 + self.kind.states()
    }
    fn infer(&self, x: &[&Meta], recording: bool) -> Result<Metas> {
        let hidden = self.check(x)?;
        let (t, b) = (x[0].shape()[0], x[0].shape()[1]);
        let of = |shape: &[usize]| Meta::contiguous(self.kind.name(), shape, x[0].dtype, x[0].device);
        let mut y: Metas = Metas::from_iter([of(&[t, b, hidden])?]);
        for _ in 0..self.kind.states() {
            y.push(of(&[b, hidden])?);
        }
        if recording {
            for extra in self.extras(x[0], hidden) {
                y.push(extra?);
            }
        }
        Ok(y)
    }
    fn saves(&self, _needs: Mask) -> Saves {
        Saves::inputs((1 << (5 + self.kind.states())) - 1).and_outputs(0b1 | 0b11 << (1 + self.kind.states()))
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        let (cells, widths) = (y[0].numel() as f64, x[0].shape()[2] + y[0].shape()[2]);
        let flops = cells * self.kind.gates() as f64 * (2.0 * widths as f64 + 6.0);
        Cost { flops, ..Cost::streaming(x, y, 0.0) }
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        match (self.kind, y[0].dtype()) {
            (Kind::Lstm, DType::F64) => self.forward::<Lstm, f64>(x, y),
            (Kind::Lstm, _) => self.forward::<Lstm, f32>(x, y),
            (Kind::Gru, DType::F64) => self.forward::<Gru, f64>(x, y),
            (Kind::Gru, _) => self.forward::<Gru, f32>(x, y),
        }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        self.forward_on(gpu, x, y)
    }
    fn vjp(&self, back: &mut Back) -> Result<()> {
        let places = self.places(back.inputs());
        let gradients = if back.records() { self.recorded(back, places)? } else { self.fused(back, places)? };
        let Gradients { sums, by_state, states, y } = gradients;
        for (i, state) in states.into_iter().enumerate() {
            back.give(1 + i, state);
        }
        if back.needs(0) {
            let w = plain_input(back, places.w_ih())?;
            let dx = back.matmul(sums, w)?;
            back.give(0, dx);
        }
        let biases = places.biased && (back.needs(places.b_ih()) || back.needs(places.b_hh()));
        let mut db = None;
        if back.needs(places.w_ih()) {
            let x = plain_input(back, 0)?;
            let dw = if biases {
                let [dw, sum] = affine_gradient(back, sums, x)?;
                db = Some(sum);
                dw
            } else {
                weight_gradient(back, sums, x)?
            };
            back.give(places.w_ih(), dw);
        }
        if back.needs(places.w_hh()) {
            let dw = self.recurrent_weight_gradient(back, by_state, y)?;
            back.give(places.w_hh(), dw);
        }
        // The sweep sums a gradient down to its input's shape; what both biases share is summed once.
        if biases {
            let db = db.map_or_else(|| back.sum(sums, &[0, 1], false), Ok)?;
            let own = if by_state == sums { db } else { back.sum(by_state, &[0, 1], false)? };
            back.give(places.b_ih(), db);
            back.give(places.b_hh(), own);
        }
        Ok(())
    }
    fn reference(&self, x: &[Exact]) -> Option<Vec<Exact>> {
        let places = self.places(x.len());
        let (t, b, width) = (x[0].shape[0], x[0].shape[1], x[0].shape[2]);
        let hidden = x[places.w_hh()].shape[1];
        let mut states: Vec<Exact> = x[1..=places.states].to_vec();
        let mut y = Exact::zeros(&[t, b, hidden]);
        for s in 0..t {
            let t = if self.reverse { t - 1 - s } else { s };
            let before = states.clone();
            for (row, j) in (0..b).flat_map(|row| (0..hidden).map(move |j| (row, j))) {
                // The shares of input and state in a gate.
                let shares = |gate: usize| {
                    let at = gate * hidden + j;
                    let bias = |place: usize| if places.biased { x[place].at(&[at]) } else { 0.0 };
                    let dot = |n: usize, term: &dyn Fn(usize) -> f64| (0..n).map(term).sum::<f64>();
                    let input = dot(width, &|c| x[0].at(&[t, row, c]) * x[places.w_ih()].at(&[at, c]));
                    let state = dot(hidden, &|c| before[0].at(&[row, c]) * x[places.w_hh()].at(&[at, c]));
                    (input + bias(places.b_ih()), state + bias(places.b_hh()))
                };
                let old: Vec<f64> = before.iter().map(|s| s.at(&[row, j])).collect();
                let new = match self.kind {
                    Kind::Lstm => lstm::step(shares, &old),
                    Kind::Gru => gru::step(shares, &old),
                };
                states.iter_mut().zip(new).for_each(|(state, value)| *state.at_mut(&[row, j]) = value);
                *y.at_mut(&[t, row, j]) = states[0].at(&[row, j]);
            }
        }
        Some([vec![y], states].concat())
    }
}

/// The gradients that need the steps: of the sums in the gates [t, b, gates·h], of the state's share of them (the same
/// value for most cells), and of the first states; and y.
struct Gradients {
    sums: V,
    by_state: V,
    states: Vec<V>,
    y: V,
}

/// Input `i` row by row, so that how it lay does not decide in which order products add up.
fn plain_input(back: &mut Back, i: usize) -> Result<V> {
    let v = back.input(i)?;
    if back.tensor(v).layout().is_contiguous() { Ok(v) } else { back.call("contiguous", &[v], &[]) }
}

/// Steps `from` to `to` of [t, b, n].
fn steps(back: &mut Back, v: V, from: usize, to: usize) -> Result<V> {
    let shape = back.shape(v);
    let (starts, sizes) = ([from, 0, 0], [to - from, shape[1], shape[2]]);
    back.call("slice", &[v], &[super::args::ints(&starts), super::args::ints(&[1, 1, 1]), super::args::ints(&sizes)])
}

/// Step `at` of [t, b, n] as [b, n].
fn step_of(back: &mut Back, v: V, at: usize) -> Result<V> {
    let shape = back.shape(v);
    let one = steps(back, v, at, at + 1)?;
    back.reshape(one, &shape[1..])
}

/// Gate `gate` of [b, gates·h].
fn gate_of(back: &mut Back, v: V, gate: usize, hidden: usize) -> Result<V> {
    let rows = back.shape(v)[0];
    let attributes =
        [super::args::ints(&[0, gate * hidden]), super::args::ints(&[1, 1]), super::args::ints(&[rows, hidden])];
    back.call("slice", &[v], &attributes)
}

/// Values [b, n] one after the other in time, given in the order of the steps.
fn stacked(back: &mut Back, mut list: Vec<V>, reverse: bool) -> Result<V> {
    if reverse {
        list.reverse();
    }
    let mut rows = Vec::with_capacity(list.len());
    for v in list {
        let shape = back.shape(v);
        rows.push(back.reshape(v, &[1, shape[0], shape[1]])?);
    }
    back.call("cat", &rows, &[super::args::int(0)])
}

/// 1 - x²: the slope of tanh by its value.
fn tanh_slope(back: &mut Back, x: V) -> Result<V> {
    let dtype = back.tensor(x).dtype();
    let one = back.number(1.0, dtype)?;
    let square = back.mul(x, x)?;
    back.sub(one, square)
}

/// x (1 - x): the slope of the sigmoid by its value.
fn sigmoid_slope(back: &mut Back, x: V) -> Result<V> {
    let square = back.mul(x, x)?;
    back.sub(x, square)
}

impl Recurrent {
    fn recurrent_weight_gradient(&self, back: &mut Back, sums: V, y: V) -> Result<V> {
        let (t, h0) = (back.shape(y)[0], plain_input(back, 1)?);
        // Each step's state is the output of the step before it, the first one's is h0.
        let (first, later, before) = match self.reverse {
            false => (0, (1, t), (0, t - 1)),
            true => (t - 1, (0, t - 1), (1, t)),
        };
        let at_first = step_of(back, sums, first)?;
        let at_first = back.transpose(at_first)?;
        let dw = back.matmul(at_first, h0)?;
        if t == 1 {
            return Ok(dw);
        }
        let later = steps(back, sums, later.0, later.1)?;
        let before = steps(back, y, before.0, before.1)?;
        let rest = weight_gradient(back, later, before)?;
        back.add(rest, dw)
    }

    fn fused(&self, back: &mut Back, places: Places) -> Result<Gradients> {
        let y = back.output(0)?;
        let mut operands = vec![back.input(places.w_hh())?, y];
        operands.extend([back.output(1 + places.states)?, back.output(2 + places.states)?]);
        for i in 0..=places.states {
            operands.push(back.dy_or_zeros(i)?);
        }
        for i in 0..places.states {
            operands.push(back.input(1 + i)?);
        }
        let sums = back.apply(RecurrentBack { of: *self }, &operands)?;
        let (h0, last) = (back.next(sums, 1), back.next(sums, 2));
        Ok(match self.kind {
            Kind::Lstm => Gradients { sums, by_state: sums, states: vec![h0, last], y },
            Kind::Gru => Gradients { sums, by_state: last, states: vec![h0], y },
        })
    }

    /// The gradient in ops that have gradients: the steps are taken again, and then back.
    fn recorded(&self, back: &mut Back, places: Places) -> Result<Gradients> {
        let mut operands = vec![back.input(0)?, back.input(places.w_ih())?];
        if places.biased {
            operands.push(back.input(places.b_ih())?);
        }
        let input = back.call("linear", &operands, &[])?;
        match self.kind {
            Kind::Lstm => lstm::recorded(back, self.reverse, places, input),
            Kind::Gru => gru::recorded(back, self.reverse, places, input),
        }
    }
}

/// The state's share of the gates: h · w_hhᵀ + b_hh.
fn state_share(back: &mut Back, places: Places, h: V) -> Result<V> {
    let mut operands = vec![h, back.input(places.w_hh())?];
    if places.biased {
        operands.push(back.input(places.b_hh())?);
    }
    back.call("linear", &operands, &[])
}

/// The gates' gradients, those of the first h, and of the first c (lstm) or of the state's share (gru), from w_hh, y, the
/// gates, what was kept, the gradients of the results, and the first states; not recorded.
#[derive(Debug)]
struct RecurrentBack {
    of: Recurrent,
}

impl RecurrentBack {
    fn backward<C: Cell, E: Number + Element>(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let states = self.of.kind.states();
        let sizes = self.of.sizes(&x[1].meta, x[0].shape()[1]);
        let read = |i: usize| x[i].view().slice::<E>();
        let h0 = 5 + states;
        let c0: &[E] = if states > 1 { read(h0 + 1) } else { &[] };
        let weights = Weights { w_hh: read(0), b_hh: None, h0: read(h0), c0 };
        let spare;
        let (carried, d_apart): (&mut [E], &mut [E]) = if C::CARRIES_H {
            spare = workspace::<E>(sizes.batch * sizes.hidden)?;
            (spare.view().out::<E>(), y[2].view().out::<E>())
        } else {
            let carried = y[2].view().out::<E>();
            if !on_paper() {
                carried.copy_from_slice(read(6));
            }
            (carried, &mut [])
        };
        let data = BackwardData {
            y: read(1),
            gates: read(2),
            kept: read(3),
            dy: read(4),
            dh_n: read(5),
            d_gates: y[0].view().out::<E>(),
            d_apart,
            dh0: y[1].view().out::<E>(),
            carried,
        };
        let scratch = workspace::<E>(sizes.backward_workspace::<C, E>())?;
        if on_paper() {
            return Ok(());
        }
        kernel::backward::<C, E>(sizes, weights, data, scratch.view().out::<E>());
        Ok(())
    }
}

impl Op for RecurrentBack {
    fn name(&self) -> &'static str {
        self.of.kind.name()
    }
    fn visible(&self) -> usize {
        3
    }
    fn infer(&self, x: &[&Meta], _recording: bool) -> Result<Metas> {
        let wanted = 5 + 2 * self.of.kind.states();
        super::expect_inputs(self.of.kind.name(), x, wanted)?;
        let of = |like: &Meta| Meta { dtype: x[0].dtype, ..like.clone() };
        let h0 = x[5 + self.of.kind.states()];
        Ok(Metas::from_iter([
            of(x[2]),
            Meta::contiguous(self.of.kind.name(), h0.shape(), x[0].dtype, h0.device)?,
            match self.of.kind {
                Kind::Lstm => Meta::contiguous("lstm", h0.shape(), x[0].dtype, h0.device)?,
                Kind::Gru => of(x[2]),
            },
        ]))
    }
    fn cost(&self, x: &[&Meta], y: &[Meta]) -> Cost {
        let flops = y[0].numel() as f64 * (2.0 * x[0].shape()[1] as f64 + 8.0);
        Cost { flops, ..Cost::streaming(x, y, 0.0) }
    }
    fn allocates(&self) -> bool {
        true
    }
    fn cpu(&self, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        match (self.of.kind, y[0].dtype()) {
            (Kind::Lstm, DType::F64) => self.backward::<Lstm, f64>(x, y),
            (Kind::Lstm, _) => self.backward::<Lstm, f32>(x, y),
            (Kind::Gru, DType::F64) => self.backward::<Gru, f64>(x, y),
            (Kind::Gru, _) => self.backward::<Gru, f32>(x, y),
        }
    }
    fn gpu(&self, x: &[&Tensor], y: &[Tensor], gpu: &Gpu) -> Result<()> {
        self.backward_on(gpu, x, y)
    }
    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Err(super::fused_was_recorded(self.of.kind.name()))
    }
    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}
