//! Products of random shapes, strides and flags against a sum in f64, at every SIMD level and for several threads.

use super::*;

/// A small generator: the tests need variety, not quality.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    fn pick<X: Copy>(&mut self, from: &[X]) -> X {
        from[self.below(from.len())]
    }

    fn number(&mut self) -> f64 {
        self.next() as f64 / (1u64 << 30) as f64 - 1.0
    }
}

trait Number: Element {
    const TOLERANCE: f64;
    fn from(x: f64) -> Self;
    fn into(self) -> f64;
}

impl Number for f32 {
    const TOLERANCE: f64 = 1.2e-7;
    fn from(x: f64) -> f32 {
        x as f32
    }
    fn into(self) -> f64 {
        self as f64
    }
}

impl Number for f64 {
    const TOLERANCE: f64 = 2.3e-16;
    fn from(x: f64) -> f64 {
        x
    }
    fn into(self) -> f64 {
        self
    }
}

/// Strides for [batch, batch, rows, columns] in a random order of dimensions and with random gaps, and the length of
/// the memory that they reach.
fn layout(random: &mut Random, rows: usize, columns: usize, batch: [usize; 2], may_repeat: bool) -> (Layout, usize) {
    let mut order: Vec<usize> = random.pick(&[&[3, 2, 1, 0], &[2, 3, 1, 0], &[3, 1, 2, 0], &[0, 3, 2, 1]]).to_vec();
    if random.below(4) == 0 {
        order.swap(0, 2);
    }
    let sizes = [batch[0], batch[1], rows, columns];
    let (mut strides, mut step) = ([0; 4], if random.below(6) == 0 { 2 } else { 1 });
    for dimension in order {
        if dimension < 2 && may_repeat && random.below(3) == 0 {
            continue;
        }
        strides[dimension] = step as isize;
        step *= sizes[dimension];
        step += random.pick(&[0, 0, 0, 1, 5, 16]);
    }
    let reach = sizes.iter().zip(strides).map(|(&size, stride)| (size as isize - 1).max(0) * stride).sum::<isize>();
    let [outer, inner, row, column] = strides;
    (Layout { row, column, batch: [outer, inner] }, reach as usize + 1)
}

fn values<T: Number>(random: &mut Random, count: usize) -> Vec<T> {
    (0..count).map(|_| T::from(random.number())).collect()
}

struct Case<T> {
    problem: Problem,
    a: Vec<T>,
    b: Vec<T>,
    c: Vec<T>,
    bias: Option<Vec<T>>,
    accumulate: bool,
    alpha: T,
}

impl<T: Number> Case<T> {
    fn random(random: &mut Random, m: usize, n: usize, k: usize, batch: [usize; 2]) -> Case<T> {
        let (a, a_len) = layout(random, m, k, batch, true);
        let (b, b_len) = layout(random, k, n, batch, true);
        let (c, c_len) = layout(random, m, n, batch, false);
        let bias = random.below(3) == 0;
        Case {
            problem: Problem { m, n, k, batch, a, b, c },
            a: values(random, a_len),
            b: values(random, b_len),
            c: values(random, c_len),
            bias: bias.then(|| values(random, n)),
            accumulate: random.below(2) == 0,
            alpha: T::from(random.pick(&[1.0, 1.0, 0.5, -1.25])),
        }
    }

    fn run(&self) -> Vec<T> {
        let mut c = self.c.clone();
        let plan = self.problem.plan::<T>();
        let mut workspace = vec![T::from(f64::NAN); plan.workspace()];
        let bias = self.bias.as_ref().map(|bias| bias.as_ptr());
        let (a, b) = (self.a.as_ptr(), self.b.as_ptr());
        // SAFETY: the vectors are as long as their strides reach.
        unsafe { plan.run(self.alpha, a, b, self.accumulate, bias, c.as_mut_ptr(), &mut workspace) };
        c
    }

    fn check(&self) {
        let Problem { m, n, k, batch, a, b, c } = self.problem;
        let found = self.run();
        let mut expected: Vec<f64> = self.c.iter().map(|&x| x.into()).collect();
        let mut allowed = vec![0.0; expected.len()];
        let at = |layout: Layout, [outer, inner]: [usize; 2], row: usize, column: usize| {
            let [outer, inner, row, column] = [outer, inner, row, column].map(|index| index as isize);
            (outer * layout.batch[0] + inner * layout.batch[1] + row * layout.row + column * layout.column) as usize
        };
        for index in (0..batch[0]).flat_map(|outer| (0..batch[1]).map(move |inner| [outer, inner])) {
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let product = |p| self.a[at(a, index, i, p)].into() * self.b[at(b, index, p, j)].into();
                let sum: f64 = (0..k).map(product).sum();
                let bias = self.bias.as_ref().map_or(0.0, |bias| bias[j].into());
                let at = at(c, index, i, j);
                let before = if self.accumulate { expected[at] } else { 0.0 };
                expected[at] = self.alpha.into() * sum + bias + before;
                let size = (0..k).map(|p| product(p).abs()).sum::<f64>() * 1.25 + bias.abs() + before.abs();
                allowed[at] = T::TOLERANCE * (k as f64).sqrt().max(4.0) * size + 1e-300;
            }
        }
        for (at, &found) in found.iter().enumerate() {
            let error = (found.into() - expected[at]).abs();
            assert!(error <= allowed[at], "{:?} at {at}: {} for {}", self.problem, found.into(), expected[at]);
        }
    }
}

fn random_cases<T: Number>() {
    let mut random = Random(7);
    let sizes = [1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 17, 24, 31, 32, 33, 48, 64, 65, 97, 130];
    for _ in 0..400 {
        let [m, n, k] = [0; 3].map(|_| random.pick(&sizes));
        let batch = random.pick(&[[1, 1], [1, 1], [1, 3], [2, 3], [5, 1]]);
        Case::<T>::random(&mut random, m, n, k, batch).check();
    }
    // Deep, and wide enough for several blocks of every kind.
    for (m, n, k) in
        [(5, 9, 5000), (20, 40, 3000), (70, 300, 900), (1, 700, 1100), (300, 1, 1100), (2100, 40, 40), (40, 2100, 20)]
    {
        Case::<T>::random(&mut random, m, n, k, [1, 1]).check();
    }
    Case::<T>::random(&mut random, 3, 0, 4, [1, 1]).check();
    Case::<T>::random(&mut random, 3, 4, 0, [2, 1]).check();
    Case::<T>::random(&mut random, 0, 4, 4, [1, 1]).check();
}

#[test]
fn products_of_f32_agree_with_sums_in_f64() {
    random_cases::<f32>();
}

#[test]
fn products_of_f64_agree_with_sums() {
    random_cases::<f64>();
}

#[test]
fn products_of_nothing_ask_for_nothing() {
    for (m, n) in [(0, 1), (1, 0), (0, 0), (0, 1000), (4096, 0), (0, 16_384)] {
        for k in [0, 1, 4, 5000] {
            let problem = Problem::new(m, n, k);
            assert_eq!(problem.plan::<f32>().workspace(), 0, "{m}×{k}×{n}");
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut random = Random(11);
    let shapes = [(150, 200, 500, 1), (64, 64, 9000, 1), (40, 50, 60, 40), (1, 3000, 700, 1), (30, 2100, 800, 1)];
    for (m, n, k, batch) in shapes {
        let case = Case::<f32>::random(&mut random, m, n, k, [batch, 1]);
        let serial = pool::with_threads(1, || case.run());
        for threads in [2, 3, 5] {
            assert!(pool::with_threads(threads, || case.run()) == serial, "{:?} with {threads} threads", case.problem);
        }
    }
}

/// The level is of the whole process: each lower one is tested by a process of its own.
#[test]
fn every_level_agrees() {
    if std::env::var("BACKSWEEP_SIMD").is_ok() {
        return;
    }
    let this = std::env::current_exe().expect("a test knows its own program");
    for level in simd::LOWER {
        let run = std::process::Command::new(&this).args(["gemm::tests"]).env("BACKSWEEP_SIMD", level).output();
        let output = run.expect("the test program starts");
        assert!(output.status.success(), "at {level}: {}", String::from_utf8_lossy(&output.stdout));
    }
}
