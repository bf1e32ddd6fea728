//! The steps of an LSTM: the products with the state, and the cell. Goal: 0.70 of peak, the cell's own work not counted.

use crate::measure::{Bench, Work, noise, row};
use backsweep::device::cpu::recurrent::{BackwardData, ForwardData, Lstm, Sizes, Weights, backward, forward};

pub fn bench(criterion: &mut Bench) {
    for (steps, batch, hidden) in [(64, 32, 256), (64, 32, 128), (32, 64, 512)] {
        let sizes = Sizes { steps, batch, hidden, reverse: false };
        let (state, gates) = (batch * hidden, 4 * hidden);
        let w_hh: Vec<f32> = noise(gates * hidden).iter().map(|w| w * 0.05).collect();
        let (b_hh, h0, c0) = (noise(gates), noise(state), noise(state));
        let weights = Weights { w_hh: &w_hh, b_hh: Some(&b_hh), h0: &h0, c0: &c0 };
        let [mut all, mut kept, mut y] = [4, 1, 1].map(|count| noise(count * steps * state));
        let flops = Work::Flops(8 * steps * state * hidden);
        let name = format!("{steps} steps, {batch}×{hidden}");
        let mut workspace = vec![0.0; sizes.forward_workspace::<Lstm, f32>()];
        row(criterion, "lstm forward", &name, flops, || {
            let data = ForwardData { gates: &mut all, kept: &mut kept, y: &mut y };
            forward::<Lstm, f32>(sizes, weights, data, &mut workspace);
        });
        let (dy, dh_n, mut d_gates) = (noise(steps * state), noise(state), noise(4 * steps * state));
        let (mut dh0, mut carried) = (noise(state), noise(state));
        workspace = vec![0.0; sizes.backward_workspace::<Lstm, f32>()];
        row(criterion, "lstm backward", &name, flops, || {
            let data = BackwardData {
                gates: &all,
                kept: &kept,
                y: &y,
                dy: &dy,
                dh_n: &dh_n,
                d_gates: &mut d_gates,
                d_apart: &mut [],
                dh0: &mut dh0,
                carried: &mut carried,
            };
            backward::<Lstm, f32>(sizes, weights, data, &mut workspace);
        });
    }
}
