//! Attention in blocks against the formula in f64, forward and backward.

use super::*;
use crate::device::cpu::random::uniform;
use crate::device::cpu::simd;

struct Case {
    shape: [usize; 6],
    causal: bool,
    mask: Option<(Vec<f64>, Vec<u8>, bool, [isize; 4])>,
    dropout: Option<Dropout>,
    /// [batch, row, head, width] rather than [batch, head, row, width].
    rows_first: bool,
}

fn draws(count: usize, key: u64) -> Vec<f64> {
    let mut out = vec![0.0; count];
    uniform(&mut out, Stream { key, offset: 0 });
    out.iter().map(|&x| f64::from(x) * 2.0 - 1.0).collect()
}

impl Case {
    fn new(shape: [usize; 6]) -> Case {
        Case { shape, causal: false, mask: None, dropout: None, rows_first: false }
    }

    fn heads<P>(&self, ptr: P, rows: usize, width: usize) -> Heads<P> {
        let heads = self.shape[1];
        let (head, row) = if self.rows_first { (width, heads * width) } else { (rows * width, width) };
        Heads { ptr, batch: (heads * rows * width) as isize, head: head as isize, row: row as isize }
    }

    /// The masked and dropped-out formula: output, and the gradients of Σ o·do.
    fn reference(&self, [q, k, v, d_o]: [&[f64]; 4]) -> [Vec<f64>; 4] {
        let [batch, heads, queries, keys, width, value_width] = self.shape;
        let (q_at, k_at) = (self.heads((), queries, width), self.heads((), keys, width));
        let (v_at, o_at) = (self.heads((), keys, value_width), self.heads((), queries, value_width));
        let scale = 1.0 / (width as f64).sqrt();
        let [mut o, mut dq] = [value_width, width].map(|width| vec![0.0; batch * heads * queries * width]);
        let [mut dk, mut dv] = [width, value_width].map(|width| vec![0.0; batch * heads * keys * width]);
        for (b, h, i) in (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..queries).map(move |i| (b, h, i)))) {
            let at = |heads: &Heads<()>, row: usize| heads.offset(b, h, row) as usize;
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
            let qi = &q[at(&q_at, i)..][..width];
            let mut s: Vec<f64> = (0..keys).map(|j| dot(qi, &k[at(&k_at, j)..][..width]) * scale).collect();
            for (j, s) in s.iter_mut().enumerate() {
                if let Some((add, keep, boolean, strides)) = &self.mask {
                    let [b, h, i, j] = [b, h, i, j].map(|x| x as isize);
                    let at = (b * strides[0] + h * strides[1] + i * strides[2] + j * strides[3]) as usize;
                    *s += if !boolean {
                        add[at]
                    } else if keep[at] == 0 {
                        f64::NEG_INFINITY
                    } else {
                        0.0
                    };
                }
                if self.causal && j > i {
                    *s = f64::NEG_INFINITY;
                }
            }
            let largest = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if largest == f64::NEG_INFINITY {
                continue;
            }
            let total: f64 = s.iter().map(|s| (s - largest).exp()).sum();
            let p: Vec<f64> = s.iter().map(|s| (s - largest).exp() / total).collect();
            let factor = |j: usize| {
                self.dropout.map_or(1.0, |Dropout { stream, keep }| {
                    let element = ((b * heads + h) * queries + i) * keys + j;
                    if f64::from(stream.uniform(element as u64)) < keep { 1.0 / keep } else { 0.0 }
                })
            };
            let doi = &d_o[at(&o_at, i)..][..value_width];
            let dp: Vec<f64> = (0..keys).map(|j| factor(j) * dot(doi, &v[at(&v_at, j)..][..value_width])).collect();
            let mean = dot(&p, &dp);
            for j in 0..keys {
                let ds = p[j] * (dp[j] - mean) * scale;
                for c in 0..value_width {
                    o[at(&o_at, i) + c] += p[j] * factor(j) * v[at(&v_at, j) + c];
                    dv[at(&v_at, j) + c] += p[j] * factor(j) * doi[c];
                }
                for c in 0..width {
                    dq[at(&q_at, i) + c] += ds * k[at(&k_at, j) + c];
                    dk[at(&k_at, j) + c] += ds * qi[c];
                }
            }
        }
        [o, dq, dk, dv]
    }

    fn run<T: Number>(&self, inputs: [&[f64]; 4]) -> [Vec<T>; 4] {
        let [batch, heads, queries, keys, width, value_width] = self.shape;
        let [q, k, v, d_o] = inputs.map(|x| x.iter().map(|&x| T::of(x)).collect::<Vec<T>>());
        let added = self.mask.as_ref().map(|mask| mask.0.iter().map(|&x| T::of(x)).collect::<Vec<T>>());
        let mask = self.mask.as_ref().zip(added.as_ref()).map(|((_, keep, boolean, strides), added)| Mask {
            values: if *boolean { MaskValues::Keep(keep.as_ptr()) } else { MaskValues::Add(added.as_ptr()) },
            strides: *strides,
        });
        let scale = 1.0 / (width as f64).sqrt();
        let Case { causal, dropout, .. } = *self;
        let attention = Attention { batch, heads, queries, keys, width, value_width, scale, causal, mask, dropout };
        let nan = T::of(f64::NAN);
        let [mut o, mut dq, mut dk, mut dv] = [d_o.len(), q.len(), k.len(), v.len()].map(|length| vec![nan; length]);
        let mut log_sums = vec![nan; batch * heads * queries];
        let (q, k) = (self.heads(q.as_ptr(), queries, width), self.heads(k.as_ptr(), keys, width));
        let v = self.heads(v.as_ptr(), keys, value_width);
        let mut workspace = vec![nan; attention.forward_workspace().max(attention.backward_workspace())];
        // SAFETY: the vectors are as long as the shape says.
        unsafe {
            let output = self.heads(o.as_mut_ptr(), queries, value_width);
            let data = ForwardData { q, k, v, o: output, log_sums: log_sums.as_mut_ptr() };
            attention.forward(&data, &mut workspace);
            workspace.fill(nan);
            let data = BackwardData {
                q,
                k,
                v,
                o: self.heads(o.as_ptr(), queries, value_width),
                log_sums: log_sums.as_ptr(),
                d_o: self.heads(d_o.as_ptr(), queries, value_width),
                dq: self.heads(dq.as_mut_ptr(), queries, width),
                dk: self.heads(dk.as_mut_ptr(), keys, width),
                dv: self.heads(dv.as_mut_ptr(), keys, value_width),
            };
            attention.backward(&data, &mut workspace);
        }
        [o, dq, dk, dv]
    }

    fn inputs(&self) -> [Vec<f64>; 4] {
        let [batch, heads, queries, keys, width, value_width] = self.shape;
        let sizes = [queries * width, keys * width, keys * value_width, queries * value_width];
        // The numbers are those that f32 has, so that both types see the same problem.
        std::array::from_fn(|i| draws(batch * heads * sizes[i], 3 + i as u64))
    }

    fn check(&self) {
        let inputs = self.inputs();
        let inputs = [0, 1, 2, 3].map(|i| inputs[i].as_slice());
        let expected = self.reference(inputs);
        let close = |name: &str, found: [Vec<f64>; 4], tolerance: f64| {
            for (what, (found, expected)) in ["o", "dq", "dk", "dv"].iter().zip(found.iter().zip(&expected)) {
                for (at, (&x, &y)) in found.iter().zip(expected).enumerate() {
                    assert!((x - y).abs() <= tolerance, "{name} {:?}: {what}[{at}] is {x}, not {y}", self.shape);
                }
            }
        };
        close("f32", self.run::<f32>(inputs).map(|x| x.into_iter().map(f64::from).collect()), 2e-5);
        close("f64", self.run::<f64>(inputs), 1e-13);
    }
}

/// Shapes [batch, heads, queries, keys, width, value width] of one block, several blocks, and edges of tiles.
const SHAPES: [[usize; 6]; 8] = [
    [1, 1, 1, 1, 1, 1],
    [2, 3, 5, 7, 4, 6],
    [1, 2, 64, 64, 32, 32],
    [2, 1, 33, 130, 17, 16],
    [1, 1, 200, 140, 64, 48],
    [1, 3, 13, 300, 8, 40],
    [1, 1, 401, 260, 16, 16],
    [3, 6, 40, 40, 16, 16],
];

#[test]
fn blocks_agree_with_the_formula() {
    for shape in SHAPES {
        for (causal, rows_first) in [(false, false), (true, false), (true, true), (false, true)] {
            Case { causal, rows_first, ..Case::new(shape) }.check();
        }
    }
}

#[test]
fn masks_leave_keys_out_and_dead_rows_are_zero() {
    for shape in SHAPES {
        let [batch, heads, queries, keys, ..] = shape;
        let full = [heads * queries * keys, queries * keys, keys, 1];
        for (boolean, strides, causal) in
            [(true, full, false), (false, full, true), (true, [keys, 0, 0, 1], false), (false, [1, 1, 1, 0], false)]
        {
            let count = batch * heads * queries * keys;
            let add = draws(count, 9);
            let mut keep: Vec<u8> = add.iter().map(|&x| (x > -0.4) as u8).collect();
            keep[..keys].fill(0);
            let mask = Some((add, keep, boolean, strides.map(|stride| stride as isize)));
            Case { mask, causal, ..Case::new(shape) }.check();
        }
    }
}

#[test]
fn dropout_is_the_same_on_the_way_back() {
    for (shape, causal) in SHAPES.into_iter().zip([false, true].into_iter().cycle()) {
        let dropout = Some(Dropout { stream: Stream { key: 99, offset: 7 }, keep: 0.7 });
        Case { dropout, causal, ..Case::new(shape) }.check();
    }
}

#[test]
fn no_result_depends_on_the_number_of_threads() {
    let case = Case { causal: true, ..Case::new([2, 2, 300, 520, 24, 32]) };
    let inputs = case.inputs();
    let inputs = [0, 1, 2, 3].map(|i| inputs[i].as_slice());
    let results = [1, 2, 5].map(|threads| pool::with_threads(threads, || case.run::<f32>(inputs)));
    assert!(results[0] == results[1] && results[1] == results[2]);
}

#[test]
fn every_level_agrees() {
    if std::env::var("BACKSWEEP_SIMD").is_ok() {
        return;
    }
    let this = std::env::current_exe().expect("a test knows its own program");
    for level in simd::LOWER {
        let run = std::process::Command::new(&this).args(["attention::tests"]).env("BACKSWEEP_SIMD", level).output();
        let output = run.expect("the test program starts");
        assert!(output.status.success(), "at {level}: {}", String::from_utf8_lossy(&output.stdout));
    }
}
