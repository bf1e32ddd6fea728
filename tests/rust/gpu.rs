//! Every registered op and sample on a GPU, against the CPU in float32. Runs where there is an adapter (a software one will
//! do); `BACKSWEEP_TEST_DEVICE=gpu` makes its absence a failure. Ops without a kernel are listed.

use backsweep::arena::ledger::Category;
use backsweep::device::Device;
use backsweep::device::gpu;
use backsweep::dtype::DType;
use backsweep::error::{Error, Kind, Result};
use backsweep::graph::{self, Request, Var};
use backsweep::ops::args::{Attribute, flag, int, ints};
use backsweep::ops::laws::Domain;
use backsweep::ops::transfer::moved;
use backsweep::ops::{registry, run};
use backsweep::tensor::Tensor;
use samples::*;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

#[allow(dead_code)]
mod samples;

static TURN: Mutex<()> = Mutex::new(());

/// The first GPU, for one test at a time: an index out of range is an error of whoever reads next.
fn device() -> Option<(Device, MutexGuard<'static, ()>)> {
    if gpu::list().is_empty() {
        let wanted = std::env::var("BACKSWEEP_TEST_DEVICE").is_ok_and(|v| v == "gpu");
        assert!(!wanted, "no GPU: {}", gpu::why_none());
        println!("no GPU: {}", gpu::why_none());
        return None;
    }
    let turn = TURN.lock().unwrap_or_else(|turn| turn.into_inner());
    Some((Device::from_name("test", "gpu").unwrap(), turn))
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

/// Runs an op on both devices; its outputs must be equal, bit for bit but for zeros' signs and NaN's payloads.
fn agree(device: Device, name: &str, attributes: &[Attribute], x: &[Tensor]) {
    let op = registry::build(name, attributes).unwrap();
    let near = run::compute(&*op, &x.iter().collect::<Vec<_>>(), false).unwrap();
    let there: Vec<Tensor> = x.iter().map(|t| on(t, device)).collect();
    let far = run::compute(&*op, &there.iter().collect::<Vec<_>>(), false).unwrap();
    for (near, far) in near.iter().zip(&far) {
        assert_eq!(far.dtype(), near.dtype());
        let (near, far) = (near.to_f64(), far.numbers().unwrap());
        let off = near.iter().zip(&far).position(|(a, b)| a != b && !(a.is_nan() && b.is_nan()));
        if let Some(at) = off {
            panic!("{name} {attributes:?} {x:?}: element {at} is {}, the CPU has {}", far[at], near[at]);
        }
    }
}

const TYPES: [DType; 7] = [DType::F32, DType::F16, DType::BF16, DType::I32, DType::I64, DType::U8, DType::Bool];

/// Numbers of a type, with special ones among those of floats.
fn mixed(shape: &[usize], dtype: DType, random: &mut Random) -> Tensor {
    let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0];
    let n: usize = shape.iter().product();
    let data: Vec<f64> = (0..n)
        .map(|_| match dtype {
            _ if dtype.is_float() && random.bits() % 8 == 0 => special[(random.bits() % 5) as usize],
            _ if dtype.is_float() => 4.0 * random.signed(),
            DType::Bool => (random.bits() & 1) as f64,
            DType::U8 => (random.bits() % 256) as f64,
            // Many are equal.
            _ => (random.bits() % 50) as f64 - 25.0,
        })
        .collect();
    tensor(shape, &data, dtype)
}

fn indices(shape: &[usize], size: usize, random: &mut Random) -> Tensor {
    let n: usize = shape.iter().product();
    let list: Vec<i64> = (0..n).map(|_| (random.bits() % size as u64) as i64).collect();
    Tensor::from_slice("test", shape, &list, Category::Input).unwrap()
}

#[test]
fn every_type_and_length_is_moved_and_sorted_as_on_the_cpu() {
    let Some((device, _turn)) = device() else { return };
    let mut random = Random::new(5);
    for dtype in TYPES {
        let x = mixed(&[7, 9], dtype, &mut random);
        agree(device, "index_select", &[int(1)], &[x.clone(), indices(&[5], 9, &mut random)]);
        agree(device, "gather", &[int(0)], &[x.clone(), indices(&[3, 9], 7, &mut random)]);
        agree(device, "gather", &[int(1)], &[x.clone(), indices(&[4, 3], 9, &mut random)]);
        agree(device, "index_get", &[], &[x.clone(), indices(&[11], 7, &mut random), indices(&[11], 9, &mut random)]);
        agree(
            device,
            "scatter",
            &[int(1)],
            &[x.clone(), indices(&[5, 31], 9, &mut random), mixed(&[5, 31], dtype, &mut random)],
        );
        for op in ["tril", "triu"] {
            agree(device, op, &[int(-1)], std::slice::from_ref(&x));
        }
        agree(device, "flip", &[ints(&[0, 1])], std::slice::from_ref(&x));
        agree(device, "roll", &[ints(&[3]), ints(&[1])], std::slice::from_ref(&x));
        for positions in [3, 40] {
            let (rows, values) = (indices(&[positions], 7, &mut random), mixed(&[positions, 9], dtype, &mut random));
            agree(device, "index_put", &[flag(false)], &[x.clone(), values.clone(), rows.clone()]);
            if !matches!(dtype, DType::Bool | DType::F16 | DType::BF16) {
                agree(device, "index_put", &[flag(true)], &[x.clone(), values.clone(), rows.clone()]);
                agree(device, "index_add", &[int(0)], &[x.clone(), rows, values]);
            }
        }
        for shape in [&[2, 65][..], &[3000], &[2, 2500, 3]] {
            let line = mixed(shape, dtype, &mut random);
            let dim = int(if shape.len() == 1 { 0 } else { 1 });
            for descending in [false, true] {
                agree(device, "sort", &[dim.clone(), flag(descending)], std::slice::from_ref(&line));
                agree(device, "topk", &[int(40), dim.clone(), flag(descending)], std::slice::from_ref(&line));
            }
        }
        let row = run::call("sort", &[&mixed(&[300], dtype, &mut random)], &[int(0)]).unwrap();
        for right in [false, true] {
            agree(device, "searchsorted", &[flag(right)], &[row.clone(), mixed(&[4, 50], dtype, &mut random)]);
        }
    }
    // Beyond 32 bits.
    let long: Vec<i64> = (0..2000).map(|i| (i * 7919 % 2003 - 1000) << 40).collect();
    let long = Tensor::from_slice("test", &[long.len()], &long, Category::Input).unwrap();
    agree(device, "sort", &[int(0), flag(true)], std::slice::from_ref(&long));
    agree(device, "flip", &[ints(&[0])], std::slice::from_ref(&long));
    // Sums of many are in the order of the CPU's.
    let x = mixed(&[40, 5], DType::F32, &mut random);
    let rows = indices(&[3000], 40, &mut random);
    let finite = |shape: &[usize], random: &mut Random| tensor(shape, &values(shape, Domain::Any, random), DType::F32);
    agree(device, "index_add", &[int(0)], &[x, rows.clone(), finite(&[3000, 5], &mut random)]);
    agree(device, "embedding_grad", &[int(40), int(7)], &[finite(&[3000, 5], &mut random), rows]);
}

#[test]
fn an_index_out_of_range_is_the_next_read_backs_error() {
    let Some((device, _turn)) = device() else { return };
    let table = on(&tensor(&[3, 2], &[1.0; 6], DType::F32), device);
    let index = |list: &[i64]| on(&Tensor::from_slice("test", &[list.len()], list, Category::Input).unwrap(), device);
    let far = 1i64 << 40;
    for (op, attributes, inputs, text) in [
        (
            "embedding",
            vec![Attribute::None],
            vec![table.clone(), index(&[0, 5, 3])],
            "index 3 is out of range for size 3",
        ),
        ("index_select", vec![int(0)], vec![table.clone(), index(&[2, -1])], "valid indices are 0 to 2"),
        (
            "index_get",
            vec![],
            vec![table.clone(), index(&[-4])],
            "index: index -4 is out of range for size 3; valid indices are -3",
        ),
        (
            "index_get",
            vec![],
            vec![table.clone(), index(&[0, 1]), index(&[1, 2])],
            "index 2 is out of range for size 2",
        ),
        ("one_hot", vec![int(3)], vec![index(&[1, 7])], "one_hot: class 7 of 3 classes; classes are 0 to 2"),
        (
            "index_add",
            vec![int(0)],
            vec![table.clone(), index(&[9]), on(&tensor(&[1, 2], &[1.0; 2], DType::F32), device)],
            "index_add: index 9",
        ),
        ("embedding", vec![Attribute::None], vec![table.clone(), index(&[far])], "is out of range for size 3"),
    ] {
        let op = registry::build(op, &attributes).unwrap();
        let y = run::compute(&*op, &inputs.iter().collect::<Vec<_>>(), false).unwrap();
        // Whatever is read next, and once only.
        let error = table.numbers().unwrap_err();
        assert!(error.kind() == Kind::Index && error.text().contains(text), "{error}");
        assert_eq!(table.numbers().unwrap(), [1.0; 6]);
        // Nothing plausible is read where the index was bad.
        if y[0].dtype() == DType::F32 && op.name() != "index_add" {
            assert!(y[0].numbers().unwrap().iter().any(|v| v.is_nan()), "{op:?}");
        }
    }
    // In place nothing is written where the index is bad.
    let x = on(&tensor(&[3], &[1.0; 3], DType::F32), device);
    let nine = on(&tensor(&[2], &[9.0; 2], DType::F32), device);
    let put = registry::build("index_put", &[flag(false)]).unwrap();
    run::into(&*put, &[&x, &nine, &index(&[3, 1])], std::slice::from_ref(&x)).unwrap();
    assert!(x.numbers().is_err());
    assert_eq!(x.numbers().unwrap(), [1.0, 9.0, 1.0]);
    // A wait looks as well.
    let select = registry::build("index_select", &[int(0)]).unwrap();
    run::compute(&*select, &[&x, &index(&[8])], false).unwrap();
    assert_eq!(gpu::open(0).unwrap().wait().unwrap_err().kind(), Kind::Index);
    gpu::open(0).unwrap().wait().unwrap();
}

#[test]
fn every_op_with_a_kernel_agrees_with_the_cpu() {
    let Some((device, _turn)) = device() else { return };
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
