//! Every registered op and sample on a GPU, against the CPU in float32. Runs where there is an adapter (a software one will
//! do); `BACKSWEEP_TEST_DEVICE=gpu` makes its absence a failure. Ops without a kernel are listed.

use backsweep::arena::ledger::Category;
use backsweep::device::Device;
use backsweep::device::gpu;
use backsweep::dtype::DType;
use backsweep::error::{Error, Result};
use backsweep::graph::{self, Request, Var};
use backsweep::ops::transfer::moved;
use backsweep::tensor::Tensor;
use samples::*;
use std::collections::BTreeSet;

#[allow(dead_code)]
mod samples;

fn device() -> Option<Device> {
    if gpu::list().is_empty() {
        let wanted = std::env::var("BACKSWEEP_TEST_DEVICE").is_ok_and(|v| v == "gpu");
        assert!(!wanted, "no GPU: {}", gpu::why_none());
        println!("no GPU: {}", gpu::why_none());
        return None;
    }
    Some(Device::from_name("test", "gpu").unwrap())
}

/// What an op may differ from the CPU by: relative, and absolute in units of the largest number.
fn tolerance(op: &str) -> (f64, f64) {
    match op {
        // Powers and quotients of several roundings each.
        "pow" | "tan" | "atanh" | "acosh" | "asinh" => (4e-6, 1e-6),
        _ => (2e-6, 1e-6),
    }
}

fn on(t: &Tensor, device: Device) -> Tensor {
    moved(t, device, Category::Input).unwrap()
}

fn forward(sample: &backsweep::ops::laws::Sample, x: &[Var]) -> Result<Vec<Var>> {
    Ok(graph::apply(sample.op.clone(), &x.iter().collect::<Vec<_>>())?.into_vec())
}

fn backward(y: &[Var], dy: &[Tensor], x: &[Var]) -> Result<Vec<Option<Var>>> {
    let pairs = y.iter().zip(dy).filter(|(y, _)| y.requires_grad());
    let roots: Vec<(Var, Var)> = pairs.map(|(y, dy)| (y.clone(), Var::constant(dy.clone()))).collect();
    if roots.is_empty() {
        return Ok(vec![None; x.len()]);
    }
    let mut check = || Ok(());
    let request =
        Request { roots: &roots, targets: Some(x), retain_graph: false, create_graph: false, check: &mut check };
    graph::sweep(request)
}

fn numbers(v: &Var) -> Vec<f64> {
    v.tensor.numbers().unwrap()
}

/// The op that has no kernel, if that is what an error says.
fn missing(error: &Error) -> Option<String> {
    error.text().contains("has no GPU kernel").then(|| error.text().split(':').next().unwrap().to_string())
}

#[test]
fn every_op_with_a_kernel_agrees_with_the_cpu() {
    let Some(device) = device() else { return };
    let (mut without, mut failures, mut runs) = (BTreeSet::new(), Vec::new(), 0);
    for case in cases() {
        for how in 0..STRIDINGS.len() - 1 {
            if how > 0 && case.at > 0 {
                continue;
            }
            let mut random = case.random();
            let (tensors, _) = inputs(&case.sample, DType::F32, &mut random);
            let x = leaves(&tensors);
            let y = run_op(&case.sample, &x);
            let dy = cotangents(&y, &mut random);
            let there: Vec<Tensor> = tensors.iter().map(|t| laid_out(&on(t, device), how)).collect();
            let gx = leaves(&there);
            let name = format!("{}, {}", case.name(), STRIDINGS[how]);
            let mut problem = |what: String| failures.push(format!("{name}: {what}"));
            let gy = match forward(&case.sample, &gx) {
                Ok(gy) => gy,
                Err(error) => {
                    match missing(&error) {
                        Some(op) => _ = without.insert(op),
                        // There is none to compare with.
                        None if y.iter().any(|y| y.tensor.dtype() == DType::F64) => {
                            assert!(error.text().contains("no float64"), "{name}: {error}");
                        }
                        None => problem(error.to_string()),
                    }
                    continue;
                }
            };
            let within = |got: &[f64], want: &[f64]| {
                let (relative, absolute) = tolerance(case.entry.name);
                let scale = want.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
                let off = |(g, w): &(&f64, &f64)| !close(**g, **w, relative, absolute * scale);
                got.iter().zip(want).enumerate().find(|(_, pair)| off(pair)).map(|(i, (g, w))| (i, *g, *w))
            };
            for (i, (g, w)) in gy.iter().zip(&y).enumerate() {
                // A transfer to the CPU leaves it.
                assert!(g.tensor.device() == device || case.entry.name == "transfer", "{name}");
                if let Some((at, g, w)) = within(&numbers(g), &w.tensor.to_f64()) {
                    problem(format!("output {i}, element {at} is {g}, the CPU has {w}"));
                }
            }
            let dx = gradients(&y, &dy, &x, false, false);
            let there: Vec<Tensor> = dy.iter().map(|t| laid_out(&on(t, device), how)).collect();
            match backward(&gy, &there, &gx) {
                Err(error) => match missing(&error) {
                    Some(op) => _ = without.insert(format!("{} (backward: {op})", case.entry.name)),
                    None => problem(format!("backward: {error}")),
                },
                Ok(gdx) => {
                    for (i, (g, w)) in gdx.iter().zip(&dx).enumerate() {
                        let (Some(g), Some(w)) = (g, w) else { continue };
                        if let Some((at, g, w)) = within(&numbers(g), &w.tensor.to_f64()) {
                            problem(format!("gradient {i}, element {at} is {g}, the CPU has {w}"));
                        }
                    }
                }
            }
            runs += 1;
        }
    }
    println!("gpu: {runs} runs on {}", gpu::list()[0].name);
    println!("without a kernel ({}): {}", without.len(), without.into_iter().collect::<Vec<_>>().join(", "));
    let shown = failures.iter().take(60).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} disagreements:\n{shown}", failures.len());
}
