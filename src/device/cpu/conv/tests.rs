//! Every case forward and backward, in f32 and f64, against plain f64 loops over the definition.

use super::*;
use crate::device::cpu::channels::{Channels, affine_relu};
use crate::device::cpu::{pool, simd};

fn case(
    [n, c_in, h, w]: [usize; 4],
    [c_out, kh, kw]: [usize; 3],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
) -> Conv {
    Conv { n, c_in, h, w, c_out, kh, kw, stride, padding, dilation, groups }
}

fn square(x: [usize; 4], c_out: usize, k: usize, stride: usize, padding: usize) -> Conv {
    case(x, [c_out, k, k], [stride; 2], [padding; 2], [1; 2], 1)
}

fn cases() -> Vec<Conv> {
    vec![
        square([2, 3, 9, 9], 16, 3, 1, 1),
        square([2, 16, 8, 8], 16, 3, 1, 1),
        square([1, 16, 8, 8], 32, 3, 2, 1),
        square([3, 32, 4, 4], 64, 3, 1, 1),
        square([3, 33, 5, 6], 35, 3, 1, 1),
        square([2, 5, 7, 11], 7, 3, 1, 1),
        square([2, 8, 7, 7], 24, 3, 1, 0),
        square([2, 19, 7, 7], 10, 1, 1, 0),
        square([2, 16, 8, 8], 40, 1, 2, 0),
        square([2, 16, 9, 7], 40, 1, 2, 1),
        square([1, 1, 13, 13], 6, 5, 1, 2),
        square([1, 1, 28, 28], 64, 5, 1, 0),
        square([1, 3, 23, 23], 8, 7, 2, 3),
        square([2, 4, 11, 10], 9, 2, 3, 1),
        square([1, 4, 12, 12], 8, 3, 4, 0),
        square([1, 2, 6, 6], 3, 3, 1, 4),
        square([1, 2, 3, 3], 3, 3, 1, 0),
        square([1, 7, 1, 1], 5, 1, 1, 0),
        square([1, 7, 1, 1], 50, 3, 1, 1),
        square([40, 16, 2, 2], 48, 3, 1, 1),
        case([2, 6, 10, 12], [8, 3, 5], [1, 2], [2, 1], [1, 1], 1),
        case([2, 6, 15, 12], [8, 3, 3], [1, 1], [2, 2], [2, 2], 1),
        case([2, 6, 15, 12], [8, 3, 2], [2, 3], [2, 3], [2, 3], 1),
        case([1, 6, 15, 14], [8, 3, 3], [3, 2], [1, 0], [2, 3], 1),
        case([1, 6, 15, 14], [8, 3, 3], [4, 6], [3, 0], [2, 4], 1),
        case([2, 8, 9, 9], [12, 3, 3], [1, 1], [1, 1], [1, 1], 2),
        case([2, 8, 9, 9], [12, 3, 3], [2, 2], [1, 1], [1, 1], 4),
        case([1, 66, 5, 5], [68, 3, 3], [1, 1], [0, 0], [1, 1], 2),
        case([2, 8, 9, 9], [16, 3, 3], [1, 1], [1, 1], [1, 1], 8),
        case([2, 8, 9, 9], [8, 3, 3], [1, 1], [1, 1], [1, 1], 8),
        case([2, 19, 9, 11], [19, 3, 3], [2, 2], [1, 1], [1, 1], 19),
        case([2, 37, 9, 13], [37, 5, 5], [1, 1], [4, 2], [2, 1], 37),
        case([1, 16, 14, 14], [16, 2, 6], [3, 2], [1, 5], [1, 2], 16),
        case([1, 33, 4, 4], [33, 3, 3], [1, 1], [3, 3], [1, 1], 33),
        case([1, 1, 6, 6], [1, 3, 3], [1, 1], [1, 1], [1, 1], 1),
        // A large weight; a large kernel.
        square([1, 260, 2, 2], 512, 3, 1, 1),
        square([1, 512, 3, 3], 260, 3, 2, 1),
        square([1, 3, 12, 12], 18, 9, 2, 4),
        case([2, 12, 1, 50], [20, 1, 3], [1, 1], [0, 1], [1, 1], 1),
        case([1, 12, 1, 300], [20, 1, 9], [1, 3], [0, 8], [1, 2], 1),
        case([1, 64, 1, 2500], [33, 1, 3], [1, 1], [0, 1], [1, 1], 1),
        case([1, 70, 60, 40], [17, 3, 3], [1, 1], [1, 1], [1, 1], 1),
        case([1, 300, 3, 200], [16, 3, 3], [1, 2], [1, 1], [1, 1], 1),
    ]
}

/// Numbers between -1 and 1.
struct Noise(u64);

impl Noise {
    fn vec(&mut self, len: usize) -> Vec<f64> {
        (0..len)
            .map(|_| {
                self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                // Few enough bits that f32 holds the same number.
                (self.0 >> 44) as f64 / (1u64 << 19) as f64 - 1.0
            })
            .collect()
    }
}

/// Calls `term(x index, weight index, y index)` for each product in the definition.
fn each_term(s: &Conv, mut term: impl FnMut(usize, usize, usize)) {
    let (oh, ow) = (s.out_h(), s.out_w());
    let (depth, width) = (s.c_in / s.groups, s.c_out / s.groups);
    for image in 0..s.n {
        for (row, col) in (0..oh).flat_map(|row| (0..ow).map(move |col| (row, col))) {
            for (ky, kx) in (0..s.kh).flat_map(|ky| (0..s.kw).map(move |kx| (ky, kx))) {
                let y = (row * s.stride[0] + ky * s.dilation[0]).wrapping_sub(s.padding[0]);
                let x = (col * s.stride[1] + kx * s.dilation[1]).wrapping_sub(s.padding[1]);
                if y >= s.h || x >= s.w {
                    continue;
                }
                for out in 0..s.c_out {
                    for channel in 0..depth {
                        term(
                            ((image * s.h + y) * s.w + x) * s.c_in + out / width * depth + channel,
                            ((out * depth + channel) * s.kh + ky) * s.kw + kx,
                            ((image * oh + row) * ow + col) * s.c_out + out,
                        );
                    }
                }
            }
        }
    }
}

struct Results<E> {
    y: Vec<E>,
    dx: Vec<E>,
    dweight: Vec<E>,
}

struct Inputs {
    x: Vec<f64>,
    weight: Vec<f64>,
    bias: Vec<f64>,
    dy: Vec<f64>,
}

fn inputs(s: &Conv) -> Inputs {
    let mut noise = Noise(7);
    Inputs {
        x: noise.vec(s.n * s.h * s.w * s.c_in),
        weight: noise.vec(s.c_out * s.c_in / s.groups * s.kh * s.kw),
        bias: noise.vec(s.c_out),
        dy: noise.vec(s.n * s.out_h() * s.out_w() * s.c_out),
    }
}

fn expected(s: &Conv, i: &Inputs) -> Results<f64> {
    let mut r = Results {
        y: (0..i.dy.len()).map(|at| i.bias[at % s.c_out]).collect(),
        dx: vec![0.0; i.x.len()],
        dweight: vec![0.0; i.weight.len()],
    };
    each_term(s, |x, weight, y| {
        r.y[y] += i.x[x] * i.weight[weight];
        r.dx[x] += i.dy[y] * i.weight[weight];
        r.dweight[weight] += i.dy[y] * i.x[x];
    });
    r
}

fn computed<E: Float>(s: &Conv, i: &Inputs, from: fn(f64) -> E) -> Results<E> {
    let all = |v: &[f64]| v.iter().map(|&x| from(x)).collect::<Vec<E>>();
    let (x, weight, bias, dy) = (all(&i.x), all(&i.weight), all(&i.bias), all(&i.dy));
    // What is not written stays NaN.
    let empty = |len| vec![from(f64::NAN); len];
    let mut r = Results { y: empty(dy.len()), dx: empty(x.len()), dweight: empty(weight.len()) };
    forward(s, &x, &weight, Some(&bias), &mut r.y, &mut empty(forward_workspace(s)));
    backward_data(s, &dy, &weight, &mut r.dx, &mut empty(backward_data_workspace(s)));
    backward_weight(s, &x, &dy, &mut r.dweight, &mut empty(backward_weight_workspace(s, false)));
    r
}

fn compare<E: Float>(what: &str, got: &[E], to: fn(E) -> f64, want: &[f64], terms: usize, epsilon: f64) {
    // Rounding grows with the sums and with their number; a missing term would be far larger.
    let tolerance = epsilon * (terms + 16) as f64 / 2.0;
    for (at, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (to(got) - want).abs();
        assert!(error <= tolerance * want.abs().max(1.0), "{what}[{at}] is {}, not {want}", to(got));
    }
}

#[test]
fn convolution_and_its_gradients_follow_the_definition() {
    for s in cases() {
        let inputs = inputs(&s);
        let want = expected(&s, &inputs);
        let (pixels, depth) = (s.n * s.out_h() * s.out_w(), s.c_in / s.groups * s.kh * s.kw);
        let single = computed::<f32>(&s, &inputs, |x| x as f32);
        let double = computed::<f64>(&s, &inputs, |x| x);
        for (name, single, double, want, terms) in [
            ("y", &single.y, &double.y, &want.y, depth),
            ("dx", &single.dx, &double.dx, &want.dx, s.c_out / s.groups * s.kh * s.kw),
            ("dweight", &single.dweight, &double.dweight, &want.dweight, pixels),
        ] {
            compare(&format!("{s:?}: f32 {name}"), single, |x| x as f64, want, terms, f32::EPSILON as f64);
            compare(&format!("{s:?}: f64 {name}"), double, |x| x, want, terms, f64::EPSILON);
        }
    }
}

#[test]
fn a_map_made_on_the_way_changes_no_bit() {
    let mut cut = 0;
    for s in cases().iter().filter(|s| !s.is_depthwise()) {
        let single = |v: &[f64]| v.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let (Inputs { x, dy, weight, .. }, numbers) = (inputs(s), single(&Noise(3).vec(3 * s.c_in)));
        let (x, dy, map) = (single(&x), single(&dy), Affine::of(&numbers));
        // What is not written stays NaN.
        let empty = |len| vec![f32::NAN; len];
        let channels = Channels { n: s.n, c: s.c_in, s: s.h * s.w, last: true };
        let mut mapped = empty(x.len());
        affine_relu(&channels, &x, map, &mut mapped);
        cut += mapped.iter().filter(|&&y| y == 0.0).count();
        let (mut want, mut got) = (empty(weight.len()), empty(weight.len()));
        backward_weight(s, &mapped, &dy, &mut want, &mut empty(backward_weight_workspace(s, false)));
        let scratch = &mut empty(backward_weight_workspace(s, true));
        backward_weight_of_map(s, &x, map, &dy, &mut got, scratch);
        assert!(want.iter().map(|x| x.to_bits()).eq(got.iter().map(|x| x.to_bits())), "{s:?}");
    }
    assert!(cut > 1000, "{cut} numbers below 0");
}

#[test]
fn lower_levels_follow_the_definition_as_well() {
    if std::env::var("BACKSWEEP_SIMD").is_ok() {
        return;
    }
    let names = ["convolution_and_its_gradients_follow_the_definition", "a_map_made_on_the_way_changes_no_bit"];
    let module = module_path!().split_once("::").map_or("", |(_, path)| path);
    for (level, name) in simd::LOWER.iter().flat_map(|level| names.map(|name| (level, name))) {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([&format!("{module}::{name}"), "--exact", "--quiet"])
            .env("BACKSWEEP_SIMD", level)
            .status();
        assert!(status.unwrap().success(), "{level}: {name}");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let run = |s: &Conv, threads| {
        let r = pool::with_threads(threads, || computed::<f32>(s, &inputs(s), |x| x as f32));
        [bits(&r.y), bits(&r.dx), bits(&r.dweight)]
    };
    for s in cases() {
        let one = run(&s, 1);
        for threads in [2, 3] {
            assert!(one == run(&s, threads), "{s:?}");
        }
    }
}

#[test]
fn an_empty_batch_has_a_gradient_of_zeros() {
    for groups in [1, 4] {
        let s = case([0, 4, 5, 5], [4, 3, 3], [1, 1], [1, 1], [1, 1], groups);
        let r = computed::<f32>(&s, &inputs(&s), |x| x as f32);
        assert!(r.dweight.iter().all(|&x| x == 0.0));
    }
}
