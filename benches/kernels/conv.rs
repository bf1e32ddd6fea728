//! Convolutions of the two ResNets, each way. Goals: 0.85 of peak forward and for the data, 0.80 for the weight.

use crate::measure::{Bench, Work, noise, row};
use backsweep::device::cpu::conv::{self, Conv};

/// n, side, channels in and out, kernel, stride
const SHAPES: [[usize; 6]; 12] = [
    [64, 32, 3, 16, 3, 1],
    [64, 32, 16, 16, 3, 1],
    [64, 32, 16, 32, 3, 2],
    [64, 16, 32, 32, 3, 1],
    [64, 8, 64, 64, 3, 1],
    [16, 32, 3, 64, 3, 1],
    [16, 32, 64, 64, 3, 1],
    [16, 32, 64, 128, 3, 2],
    [16, 16, 128, 128, 3, 1],
    [16, 16, 128, 256, 1, 2],
    [16, 8, 256, 256, 3, 1],
    [16, 4, 512, 512, 3, 1],
];

pub fn bench(criterion: &mut Bench) {
    for [n, side, c_in, c_out, kernel, stride] in SHAPES {
        let [stride_pair, padding, dilation] = [[stride; 2], [kernel / 2; 2], [1; 2]];
        let s = Conv {
            n,
            c_in,
            h: side,
            w: side,
            c_out,
            kh: kernel,
            kw: kernel,
            stride: stride_pair,
            padding,
            dilation,
            groups: 1,
        };
        let pixels = n * s.out_h() * s.out_w();
        let flops = Work::Flops(2 * pixels * c_in * c_out * kernel * kernel);
        let (mut x, mut y) = (noise(n * side * side * c_in), noise(pixels * c_out));
        let mut weight = noise(c_out * c_in * kernel * kernel);
        let name = format!("{n}×{side}² {c_in}→{c_out} {kernel}×{kernel} ÷{stride}");
        let mut workspace = vec![0.0; conv::forward_workspace(&s)];
        row(criterion, "conv forward", &name, flops, || conv::forward(&s, &x, &weight, None, &mut y, &mut workspace));
        if c_in > 3 {
            workspace = vec![0.0; conv::backward_data_workspace(&s)];
            row(criterion, "conv data", &name, flops, || {
                conv::backward_data(&s, &y, &weight, &mut x, &mut workspace);
            });
        }
        workspace = vec![0.0; conv::backward_weight_workspace(&s, false)];
        row(criterion, "conv weight", &name, flops, || {
            conv::backward_weight(&s, &x, &y, &mut weight, &mut workspace);
        });
    }
}
