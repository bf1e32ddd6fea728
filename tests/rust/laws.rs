//! The laws, over every registered op and every sample. An op is tested by being registered; there are no other ops.

use backsweep::arena;
use backsweep::arena::ledger::Category;
use backsweep::dtype::DType;
use backsweep::error::Result;
use backsweep::graph::{self, Request, Var};
use backsweep::ops::laws::{Exact, Sample};
use backsweep::ops::{Back, Engine, OpRef, Saves, V, bit, registry, run};
use backsweep::shape::Layout;
use backsweep::tensor::{Meta, Tensor};
use samples::*;
use std::sync::Mutex;

mod samples;

/// The ledger is one for the process, so the tests that read it take turns.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn values_agree_with_the_exact_reading_in_every_float_type() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let mut count = 0;
    for case in cases() {
        for (dtype, tolerance) in [
            (DType::F64, (1e-12, 1e-13)),
            (DType::F32, (2e-5, 2e-6)),
            (DType::BF16, (2e-2, 1e-2)),
            (DType::F16, (4e-3, 2e-3)),
        ] {
            let (tensors, exact) = inputs(&case.sample, dtype, &mut case.random());
            let Some(want) = case.sample.op.reference(&exact) else { continue };
            let x: Vec<Var> = tensors.iter().cloned().map(Var::constant).collect();
            let got = run_op(&case.sample, &x);
            assert_eq!(got.len(), want.len(), "{}: number of outputs", case.name());
            for (g, w) in got.iter().zip(&want) {
                assert_eq!(g.tensor.shape(), w.shape.as_slice(), "{}: shape", case.name());
                // Indices of a narrow type may differ where rounding made a tie.
                if dtype.is_half() && !g.tensor.dtype().is_float() && want.len() > 1 {
                    continue;
                }
                assert_close(&g.tensor.to_f64(), &w.data, tolerance, &format!("{} {}", case.name(), dtype.name()));
            }
            count += 1;
        }
    }
    println!("law value: {} ops, {count} runs", registry::entries().len());
}

/// ⟨y(x), dy⟩ by the exact reading.
fn projected(sample: &Sample, x: &[Exact], dy: &[Tensor], visible: &[bool]) -> Option<f64> {
    let y = sample.op.reference(x)?;
    let pairs = y.iter().zip(dy).zip(visible).filter(|(_, v)| **v);
    Some(pairs.map(|((y, dy), _)| y.data.iter().zip(dy.to_f64()).map(|(a, b)| a * b).sum::<f64>()).sum())
}

#[test]
fn vjps_agree_with_differences_of_the_exact_reading() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let mut count = 0;
    for case in cases() {
        let mut random = case.random();
        let (tensors, exact) = inputs(&case.sample, DType::F64, &mut random);
        let x = leaves(&tensors);
        let y = run_op(&case.sample, &x);
        let dy = cotangents(&y, &mut random);
        let visible: Vec<bool> = y.iter().map(Var::requires_grad).collect();
        let dx = gradients(&y, &dy, &x, false, false);
        for (i, dx) in dx.iter().enumerate() {
            let Some(dx) = dx else { continue };
            assert_eq!(dx.tensor.shape(), tensors[i].shape(), "{}: gradient's shape", case.name());
            assert_eq!(dx.tensor.dtype(), tensors[i].dtype(), "{}: gradient's type", case.name());
            let direction: Vec<f64> = exact[i].data.iter().map(|_| random.signed()).collect();
            let moved = |h: f64| {
                let mut x = exact.clone();
                x[i].data.iter_mut().zip(&direction).for_each(|(v, d)| *v += h * d);
                projected(&case.sample, &x, &dy, &visible)
            };
            let h = 1e-5;
            let (Some(a), Some(b), Some(c), Some(d)) = (moved(h), moved(-h), moved(2.0 * h), moved(-2.0 * h)) else {
                continue;
            };
            let numeric = (8.0 * (a - b) - (c - d)) / (12.0 * h);
            let analytic: f64 = dx.tensor.to_f64().iter().zip(&direction).map(|(g, d)| g * d).sum();
            let size = direction.len() as f64;
            assert!(
                close(analytic, numeric, 1e-7, 1e-8 * (1.0 + size.sqrt())),
                "{}: input {i}: the vjp says {analytic}, differences say {numeric}",
                case.name()
            );
            count += 1;
        }
    }
    println!("law vjp: {} ops, {count} gradients", registry::entries().len());
}

#[test]
fn gradients_of_gradients_agree_with_differences_of_gradients() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let mut count = 0;
    for case in cases() {
        let mut random = case.random();
        let (tensors, exact) = inputs(&case.sample, DType::F64, &mut random);
        let x = leaves(&tensors);
        let y = run_op(&case.sample, &x);
        let dy = cotangents(&y, &mut random);
        let dx = gradients(&y, &dy, &x, true, true);
        // s = Σ ⟨dx, v⟩, differentiated once more.
        let v: Vec<Option<Vec<f64>>> =
            dx.iter().map(|d| d.as_ref().map(|d| (0..d.tensor.numel()).map(|_| random.signed()).collect())).collect();
        let roots: Vec<(Var, Var)> = dx
            .iter()
            .zip(&v)
            .filter_map(|(d, v)| {
                let d = d.as_ref()?;
                let v = tensor(d.tensor.shape(), v.as_ref()?, DType::F64);
                d.requires_grad().then(|| (d.clone(), Var::constant(v)))
            })
            .collect();
        if roots.is_empty() {
            continue;
        }
        let mut check = || Ok(());
        let request =
            Request { roots: &roots, targets: Some(&x), retain_graph: false, create_graph: false, check: &mut check };
        let second = graph::sweep(request).unwrap_or_else(|e| panic!("{}: {e}", case.name()));
        for (i, second) in second.iter().enumerate() {
            let Some(second) = second else { continue };
            let direction: Vec<f64> = exact[i].data.iter().map(|_| random.signed()).collect();
            let first = |h: f64| -> f64 {
                let mut moved = tensors.clone();
                let data: Vec<f64> = exact[i].data.iter().zip(&direction).map(|(x, d)| x + h * d).collect();
                moved[i] = tensor(tensors[i].shape(), &data, DType::F64);
                let x = leaves(&moved);
                let dx = gradients(&run_op(&case.sample, &x), &dy, &x, false, false);
                let parts = dx.iter().zip(&v).filter_map(|(d, v)| {
                    let pairs = d.as_ref()?.tensor.to_f64().into_iter().zip(v.as_ref()?.clone());
                    Some(pairs.map(|(a, b)| a * b).sum::<f64>())
                });
                parts.sum()
            };
            let h = 1e-5;
            let numeric = (8.0 * (first(h) - first(-h)) - (first(2.0 * h) - first(-2.0 * h))) / (12.0 * h);
            let analytic: f64 = second.tensor.to_f64().iter().zip(&direction).map(|(g, d)| g * d).sum();
            assert!(
                close(analytic, numeric, 1e-6, 1e-7 * (1.0 + (direction.len() as f64).sqrt())),
                "{}: second derivative by input {i}: {analytic}, differences say {numeric}",
                case.name()
            );
            count += 1;
        }
    }
    println!("law second derivative: {} ops, {count} gradients", registry::entries().len());
}

/// An engine that hands out what an op declared, notes what was asked for, and refuses the rest.
struct Witness<'a> {
    x: &'a [Tensor],
    y: &'a [Tensor],
    declared: Saves,
    read: Saves,
    recorded: bool,
    values: Vec<Tensor>,
}

impl Witness<'_> {
    fn push(&mut self, tensor: Tensor) -> V {
        self.values.push(tensor);
        V(self.values.len() as u32 - 1)
    }
}

impl Engine for Witness<'_> {
    fn apply(&mut self, op: OpRef, x: &[V]) -> Result<V> {
        let x: Vec<&Tensor> = x.iter().map(|v| &self.values[v.0 as usize]).collect();
        let mut y = run::compute(&*op, &x, false)?;
        y.truncate(op.visible());
        let first = V(self.values.len() as u32);
        self.values.extend(y);
        Ok(first)
    }
    fn tensor(&self, v: V) -> &Tensor {
        &self.values[v.0 as usize]
    }
    fn constant(&mut self, tensor: Tensor) -> V {
        self.push(tensor)
    }
    fn input(&mut self, i: usize) -> Result<V> {
        assert!(self.declared.inputs & bit(i) != 0, "input {i} is read and was not declared");
        self.read.inputs |= bit(i);
        Ok(self.push(self.x[i].clone()))
    }
    fn output(&mut self, i: usize) -> Result<V> {
        assert!(self.declared.outputs & bit(i) != 0, "output {i} is read and was not declared");
        self.read.outputs |= bit(i);
        Ok(self.push(self.y[i].clone()))
    }
    fn has_output(&self, i: usize) -> bool {
        self.declared.outputs & bit(i) != 0
    }
    fn records(&self) -> bool {
        self.recorded
    }
}

#[test]
fn only_what_is_declared_is_read_and_all_of_it_is() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let mut count = 0;
    for case in cases() {
        let op = &*case.sample.op;
        let mut random = case.random();
        let (tensors, _) = inputs(&case.sample, DType::F32, &mut random);
        let smooth = |i: &usize| tensors[*i].dtype().is_float() && op.differentiable() & bit(*i) != 0;
        let wanted: Vec<usize> = (0..tensors.len()).filter(smooth).collect();
        let all = wanted.iter().fold(0, |mask, i| mask | bit(*i));
        let mut masks: Vec<u32> = wanted.iter().map(|i| bit(*i)).chain([all]).filter(|mask| *mask != 0).collect();
        masks.dedup();
        let y = run::compute(op, &tensors.iter().collect::<Vec<_>>(), true).unwrap();
        let x_metas: Vec<Meta> = tensors.iter().map(|t| t.meta.clone()).collect();
        let y_metas: Vec<Meta> = y.iter().map(|t| t.meta.clone()).collect();
        for needs in masks {
            let there = |mask: u32, n: usize| (0..n).fold(0, |m, i| m | mask & bit(i));
            let saves = op.saves(needs);
            let declared = Saves { inputs: there(saves.inputs, tensors.len()), outputs: there(saves.outputs, y.len()) };
            let mut read = Saves::NOTHING;
            for recorded in [false, true] {
                let mut witness = Witness { x: &tensors, y: &y, declared, read, recorded, values: vec![] };
                let seen = y.iter().enumerate().map(|(i, y)| (i < op.visible() && y.dtype().is_float()).then_some(y));
                let seen: Vec<Option<Tensor>> = seen.map(|y| y.cloned()).collect();
                let dy: Vec<Option<V>> = seen.into_iter().map(|y| y.map(|y| witness.push(y))).collect();
                let mut back = Back::new(&mut witness, needs, &dy, &x_metas, &y_metas);
                op.vjp(&mut back).unwrap_or_else(|e| panic!("{}: {e}", case.name()));
                read = witness.read;
            }
            // Of a 0-d tensor the maximum is the tensor, and its place need not be read.
            let trivial = tensors.iter().all(|t| t.shape().is_empty());
            assert!(trivial || read == declared, "{}: {read:?} is read, {declared:?} declared", case.name());
            count += 1;
        }
    }
    println!("law saves: {} ops, {count} vjps", registry::entries().len());
}

#[test]
fn what_is_not_declared_may_be_poisoned() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let (mut count, mut poisoned) = (0, 0);
    for case in cases() {
        let mut run = |poison: bool| {
            let mut random = case.random();
            let (tensors, _) = inputs(&case.sample, DType::F32, &mut random);
            let x = leaves(&tensors);
            let y = run_op(&case.sample, &x);
            let dy = cotangents(&y, &mut random);
            let free = |v: &&Var| poison && !v.tensor.storage().is_saved() && v.tensor.layout().is_dense();
            for v in x.iter().chain(&y).filter(free) {
                // All bits set: NaN in every float type, and no valid index. Nobody is told of the change.
                v.tensor.view().raw_out().fill(0xFF);
                poisoned += 1;
            }
            let dx = gradients(&y, &dy, &x, false, false);
            dx.iter().map(|v| v.as_ref().map(|v| bits(&v.tensor))).collect::<Vec<_>>()
        };
        assert_eq!(run(false), run(true), "{}: a vjp reads what was not declared", case.name());
        count += 1;
    }
    println!("law poison: {} ops, {count} runs, {poisoned} tensors filled with NaN", registry::entries().len());
}

fn bits(t: &Tensor) -> Vec<u64> {
    t.to_f64().iter().map(|v| v.to_bits()).collect()
}

#[test]
fn layouts_do_not_change_a_bit_forward_or_backward() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let mut count = 0;
    for case in cases() {
        let mut random = case.random();
        let (tensors, _) = inputs(&case.sample, DType::F32, &mut random);
        let x = leaves(&tensors);
        let y = run_op(&case.sample, &x);
        let dy = cotangents(&y, &mut random);
        let dx = gradients(&y, &dy, &x, false, false);
        for (how, striding) in STRIDINGS.iter().enumerate().take(7).skip(1) {
            let tensors: Vec<Tensor> = tensors.iter().map(|t| laid_out(t, how)).collect();
            let x2 = leaves(&tensors);
            let y2 = run_op(&case.sample, &x2);
            let dy2: Vec<Tensor> = dy.iter().map(|t| laid_out(t, how)).collect();
            let dx2 = gradients(&y2, &dy2, &x2, false, false);
            for (a, b) in y.iter().zip(&y2) {
                assert_eq!(bits(&a.tensor), bits(&b.tensor), "{}: forward, {striding}", case.name());
            }
            for (a, b) in dx.iter().zip(&dx2) {
                let of = |v: &Option<Var>| v.as_ref().map(|v| bits(&v.tensor));
                assert_eq!(of(a), of(b), "{}: backward, {striding}", case.name());
            }
            count += 1;
        }
        // The eighth: stride 0, inputs and gradients that are their own first slice, expanded.
        let first = |t: &Tensor| {
            let mut strides: Vec<isize> = t.layout().strides().to_vec();
            if !t.shape().is_empty() && t.dtype().is_float() && t.numel() > 0 {
                strides[0] = 0;
            }
            t.with_layout(Layout::strided(t.shape(), &strides), t.offset())
        };
        let dense =
            |t: &Tensor| run::relaid(t, Layout::contiguous("law", t.shape()).unwrap(), Category::Input).unwrap();
        let run = |lay: &dyn Fn(&Tensor) -> Tensor| {
            let x = leaves(&tensors.iter().map(lay).collect::<Vec<_>>());
            let y = run_op(&case.sample, &x);
            let dx = gradients(&y, &dy.iter().map(lay).collect::<Vec<_>>(), &x, false, false);
            let bits_of = |v: &Var| bits(&v.tensor);
            (y.iter().map(bits_of).collect::<Vec<_>>(), dx.iter().map(|v| v.as_ref().map(bits_of)).collect::<Vec<_>>())
        };
        let (spread, copied) = (run(&first), run(&|t| dense(&first(t))));
        assert_eq!(spread.0, copied.0, "{}: forward, {}", case.name(), STRIDINGS[7]);
        assert_eq!(spread.1, copied.1, "{}: backward, {}", case.name(), STRIDINGS[7]);
        count += 1;
    }
    println!("law layouts: {} ops, {count} runs", registry::entries().len());
}

#[test]
fn replayed_values_give_bit_identical_gradients() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let mut count = 0;
    let double = || registry::build("mul", &[]).unwrap();
    for case in cases() {
        let run = |drop: bool| {
            let mut random = case.random();
            let (tensors, _) = inputs(&case.sample, DType::F32, &mut random);
            let before = graph::resident::set_tracking(true);
            let leaves = leaves(&tensors);
            // One op in front and one behind, so that values have makers and uses of their own.
            let square = |v: &Var| {
                if v.requires_grad() {
                    graph::apply(double(), &[v, &Var::constant(Tensor::scalar(1.0, DType::F32).unwrap())])
                        .unwrap()
                        .swap_remove(0)
                } else {
                    v.clone()
                }
            };
            let x: Vec<Var> = leaves.iter().map(square).collect();
            let y = run_op(&case.sample, &x);
            graph::resident::set_tracking(before);
            let dy = cotangents(&y, &mut random);
            if drop {
                y.iter().filter(|v| v.requires_grad()).for_each(|v| {
                    graph::resident::drop_saved(v);
                });
            }
            drop_handles(x);
            gradients(&y, &dy, &leaves, false, false)
        };
        let (kept, replayed) = (run(false), run(true));
        for (a, b) in kept.iter().zip(&replayed) {
            let of = |v: &Option<Var>| v.as_ref().map(|v| bits(&v.tensor));
            assert_eq!(of(a), of(b), "{}: replay changed a gradient", case.name());
        }
        count += 1;
    }
    println!("law replay: {} ops, {count} runs", registry::entries().len());
}

#[test]
fn an_op_that_splits_gives_the_same_value_and_gradient_by_its_slope() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let mut split_ops = std::collections::BTreeSet::new();
    for case in cases() {
        let Some(split) = case.sample.op.split() else { continue };
        let mut random = case.random();
        let (tensors, _) = inputs(&case.sample, DType::F32, &mut random);
        let x = leaves(&tensors);
        let y = run_op(&case.sample, &x);
        let dy = cotangents(&y, &mut random);
        let dx = gradients(&y, &dy, &x, false, false);
        // The slope takes the input's place, so it is given a copy.
        let slope = run::relaid(&tensors[0], tensors[0].layout().clone(), Category::Temporary).unwrap();
        let value = run::compute(&*split, &[&slope], false).unwrap();
        assert_eq!(bits(&value[0]), bits(&y[0].tensor), "{}: the value", case.name());
        let product = run::call("mul", &[&dy[0], &slope], &[]).unwrap();
        assert_eq!(bits(&product), bits(&dx[0].as_ref().unwrap().tensor), "{}: the gradient", case.name());
        split_ops.insert(split.name());
    }
    assert!(split_ops.contains("gelu"), "no op splits");
    println!("law split: {split_ops:?}");
}

fn drop_handles(list: Vec<Var>) {
    std::mem::drop(list);
}

#[test]
fn the_ledger_balances_and_everything_is_given_back() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let mut count = 0;
    for case in cases() {
        let before = (arena::stats(), graph::live_nodes());
        {
            let mut random = case.random();
            let (tensors, _) = inputs(&case.sample, DType::F32, &mut random);
            let x = leaves(&tensors);
            let y = run_op(&case.sample, &x);
            let stats = arena::stats();
            assert_eq!(stats.by_category.iter().sum::<usize>(), stats.live, "{}", case.name());
            let dy = cotangents(&y, &mut random);
            gradients(&y, &dy, &x, false, false);
            let stats = arena::stats();
            assert_eq!(stats.by_category.iter().sum::<usize>(), stats.live, "{}", case.name());
            assert_eq!(
                stats.by_category[Category::Workspace as usize],
                before.0.by_category[Category::Workspace as usize]
            );
        }
        let after = (arena::stats(), graph::live_nodes());
        assert_eq!(
            (before.0.live, before.0.blocks, before.1),
            (after.0.live, after.0.blocks, after.1),
            "{}: left behind",
            case.name()
        );
        count += 1;
    }
    println!("law ledger: {} ops, {count} runs", registry::entries().len());
}

#[test]
fn costs_are_finite_and_bytes_cover_the_outputs() {
    let mut count = 0;
    for case in cases() {
        let (tensors, _) = inputs(&case.sample, DType::F32, &mut case.random());
        let x: Vec<&Tensor> = tensors.iter().collect();
        let cost = run::cost(&*case.sample.op, &x).unwrap();
        assert!(cost.flops.is_finite() && cost.flops >= 0.0 && cost.bytes.is_finite(), "{}", case.name());
        let y = run::compute(&*case.sample.op, &x, false).unwrap();
        let written: usize = if case.sample.op.is_view() { 0 } else { y.iter().map(|y| y.meta.bytes()).sum() };
        assert!(cost.bytes >= written as f64, "{}: {} bytes, {written} written", case.name(), cost.bytes);
        count += 1;
    }
    println!("law cost: {} ops, {count} runs", registry::entries().len());
}

#[test]
fn wrong_numbers_of_inputs_are_refused() {
    for case in cases() {
        let (tensors, _) = inputs(&case.sample, DType::F32, &mut case.random());
        let mut more: Vec<Var> = tensors.iter().cloned().map(Var::constant).collect();
        more.extend((0..40).map(|_| Var::constant(Tensor::scalar(1.0, DType::Bool).unwrap())));
        let result = graph::apply(case.sample.op.clone(), &more.iter().collect::<Vec<_>>());
        assert!(result.is_err(), "{}: took 40 inputs too many", case.name());
    }
}

/// What a forward and its sweep do to the ledger.
fn events(case: &Case, tensors: &[Tensor], dy: &[Tensor], grad: bool) -> (Vec<String>, Vec<Var>) {
    let x: Vec<Var> = match grad {
        true => leaves(tensors),
        false => tensors.iter().cloned().map(Var::constant).collect(),
    };
    arena::record_start();
    let y = run_op(&case.sample, &x);
    let dx = if grad { gradients(&y, dy, &x, false, false) } else { vec![] };
    let recording = arena::record_stop().unwrap();
    drop_handles(dx.into_iter().flatten().collect());
    (told(&recording), y)
}

#[test]
fn on_paper_every_op_is_billed_as_for_real_and_no_number_is_written() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    const POISON: u8 = 0xA5;
    let (mut count, mut allocating) = (0, 0);
    for case in cases() {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let mut random = case.random();
            let (tensors, _) = inputs(&case.sample, dtype, &mut random);
            let x: Vec<Var> = tensors.iter().cloned().map(Var::constant).collect();
            let dy = cotangents(&run_op(&case.sample, &x), &mut random);
            // Inputs that lie as kernels like them, and turned ones, which are copied first.
            let turned: Vec<Tensor> = tensors.iter().map(turned).collect();
            for (tensors, grad) in [(&tensors, true), (&tensors, false), (&turned, true), (&turned, false)] {
                let (real, _) = events(&case, tensors, &dy, grad);
                // Blocks of every small size, so that what is handed out next has known bytes.
                let sizes = [16, 32].into_iter().chain((64..=4096).step_by(64));
                let sizes = sizes.flat_map(|bytes| std::iter::repeat_n(bytes, 12));
                let poison: Vec<Tensor> = sizes
                    .map(|n| Tensor::from_slice("law", &[n], &vec![POISON; n], Category::Temporary).unwrap())
                    .collect();
                drop(poison);
                arena::set_paper(true);
                let (paper, y) = events(&case, tensors, &dy, grad);
                arena::set_paper(false);
                assert_eq!(paper, real, "{} {} grad {grad}: paper, and for real", case.name(), dtype.name());
                for y in y.iter().filter(|y| y.tensor.storage().charged_bytes() <= 4096 && !case.sample.op.is_view()) {
                    let written = y.tensor.view().raw().iter().any(|&byte| byte != POISON);
                    assert!(!written, "{} {}: a kernel ran on paper", case.name(), dtype.name());
                }
                count += 1;
                allocating += usize::from(case.sample.op.allocates());
            }
        }
    }
    println!("law paper: {} ops, {count} runs, {allocating} of them with workspaces", registry::entries().len());
}

/// The same values in column-major order.
fn turned(t: &Tensor) -> Tensor {
    let shape = t.shape();
    if shape.len() < 2 {
        return t.clone();
    }
    let mut strides = vec![0isize; shape.len()];
    let mut step = 1;
    for axis in 0..shape.len() {
        strides[axis] = step;
        step *= shape[axis].max(1) as isize;
    }
    run::relaid(t, Layout::strided(shape, &strides), Category::Input).unwrap()
}
