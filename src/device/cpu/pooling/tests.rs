//! Against plain loops over the definition, that are given the positions of each window.

use super::*;
use crate::device::cpu::simd;

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Few values, so that there are ties, and all of them exact in f32.
        (self.0 >> 59) as f64 - 16.0
    }

    fn vec(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| self.next()).collect()
    }
}

fn square(n: usize, c: usize, size: usize, kernel: usize, stride: usize, padding: usize) -> Pooling {
    let axis = Axis::new(size, kernel, stride, padding, 1, false);
    Pooling { n, c, rows: axis, cols: axis }
}

fn adaptive(n: usize, c: usize, input: [usize; 2], output: [usize; 2]) -> Pooling {
    Pooling { n, c, rows: Axis::adaptive(input[0], output[0]), cols: Axis::adaptive(input[1], output[1]) }
}

fn cases() -> Vec<Pooling> {
    let mut cases = vec![
        square(2, 16, 8, 2, 2, 0),
        square(2, 19, 9, 3, 2, 1),
        square(1, 64, 7, 3, 1, 1),
        square(2, 5, 11, 2, 3, 0),
        square(3, 33, 4, 4, 4, 0),
        square(1, 1, 5, 5, 1, 2),
        square(1, 3, 40, 20, 7, 10),
        adaptive(2, 17, [7, 7], [1, 1]),
        adaptive(2, 17, [7, 10], [3, 4]),
        adaptive(1, 32, [8, 8], [4, 2]),
        adaptive(1, 8, [3, 5], [7, 5]),
        square(0, 4, 4, 2, 2, 0),
    ];
    for ceil_mode in [false, true] {
        for (input, kernel, stride, padding, dilation) in
            [(7, 2, 2, 0, 1), (8, 3, 2, 1, 1), (9, 3, 3, 1, 2), (10, 2, 3, 1, 3), (6, 4, 5, 2, 1), (12, 3, 1, 1, 4)]
        {
            let rows = Axis::new(input, kernel, stride, padding, dilation, ceil_mode);
            cases.push(Pooling { n: 2, c: 21, rows, cols: Axis::new(9, 3, 2, 1, 1, ceil_mode) });
        }
    }
    cases
}

/// (offset, input index) of the elements of an output's window, in order.
fn elements(s: &Pooling, image: usize, row: usize, col: usize) -> Vec<(usize, usize)> {
    let along = |axis: &Axis, t: usize| -> Vec<(usize, usize)> {
        let (first, taps) = if axis.adaptive {
            let first = (t as f64 * axis.input as f64 / axis.output as f64).floor();
            let end = ((t + 1) as f64 * axis.input as f64 / axis.output as f64).ceil();
            (first as isize, (end - first) as usize)
        } else {
            ((t * axis.stride) as isize - axis.padding as isize, axis.kernel)
        };
        let at = |tap: usize| first + (tap * axis.dilation) as isize;
        (0..taps)
            .filter(|&tap| at(tap) >= 0 && at(tap) < axis.input as isize)
            .map(|tap| (tap, at(tap) as usize))
            .collect()
    };
    let cols = along(&s.cols, col);
    along(&s.rows, row)
        .into_iter()
        .flat_map(|(down, y)| {
            cols.iter().map(move |&(across, x)| {
                (down * s.cols.kernel + across, ((image * s.rows.input + y) * s.cols.input + x) * s.c)
            })
        })
        .collect()
}

/// Calls `visit(output index, elements)` for all outputs; both for channel 0.
fn each_output(s: &Pooling, mut visit: impl FnMut(usize, [usize; 2], &[(usize, usize)])) {
    for image in 0..s.n {
        for (row, col) in (0..s.rows.output).flat_map(|row| (0..s.cols.output).map(move |col| (row, col))) {
            let out = ((image * s.rows.output + row) * s.cols.output + col) * s.c;
            visit(out, [row, col], &elements(s, image, row, col));
        }
    }
}

fn sizes(s: &Pooling) -> (usize, usize) {
    (s.n * s.rows.input * s.cols.input * s.c, s.n * s.rows.output * s.cols.output * s.c)
}

fn max_follows<E: Float, O: Offset>(s: &Pooling, from: fn(f64) -> E, to: fn(E) -> f64) {
    let (inputs, outputs) = sizes(s);
    let mut noise = Noise(3);
    let (mut x, dy) = (noise.vec(inputs), noise.vec(outputs));
    for i in (0..inputs).step_by(7) {
        x[i] = if i % 2 == 0 { f64::NAN } else { f64::NEG_INFINITY };
    }
    let mut want = (vec![0.0; outputs], vec![0; outputs], vec![0.0; inputs]);
    each_output(s, |out, _, elements| {
        for c in 0..s.c {
            let (mut best, mut place, mut winner) = (f64::NEG_INFINITY, elements[0].0, elements[0].1 + c);
            for &(offset, at) in elements {
                if x[at + c] > best || x[at + c].is_nan() {
                    (best, place, winner) = (x[at + c], offset, at + c);
                }
            }
            want.0[out + c] = best;
            want.1[out + c] = place as i32;
            want.2[winner] += dy[out + c];
        }
    });
    let all = |v: &[f64]| v.iter().map(|&x| from(x)).collect::<Vec<E>>();
    let (x, dy) = (all(&x), all(&dy));
    let mut y = vec![from(-77.0); outputs];
    let mut offsets = vec![O::from_int(77); outputs];
    let mut dx = vec![from(f64::NAN); inputs];
    let mut picked = y.clone();
    max_forward(s, &x, &mut y, Some(&mut offsets));
    max_backward(s, &dy, &offsets, &mut dx);
    max_pick(s, &x, &offsets, &mut picked);
    for i in 0..outputs {
        assert!(to(y[i]) == want.0[i] || (to(y[i]).is_nan() && want.0[i].is_nan()), "{s:?} y[{i}]");
        assert!(to(picked[i]) == want.0[i] || (to(picked[i]).is_nan() && want.0[i].is_nan()), "{s:?} picked[{i}]");
        assert_eq!(offsets[i].to_int(), want.1[i], "{s:?} offsets[{i}]");
    }
    for i in 0..inputs {
        assert_eq!(to(dx[i]), want.2[i], "{s:?} dx[{i}]");
    }
}

fn average_follows<E: Float>(s: &Pooling, divisor: Divisor, from: fn(f64) -> E, to: fn(E) -> f64, epsilon: f64) {
    let (inputs, outputs) = sizes(s);
    let mut noise = Noise(5);
    let (x, dy) = (noise.vec(inputs), noise.vec(outputs));
    let mut want = (vec![0.0; outputs], vec![0.0; inputs]);
    each_output(s, |out, [row, col], elements| {
        let padded = |axis: &Axis, t: usize| {
            let first = (t * axis.stride) as isize - axis.padding as isize;
            (first..first + axis.kernel as isize).filter(|&at| at < (axis.input + axis.padding) as isize).count()
        };
        let count = match divisor {
            Divisor::Fixed(count) => count,
            Divisor::Padded if !s.rows.adaptive => padded(&s.rows, row) * padded(&s.cols, col),
            _ => elements.len(),
        } as f64;
        for c in 0..s.c {
            for &(_, at) in elements {
                want.0[out + c] += x[at + c];
                want.1[at + c] += dy[out + c] / count;
            }
            want.0[out + c] /= count;
        }
    });
    let all = |v: &[f64]| v.iter().map(|&x| from(x)).collect::<Vec<E>>();
    let (x, dy) = (all(&x), all(&dy));
    let mut y = vec![from(f64::NAN); outputs];
    let mut dx = vec![from(f64::NAN); inputs];
    average_forward(s, divisor, &x, &mut y);
    average_backward(s, divisor, &dy, &mut dx);
    for (name, got, want) in [("y", &y, &want.0), ("dx", &dx, &want.1)] {
        for i in 0..got.len() {
            assert!(
                (to(got[i]) - want[i]).abs() <= 64.0 * epsilon * (1.0 + want[i].abs()),
                "{s:?} {divisor:?} {name}[{i}]"
            );
        }
    }
}

#[test]
fn pooling_and_its_gradients_follow_the_definition() {
    for s in cases() {
        max_follows::<f32, u16>(&s, |x| x as f32, |x| x as f64);
        max_follows::<f64, i32>(&s, |x| x, |x| x);
        if s.window_len() <= 256 {
            max_follows::<f32, u8>(&s, |x| x as f32, |x| x as f64);
        }
        if s.rows.dilation > 1 {
            continue;
        }
        for divisor in [Divisor::Inside, Divisor::Padded, Divisor::Fixed(3)] {
            average_follows::<f32>(&s, divisor, |x| x as f32, |x| x as f64, f32::EPSILON as f64);
            average_follows::<f64>(&s, divisor, |x| x, |x| x, f64::EPSILON);
        }
    }
}

#[test]
fn lower_levels_follow_the_definition_as_well() {
    if std::env::var("BACKSWEEP_SIMD").is_ok() {
        return;
    }
    let name = "pooling_and_its_gradients_follow_the_definition";
    let module = module_path!().split_once("::").map_or("", |(_, path)| path);
    for level in simd::LOWER {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([&format!("{module}::{name}"), "--exact", "--quiet"])
            .env("BACKSWEEP_SIMD", level)
            .status();
        assert!(status.unwrap().success(), "{level}");
    }
}
