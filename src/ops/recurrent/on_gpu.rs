//! The steps on a GPU: all in one kernel, or one kernel each where a layer is wide.

use super::{Kind, Recurrent, RecurrentBack};
use crate::arena::ledger::Category;
use crate::device::gpu::Gpu;
use crate::device::gpu::recurrent::{Later, Slopes, Step, Steps, StepsBack, WIDEST, Way};
use crate::error::Result;
use crate::ops::matmul::product_on;
use crate::ops::pointwise::copy_on;
use crate::shape::Layout;
use crate::tensor::{Meta, Tensor};

/// Part `at` of a contiguous tensor that is cut along its first dim.
fn part(t: &Tensor, at: usize) -> Result<Tensor> {
    let shape = &t.shape()[1..];
    let size: usize = shape.iter().product();
    Ok(t.with_layout(Layout::contiguous("recurrent", shape)?, t.offset() + at * size))
}

fn scratch(name: &str, shape: &[usize], like: &Tensor) -> Result<Tensor> {
    Tensor::empty(Meta::contiguous(name, shape, like.dtype(), like.device())?, Category::Workspace)
}

/// A matrix with its sides exchanged.
fn turned(t: &Tensor) -> Tensor {
    let (shape, strides) = (t.shape(), t.layout().strides());
    t.with_layout(Layout::strided(&[shape[1], shape[0]], &[strides[1], strides[0]]), t.offset())
}

impl Recurrent {
    pub(super) fn forward_on(&self, gpu: &Gpu, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let (name, places, gru) = (self.kind.name(), self.places(x.len()), self.kind == Kind::Gru);
        let (w_ih, w_hh) = (x[places.w_ih()], x[places.w_hh()]);
        let (hidden, rows) = (w_hh.shape()[1], w_hh.shape()[0]);
        let (steps, batch) = (x[0].shape()[0], x[0].shape()[1]);
        if batch * hidden == 0 {
            return Ok(());
        }
        let (gates, kept) = match y.get(1 + places.states..) {
            Some([gates, kept]) => (gates.clone(), kept.clone()),
            _ => (scratch(name, &[steps, batch, rows], &y[0])?, scratch(name, &[steps, batch, hidden], &y[0])?),
        };
        // The inputs' share of the gates of all steps, as one matrix.
        let flat = x[0].with_layout(Layout::contiguous(name, &[steps * batch, x[0].shape()[2]])?, x[0].offset());
        let shares = gates.with_layout(Layout::contiguous(name, &[steps * batch, rows])?, 0);
        product_on(gpu, &flat, &turned(w_ih), places.biased.then(|| x[places.b_ih()]), &shares)?;

        let bias = places.biased.then(|| x[places.b_hh()].buffer());
        if hidden <= WIDEST && steps > 0 {
            let w = scratch(name, &[hidden, rows], w_hh)?;
            copy_on(gpu, &turned(w_hh), &w)?;
            let all = Steps {
                gru,
                reverse: self.reverse,
                w_hh: w.buffer(),
                gates: gates.buffer(),
                h: x[1].buffer(),
                c: (!gru).then(|| x[2].buffer()),
                kept: kept.buffer(),
                y: y[0].buffer(),
                back: None,
                bias,
            };
            all.run(gpu, name)?;
            let last = if self.reverse { 0 } else { steps - 1 };
            copy_on(gpu, &part(&y[0], last)?, &y[1])?;
            return if gru { Ok(()) } else { copy_on(gpu, &part(&kept, last)?, &y[2]) };
        }
        let (mut h, mut c) = (x[1].clone(), if gru { None } else { Some(x[2].clone()) });
        for s in 0..steps {
            let t = if self.reverse { steps - 1 - s } else { s };
            let (own, now, next) = (part(&gates, t)?, part(&kept, t)?, part(&y[0], t)?);
            let step = Step {
                gru,
                w_hh: w_hh.buffer(),
                gates: own.buffer(),
                h: h.buffer(),
                c: c.as_ref().map(Tensor::buffer),
                kept: now.buffer(),
                y: next.buffer(),
                way: Way::There { bias },
            };
            step.run(gpu, name)?;
            c = c.map(|_| now);
            h = next;
        }
        copy_on(gpu, &h, &y[1])?;
        c.map_or(Ok(()), |c| copy_on(gpu, &c, &y[2]))
    }
}

impl RecurrentBack {
    pub(super) fn backward_on(&self, gpu: &Gpu, x: &[&Tensor], y: &[Tensor]) -> Result<()> {
        let (name, states, gru) = (self.of.kind.name(), self.of.kind.states(), self.of.kind == Kind::Gru);
        let [w_hh, out, gates, kept, dy, dh_n] = [0, 1, 2, 3, 4, 5].map(|i| x[i]);
        let (h0, c0) = (x[5 + states], x.get(6 + states));
        let (slopes, dh0) = (&y[0], &y[1]);
        let (steps, batch, hidden) = (out.shape()[0], out.shape()[1], out.shape()[2]);
        if batch * hidden == 0 {
            return Ok(());
        }
        let time = |s: usize| if self.of.reverse { steps - 1 - s } else { s };
        // What is carried back from step to step belongs to h in a GRU, and to c in an LSTM.
        let carried = if gru { scratch(name, &[batch, hidden], out)? } else { y[2].clone() };
        match gru {
            true => copy_on(gpu, &Tensor::scalar(0.0, out.dtype())?, &carried)?,
            false => copy_on(gpu, x[6], &carried)?,
        }
        if hidden <= WIDEST && steps > 0 {
            let all = Steps {
                gru,
                reverse: self.of.reverse,
                w_hh: w_hh.buffer(),
                gates: gates.buffer(),
                h: h0.buffer(),
                c: c0.filter(|_| !gru).map(|c| c.buffer()),
                kept: kept.buffer(),
                y: out.buffer(),
                back: Some(StepsBack {
                    dy: dy.buffer(),
                    end: dh_n.buffer(),
                    carried: carried.buffer(),
                    slopes: slopes.buffer(),
                    apart: gru.then(|| y[2].buffer()),
                    start: dh0.buffer(),
                }),
                bias: None,
            };
            return all.run(gpu, name);
        }
        let by_state = if gru { &y[2] } else { slopes };
        // Each step takes the gradient of its h from the step behind it; one more leaves that of the first h.
        for s in (0..=steps).rev() {
            let later = if s == steps { None } else { Some(part(by_state, time(s))?) };
            let t = time(s.max(1) - 1);
            let (own, now) = (part(gates, t)?, part(kept, t)?);
            let slope = if s == 0 { dh0.clone() } else { part(dy, t)? };
            let (d_gates, apart) = (part(slopes, t)?, if gru { Some(part(&y[2], t)?) } else { None });
            let (h, c) = match s {
                0 | 1 => (h0.clone(), c0.map(|c| (*c).clone())),
                _ => (part(out, time(s - 2))?, Some(part(kept, time(s - 2))?)),
            };
            let cell = Slopes { slopes: d_gates.buffer(), apart: apart.as_ref().map(Tensor::buffer) };
            let step = Step {
                gru,
                w_hh: w_hh.buffer(),
                gates: own.buffer(),
                h: h.buffer(),
                c: c.as_ref().filter(|_| !gru).map(Tensor::buffer),
                kept: now.buffer(),
                y: slope.buffer(),
                way: Way::Back {
                    later: later.as_ref().map_or(Later::Known(dh_n.buffer()), |t| Later::Gates(t.buffer())),
                    carried: carried.buffer(),
                    cell: (s > 0).then_some(cell),
                },
            };
            step.run(gpu, name)?;
        }
        Ok(())
    }
}
