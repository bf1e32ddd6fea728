//! The graph at its limits: a million nodes on a small stack, and nothing left behind.

use backsweep::graph::{self, Request, Var};
use backsweep::ops::registry;
use backsweep::tensor::Tensor;
use backsweep::{arena, dtype::DType};

fn backward(y: &Var) {
    let dy = Var::constant(Tensor::scalar(1.0, DType::F32).unwrap());
    let mut check = || Ok(());
    let roots = [(y.clone(), dy)];
    graph::sweep(Request { roots: &roots, targets: None, retain_graph: false, create_graph: false, check: &mut check })
        .unwrap();
}

#[test]
fn a_million_chained_ops_build_sweep_and_drop_on_a_small_stack() {
    let work = || {
        for name in ["add", "sin"] {
            for with_backward in [true, false] {
                let x = Var::leaf(Tensor::scalar(0.5, DType::F32).unwrap());
                let one = Var::constant(Tensor::scalar(1e-6, DType::F32).unwrap());
                let op = registry::build(name, &[]).unwrap();
                let mut y = x.clone();
                for _ in 0..1_000_000 {
                    let inputs: &[&Var] = if name == "add" { &[&y, &one] } else { &[&y] };
                    y = graph::apply(op.clone(), inputs).unwrap().swap_remove(0);
                }
                if with_backward {
                    backward(&y);
                    assert!(x.grad_slot().unwrap().grad.lock().is_some());
                }
            }
        }
        assert_eq!(graph::live_nodes(), 0);
        assert_eq!(arena::stats().live, 0);
    };
    std::thread::Builder::new().stack_size(512 * 1024).spawn(work).unwrap().join().unwrap();
}
