//! Matrix products: squares, and the three products of a linear layer. Goals: 0.90 of peak from 512 on, 0.80 at 128 and
//! 256, 0.60 at 64. The linear layer of a transformer is there a second time "from memory", with operands that no cache holds,
//! as a step that keeps its activations finds them.

use crate::measure::{Bench, Work, noise, row};
use backsweep::device::cpu::gemm::{Layout, Problem};

fn product(criterion: &mut Bench, name: &str, problem: Problem) {
    rotating(criterion, name, problem, 1);
}

/// Bytes that no cache holds.
const BEYOND_CACHES: usize = 96 << 20;

fn product_from_memory(criterion: &mut Bench, name: &str, problem: Problem) {
    let Problem { m, n, k, .. } = problem;
    let sets = BEYOND_CACHES / (4 * (m * k + k * n + m * n));
    rotating(criterion, &format!("{name} from memory"), problem, sets);
}

/// Each run takes the next of so many sets of operands.
fn rotating(criterion: &mut Bench, name: &str, problem: Problem, sets: usize) {
    let Problem { m, n, k, .. } = problem;
    let (a, b, mut c) = (noise(sets * m * k), noise(sets * k * n), noise(sets * m * n));
    // As many threads as there are ask for the most.
    let mut workspace = vec![0.0; problem.plan::<f32>().workspace()];
    let mut set = 0;
    row(criterion, "gemm", name, Work::Flops(2 * m * n * k), || {
        set = (set + 1) % sets;
        let (a, b, c) = (a[set * m * k..].as_ptr(), b[set * k * n..].as_ptr(), c[set * m * n..].as_mut_ptr());
        // SAFETY: dense matrices of these sizes.
        unsafe { problem.plan::<f32>().run(1.0, a, b, false, None, c, &mut workspace) }
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
        for (way, problem) in linear(batch, inside, outside) {
            product(criterion, &format!("{name} {way}"), problem);
        }
    }
    for (name, batch, inside, outside) in [("gpt 768×128→512", 768, 128, 512), ("gpt 768×512→128", 768, 512, 128)]
    {
        for (way, problem) in linear(batch, inside, outside) {
            product_from_memory(criterion, &format!("{name} {way}"), problem);
        }
    }
}

/// The three products of a layer whose weight is [outside, inside].
fn linear(batch: usize, inside: usize, outside: usize) -> [(&'static str, Problem); 3] {
    let weight = Layout::rows_of(inside);
    [
        ("forward", Problem { b: weight.transposed(), ..Problem::new(batch, outside, inside) }),
        ("data", Problem::new(batch, inside, outside)),
        ("weight", Problem { a: Layout::rows_of(outside).transposed(), ..Problem::new(outside, inside, batch) }),
    ]
}
