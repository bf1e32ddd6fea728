//! The way back: one loop in descending id. Knows no op.

use super::custom::{Custom, Origin};
use super::node::{Hook, Input, Node, Saved};
use super::record;
use super::store::{self, NodeId, NodeRef};
use super::{Leaf, Var};
use super::{forecast, frugal, replay, resident, session};
use crate::arena::ledger::Category;
use crate::arena::{Context, trace};
use crate::device::cpu::pool;
use crate::error::{Error, Result};
use crate::ops::transfer::Transfer;
use crate::ops::{Back, Engine, Mask, Metas, OpRef, V, bit, run};
use crate::shape::Layout;
use crate::tensor::{Meta, Tensor};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a sweep is asked for.
pub struct Request<'a> {
    /// Where it starts, each with its gradient.
    pub roots: &'a [(Var, Var)],
    /// With targets, their gradients are returned and no leaf is touched.
    pub targets: Option<&'a [Var]>,
    pub retain_graph: bool,
    pub create_graph: bool,
    /// Called at every node; an error ends the sweep.
    pub check: &'a mut dyn FnMut() -> Result<()>,
}

type Slots = SmallVec<[Option<Var>; 1]>;
/// Gradients on their way to the makers of a node's inputs, and to which of their outputs.
type Given = SmallVec<[(NodeId, u32, Var); 3]>;

/// Runs a request. Leaves receive their gradients at the very end, so that an error or a Ctrl-C leaves them as they were.
pub fn sweep(request: Request) -> Result<Vec<Option<Var>>> {
    let _span = trace::Span::sweep();
    let before = Before { context: Context::get(), grad: record::set_grad_enabled(request.create_graph) };
    let result = Sweep::new(&request).and_then(|sweep| sweep.run(request));
    drop(before);
    if session::active() {
        session::after_sweep(result.is_ok());
    }
    result
}

/// What held before a sweep, and holds again after it, even one that panicked.
struct Before {
    context: Context,
    grad: bool,
}

impl Drop for Before {
    fn drop(&mut self) {
        record::set_grad_enabled(self.grad);
        self.context.set();
    }
}

struct Sweep {
    pending: BTreeMap<NodeId, Slots>,
    leaves: Vec<(Arc<Leaf>, Var)>,
    found: Vec<Option<Var>>,
}

impl Sweep {
    fn new(request: &Request) -> Result<Sweep> {
        let found = vec![None; request.targets.map_or(0, <[Var]>::len)];
        let mut sweep = Sweep { pending: BTreeMap::new(), leaves: vec![], found };
        for (root, dy) in request.roots {
            let node = root.node().ok_or_else(|| {
                Error::graph("backward: this tensor does not require a gradient and was not made from one that does")
            })?;
            sweep.add(node.id(), node.output(), dy.clone(), request.create_graph)?;
        }
        Ok(sweep)
    }

    fn run(mut self, request: Request) -> Result<Vec<Option<Var>>> {
        let targets = request.targets.unwrap_or(&[]);
        let last = targets.iter().filter_map(|t| Some(t.node()?.id())).min();
        while let Some((id, mut dy)) = self.pending.pop_last() {
            (request.check)()?;
            if request.targets.is_some() && last.is_none_or(|last| id < last) {
                break;
            }
            let mut held = vec![];
            if resident::any() {
                resident::arrive(id);
                if session::active() {
                    session::before_visit(id);
                }
                held = replay::materialise(id)?;
                if !request.retain_graph {
                    resident::visited(id);
                }
            }
            if request.targets.is_none()
                && !trace::on()
                && let Some(leaf) = store::with(id, Node::plain_leaf)
            {
                self.leaves.extend(dy.into_iter().flatten().map(|dy| (leaf.clone(), dy)));
                continue;
            }
            let visit = Visit::begin(id, request.retain_graph)?;
            let _span = trace::Span::of_node(trace::Work::Backward, id.number(), visit.context);
            drop(held);
            visit.run_hooks(&mut dy)?;
            for (found, target) in self.found.iter_mut().zip(targets) {
                let node = target.node().filter(|n| n.id() == id);
                if let Some(dy) = node.and_then(|n| dy.get(n.output() as usize)) {
                    *found = dy.clone();
                }
            }
            if request.targets.is_none() {
                for (output, leaf) in &visit.slots {
                    if let Some(Some(dy)) = dy.get(*output as usize) {
                        self.leaves.push((leaf.clone(), dy.clone()));
                    }
                }
            }
            let once = !request.retain_graph && !request.create_graph && request.targets.is_none() && !resident::any();
            for (node, output, dx) in visit.vjp(dy, request.create_graph, once)? {
                self.add(node, output, dx, request.create_graph)?;
            }
            if !request.retain_graph {
                trace::done(id.number());
            }
        }
        for (leaf, dy) in std::mem::take(&mut self.leaves) {
            arrive(&leaf, dy, request.create_graph)?;
        }
        Ok(self.found)
    }

    /// Moves the first gradient in, adds later ones.
    fn add(&mut self, id: NodeId, output: u32, dy: Var, recorded: bool) -> Result<()> {
        let slots = self.pending.entry(id).or_default();
        if slots.len() <= output as usize {
            slots.resize(output as usize + 1, None);
        }
        let slot = &mut slots[output as usize];
        *slot = Some(match slot.take() {
            None => dy,
            Some(sum) => accumulate(sum, dy, recorded)?,
        });
        Ok(())
    }
}

fn add() -> OpRef {
    crate::ops::registry::build("add", &[]).expect("bug: there is no add")
}

/// sum + more, in the memory of `sum` when nobody else looks at it.
fn accumulate(sum: Var, more: Var, recorded: bool) -> Result<Var> {
    let alone = Arc::strong_count(sum.tensor.storage()) == 1 && sum.tensor.layout().is_dense();
    if !recorded && alone {
        return record::apply_in_place(add(), &sum, &[&more]);
    }
    Ok(record::apply(add(), &[&sum, &more])?.swap_remove(0))
}

/// A gradient reaches a leaf. It gets memory of its own, so that a later in-place sum changes nobody else's value.
fn arrive(leaf: &Arc<Leaf>, dy: Var, recorded: bool) -> Result<()> {
    forecast::note(leaf)?;
    let mut grad = leaf.grad.lock();
    let sum = match grad.take() {
        None => {
            let own = recorded || Arc::strong_count(dy.tensor.storage()) == 1 && dy.tensor.layout().is_dense();
            if own { dy } else { Var::constant(copied(&dy.tensor)?) }
        }
        Some(old) if recorded => record::apply(add(), &[&old, &dy])?.swap_remove(0),
        Some(old) => record::apply_in_place(add(), &old.detach(), &[&dy])?,
    };
    sum.tensor.storage().retag(Category::Gradient);
    *grad = Some(sum);
    Ok(())
}

fn copied(t: &Tensor) -> Result<Tensor> {
    let layout = if t.layout().is_dense() { t.layout().clone() } else { Layout::contiguous("copy", t.shape())? };
    run::relaid(t, layout, Category::Gradient)
}

/// All of a node that the sweep needs, taken out under one lock.
struct Visit {
    op: OpRef,
    metas: SmallVec<[Meta; 2]>,
    /// The maker of each input, and which of its outputs it is.
    makers: SmallVec<[(NodeId, u32); 2]>,
    outputs: Metas,
    saved: Kept,
    slots: SmallVec<[(u32, Arc<Leaf>); 1]>,
    hooks: Vec<(u32, Hook)>,
    custom: Option<Custom>,
    context: Context,
    /// Holds the node alive through its vjp.
    hold: NodeRef,
}

/// The saved values: taken out for good, or lent because the graph is retained.
enum Kept {
    Taken(Box<[Saved]>),
    Lent(Vec<Saved>),
}

impl Kept {
    fn find(&self, wanted: impl Fn(&Saved) -> bool) -> Option<&Saved> {
        match self {
            Kept::Taken(list) => list.iter().find(|s| wanted(s)),
            Kept::Lent(list) => list.iter().find(|s| wanted(s)),
        }
    }
}

impl Visit {
    fn begin(id: NodeId, retain: bool) -> Result<Visit> {
        // Given away on success only: dropped under the store's lock, it would wait for that lock.
        let mut hold = Some(NodeRef::hold(id, 0));
        store::with_mut(id, |node| {
            let name = node.op.name();
            if !node.is_leaf() {
                forecast::may_visit(id)?;
            }
            let saved = if retain {
                node.saved.as_ref().map(|list| Kept::Lent(list.iter().map(Saved::lend).collect()))
            } else if node.is_leaf() {
                Some(Kept::Lent(vec![]))
            } else {
                node.saved.take().map(Kept::Taken)
            };
            let saved = saved.ok_or_else(|| {
                let line = if node.line.is_none() { String::new() } else { format!(" at {}", node.line.text()) };
                Error::graph(format!(
                    "backward: the values that {name}{line} saved were freed by an earlier backward; \
                     pass retain_graph=True to that one"
                ))
            })?;
            let (slots, hooks, custom) = node.extra.as_ref().map_or_else(Default::default, |e| {
                let hooks = e.hooks.iter().map(|(_, out, hook)| (*out, hook.clone())).collect();
                (e.slots.clone(), hooks, e.custom.clone())
            });
            let (mut metas, mut makers) = (SmallVec::new(), SmallVec::new());
            for Input { meta, node, output } in &node.inputs {
                metas.push(meta.clone());
                makers.push((*node, *output));
            }
            Ok(Visit {
                op: node.op.clone(),
                metas,
                makers,
                outputs: node.outputs.clone(),
                saved,
                slots,
                hooks,
                custom,
                context: Context { op: name, module: node.module, line: node.line },
                hold: hold.take().expect("bug: a visit without a hold"),
            })
        })
    }

    fn run_hooks(&self, dy: &mut Slots) -> Result<()> {
        for (output, hook) in &self.hooks {
            if let Some(Some(slot)) = dy.get_mut(*output as usize)
                && let Some(replaced) = hook(slot)?
            {
                if replaced.tensor.shape() != slot.tensor.shape() {
                    return Err(Error::shape(format!(
                        "hook: it returned a gradient of shape {:?} for a value of shape {:?}; return the same shape",
                        replaced.tensor.shape(),
                        slot.tensor.shape()
                    )));
                }
                *slot = replaced;
            }
        }
        Ok(())
    }

    /// The gradients of the inputs, in the inputs' shapes and types. `once`: the sweep will visit all that it has not yet, and
    /// none will after it.
    fn vjp(self, dy: Slots, recorded: bool, once: bool) -> Result<Given> {
        let needs =
            self.makers.iter().enumerate().filter(|(_, m)| m.0.is_some()).fold(0 as Mask, |m, (i, _)| m | bit(i));
        if needs == 0 {
            return Ok(Given::new());
        }
        self.context.set();
        let mut engine = Running { visit: &self, values: SmallVec::new(), recorded, once };
        if let Some(custom) = &self.custom {
            let dx = custom.vjp.vjp(engine.custom_saved(custom)?, dy.into_vec())?;
            return self.custom_gradients(engine, dx);
        }
        let dy: SmallVec<[Option<V>; 2]> =
            (0..self.outputs.len()).map(|i| dy.get(i).cloned().flatten().map(|var| engine.push(var))).collect();
        let mut back = Back::new(&mut engine, needs, &dy, &self.metas, &self.outputs);
        self.op.vjp(&mut back)?;
        let dx = back.finish();
        let mut given = Given::new();
        for (i, v) in dx.into_iter().enumerate() {
            let (node, output) = &self.makers[i];
            if let (Some(v), true) = (v, node.is_some()) {
                let v = fitted(&mut engine, v, &self.metas[i])?;
                // Moved out, so that a gradient nobody else holds can be added to in place.
                let var = engine.take(v);
                given.push((*node, *output, var));
            }
        }
        drop(engine);
        Ok(given)
    }
}

impl Visit {
    /// The user's gradients, checked one for one.
    fn custom_gradients(&self, mut engine: Running, dx: Vec<Option<Var>>) -> Result<Given> {
        let name = self.op.name();
        if dx.len() != self.makers.len() {
            return Err(Error::graph(format!(
                "{name}.backward: {} gradients for {} tensor inputs; return one for each, None where there is none",
                dx.len(),
                self.makers.len()
            )));
        }
        let mut given = Given::new();
        for ((dx, meta), (node, output)) in dx.into_iter().zip(&self.metas).zip(&self.makers) {
            let (Some(dx), true) = (dx, node.is_some()) else { continue };
            if dx.tensor.shape() != meta.shape() {
                return Err(Error::shape(format!(
                    "{name}.backward: a gradient of shape {:?} for an input of shape {:?}; the shapes must be equal",
                    dx.tensor.shape(),
                    meta.shape()
                )));
            }
            let v = engine.push(dx);
            let v = fitted(&mut engine, v, meta)?;
            given.push((*node, *output, engine.take(v)));
        }
        Ok(given)
    }
}

/// Undoes broadcasting and promotion: the gradient of an input has the input's shape and type. The only place that does.
fn fitted(engine: &mut Running, v: V, meta: &Meta) -> Result<V> {
    let mut v = v;
    if engine.tensor(v).shape() != meta.shape() {
        let shape = crate::shape::Dims::from_slice(engine.tensor(v).shape());
        let extra = shape.len().checked_sub(meta.rank()).ok_or_else(|| {
            Error::internal(format!(
                "bug: {} gave a gradient of shape {shape:?} for an input of shape {:?}",
                engine.visit.op.name(),
                meta.shape()
            ))
        })?;
        let summed: Vec<usize> =
            (0..shape.len()).filter(|&i| i < extra || meta.shape()[i - extra] == 1 && shape[i] != 1).collect();
        let mut back = Back::new(engine, 0, &[], &[], &[]);
        v = back.sum(v, &summed, false)?;
        v = back.reshape(v, meta.shape())?;
    }
    if engine.tensor(v).device() != meta.device {
        v = Back::new(engine, 0, &[], &[], &[]).apply(Transfer { to: meta.device }, &[v])?;
    }
    if engine.tensor(v).dtype() != meta.dtype {
        v = Back::new(engine, 0, &[], &[], &[]).cast(v, meta.dtype)?;
    }
    Ok(v)
}

/// The engine behind one vjp: its values, and whether their making is recorded.
struct Running<'a> {
    visit: &'a Visit,
    values: SmallVec<[Option<Var>; 8]>,
    recorded: bool,
    once: bool,
}

impl Running<'_> {
    fn push(&mut self, var: Var) -> V {
        self.values.push(Some(var));
        V(self.values.len() as u32 - 1)
    }

    fn var(&self, v: V) -> &Var {
        self.values[v.0 as usize].as_ref().expect("bug: a value was used after it was given away")
    }

    /// The last use of a value: a copy of the handle when the same value was given to several inputs.
    fn take(&mut self, v: V) -> Var {
        self.var(v).clone()
    }

    /// All that a custom op saved, each with its history when the sweep is recorded.
    fn custom_saved(&self, custom: &Custom) -> Result<Vec<Var>> {
        let one = |(i, origin): (usize, &Origin)| {
            let tensor = self.saved(|s| s.is_input(i))?;
            Ok(match *origin {
                Origin::Maker(id, output) if self.recorded => Var::made_by(tensor, NodeRef::hold(id, output)),
                Origin::Own(output) if self.recorded => {
                    Var::made_by(tensor, NodeRef::hold(self.visit.hold.id(), output))
                }
                _ => Var::constant(tensor),
            })
        };
        custom.origins.iter().enumerate().map(one).collect()
    }

    fn kept(&self, slot: impl Fn(&Saved) -> bool) -> Result<&Saved> {
        let name = self.visit.op.name();
        let saved = self.visit.saved.find(slot);
        let saved = saved.ok_or_else(|| Error::internal(format!("bug: {name} reads a value it did not declare")))?;
        saved.check(name, self.visit.context.line)?;
        Ok(saved)
    }

    fn saved(&self, slot: impl Fn(&Saved) -> bool) -> Result<Tensor> {
        let name = self.visit.op.name();
        let tensor = self.kept(slot)?.tensor().cloned();
        tensor.ok_or_else(|| Error::internal(format!("bug: {name} met a value that was not brought back")))
    }
}

impl Engine for Running<'_> {
    fn apply(&mut self, op: OpRef, x: &[V]) -> Result<V> {
        let first = V(self.values.len() as u32);
        let outputs = if self.recorded {
            let inputs: SmallVec<[&Var; 4]> = x.iter().map(|v| self.var(*v)).collect();
            pool::watched(|| record::apply(op, &inputs))?
        } else {
            pool::watched(|| record::apply_plainly(&*op, x.iter().map(|v| &self.var(*v).tensor)))?
        };
        self.values.extend(outputs.into_iter().map(Some));
        // The op set its own tag; what follows in this vjp belongs to the node again.
        self.visit.context.set();
        Ok(first)
    }

    fn tensor(&self, v: V) -> &Tensor {
        &self.var(v).tensor
    }

    fn constant(&mut self, tensor: Tensor) -> V {
        self.push(Var::constant(tensor))
    }

    fn input(&mut self, i: usize) -> Result<V> {
        let (node, output) = self.visit.makers[i];
        let tensor = match self.kept(|s| s.is_input(i))?.tensor() {
            Some(tensor) => tensor.clone(),
            None => frugal::remake(node, self.once)?,
        };
        let history = self.recorded && node.is_some();
        let var = if history { Var::made_by(tensor, NodeRef::hold(node, output)) } else { Var::constant(tensor) };
        Ok(self.push(var))
    }

    fn maker(&mut self, i: usize) -> Result<Option<(OpRef, SmallVec<[V; 6]>)>> {
        // What is recorded needs the value itself, for its history.
        if self.recorded || self.kept(|s| s.is_input(i))?.tensor().is_some() {
            return Ok(None);
        }
        let recipe = replay::single(self.visit.makers[i].0)?;
        Ok(recipe.map(|(op, inputs)| (op, inputs.into_iter().map(|t| self.push(Var::constant(t))).collect())))
    }

    fn output(&mut self, i: usize) -> Result<V> {
        let id = self.visit.hold.id();
        let tensor = self.saved(|s| s.is_output(i))?;
        let history = self.recorded && tensor.dtype().is_float() && i < self.visit.op.visible();
        let var = if history { Var::made_by(tensor, NodeRef::hold(id, i as u32)) } else { Var::constant(tensor) };
        Ok(self.push(var))
    }

    fn has_output(&self, i: usize) -> bool {
        self.visit.saved.find(|s| s.is_output(i)).is_some()
    }

    fn records(&self) -> bool {
        self.recorded
    }
}
