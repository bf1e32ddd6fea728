//! Every registered op and sample on a GPU, against the CPU in float32. Runs where there is an adapter (a software one will
//! do); `BACKSWEEP_TEST_DEVICE=gpu` makes its absence a failure. An op without a kernel fails.

use backsweep::arena;
use backsweep::arena::ledger::Category;
use backsweep::arena::space::Space;
use backsweep::device::Device;
use backsweep::device::gpu;
use backsweep::device::gpu::cooperative::{MATRIX_UNITS, Matrices};
use backsweep::device::gpu::halves::Halves;
use backsweep::device::gpu::kernel::{self, Grid};
use backsweep::device::gpu::tiles::{Sizes, With};
use backsweep::dtype::DType;
use backsweep::error::{Error, Kind, Result};
use backsweep::graph::{self, Request, Var};
use backsweep::ops::args::{Attribute, flag, float, int, ints, signed};
use backsweep::ops::laws::Domain;
use backsweep::ops::transfer::moved;
use backsweep::ops::{registry, run};
use backsweep::shape::Layout;
use backsweep::tensor::{Meta, Tensor};
use samples::*;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, OnceLock};
use translate::{ALL, Language, translate};

#[allow(dead_code)]
mod samples;
mod translate;

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

/// True where the GPU takes numbers below the normal ones for zeros, as WGSL allows.
fn flushes(device: Device) -> bool {
    static FLUSHES: OnceLock<bool> = OnceLock::new();
    let one = |number: f32| on(&tensor(&[1], &[f64::from(number)], DType::F32), device);
    let product = || run::call("mul", &[&one(f32::MIN_POSITIVE), &one(0.25)], &[]).unwrap().numbers().unwrap();
    *FLUSHES.get_or_init(|| product() == [0.0])
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
        let gone = |near: f64, far: f64| far == 0.0 && near.abs() < f32::MIN_POSITIVE.into() && flushes(device);
        let same = |near: f64, far: f64| near == far || near.is_nan() && far.is_nan() || gone(near, far);
        let off = near.iter().zip(&far).position(|(near, far)| !same(*near, *far));
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
            _ if dtype.is_float() && random.bits().is_multiple_of(8) => special[(random.bits() % 5) as usize],
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
fn a_kernel_that_does_not_compile_is_an_error_and_the_next_one_runs() {
    let Some((device, _turn)) = device() else { return };
    let gpu = gpu::open(0).unwrap();
    let x = on(&tensor(&[2], &[1.0; 2], DType::F32), device);
    let texts = [
        "fn main( {",
        "@group(0) @binding(0) var<storage, read_write> x: array<f32>;
         @compute @workgroup_size(256) fn main() { x[0] = 1u; }",
        "@group(0) @binding(5) var<storage, read_write> x: array<f32>;
         @compute @workgroup_size(256) fn main() { x[0] = 1.0; }",
        "@compute @workgroup_size(100000) fn main() {}",
    ];
    for (i, text) in texts.iter().enumerate() {
        let run = || {
            let params = backsweep::device::gpu::kernel::Words::new();
            gpu.run_text("broken", &[i as u32], &|| text.to_string(), &[x.place()], &params, Grid::threads(2))
        };
        for _ in 0..2 {
            let error = run().unwrap_err();
            assert_eq!(error.kind(), Kind::Device);
            assert!(error.text().starts_with("broken: its kernel was refused by the driver of gpu"), "{error}");
        }
    }
    assert_eq!(run::call("add", &[&x, &x], &[]).unwrap().numbers().unwrap(), [2.0, 2.0]);
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
            "cross_entropy",
            vec![int(-100), float(0.0)],
            vec![on(&tensor(&[2, 3], &[0.5; 6], DType::F32), device), index(&[-100, 3])],
            "cross_entropy: target 3 with 3 classes; 0 to 2 or ignore_index -100 is needed",
        ),
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
    let gpu = gpu::open(0).unwrap();
    gpu.texts();
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
    gpu.wait().unwrap();
    let texts = gpu.texts();
    for (text, to) in texts.iter().flat_map(|text| ALL.map(|to| (text, to))) {
        translate(text, to).unwrap_or_else(|error| panic!("{to:?}: {error}\n{text}"));
    }
    println!("gpu: {runs} runs of {} kernels on {}", texts.len(), gpu::list()[0].name);
    assert!(texts.len() > 300, "{} kernels", texts.len());
    println!("without a kernel ({}): {}", without.len(), without.iter().cloned().collect::<Vec<_>>().join(", "));
    assert!(without.is_empty(), "ops without a kernel");
    let shown = failures.iter().take(60).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} disagreements:\n{shown}", failures.len());
}

#[test]
fn on_paper_every_op_on_a_gpu_is_billed_as_for_real_and_nothing_is_sent() {
    let Some((device, _turn)) = device() else { return };
    let (gpu, spaces) = (gpu::open(0).unwrap(), [Space::HOST, device.space()]);
    let mut runs = 0;
    for case in cases() {
        for (dtype, how) in [(DType::F32, 0), (DType::F32, 1), (DType::F16, 0)] {
            let mut random = case.random();
            let (tensors, _) = inputs(&case.sample, dtype, &mut random);
            let there: Vec<Tensor> = tensors.iter().map(|t| laid_out(&on(t, device), how)).collect();
            let name = format!("{} {} {}", case.name(), dtype.name(), STRIDINGS[how]);
            let y = run_op(&case.sample, &leaves(&tensors));
            if y.iter().any(|y| y.tensor.dtype() == DType::F64) {
                continue;
            }
            let dy: Vec<Tensor> = cotangents(&y, &mut random).iter().map(|t| laid_out(&on(t, device), how)).collect();
            let events = |paper: bool| {
                let x = leaves(&there);
                arena::set_paper(paper);
                spaces.iter().for_each(|space| arena::record_start_in(*space));
                let y = forward(&case.sample, &x);
                let dx = y.as_ref().map_err(Clone::clone).and_then(|y| backward(y, &dy, &x));
                let events = spaces.map(|space| told(&arena::record_stop_in(space).unwrap()));
                arena::set_paper(false);
                (events, dx.map(|_| ()).map_err(|error| error.text().to_string()))
            };
            let real = events(false);
            let sent = gpu.counts().unwrap();
            let paper = events(true);
            assert_eq!(gpu.counts().unwrap(), sent, "{name}: something was sent");
            assert_eq!(paper, real, "{name}: paper, and for real");
            runs += 1;
        }
    }
    println!("gpu paper: {} ops, {runs} runs", registry::entries().len());
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
        Err(error) => panic!("{what}: {error}"),
    }
    // No result depends on the order of threads.
    let again = apply(&gx).unwrap();
    for (a, b) in gy.iter().zip(&again) {
        let bits = |v: &Var| numbers(v).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(a), bits(b), "{what}: a second run differs");
    }
}

fn random_tensor(shape: &[usize], domain: Domain, seed: u64) -> Tensor {
    tensor(shape, &values(shape, domain, &mut Random::new(seed)), domain.dtype().unwrap_or(DType::F32))
}

#[test]
fn integers_are_summed_in_64_bits() {
    let Some((device, _turn)) = device() else { return };
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
    // Elementwise ops see the lower half, and say so when that is not all.
    let seven = on(&Tensor::from_slice("test", &[3], &[7i64, -(1 << 31), 1 << 31], Category::Input).unwrap(), device);
    let add = registry::build("add", &[]).unwrap();
    let fits = seven.with_layout(Layout::contiguous("test", &[2]).unwrap(), 0);
    let sum = backsweep::ops::run::compute(&*add, &[&fits, &fits], false).unwrap();
    assert_eq!(sum[0].numbers().unwrap()[0], 14.0);
    let sum = backsweep::ops::run::compute(&*add, &[&seven, &seven], false).unwrap();
    let error = sum[0].numbers().unwrap_err();
    assert!(error.text().starts_with("add: an int64 beyond 32 bits"), "{error}");
    // A copy keeps all 64 bits as well.
    let x = Tensor::from_slice("test", &[2, 2], &[1i64 << 40, -(1 << 35), 7, i64::MIN + 3], Category::Input).unwrap();
    let turned = on(&x, device).with_layout(Layout::strided(&[2, 2], &[1, 2]), 0);
    let copy = backsweep::ops::run::relaid(&turned, x.layout().clone(), Category::Input).unwrap();
    assert_eq!(exact(&copy), [1 << 40, 7, -(1 << 35), i64::MIN + 3]);
}

#[test]
fn long_folds_are_cut_and_joined() {
    let Some((device, _turn)) = device() else { return };
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
    // Axes that were spread without data.
    let rows = on(&random_tensor(&[5, 9], Domain::Any, 4), device);
    let spread = |t: &Tensor| t.with_layout(Layout::strided(&[5, 4000, 9], &[9, 0, 1]), 0);
    for dims in [[0, 1], [1, 2], [0, 2]] {
        for name in ["sum", "amax", "norm", "logsumexp"] {
            let op = registry::build(name, &[signed(&dims), flag(false)]).unwrap();
            let run = |t: &Tensor| backsweep::ops::run::compute(&*op, &[t], false).unwrap()[0].numbers().unwrap();
            let (got, want) = (run(&spread(&rows)), run(&spread(&rows.to_host().unwrap())));
            assert_close(&got, &want, (4e-6, 4e-6), name);
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
    let Some((device, _turn)) = device() else { return };
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
    let Some((device, _turn)) = device() else { return };
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
fn a_target_that_is_no_class_is_the_next_read_backs_error_and_makes_its_row_nan() {
    let Some((device, _turn)) = device() else { return };
    let x = Var::leaf(on(&random_tensor(&[4, 3], Domain::Any, 1), device));
    let target = Tensor::from_slice("test", &[4], &[2i64, 3, -1, -100], Category::Input).unwrap();
    let op = registry::build("cross_entropy", &[Attribute::Int(-100), Attribute::Float(0.0)]).unwrap();
    let y = graph::apply(op, &[&x, &Var::constant(on(&target, device))]).unwrap().into_vec();
    let nan = |v: &Var| numbers(v).iter().map(|v| v.is_nan()).collect::<Vec<_>>();
    let error = y[0].tensor.numbers().unwrap_err();
    assert!(error.text().starts_with("cross_entropy: target -1 with 3 classes"), "{error}");
    assert_eq!(nan(&y[0]), [false, true, true, false]);
    let dy = on(&tensor(&[4], &[1.0; 4], DType::F32), device);
    let dx = backward(&y[..1], &[dy], std::slice::from_ref(&x)).unwrap();
    let rows: Vec<bool> = nan(dx[0].as_ref().unwrap()).chunks(3).map(|row| row.iter().all(|&v| v)).collect();
    assert_eq!(rows, [false, true, true, false]);
}

#[test]
fn products_are_cut_into_tiles_and_along_k() {
    let Some((device, _turn)) = device() else { return };
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

/// Runs `work` with what the adapter has of 16 bits and without, each joined with others and alone, and once without its matrix
/// units.
fn in_each_way(work: &dyn Fn()) {
    let gpu = gpu::open(0).unwrap();
    let ways =
        [(true, true, true), (true, true, false), (true, false, true), (false, true, false), (false, false, false)];
    for (native, joined, units) in ways {
        if native && joined && !units && gpu.matrices().is_none() {
            continue;
        }
        gpu.wait().unwrap();
        let before = (gpu.use_halves(native), gpu.join_ops(joined), gpu.use_matrices(units));
        work();
        gpu.wait().unwrap();
        gpu.use_halves(before.0);
        gpu.join_ops(before.1);
        gpu.use_matrices(before.2);
    }
}

/// The same matrix, its columns side by side.
fn turned(t: Tensor) -> Tensor {
    let [m, n] = t.shape()[..] else { return t };
    let shape = Meta::contiguous("test", &[n, m], t.dtype(), Device::Cpu).unwrap();
    let other = t.with_layout(Layout::strided(&[n, m], &[1, n as isize]), 0);
    let other = run::converted(&other, shape, Category::Input).unwrap();
    other.with_layout(Layout::strided(&[m, n], &[1, m as isize]), 0)
}

#[test]
fn gradients_of_biases_are_summed_beside_those_of_weights() {
    let Some((device, _turn)) = device() else { return };
    let any = |shape: &[usize], seed: u64| random_tensor(shape, Domain::Any, seed);
    // Tiles of 128 and of 64; words of four along rows, along k and not at all; cut along k.
    for [m, n, k] in [[40, 520, 515], [36, 68, 130], [600, 5, 8], [3000, 70, 65], [1, 1, 1], [70_000, 3, 2]] {
        let (dy, x) = (any(&[m, n], 1), any(&[m, k], 2));
        agrees("linear_gradient", &[], &[dy.clone(), x.clone()], device, 2e-5);
        agrees("linear_gradient", &[], &[turned(dy), x], device, 2e-5);
    }
    let (gpu, op) = (gpu::open(0).unwrap(), registry::build("linear_gradient", &[]).unwrap());
    // One kernel, and one that joins the parts.
    for (m, kernels) in [(36, 1), (600, 2)] {
        let (dy, x) = (on(&any(&[m, 5], 1), device), on(&any(&[m, 8], 2), device));
        let before = gpu.counts().unwrap().dispatches;
        let _held = run::compute(&*op, &[&dy, &x], false).unwrap();
        assert_eq!(gpu.counts().unwrap().dispatches - before, kernels);
    }
    let sums = |dy: &Tensor| {
        let x = any(&[dy.shape()[0], 6], 2);
        run::compute(&*op, &[&on(dy, device), &on(&x, device)], false).unwrap()[1].numbers().unwrap()
    };
    for m in [9, 700] {
        let mut data = vec![1.0; m * 5];
        (data[5], data[11], data[m * 5 - 3], data[23]) = (f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::INFINITY);
        let got = sums(&tensor(&[m, 5], &data, DType::F32));
        assert!(got[0].is_nan() && got[2] == f64::NEG_INFINITY, "{got:?}");
        assert_eq!([got[1], got[3], got[4]], [f64::INFINITY, f64::INFINITY, m as f64]);
    }
}

#[test]
fn vulkan_and_metal_take_products_by_matrix_units() {
    let sizes = Sizes { batch: 1, m: 200, k: 100, n: 300 };
    let halves = Halves { f16: true, i16: false };
    for (size, subgroup) in [(8, [8, 8]), (8, [32, 32]), (16, [32, 32]), (16, [32, 64]), (16, [64, 64])] {
        let matrices = Matrices::among(&[4, size], subgroup, 64 << 10);
        assert_eq!(matrices, Some(Matrices { size, subgroup }));
        for turned in [false, true] {
            let body = gpu::gemm::trial(sizes, turned, With { halves, matrices }).text;
            let text = kernel::assemble(&[], "", &body);
            let text = format!("enable f16;\n{MATRIX_UNITS}{text}");
            assert!(text.contains(&format!("coop_mat{size}x{size}<f16, A>")));
            for to in [Language::Vulkan, Language::Metal] {
                translate(&text, to).unwrap_or_else(|error| panic!("{matrices:?} for {to:?}: {error}"));
            }
        }
    }
    // A size that no kernel has, subgroups larger than its tiles allow, and too little memory of a group.
    assert_eq!(Matrices::among(&[32], [32, 32], 64 << 10), None);
    assert_eq!(Matrices::among(&[16], [32, 128], 64 << 10), None);
    assert_eq!(Matrices::among(&[8, 16], [32, 32], 24 << 10).map(|matrices| matrices.size), Some(8));
    assert_eq!(Matrices::among(&[8, 16], [32, 32], 16 << 10), None);
}

#[test]
fn matrix_units_that_pass_their_trial_are_used() {
    let Some((_, _turn)) = device() else { return };
    let gpu = gpu::open(0).unwrap();
    let size = gpu.matrices().map_or(0, |matrices| matrices.size);
    println!("matrices of {}: {size}", gpu::list()[0].name);
    // How large they are where a driver is known to have them (a software driver with BACKSWEEP_GPU_MATRICES=1).
    if let Ok(wanted) = std::env::var("BACKSWEEP_TEST_MATRICES") {
        assert_eq!(size.to_string(), wanted);
    }
    let before = gpu.use_matrices(false);
    assert!(gpu.matrices().is_none());
    gpu.use_matrices(before);
}

#[test]
fn products_of_halves_are_summed_in_float32_and_rounded_once() {
    let Some((device, _turn)) = device() else { return };
    let ints = backsweep::ops::args::ints;
    // Eighths, whose sums are exact in float32 in any order and longer than a half: so the bits are the CPU's.
    let eighths = |shape: &[usize], dtype: DType, seed: u64| {
        let mut random = Random::new(seed);
        let n: usize = shape.iter().product();
        tensor(shape, &(0..n).map(|_| (random.bits() % 127) as f64 / 8.0 - 63.0 / 8.0).collect::<Vec<_>>(), dtype)
    };
    in_each_way(&|| {
        for dtype in [DType::F16, DType::BF16] {
            let any = |shape: &[usize], seed: u64| eighths(shape, dtype, seed);
            for (a, b) in [
                // Tiles of 128 and of 64; words of four along rows, columns, k and not at all; cut along k.
                (&[513, 40][..], &[40, 516][..]),
                (&[64, 32], &[32, 48]),
                (&[7, 33], &[33, 5]),
                (&[20, 800], &[800, 12]),
                (&[3, 9, 20], &[20, 11]),
                (&[5, 1], &[1, 3]),
            ] {
                agree(device, "matmul", &[], &[any(a, 1), any(b, 2)]);
                agree(device, "matmul", &[], &[turned(any(a, 1)), turned(any(b, 2))]);
                if let ([m, k], [_, n]) = (a, b) {
                    let (dy, x) = (any(&[*k, *m], 1), any(&[*k, *n], 2));
                    agree(device, "linear_gradient", &[], &[dy.clone(), x.clone()]);
                    agree(device, "linear_gradient", &[], &[turned(dy), x]);
                }
            }
            agree(device, "linear", &[], &[any(&[3, 5, 36], 1), any(&[44, 36], 2), any(&[44], 3)]);
            // A bias that is added behind a product too long for one kernel.
            agree(device, "linear", &[], &[any(&[2, 4200], 1), any(&[3, 4200], 2), any(&[3], 3)]);
            for (x, weight, stride, groups, bias) in [
                ([2, 16, 9, 9], [20, 16, 3, 3], [1, 1], 1, true),
                ([1, 5, 8, 7], [6, 5, 3, 3], [2, 2], 1, false),
                ([2, 6, 7, 7], [6, 1, 3, 3], [1, 2], 6, true),
                ([2, 64, 6, 6], [32, 64, 1, 1], [1, 1], 1, false),
            ] {
                let steps = [ints(&stride), ints(&[1, 1]), ints(&[1, 1]), Attribute::Int(groups)];
                let mut tensors = vec![any(&x, 3), any(&weight, 4)];
                tensors.extend(bias.then(|| any(&weight[..1], 5)));
                let all = |more: &[Attribute]| [&steps[..], more].concat();
                agree(device, "conv2d", &all(&[flag(bias)]), &tensors);
                let op = registry::build("conv2d", &all(&[flag(bias)])).unwrap();
                let y = run::compute(&*op, &tensors.iter().collect::<Vec<_>>(), false).unwrap();
                let dy = any(y[0].shape(), 6);
                agree(device, "conv2d_data_gradient", &all(&[ints(&x[2..])]), &[dy.clone(), any(&weight, 4)]);
                let own = all(&[ints(&weight[2..]), flag(bias)]);
                agree(device, "conv2d_weight_gradient", &own, &[any(&x, 3), dy]);
            }
        }
    });
}

#[test]
fn what_follows_a_product_of_halves_is_joined_with_it_where_the_adapter_writes_halves() {
    let Some((device, _turn)) = device() else { return };
    let gpu = gpu::open(0).unwrap();
    let half = |shape: &[usize]| on(&tensor(shape, &vec![0.5; shape.iter().product()], DType::F16), device);
    let (a, b) = (half(&[9, 20]), half(&[20, 12]));
    for native in [true, false] {
        gpu.wait().unwrap();
        let before = (gpu.use_halves(native), gpu.counts().unwrap().dispatches);
        let joins = gpu.halves().f16;
        let y = run::call("sigmoid", &[&run::call("matmul", &[&a, &b], &[]).unwrap()], &[]).unwrap();
        assert_eq!(gpu.counts().unwrap().dispatches - before.1, if joins { 1 } else { 2 });
        // σ(5), rounded once.
        assert_eq!(y.numbers().unwrap(), [half::f16::from_f64(1.0 / (1.0 + (-5.0f64).exp())).to_f64(); 108]);
        gpu.use_halves(before.0);
    }
}

#[test]
fn every_half_is_read_and_written_by_a_product() {
    let Some((device, _turn)) = device() else { return };
    in_each_way(&|| {
        for dtype in [DType::F16, DType::BF16] {
            // Infinities, NaN and numbers below the normal ones among them.
            let bits: Vec<u16> = (0..=u16::MAX).collect();
            let all: Vec<f64> = match dtype {
                DType::F16 => bits.iter().map(|b| half::f16::from_bits(*b).to_f64()).collect(),
                _ => bits.iter().map(|b| half::bf16::from_bits(*b).to_f64()).collect(),
            };
            let column = tensor(&[all.len(), 1], &all, dtype);
            agree(device, "matmul", &[], &[column.clone(), tensor(&[1, 1], &[1.0], dtype)]);
            // One product a sum: exact in float32 but for the smallest of bfloat16, then rounded to nearest even.
            let factors = [1.0, 3.0 / 1024.0, -0.171875, 1.0 / 4096.0, 1.0078125, 5.0, 2.0f64.powi(-14), 1.0009765625];
            if dtype == DType::F16 {
                agree(device, "matmul", &[], &[column, tensor(&[1, 8], &factors, dtype)]);
            }
        }
    });
}

#[test]
fn odd_numbers_meet_the_padding_of_a_convolution_as_on_the_cpu() {
    let Some((device, _turn)) = device() else { return };
    let ints = backsweep::ops::args::ints;
    let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    // Groups of few channels have a kernel of their own; strides and dilations skip pixels.
    for (x, weight, stride, dilation, groups) in [
        ([2, 3, 6, 7], [4, 3, 3, 3], [1, 1], [1, 1], 1),
        ([1, 4, 6, 5], [4, 1, 3, 3], [2, 1], [1, 1], 4),
        ([2, 1, 6, 5], [1, 1, 3, 3], [1, 1], [2, 1], 1),
        ([1, 6, 7, 7], [4, 3, 3, 3], [1, 1], [1, 2], 2),
        ([1, 20, 7, 7], [24, 20, 3, 3], [2, 2], [1, 2], 1),
        ([2, 3, 9, 8], [5, 3, 2, 2], [3, 4], [2, 1], 1),
        ([1, 16, 8, 12], [16, 16, 1, 1], [2, 2], [1, 1], 1),
        ([1, 6, 10, 11], [6, 1, 3, 2], [3, 5], [2, 1], 6),
        ([1, 2, 7, 8], [3, 2, 3, 2], [6, 4], [3, 6], 1),
    ] {
        for place in 0..3 {
            let numbers = |shape: &[usize], is_odd: bool, seed: u64| {
                let mut data = values(shape, Domain::Any, &mut Random::new(seed));
                if is_odd {
                    let n = data.len();
                    odd.iter().enumerate().for_each(|(i, v)| data[(7 + i * (n / 3)) % n] = *v);
                }
                tensor(shape, &data, DType::F32)
            };
            let attributes = [ints(&stride), ints(&[2, 1]), ints(&dilation), Attribute::Int(groups), flag(true)];
            let tensors =
                [numbers(&x, place == 0, 3), numbers(&weight, place == 1, 4), numbers(&weight[..1], place == 2, 5)];
            agrees("conv2d", &attributes, &tensors, device, 6e-6);
        }
    }
}

#[test]
fn long_lines_are_scanned() {
    let Some((device, _turn)) = device() else { return };
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
    let Some((device, _turn)) = device() else { return };
    // All in one kernel, as they are; the widest that are; a kernel a step.
    for [t, b, i, h] in [[12, 5, 7, 70], [3, 9, 2, 256], [5, 5, 7, 270]] {
        for (name, gates, states) in [("lstm", 4, 2), ("gru", 3, 1)] {
            recurrent(device, name, [t, b, i, h], gates, states);
        }
    }
    // More rounds than a software driver grants one thread: several kernels.
    recurrent(device, "lstm", [150, 2, 3, 256], 4, 2);
}

fn recurrent(device: Device, name: &str, [t, b, i, h]: [usize; 4], gates: usize, states: usize) {
    let mut shapes = vec![vec![t, b, i]];
    shapes.extend((0..states).map(|_| vec![b, h]));
    shapes.extend([vec![gates * h, i], vec![gates * h, h], vec![gates * h], vec![gates * h]]);
    // Sums of about the same size, however many terms they have.
    let scale = (70.0 / h as f64).min(1.0);
    let numbers = |(k, s): (usize, &Vec<usize>)| {
        let data: Vec<f64> = values(s, Domain::Unit, &mut Random::new(k as u64)).iter().map(|v| v * scale).collect();
        tensor(s, &data, DType::F32)
    };
    let tensors: Vec<Tensor> = shapes.iter().enumerate().map(numbers).collect();
    agrees(name, &[flag(true)], &tensors, device, 2e-5);
}

#[test]
fn halves_agree_with_the_cpu() {
    let Some((device, _turn)) = device() else { return };
    // Kernels that write halves themselves do so in another way where the adapter has none.
    let writers = ["attention", "cross_entropy", "dropout", "pool", "norm", "var", "max_dim", "channel"];
    let writes = |name: &str| writers.iter().any(|writer| name.contains(writer));
    let mut failures = vec![];
    for (dtype, unit, native) in
        [(DType::F16, 1.0 / 1024.0, true), (DType::BF16, 1.0 / 128.0, true), (DType::F16, 1.0 / 1024.0, false)]
    {
        gpu::open(0).unwrap().use_halves(native);
        for case in cases().filter(|case| native || writes(case.entry.name)) {
            let mut random = case.random();
            let (tensors, _) = inputs(&case.sample, dtype, &mut random);
            let x = leaves(&tensors);
            let y = run_op(&case.sample, &x);
            if y.iter().any(|y| y.tensor.dtype() == DType::F64) {
                continue;
            }
            let dy = cotangents(&y, &mut random);
            let there: Vec<Tensor> = tensors.iter().map(|t| on(t, device)).collect();
            let gx = leaves(&there);
            let there: Vec<Tensor> = dy.iter().map(|t| on(t, device)).collect();
            let found = forward(&case.sample, &gx).and_then(|gy| backward(&gy, &there, &gx).map(|gdx| (gy, gdx)));
            let (gy, gdx) = match found {
                Ok(found) => found,
                Err(error) => {
                    failures.push(format!("{}: {error}", case.name()));
                    continue;
                }
            };
            let dx = gradients(&y, &dy, &x, false, false);
            let pairs = gy.iter().zip(&y).chain(gdx.iter().flatten().zip(dx.iter().flatten()));
            for (i, (got, want)) in pairs.enumerate() {
                let (got, want) = (numbers(got), want.tensor.to_f64());
                let scale = want.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
                let off = |(g, w): (&f64, &f64)| !close(*g, *w, 2.0 * unit, 2.0 * unit * scale);
                if let Some(at) = got.iter().zip(&want).position(off) {
                    let (g, w) = (got[at], want[at]);
                    failures
                        .push(format!("{} {dtype:?}: result {i}, element {at} is {g}, the CPU has {w}", case.name()));
                }
            }
        }
    }
    gpu::open(0).unwrap().use_halves(true);
    let shown = failures.iter().take(60).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} disagreements:\n{shown}", failures.len());
}
