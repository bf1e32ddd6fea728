//! The LSTM's cell: its naive step, and its steps and their way back in ops that have gradients.

use super::{Gradients, Places, gate_of, sigmoid_slope, stacked, state_share, step_of, tanh_slope};
use crate::error::Result;
use crate::ops::{Back, V};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// h and c of one unit from the shares of its gates.
pub fn step(shares: impl Fn(usize) -> (f64, f64), old: &[f64]) -> Vec<f64> {
    let sum = |gate: usize| shares(gate).0 + shares(gate).1;
    let c = sigmoid(sum(1)) * old[1] + sigmoid(sum(0)) * sum(2).tanh();
    vec![sigmoid(sum(3)) * c.tanh(), c]
}

/// One step's values.
struct Step {
    gates: [V; 4],
    c_before: V,
    tanh_c: V,
}

pub fn recorded(back: &mut Back, reverse: bool, places: Places, input: V) -> Result<Gradients> {
    let (count, w_hh) = (back.shape(input)[0], back.input(places.w_hh())?);
    let hidden = back.shape(w_hh)[1];
    let time = |s: usize| if reverse { count - 1 - s } else { s };
    let (mut h, mut c) = (back.input(1)?, back.input(2)?);
    let (mut taken, mut outputs) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for s in 0..count {
        let (own, state) = (step_of(back, input, time(s))?, state_share(back, places, h)?);
        let sums = back.add(own, state)?;
        let mut gates = [sums; 4];
        for (gate, value) in gates.iter_mut().enumerate() {
            let sum = gate_of(back, sums, gate, hidden)?;
            *value = back.call(if gate == 2 { "tanh" } else { "sigmoid" }, &[sum], &[])?;
        }
        let [i, f, g, o] = gates;
        let c_before = c;
        let (kept, new) = (back.mul(f, c)?, back.mul(i, g)?);
        c = back.add(kept, new)?;
        let tanh_c = back.call("tanh", &[c], &[])?;
        h = back.mul(o, tanh_c)?;
        outputs.push(h);
        taken.push(Step { gates, c_before, tanh_c });
    }
    let (dy, mut dh, mut dc) = (back.dy_or_zeros(0)?, back.dy_or_zeros(1)?, back.dy_or_zeros(2)?);
    let mut sums = Vec::with_capacity(count);
    for (s, Step { gates: [i, f, g, o], c_before, tanh_c }) in taken.into_iter().enumerate().rev() {
        let own = step_of(back, dy, time(s))?;
        dh = back.add(dh, own)?;
        let by_c = tanh_slope(back, tanh_c)?;
        let by_c = back.mul(by_c, o)?;
        let by_c = back.mul(dh, by_c)?;
        dc = back.add(dc, by_c)?;
        let mut rows = Vec::with_capacity(4);
        for (from, by, gate) in [(dc, g, i), (dc, c_before, f), (dc, i, g), (dh, tanh_c, o)] {
            let slope = if gate == g { tanh_slope(back, gate)? } else { sigmoid_slope(back, gate)? };
            let d = back.mul(from, by)?;
            rows.push(back.mul(d, slope)?);
        }
        let d = back.call("cat", &rows, &[crate::ops::args::int(1)])?;
        dh = back.matmul(d, w_hh)?;
        dc = back.mul(dc, f)?;
        sums.push(d);
    }
    sums.reverse();
    let (sums, y) = (stacked(back, sums, reverse)?, stacked(back, outputs, reverse)?);
    Ok(Gradients { sums, by_state: sums, states: vec![dh, dc], y })
}
