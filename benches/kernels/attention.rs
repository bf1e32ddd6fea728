//! Causal attention, there and back. Goal: 0.55 of peak, on the products below the diagonal alone.

use crate::measure::{Bench, Work, noise, row};
use backsweep::device::cpu::attention::{Attention, BackwardData, ForwardData, Heads};

pub fn bench(criterion: &mut Bench) {
    for (name, batch, heads, length, width) in
        [("gpt-cpu", 12, 4, 64, 32), ("gpt-baby", 16, 6, 256, 64), ("gpt-long", 1, 4, 2048, 64)]
    {
        let attention = Attention::<f32> {
            batch,
            heads,
            queries: length,
            keys: length,
            width,
            value_width: width,
            scale: 1.0 / (width as f64).sqrt(),
            causal: true,
            mask: None,
            dropout: None,
        };
        let len = batch * heads * length * width;
        let [q, k, v, d_o] = [0; 4].map(|_| noise(len));
        let [mut o, mut dq, mut dk, mut dv] = [0; 4].map(|_| vec![0.0; len]);
        let mut log_sums = vec![0.0; batch * heads * length];
        let (row_stride, head) = (width as isize, (length * width) as isize);
        let read = |x: &[f32]| Heads { ptr: x.as_ptr(), batch: heads as isize * head, head, row: row_stride };
        let write = |x: &mut [f32]| Heads { ptr: x.as_mut_ptr(), batch: heads as isize * head, head, row: row_stride };
        let product = batch * heads * length * length * width; // 2 · ½ for the half below the diagonal
        let data =
            ForwardData { q: read(&q), k: read(&k), v: read(&v), o: write(&mut o), log_sums: log_sums.as_mut_ptr() };
        let mut workspace = vec![0.0; attention.forward_workspace()];
        row(criterion, "attention forward", name, Work::Flops(2 * product), || {
            // SAFETY: dense tensors of these sizes.
            unsafe { attention.forward(&data, &mut workspace) }
        });
        let back = BackwardData {
            q: data.q,
            k: data.k,
            v: data.v,
            o: read(&o),
            log_sums: log_sums.as_ptr(),
            d_o: read(&d_o),
            dq: write(&mut dq),
            dk: write(&mut dk),
            dv: write(&mut dv),
        };
        workspace = vec![0.0; attention.backward_workspace()];
        row(criterion, "attention backward", name, Work::Flops(5 * product), || {
            // SAFETY: as above.
            unsafe { attention.backward(&back, &mut workspace) }
        });
    }
}
