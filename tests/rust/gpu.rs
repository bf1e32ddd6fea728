//! Every registered op and sample on a GPU, against the CPU in float32. Runs where there is an adapter (a software one will
//! do); `BACKSWEEP_TEST_DEVICE=gpu` makes its absence a failure. Ops without a kernel are listed.

use backsweep::arena::ledger::Category;
use backsweep::device::Device;
use backsweep::device::gpu;
use backsweep::dtype::DType;
use backsweep::error::{Error, Result};
use backsweep::graph::{self, Request, Var};
use backsweep::ops::args::{Attribute, flag, signed};
use backsweep::ops::laws::Domain;
use backsweep::ops::registry;
use backsweep::ops::transfer::moved;
use backsweep::shape::Layout;
use backsweep::tensor::{Meta, Tensor};
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

/// Runs an op on both devices, and back where there are kernels for it; panics where results differ by more than
/// `tolerance` of their size.
fn agrees(name: &str, attributes: &[Attribute], tensors: &[Tensor], device: Device, tolerance: f64) {
    let op = registry::build(name, attributes).unwrap();
    let apply = |x: &[Var]| graph::apply(op.clone(), &x.iter().collect::<Vec<_>>()).map(|y| y.into_vec());
    let there: Vec<Tensor> = tensors.iter().map(|t| on(t, device)).collect();
    let (x, gx) = (leaves(tensors), leaves(&there));
    let shapes: Vec<&[usize]> = tensors.iter().map(Tensor::shape).collect();
    let what = format!("{name} {attributes:?} of {shapes:?} {:?}", tensors[0].dtype());
    let y = apply(&x).unwrap_or_else(|e| panic!("{what}: {e}"));
    let gy = apply(&gx).unwrap_or_else(|e| panic!("{what}: {e}"));
    let check = |got: &Var, want: &Var, part: &str| {
        assert_close(&numbers(got), &want.tensor.to_f64(), (tolerance, tolerance), &format!("{what}: {part}"));
    };
    y.iter().zip(&gy).enumerate().for_each(|(i, (y, gy))| check(gy, y, &format!("output {i}")));
    let dy = cotangents(&y, &mut Random::new(7));
    let dx = gradients(&y, &dy, &x, false, false);
    let there: Vec<Tensor> = dy.iter().map(|t| on(t, device)).collect();
    match backward(&gy, &there, &gx) {
        Ok(gdx) => {
            for (i, (g, w)) in gdx.iter().zip(&dx).enumerate() {
                let (Some(g), Some(w)) = (g, w) else { continue };
                check(g, w, &format!("gradient {i}"));
            }
        }
        Err(error) => assert!(missing(&error).is_some(), "{what}: {error}"),
    }
}

fn random_tensor(shape: &[usize], domain: Domain, seed: u64) -> Tensor {
    tensor(shape, &values(shape, domain, &mut Random::new(seed)), domain.dtype().unwrap_or(DType::F32))
}

#[test]
fn integers_are_summed_in_64_bits() {
    let Some(device) = device() else { return };
    let big = |dtype: DType, n: usize, value: &dyn Fn(usize) -> i64| {
        let wide: Vec<i64> = (0..n).map(value).collect();
        let wide = Tensor::from_slice("test", &[n], &wide, Category::Input).unwrap();
        let meta = Meta::contiguous("test", &[n], dtype, Device::Cpu).unwrap();
        backsweep::ops::run::converted(&wide, meta, Category::Input).unwrap()
    };
    let cases = [
        big(DType::I32, 5, &|i| (1 << 24) + 1 + i as i64),
        big(DType::I32, 9, &|i| i64::from(i32::MAX) - i as i64),
        big(DType::I32, 70_001, &|i| -3_000_001 - i as i64),
        big(DType::I64, 7, &|i| (1 << 40) + 3 * i as i64 - (1 << 41) * (i as i64 % 2)),
        big(DType::I64, 20_000, &|i| (1 << 33) + i as i64),
        big(DType::U8, 100_003, &|i| i as i64 % 251),
        big(DType::Bool, 16_777_219, &|_| 1),
    ];
    let exact = |t: &Tensor| t.to_host().unwrap().view().slice::<i64>().to_vec();
    for x in &cases {
        let there = on(x, device);
        let names = ["sum", "prod", "amax", "amin", "max_dim", "min_dim", "cumsum", "cumprod"];
        // Running totals of the longest are more than a binding may show.
        for name in names.into_iter().filter(|name| x.numel() < 1 << 24 || !name.starts_with("cum")) {
            // A product is walked by one thread, and software drivers end long walks.
            if name == "cumprod" && x.numel() > 60_000 {
                let op = registry::build(name, &[Attribute::Int(0), flag(false)]).unwrap();
                let error = backsweep::ops::run::compute(&*op, &[&there], false).unwrap_err();
                assert!(error.text().contains("steps in a row"), "{error}");
                continue;
            }
            let attributes = match name {
                "cumsum" | "cumprod" => [Attribute::Int(0), flag(x.numel() % 2 == 0)],
                "max_dim" | "min_dim" => [Attribute::Int(0), flag(false)],
                _ => [signed(&[]), flag(false)],
            };
            let op = registry::build(name, &attributes).unwrap();
            let want = backsweep::ops::run::compute(&*op, &[x], false).unwrap();
            let got = backsweep::ops::run::compute(&*op, &[&there], false).unwrap();
            for (want, got) in want.iter().zip(&got) {
                match want.dtype() {
                    DType::I64 => assert_eq!(exact(got), exact(want), "{name} of {x:?}"),
                    _ => assert_eq!(got.numbers().unwrap(), want.to_f64(), "{name} of {x:?}"),
                }
            }
        }
    }
    // A copy keeps all 64 bits as well.
    let x = Tensor::from_slice("test", &[2, 2], &[1i64 << 40, -(1 << 35), 7, i64::MIN + 3], Category::Input).unwrap();
    let turned = on(&x, device).with_layout(Layout::strided(&[2, 2], &[1, 2]), 0);
    let copy = backsweep::ops::run::relaid(&turned, x.layout().clone(), Category::Input).unwrap();
    assert_eq!(exact(&copy), [1 << 40, 7, -(1 << 35), i64::MIN + 3]);
}

#[test]
fn long_folds_are_cut_and_joined() {
    let Some(device) = device() else { return };
    let float = |name: &str| !matches!(name, "any" | "all");
    for shape in [&[70_000][..], &[3, 40_000], &[20_000, 40], &[70, 50, 64], &[2, 300, 2, 90]] {
        let rank = shape.len() as i64;
        for dims in [vec![], vec![0], vec![rank - 1], vec![0, rank - 1]].iter().filter(|d| rank > 1 || d.len() < 2) {
            for name in ["sum", "mean", "amax", "amin", "norm", "logsumexp", "any", "all", "var", "var_mean"] {
                let domain = if float(name) { Domain::Any } else { Domain::Mask };
                let mut attributes = vec![signed(dims), flag(true)];
                attributes.extend(name.starts_with("var").then_some(Attribute::Float(1.0)));
                agrees(name, &attributes, &[random_tensor(shape, domain, 3)], device, 4e-6);
            }
        }
        for name in ["max_dim", "min_dim"] {
            for dim in [0, rank - 1] {
                agrees(name, &[Attribute::Int(dim), flag(false)], &[random_tensor(shape, Domain::Any, 5)], device, 0.0);
            }
        }
    }
    // Factors near 1, so that the product of many is a number.
    let factors: Vec<f64> = (0..60_000).map(|i| 1.0 + f64::from(i % 7 - 3) * 1e-5).collect();
    let all = [signed(&[]), flag(false)];
    let x = on(&tensor(&[60_000], &factors, DType::F32), device);
    let op = registry::build("prod", &all).unwrap();
    let got = backsweep::ops::run::compute(&*op, &[&x], false).unwrap()[0].numbers().unwrap()[0];
    let want: f64 = factors.iter().map(|f| f64::from(*f as f32)).product();
    assert!((got - want).abs() < 1e-3 * want, "{got} {want}");
}

/// Rows with what a comparison or a sum may get wrong.
fn odd_rows() -> Tensor {
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    let rows = [
        [1.0, 2.0, 2.0, -1.0, 0.5, 2.0],
        [nan, 1.0, inf, -inf, 0.0, 1.0],
        [1.0, nan, 3.0, nan, -inf, 1.0],
        [inf, 1.0, 2.0, inf, 0.0, 1.0],
        [-inf, -inf, -inf, -inf, -inf, -inf],
        [inf, -inf, 1.0, 2.0, 3.0, 4.0],
        [-0.0, 0.0, -0.0, 0.0, -0.0, -0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [1e30, 1e30, -1e30, 1e-30, 0.0, 1e10],
        [-inf, 1.0, 2.0, 3.0, -inf, 0.0],
    ];
    tensor(&[rows.len(), 6], &rows.concat(), DType::F32)
}

#[test]
fn odd_numbers_are_reduced_as_on_the_cpu() {
    let Some(device) = device() else { return };
    let x = odd_rows();
    let columns = x.with_layout(Layout::strided(&[6, 10], &[1, 6]), 0);
    for dim in [0, 1] {
        for x in [&x, &columns] {
            for name in ["sum", "mean", "amax", "amin", "norm", "logsumexp", "any", "all"] {
                agrees(name, &[signed(&[dim]), flag(false)], std::slice::from_ref(x), device, 2e-6);
            }
            agrees("cumsum", &[Attribute::Int(dim), flag(dim == 0)], std::slice::from_ref(x), device, 2e-6);
            for name in ["max_dim", "min_dim"] {
                agrees(name, &[Attribute::Int(dim), flag(true)], std::slice::from_ref(x), device, 0.0);
            }
            for name in ["var", "var_mean"] {
                let attributes = [signed(&[dim]), flag(false), Attribute::Float(1.0)];
                agrees(name, &attributes, std::slice::from_ref(x), device, 2e-6);
            }
        }
        // Without the row whose product overflows on its way on the CPU, and does not here; nor does ln Σ get lost.
        let first = x.with_layout(Layout::contiguous("test", &[8, 6]).unwrap(), 0);
        agrees("prod", &[signed(&[dim]), flag(false)], std::slice::from_ref(&first), device, 2e-6);
        agrees("cumprod", &[Attribute::Int(dim), flag(dim == 0)], std::slice::from_ref(&first), device, 2e-6);
        for name in ["softmax", "log_softmax"] {
            agrees(name, &[Attribute::Int(dim)], std::slice::from_ref(&first), device, 4e-6);
        }
    }
    let images = x.with_layout(Layout::contiguous("test", &[1, 2, 5, 6]).unwrap(), 0);
    let pairs = |n: usize| backsweep::ops::args::ints(&[n, n]);
    let attributes = [pairs(3), pairs(2), pairs(1), pairs(1), flag(false), flag(true)];
    agrees("max_pool2d", &attributes, std::slice::from_ref(&images), device, 0.0);
    agrees("adaptive_max_pool2d", &[pairs(2), flag(true)], std::slice::from_ref(&images), device, 0.0);
    agrees("adaptive_avg_pool2d", &[pairs(2)], &[images], device, 1e-6);
    let far = on(&tensor(&[6], &[1e30, 1e30, -1e30, 1e-30, 1e-30, 1e-30], DType::F32), device);
    let op = registry::build("prod", &[signed(&[]), flag(false)]).unwrap();
    let product = backsweep::ops::run::compute(&*op, &[&far], false).unwrap()[0].numbers().unwrap()[0];
    assert!((product + 1.0).abs() < 1e-5, "{product}");
}

#[test]
fn long_rows_are_shared_by_threads() {
    let Some(device) = device() else { return };
    let any = |shape: &[usize], seed: u64| random_tensor(shape, Domain::Any, seed);
    for (shape, dim) in [(&[3, 5000][..], 1), (&[700, 33], 1), (&[9, 300, 20], 1), (&[300, 40], 0), (&[1, 65], 1)] {
        for name in ["softmax", "log_softmax"] {
            agrees(name, &[Attribute::Int(dim)], &[any(shape, 1)], device, 4e-6);
        }
    }
    for (rows, columns) in [(3, 3000), (1000, 24), (5000, 70)] {
        let attributes = [Attribute::Int(1), Attribute::Float(1e-5), flag(true), flag(true)];
        let tensors = [any(&[rows, columns], 2), any(&[columns], 3), any(&[columns], 4)];
        agrees("layer_norm", &attributes, &tensors, device, 6e-6);
        for (weighted, smoothing) in [(false, 0.0), (true, 0.1)] {
            let mut tensors = vec![any(&[rows, columns], 5), random_tensor(&[rows], Domain::Index(columns), 6)];
            tensors.extend(weighted.then(|| random_tensor(&[columns], Domain::Positive, 7)));
            let attributes = [Attribute::Int(3), Attribute::Float(smoothing)];
            agrees("cross_entropy", &attributes, &tensors, device, 4e-6);
        }
    }
    for shape in [&[8, 16, 20, 20][..], &[6000, 5], &[2, 40, 900]] {
        let channels = shape[1];
        let attributes = [Attribute::Float(1e-5), flag(true), flag(true)];
        let tensors = [any(shape, 8), any(&[channels], 9), any(&[channels], 10)];
        agrees("batch_norm", &attributes, &tensors, device, 1e-5);
        agrees("channel_affine", &[flag(true)], &tensors, device, 1e-5);
    }
}

#[test]
fn a_target_that_is_no_class_makes_its_row_nan() {
    let Some(device) = device() else { return };
    let x = Var::leaf(on(&random_tensor(&[4, 3], Domain::Any, 1), device));
    let target = Tensor::from_slice("test", &[4], &[2i64, 3, -1, -100], Category::Input).unwrap();
    let op = registry::build("cross_entropy", &[Attribute::Int(-100), Attribute::Float(0.0)]).unwrap();
    let y = graph::apply(op, &[&x, &Var::constant(on(&target, device))]).unwrap().into_vec();
    let nan = |v: &Var| numbers(v).iter().map(|v| v.is_nan()).collect::<Vec<_>>();
    assert_eq!(nan(&y[0]), [false, true, true, false]);
    let dy = on(&tensor(&[4], &[1.0; 4], DType::F32), device);
    let dx = backward(&y[..1], &[dy], std::slice::from_ref(&x)).unwrap();
    let rows: Vec<bool> = nan(dx[0].as_ref().unwrap()).chunks(3).map(|row| row.iter().all(|&v| v)).collect();
    assert_eq!(rows, [false, true, true, false]);
}

#[test]
fn products_are_cut_into_tiles_and_along_k() {
    let Some(device) = device() else { return };
    let any = |shape: &[usize], seed: u64| random_tensor(shape, Domain::Any, seed);
    for (a, b) in [([520, 40], [40, 515]), ([70, 3000], [3000, 65]), ([1, 600], [600, 3]), ([130, 9], [9, 1100])] {
        agrees("matmul", &[], &[any(&a, 1), any(&b, 2)], device, 6e-6);
    }
    agrees("matmul", &[], &[any(&[3, 600, 20], 1), any(&[20, 140], 2)], device, 6e-6);
    agrees("linear", &[], &[any(&[2, 70_000], 1), any(&[3, 70_000], 2), any(&[3], 3)], device, 2e-5);
    let ints = backsweep::ops::args::ints;
    let convolutions: [([usize; 4], [usize; 4], [usize; 2], usize); 6] = [
        ([2, 16, 24, 24], [32, 16, 3, 3], [1, 1], 1),
        ([4, 64, 8, 8], [130, 64, 3, 3], [2, 2], 1),
        ([2, 40, 17, 19], [40, 1, 3, 3], [1, 2], 40),
        ([2, 64, 9, 9], [64, 32, 3, 3], [1, 1], 2),
        ([3, 6, 12, 12], [12, 3, 5, 5], [2, 2], 2),
        ([2, 3, 32, 32], [16, 3, 3, 3], [1, 1], 1),
    ];
    for (i, (x, weight, stride, groups)) in convolutions.into_iter().enumerate() {
        let bias = i % 2 == 0;
        let attributes = [ints(&stride), ints(&[1, 1]), ints(&[1, 1]), Attribute::Int(groups as i64), flag(bias)];
        let mut tensors = vec![any(&x, 3), any(&weight, 4)];
        tensors.extend(bias.then(|| any(&weight[..1], 5)));
        agrees("conv2d", &attributes, &tensors, device, 6e-6);
    }
}

#[test]
fn long_lines_are_scanned() {
    let Some(device) = device() else { return };
    for (shape, dim) in [(&[70_000][..], 0), (&[3, 2500], 1), (&[2500, 3], 0), (&[2, 1024, 5], 1), (&[5000, 7], 1)] {
        for reverse in [false, true] {
            let attributes = [Attribute::Int(dim), flag(reverse)];
            agrees("cumsum", &attributes, &[random_tensor(shape, Domain::Positive, 1)], device, 4e-6);
            if shape[0] > 60_000 {
                continue;
            }
            let unit = [random_tensor(shape, Domain::Any, 2), random_tensor(shape, Domain::Unit, 3)];
            agrees("recurrence", &attributes, &unit, device, 6e-6);
        }
    }
    // A product that leaves the range and comes back.
    let x = tensor(&[6], &[1e30, 1e30, 1e-30, 1e-30, 2.0, 0.0], DType::F32);
    agrees("cumprod", &[Attribute::Int(0), flag(false)], &[x], device, 2e-6);
}

#[test]
fn recurrent_layers_of_many_steps() {
    let Some(device) = device() else { return };
    let [t, b, i, h] = [12, 5, 7, 70];
    for (name, gates, states) in [("lstm", 4, 2), ("gru", 3, 1)] {
        let mut shapes = vec![vec![t, b, i]];
        shapes.extend((0..states).map(|_| vec![b, h]));
        shapes.extend([vec![gates * h, i], vec![gates * h, h], vec![gates * h], vec![gates * h]]);
        let tensors: Vec<Tensor> =
            shapes.iter().enumerate().map(|(k, s)| random_tensor(s, Domain::Unit, k as u64)).collect();
        agrees(name, &[flag(true)], &tensors, device, 2e-5);
    }
}
