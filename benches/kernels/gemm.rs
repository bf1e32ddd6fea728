//! Matrix products: squares, and the three products of a linear layer. Goals: 0.90 of peak from 512 on, 0.80 at 128 and
//! 256, 0.60 at 64.

use crate::measure::{Bench, Work, noise, row};
use backsweep::device::cpu::gemm::Problem;

fn product(criterion: &mut Bench, name: &str, problem: Problem) {
    let Problem { m, n, k, .. } = problem;
    let (a, b, mut c) = (noise(m * k), noise(k * n), noise(m * n));
    // As many threads as there are ask for the most.
    let mut workspace = vec![0.0; problem.plan::<f32>().workspace()];
    row(criterion, "gemm", name, Work::Flops(2 * m * n * k), || {
        // SAFETY: dense matrices of these sizes.
        unsafe { problem.plan::<f32>().run(1.0, a.as_ptr(), b.as_ptr(), false, None, c.as_mut_ptr(), &mut workspace) }
    });
}

pub fn bench(criterion: &mut Bench) {
    for n in [64, 128, 256, 512, 1024] {
        product(criterion, &n.to_string(), Problem::new(n, n, n));
    }
    for (name, batch, inside, outside) in [
        ("mlp 128×784→1024", 128, 784, 1024),
        ("mlp 128×1024→1024", 128, 1024, 1024),
        ("gpt 768×128→512", 768, 128, 512),
    ] {
        let forward = Problem::new(batch, outside, inside);
        let weight = forward.b.transposed();
        product(
            criterion,
            &format!("{name} forward"),
            Problem {
                b: backsweep::device::cpu::gemm::Layout { row: 1, column: inside as isize, ..weight },
                ..forward
            },
        );
        product(criterion, &format!("{name} data"), Problem::new(batch, inside, outside));
        let mut weight = Problem::new(outside, inside, batch);
        weight.a = backsweep::device::cpu::gemm::Layout::rows_of(outside).transposed();
        product(criterion, &format!("{name} weight"), weight);
    }
}
