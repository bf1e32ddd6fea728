//! The steps on a GPU: a product with the state before and a cell each, one after the other in the stream.

use super::{Kind, Recurrent, RecurrentBack};
use crate::arena::ledger::Category;
use crate::device::gpu::Gpu;
use crate::device::gpu::recurrent::{Step, Way};
use crate::error::Result;
use crate::ops::matmul::product_on;
use crate::ops::pointwise::copy_on;
use crate::ops::{registry, run};
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

        let share = scratch(name, &[batch, rows], &y[0])?;
        let (mut h, mut c) = (x[1].clone(), if gru { None } else { Some(x[2].clone()) });
        for s in 0..steps {
            let t = if self.reverse { steps - 1 - s } else { s };
            product_on(gpu, &h, &turned(w_hh), places.biased.then(|| x[places.b_hh()]), &share)?;
            let (own, now, next) = (part(&gates, t)?, part(&kept, t)?, part(&y[0], t)?);
            let step = Step {
                gru,
                gates: own.buffer(),
                h: h.buffer(),
                c: c.as_ref().map(Tensor::buffer),
                kept: now.buffer(),
                y: next.buffer(),
                way: Way::There { share: share.buffer() },
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
        let by_state = if gru { &y[2] } else { slopes };
        let dh = scratch(name, &[batch, hidden], out)?;
        for s in (0..steps).rev() {
            let t = time(s);
            let (own, now, dy) = (part(gates, t)?, part(kept, t)?, part(dy, t)?);
            let (slopes, apart) = (part(slopes, t)?, if gru { Some(part(&y[2], t)?) } else { None });
            let (h, c) = match s {
                0 => (h0.clone(), c0.map(|c| (*c).clone())),
                _ => (part(out, time(s - 1))?, Some(part(kept, time(s - 1))?)),
            };
            let step = Step {
                gru,
                gates: own.buffer(),
                h: h.buffer(),
                c: c.as_ref().filter(|_| !gru).map(Tensor::buffer),
                kept: now.buffer(),
                y: dy.buffer(),
                way: Way::Back {
                    dh: if s + 1 == steps { dh_n.buffer() } else { dh.buffer() },
                    carried: carried.buffer(),
                    slopes: slopes.buffer(),
                    apart: apart.as_ref().map(Tensor::buffer),
                },
            };
            step.run(gpu, name)?;
            let to = if s == 0 && !gru { dh0 } else { &dh };
            product_on(gpu, &part(by_state, t)?, w_hh, None, to)?;
        }
        match gru {
            true => run::into(&*registry::build("add", &[])?, &[&dh, &carried], std::slice::from_ref(dh0)),
            false => Ok(()),
        }
    }
}
