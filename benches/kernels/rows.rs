//! Norms and losses. Goal: 0.80 of the bandwidth of the memory they go through.

use crate::measure::{Bench, Work, noise, row};
use backsweep::device::cpu::channels::{self, Affine, Channels};
use backsweep::device::cpu::rows::{self, Entropy};

const SIZES: [[usize; 2]; 2] = [[768, 128], [4096, 384]];

pub fn bench(criterion: &mut Bench) {
    for [count, columns] in SIZES {
        let len = count * columns;
        let (x, dy, mut y, mut dx) = (noise(len), noise(len), noise(len), noise(len));
        let (weight, bias, mut stats) = (noise(columns), noise(columns), noise(2 * count));
        let mut sums = vec![0.0; 2 * columns * rows::norm_chunks(count)];
        let name = format!("{count}×{columns}");
        row(criterion, "layer norm forward", &name, Work::Bytes(8 * len), || {
            rows::layer_norm(&x, Some(&weight), Some(&bias), &mut y, &mut stats, 1e-5);
        });
        row(criterion, "layer norm backward", &name, Work::Bytes(12 * len), || {
            rows::layer_norm_back(&x, Some(&weight), &stats, &dy, &mut dx, &mut sums);
        });
        row(criterion, "softmax forward", &name, Work::Bytes(8 * len), || rows::softmax(&x, &mut y, columns, false));
        row(criterion, "softmax backward", &name, Work::Bytes(12 * len), || {
            rows::softmax_back(&y, &dy, &mut dx, columns, false);
        });
    }
    for [count, columns] in [[2048, 65], [1024, 1024]] {
        let len = count * columns;
        let (x, mut dx, mut loss, mut lse) = (noise(len), noise(len), noise(count), noise(count));
        let (target, dloss) = (vec![3; count], noise(count));
        let how = Entropy { ignore: -100, smoothing: 0.0 };
        let name = format!("{count}×{columns}");
        row(criterion, "cross entropy forward", &name, Work::Bytes(4 * len), || {
            rows::cross_entropy(&x, &target, None, how, &mut loss, &mut lse);
        });
        row(criterion, "cross entropy backward", &name, Work::Bytes(8 * len), || {
            rows::cross_entropy_back(&x, &target, None, Some(&lse), &dloss, how, &mut dx);
        });
    }
    for (n, c, side) in [(64, 16, 32), (16, 64, 32), (16, 256, 8)] {
        let s = Channels { n, c, s: side * side, last: true };
        let len = n * c * side * side;
        let (x, dy, mut y) = (noise(len), noise(len), noise(len));
        let (center, scale, shift, slope) = (noise(c), noise(c), noise(c), noise(c));
        let (mut mean, mut variance, mut scratch) = (noise(c), noise(c), vec![0.0; s.scratch()]);
        let map = Affine { center: &center, scale: &scale, shift: &shift };
        let name = format!("{n}×{c}×{side}²");
        row(criterion, "batch norm moments", &name, Work::Bytes(4 * len), || {
            channels::moments(&s, &x, &mut mean, &mut variance, &mut scratch);
        });
        row(criterion, "batch norm affine", &name, Work::Bytes(8 * len), || {
            channels::affine(&s, &x, map, None, &mut y);
        });
        row(criterion, "batch norm sums", &name, Work::Bytes(8 * len), || {
            channels::sums(&s, &x, &dy, &center, [&mut mean, &mut variance], &mut scratch);
        });
        row(criterion, "batch norm data", &name, Work::Bytes(12 * len), || {
            channels::affine(&s, &x, map, Some((&dy, &slope)), &mut y);
        });
    }
}
