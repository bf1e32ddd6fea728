//! Applying an op: compute now, and append a node if a gradient may be asked for later.

use super::node::{Extra, Input, Node, Saved};
use super::store::{self, NodeId, NodeRef};
use super::{Var, frugal, replay, resident, session, trace};
use crate::arena::Context;
use crate::arena::ledger::Category;
use crate::error::{Error, Result};
use crate::ops::{Layouts, Mask, Metas, Op, OpRef, bit, run};
use crate::tensor::Tensor;
use smallvec::SmallVec;
use std::cell::Cell;

thread_local! {
    static GRAD: Cell<bool> = const { Cell::new(true) };
}

pub fn grad_enabled() -> bool {
    GRAD.get()
}

/// Turns recording on or off for this thread; returns what it was.
pub fn set_grad_enabled(on: bool) -> bool {
    GRAD.replace(on)
}

pub type Vars = SmallVec<[Var; 1]>;

/// Applies an op to values; returns its visible outputs.
pub fn apply(op: OpRef, x: &[&Var]) -> Result<Vars> {
    let before = Context::get();
    Context { op: op.name(), ..before }.set();
    let result = apply_tagged(op, x);
    before.set();
    result
}

/// Applies an op where nothing is recorded, inside of a sweep.
pub fn apply_plainly<'a>(op: &dyn Op, x: impl Iterator<Item = &'a Tensor>) -> Result<Vars> {
    Context { op: op.name(), ..Context::get() }.set();
    let mut tensors: SmallVec<[&Tensor; 4]> = SmallVec::new();
    x.for_each(|x| tensors.push(x));
    Ok(constants(op, run::compute(op, &tensors, false)?))
}

/// What the caller sees of an op's outputs, without history.
fn constants(op: &dyn Op, y: run::Outputs) -> Vars {
    let mut outputs = Vars::new();
    y.into_iter().take(op.visible()).for_each(|tensor| outputs.push(Var::constant(tensor)));
    outputs
}

fn apply_tagged(op: OpRef, x: &[&Var]) -> Result<Vars> {
    let needs = if grad_enabled() { needs(&*op, x) } else { 0 };
    let mut tensors: SmallVec<[&Tensor; 4]> = SmallVec::new();
    x.iter().for_each(|v| tensors.push(&v.tensor));
    if needs != 0 && session::active() && resident::tracking() {
        session::before_forward(op.name())?;
    }
    let mut span = trace::forward(&*op);
    let mut y = run::compute(&*op, &tensors, needs != 0)?;
    trace::cost(&mut span, &*op, &tensors, &y);
    if needs == 0 {
        return Ok(constants(&*op, y));
    }
    for v in x {
        v.check_fresh(op.name())?;
    }
    let visible = op.visible();
    let node = record(op, x, &y, needs);
    y.truncate(visible);
    let (id, mut first) = (node.id(), Some(node));
    let mut outputs = Vars::new();
    for (i, tensor) in y.into_iter().enumerate() {
        outputs.push(if tensor.dtype().is_float() {
            let hold = if i == 0 { first.take() } else { None };
            Var::made_by(tensor, hold.unwrap_or_else(|| NodeRef::hold(id, i as u32)))
        } else {
            Var::constant(tensor)
        });
    }
    Ok(outputs)
}

/// The inputs whose gradient will be wanted.
fn needs(op: &dyn Op, x: &[&Var]) -> Mask {
    let wanted = x.iter().enumerate().filter(|(_, v)| v.node.is_some() && v.tensor.dtype().is_float());
    let mask = wanted.fold(0, |mask, (i, _)| mask | bit(i));
    if mask == 0 { 0 } else { mask & op.differentiable() }
}

fn record(op: OpRef, x: &[&Var], y: &[Tensor], needs: Mask) -> NodeRef {
    let saves = op.saves(needs);
    let mut saved = Vec::with_capacity((saves.inputs.count_ones() + saves.outputs.count_ones()) as usize);
    let tracking = resident::tracking();
    let spared = if tracking { 0 } else { frugal::spared(&*op, x, y, saves.inputs, needs) };
    for (i, v) in x.iter().enumerate() {
        if spared & bit(i) != 0 {
            saved.push(Saved::spared(i, &v.tensor));
        } else if saves.inputs & bit(i) != 0 {
            saved.push(Saved::input(i, &v.tensor));
            if !tracking {
                frugal::share(v);
            }
        }
    }
    for (i, tensor) in y.iter().enumerate() {
        if saves.outputs & bit(i) != 0 {
            saved.push(Saved::output(i, tensor));
        }
    }
    let (mut inputs, mut outputs) = (SmallVec::new(), Metas::new());
    for (i, v) in x.iter().enumerate() {
        let (node, output) = match &v.node {
            Some(n) if needs & bit(i) != 0 => (n.id(), n.output()),
            _ => (NodeId::NONE, 0),
        };
        inputs.push(Input { meta: v.tensor.meta.clone(), node, output });
    }
    y.iter().for_each(|t| outputs.push(t.meta.clone()));
    let context = Context::get();
    let tracked = tracking.then(|| resident::bases(x, needs));
    let extra = match &tracked {
        Some(bases) => Some(Extra { pins: replay::pins(x, needs, bases), ..Extra::default() }),
        None => frugal::remaking(&*op, x, y, needs, &saved).map(|(cost, pins)| Extra {
            pins,
            remake: Some(cost),
            ..Extra::default()
        }),
    };
    let extra = extra.map(Box::new);
    let node = store::push(Node {
        op: op.clone(),
        inputs,
        outputs,
        saved: Some(saved.into_boxed_slice()),
        extra,
        holders: 0,
        module: context.module,
        line: context.line,
    });
    if let Some(bases) = tracked {
        resident::track(node.id(), &*op, x, y, &bases);
    }
    trace::recorded(&node);
    node
}

/// x = op(x, others…), written into the memory of x. Returns the value with its new history.
pub fn apply_in_place(op: OpRef, x: &Var, others: &[&Var]) -> Result<Var> {
    let before = Context::get();
    Context { op: op.name(), ..before }.set();
    let _span = trace::forward(&*op);
    let result = in_place_tagged(op, x, others);
    before.set();
    result
}

fn in_place_tagged(op: OpRef, x: &Var, others: &[&Var]) -> Result<Var> {
    let name = op.name();
    let repeats = x.tensor.layout().strides().iter().zip(x.tensor.shape()).any(|(&s, &d)| s == 0 && d > 1);
    if repeats && x.tensor.numel() > 0 {
        return Err(Error::graph(format!(
            "{name}_: the target is broadcast, so one element stands for many; clone it first"
        )));
    }
    let old;
    let mut result = None;
    let mut inputs: SmallVec<[&Var; 4]> = SmallVec::from_elem(x, 1);
    inputs.extend(others.iter().copied());
    let needs = if grad_enabled() { needs(&*op, &inputs) } else { 0 };
    let mut target = x.clone();
    // Also where the old value does not count (`zero_`): the history that the target loses must not be somebody else's.
    if grad_enabled() && (needs != 0 || x.requires_grad()) {
        if x.requires_grad() && x.is_leaf() {
            return Err(Error::graph(format!(
                "{name}_: the target is a leaf that requires a gradient; write to it under no_grad, or use {name}"
            )));
        }
        if x.node.as_ref().is_some_and(|n| store::with(n.id(), |node| node.op.is_view())) {
            return Err(Error::graph(format!(
                "{name}_: the target is a view, and the gradient of what it looks at would be lost; use {name}, or \
                 clone the view first"
            )));
        }
        target.node = None;
    }
    if needs != 0 {
        // The vjp may read the old value: it reads a copy, because the memory is about to be overwritten.
        if op.saves(needs).inputs & 1 != 0 {
            let copy = run::relaid(&x.tensor, dense_like(&x.tensor)?, Category::Temporary)?;
            let version = copy.storage().version();
            old = Var { tensor: copy, node: x.node.clone(), version };
            inputs[0] = &old;
        }
        let y = apply(op, &inputs)?.swap_remove(0);
        fits(name, &y.tensor, &x.tensor)?;
        crate::ops::pointwise::copy_into(&y.tensor, &x.tensor)?;
        target.node = y.node;
        result = Some(y.tensor);
    } else {
        let tensors: SmallVec<[&Tensor; 4]> = inputs.iter().map(|v| &v.tensor).collect();
        let metas: SmallVec<[&crate::tensor::Meta; 4]> = tensors.iter().map(|t| &t.meta).collect();
        let inferred = op.infer(&metas, false)?;
        let apart = others.iter().all(|o| !o.tensor.shares_storage(&x.tensor));
        let same = inferred[0].shape() == x.tensor.shape() && inferred[0].dtype == x.tensor.dtype();
        let laid = |(i, t): (usize, &&Tensor)| op.layouts(i) == Layouts::Any || t.layout().is_contiguous();
        let taken = tensors.iter().enumerate().all(laid)
            && (run::takes_half(&*op, x.tensor.device()) || !x.tensor.dtype().is_half());
        if op.overwrites(&x.tensor) && apart && same && taken {
            run::into(&*op, &tensors, std::slice::from_ref(&x.tensor))?;
        } else {
            let y = run::compute(&*op, &tensors, false)?.swap_remove(0);
            fits(name, &y, &x.tensor)?;
            crate::ops::pointwise::copy_into(&y, &x.tensor)?;
        }
    }
    x.tensor.storage().bump();
    target.refresh();
    if resident::tracking() {
        let made = result.as_ref().zip(target.node.as_ref());
        if !made.is_some_and(|(y, node)| resident::moved(node.id(), y, &x.tensor)) {
            session::overwritten(x.tensor.storage());
        }
    }
    Ok(target)
}

fn dense_like(t: &Tensor) -> Result<std::sync::Arc<crate::shape::Layout>> {
    if t.layout().is_dense() { Ok(t.layout().clone()) } else { crate::shape::Layout::contiguous("copy", t.shape()) }
}

/// The result of an in-place op must have the target's shape, and a type that fits without loss of kind.
fn fits(op: &str, y: &Tensor, x: &Tensor) -> Result<()> {
    if y.shape() != x.shape() {
        return Err(Error::shape(format!(
            "{op}_: the result has shape {:?} and the target {:?}; the target of an in-place op cannot grow",
            y.shape(),
            x.shape()
        )));
    }
    if y.dtype().is_float() && !x.dtype().is_float() {
        return Err(Error::dtype(format!(
            "{op}_: the result is {} and the target {}; use {op}, or a floating target",
            y.dtype().name(),
            x.dtype().name()
        )));
    }
    Ok(())
}
