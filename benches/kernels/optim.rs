//! Optimizer steps over four million parameters. Goal: 0.80 of the bandwidth of memory.

use crate::measure::{Bench, Work, noise, row};
use backsweep::device::cpu::optim::{Adam, Sgd, adam, sgd, sum_of_squares};
use std::hint::black_box;

pub fn bench(criterion: &mut Bench) {
    let len = 4 << 20;
    let (mut x, dx, mut m, mut v) = (noise(len), noise(len), noise(len), vec![0.5; len]);
    let (rate, decay, maximize) = (1e-3, 0.01, false);
    let how = Adam { rate, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay, decoupled: true, maximize, step: 10 };
    row(criterion, "optimizer", "adamw", Work::Bytes(28 * len), || adam(how, &mut x, &dx, &mut m, &mut v));
    let how = Sgd { rate, momentum: 0.9, dampening: 0.0, decay, nesterov: false, maximize, first: false };
    row(criterion, "optimizer", "sgd momentum", Work::Bytes(20 * len), || sgd(how, &mut x, &dx, Some(&mut m)));
    row(criterion, "optimizer", "sum of squares", Work::Bytes(4 * len), || {
        black_box(sum_of_squares(&dx));
    });
}
