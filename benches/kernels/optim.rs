//! Optimizer steps over parameters that fit the second cache, and over four million. Goal: 0.80 of the bandwidth of memory.

use crate::measure::{Bench, Work, noise, row};
use backsweep::device::cpu::optim::{Adam, Sgd, adam, sgd, sum_of_squares};
use std::hint::black_box;

const MOST: usize = 4 << 20;

pub fn bench(criterion: &mut Bench) {
    let (mut x, dx, mut m, mut v) = (noise(MOST), noise(MOST), noise(MOST), vec![0.5; MOST]);
    let (rate, decay, maximize) = (1e-3, 0.01, false);
    for len in [1 << 16, MOST] {
        let (x, dx, m, v) = (&mut x[..len], &dx[..len], &mut m[..len], &mut v[..len]);
        let how = Adam { rate, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay, decoupled: true, maximize, step: 10 };
        row(criterion, "optimizer", &format!("adamw {len}"), Work::Bytes(28 * len), || adam(how, x, dx, m, v));
        let how = Sgd { rate, momentum: 0.9, dampening: 0.0, decay, nesterov: false, maximize, first: false };
        row(criterion, "optimizer", &format!("sgd momentum {len}"), Work::Bytes(20 * len), || sgd(how, x, dx, Some(m)));
        row(criterion, "optimizer", &format!("sum of squares {len}"), Work::Bytes(4 * len), || {
            black_box(sum_of_squares(dx));
        });
    }
}
