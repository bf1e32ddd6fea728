//! The GRU's cell: its naive step, and its steps and their way back in ops that have gradients.

use super::{Gradients, Places, gate_of, sigmoid_slope, stacked, state_share, step_of, tanh_slope};
use crate::error::Result;
use crate::ops::args::int;
use crate::ops::{Back, V};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// h of one unit from the shares of its gates.
pub fn step(shares: impl Fn(usize) -> (f64, f64), old: &[f64]) -> Vec<f64> {
    let sum = |gate: usize| shares(gate).0 + shares(gate).1;
    let (r, z) = (sigmoid(sum(0)), sigmoid(sum(1)));
    let n = (shares(2).0 + r * shares(2).1).tanh();
    vec![(1.0 - z) * n + z * old[0]]
}

/// One step's values; `share` is the state's share of n.
struct Step {
    r: V,
    z: V,
    n: V,
    share: V,
    h: V,
}

pub fn recorded(back: &mut Back, reverse: bool, places: Places, input: V) -> Result<Gradients> {
    let (count, w_hh) = (back.shape(input)[0], back.input(places.w_hh())?);
    let hidden = back.shape(w_hh)[1];
    let time = |s: usize| if reverse { count - 1 - s } else { s };
    let mut h = back.input(1)?;
    let (mut taken, mut outputs) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for s in 0..count {
        let (own, state) = (step_of(back, input, time(s))?, state_share(back, places, h)?);
        let mut shares = [(own, state); 3];
        for (gate, (own_share, state_share)) in shares.iter_mut().enumerate() {
            *own_share = gate_of(back, own, gate, hidden)?;
            *state_share = gate_of(back, state, gate, hidden)?;
        }
        let (r, z) = (back.add(shares[0].0, shares[0].1)?, back.add(shares[1].0, shares[1].1)?);
        let (r, z) = (back.call("sigmoid", &[r], &[])?, back.call("sigmoid", &[z], &[])?);
        let share = shares[2].1;
        let reset = back.mul(r, share)?;
        let n = back.add(shares[2].0, reset)?;
        let n = back.call("tanh", &[n], &[])?;
        taken.push(Step { r, z, n, share, h });
        let gap = back.sub(h, n)?;
        let gap = back.mul(z, gap)?;
        h = back.add(n, gap)?;
        outputs.push(h);
    }
    let (dy, mut dh) = (back.dy_or_zeros(0)?, back.dy_or_zeros(1)?);
    let (mut sums, mut by_state) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for (s, Step { r, z, n, share, h }) in taken.into_iter().enumerate().rev() {
        let own = step_of(back, dy, time(s))?;
        dh = back.add(dh, own)?;
        let carried = back.mul(dh, z)?;
        let gap = back.sub(h, n)?;
        let (dz, slope) = (back.mul(dh, gap)?, sigmoid_slope(back, z)?);
        let dz = back.mul(dz, slope)?;
        let (dn, slope) = (back.sub(dh, carried)?, tanh_slope(back, n)?);
        let dn = back.mul(dn, slope)?;
        let (dr, slope) = (back.mul(dn, share)?, sigmoid_slope(back, r)?);
        let dr = back.mul(dr, slope)?;
        let d_share = back.mul(dn, r)?;
        sums.push(back.call("cat", &[dr, dz, dn], &[int(1)])?);
        let d_state = back.call("cat", &[dr, dz, d_share], &[int(1)])?;
        let through = back.matmul(d_state, w_hh)?;
        dh = back.add(through, carried)?;
        by_state.push(d_state);
    }
    sums.reverse();
    by_state.reverse();
    let (sums, y) = (stacked(back, sums, reverse)?, stacked(back, outputs, reverse)?);
    let by_state = stacked(back, by_state, reverse)?;
    Ok(Gradients { sums, by_state, states: vec![dh], y })
}
