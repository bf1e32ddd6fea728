//! Bringing back dropped values by running their makers again: same op, same attributes, same inputs, same bits.
//!
//! All the makers that are missing on the way run once each, in the order of recording. What is made on the way and not kept
//! is freed after its last use in this replay.

use super::node::{Node, Saved, check_version};
use super::resident::{self, Key};
use super::store::{self, NodeId};
use super::{Var, budget, lean, session};
use crate::arena::{self, Context, trace};
use crate::device::Device;
use crate::error::{Error, Kind, Result};
use crate::ops::{Mask, OpRef, bit, run};
use crate::tensor::Tensor;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// The inputs that no tracked node can make again: leaves, constants, and what was recorded elsewhere.
pub fn pins(x: &[&Var], needs: Mask, bases: &[Option<Key>]) -> Vec<(u32, u32, Tensor)> {
    let kept = x.iter().enumerate().filter(|(i, _)| needs & bit(*i) == 0 || bases[*i].is_none());
    kept.map(|(i, v)| (i as u32, v.tensor.storage().version(), v.tensor.clone())).collect()
}

/// Brings back whatever node `id` saved and that was dropped meanwhile. Returns holds on all that it saved, without which a
/// replay could drop what another has just brought back.
pub fn materialise(id: NodeId) -> Result<Vec<Tensor>> {
    let wanted = resident::gone(id);
    let saved = |node: &Node| node.saved.iter().flat_map(|s| s.iter()).filter_map(|s| s.tensor().cloned()).collect();
    let mut held: Vec<Tensor> = store::with(id, saved);
    if !wanted.is_empty() {
        let (before, _engine) = (Context::get(), arena::by_engine());
        let result = if session::lean() {
            lean::bring_back(id, &wanted, &mut held)
        } else {
            bring_back(id, &wanted, &mut held).or_else(|error| match error.kind() {
                // What was brought back so far stays; the rest may fit on the narrow path.
                Kind::OutOfMemory => lean::bring_back(id, &resident::gone(id), &mut held).map_err(|_| error),
                _ => Err(error),
            })
        };
        before.set();
        result?;
    }
    Ok(held)
}

/// Values made again that no saved slot holds.
pub type Held = FxHashMap<Key, Tensor>;

/// What is needed to run a node again.
pub(super) struct Recipe {
    id: NodeId,
    op: OpRef,
    inputs: SmallVec<[Source; 4]>,
    context: Context,
}

enum Source {
    Here(Tensor),
    Made(Key),
}

impl Source {
    fn here(self) -> Option<Tensor> {
        if let Source::Here(tensor) = self { Some(tensor) } else { None }
    }
}

/// Each missing maker once, the first recorded first.
fn bring_back(visitor: NodeId, wanted: &[Key], held: &mut Vec<Tensor>) -> Result<()> {
    let mut recipes: BTreeMap<NodeId, Recipe> = BTreeMap::new();
    // Of each value that passes through this replay, the last node that reads it.
    let mut last: FxHashMap<Key, NodeId> = FxHashMap::default();
    let mut pending: Vec<NodeId> = wanted.iter().map(|key| key.0).collect();
    while let Some(id) = pending.pop() {
        if recipes.contains_key(&id) {
            continue;
        }
        let recipe = recipe(id)?;
        for key in recipe.reads() {
            let reader = last.entry(key).or_insert(id);
            *reader = id.max(*reader);
            pending.push(key.0);
        }
        recipes.insert(id, recipe);
    }
    let mut passing = Held::default();
    while let Some((id, recipe)) = recipes.pop_first() {
        let reads: SmallVec<[Key; 4]> = recipe.reads().collect();
        let outputs = run_again(recipe, |key| passing.get(&key).cloned())?;
        for (k, value) in outputs.into_iter().enumerate() {
            let key = (id, k as u32);
            if resident::find(key).is_some() {
                continue;
            }
            let is_wanted = wanted.contains(&key);
            if is_wanted || resident::keeps(key, visitor) {
                restore(key, &value);
            }
            held.extend(is_wanted.then(|| value.clone()));
            if last.contains_key(&key) {
                passing.insert(key, value);
            }
        }
        for key in reads {
            if last[&key] == id {
                passing.remove(&key);
            }
        }
    }
    Ok(())
}

/// All that must run for the outputs of a node: its recipe, and those of what is neither there nor held.
fn closure(id: NodeId, recipe: impl Fn(NodeId) -> Result<Recipe>, held: &Held) -> Result<BTreeMap<NodeId, Recipe>> {
    let mut recipes: BTreeMap<NodeId, Recipe> = BTreeMap::new();
    let mut pending = vec![id];
    while let Some(id) = pending.pop() {
        if let Entry::Vacant(place) = recipes.entry(id) {
            let recipe = place.insert(recipe(id)?);
            pending.extend(recipe.reads().filter(|read| !held.contains_key(read)).map(|read| read.0));
        }
    }
    Ok(recipes)
}

/// Runs them, the first recorded first, and returns the outputs of the last. What no later one reads goes on the way.
fn run_all(mut recipes: BTreeMap<NodeId, Recipe>, held: &Held) -> Result<run::Outputs> {
    let mut passing = Held::default();
    loop {
        let (id, recipe) = recipes.pop_first().expect("bug: nothing is to run again");
        let outputs = run_again(recipe, |key| passing.get(&key).or_else(|| held.get(&key)).cloned())?;
        if recipes.is_empty() {
            return Ok(outputs);
        }
        passing.extend(outputs.into_iter().enumerate().map(|(k, value)| ((id, k as u32), value)));
        passing.retain(|made, _| recipes.values().any(|later| later.reads().any(|read| read == *made)));
    }
}

/// The outputs of a node once more, with the help of values that are held. A plan has seen to what the node reads; but of what is
/// older than the step it knows nothing, and that may have gone under pressure.
pub fn outputs(id: NodeId, held: &Held) -> Result<run::Outputs> {
    run_all(closure(id, recipe, held)?, held)
}

/// All that must run for a value that was never kept, from what the nodes above it hold.
fn remaking(id: NodeId) -> Result<BTreeMap<NodeId, Recipe>> {
    let mut recipes = closure(id, |id| Ok(recipe(id)?.shortened()), &Held::default())?;
    join_relus(&mut recipes);
    Ok(recipes)
}

/// Where that is one op on the CPU: the op, and what it reads.
pub fn single(id: NodeId) -> Result<Option<(OpRef, Vec<Tensor>)>> {
    if store::with(id, |node| node.outputs[0].device != Device::Cpu) {
        return Ok(None);
    }
    let mut recipes = remaking(id)?;
    let last = recipes.pop_first().filter(|_| recipes.is_empty());
    Ok(last.map(|(_, recipe)| (recipe.op, recipe.inputs.into_iter().filter_map(Source::here).collect())))
}

/// A value that was never kept, made again.
pub fn remake(key: Key) -> Result<Tensor> {
    Ok(run_all(remaking(key.0)?, &Held::default())?.swap_remove(key.1 as usize))
}

/// A ReLU and what it alone reads are made in one pass, where there is one. On a GPU ops are joined anyway.
fn join_relus(recipes: &mut BTreeMap<NodeId, Recipe>) {
    let joined = |id: &NodeId| {
        let recipe = &recipes[id];
        let [Source::Made(read)] = recipe.inputs[..] else { return None };
        let from = recipes.get(&read.0).filter(|_| recipe.op.is_relu() && read.1 == 0)?;
        let here = store::with(read.0, |node| node.outputs[0].device == Device::Cpu);
        let alone = here && recipes.values().flat_map(Recipe::reads).filter(|other| *other == read).count() == 1;
        Some((*id, read.0, from.op.with_relu().filter(|_| alone)?))
    };
    let found: SmallVec<[(NodeId, NodeId, OpRef); 2]> = recipes.keys().filter_map(joined).collect();
    for (id, from, op) in found {
        let from = recipes.remove(&from).expect("bug: a recipe was joined twice");
        recipes.entry(id).and_modify(|recipe| (recipe.op, recipe.inputs) = (op, from.inputs));
    }
}

/// The first output of a node, by an op that leaves the slope where the node's saved input was, and stands there from now on.
pub fn take_apart(id: NodeId, op: OpRef) -> Result<Tensor> {
    let recipe = Recipe { op: op.clone(), ..recipe(id)? };
    let y = run_again(recipe, |_| None)?.swap_remove(0);
    let before = store::with_mut(id, |node| std::mem::replace(&mut node.op, op));
    drop(before);
    Ok(y)
}

pub(super) fn restore(key: Key, value: &Tensor) {
    resident::restore(key, value);
    session::restored(key, value.storage());
}

impl Recipe {
    /// The same first output, made with the help of what the node saved of its outputs.
    fn shortened(mut self) -> Recipe {
        if let Some(op) = self.op.again() {
            let is_output = |s: &&Saved| s.position(|_| false, |_| true);
            let known = |node: &Node| -> Vec<Option<Tensor>> {
                node.saved.iter().flat_map(|s| s.iter()).filter(is_output).map(|s| s.tensor().cloned()).collect()
            };
            let known: Option<Vec<Tensor>> = store::with(self.id, known).into_iter().collect();
            if let Some(known) = known {
                self.op = op;
                self.inputs.extend(known.into_iter().map(Source::Here));
            }
        }
        self
    }

    /// What must be made first.
    fn reads(&self) -> impl Iterator<Item = Key> + '_ {
        self.inputs.iter().filter_map(|source| if let Source::Made(key) = source { Some(*key) } else { None })
    }
}

/// Runs a node; `passing` knows what this replay has made so far.
pub(super) fn run_again(recipe: Recipe, passing: impl Fn(Key) -> Option<Tensor>) -> Result<run::Outputs> {
    let mut inputs: SmallVec<[Tensor; 4]> = SmallVec::new();
    for source in &recipe.inputs {
        inputs.push(match source {
            Source::Here(tensor) => tensor.clone(),
            Source::Made(key) => fetch(*key, &passing)?,
        });
    }
    let references: SmallVec<[&Tensor; 4]> = inputs.iter().collect();
    let before = recipe.context.set();
    let mut span = trace::Span::of_node(trace::Work::Replay, recipe.id.number(), recipe.context);
    let outputs = run::compute(&*recipe.op, &references, true);
    if let Ok(outputs) = &outputs {
        super::trace::cost(&mut span, &*recipe.op, &references, outputs);
    }
    drop(span);
    before.set();
    if !recipe.op.is_view() {
        budget::count_replay(resident::cost(recipe.id));
    }
    outputs
}

/// A value on its way, or there all along; or a view of such a one, taken again.
fn fetch(key: Key, passing: &impl Fn(Key) -> Option<Tensor>) -> Result<Tensor> {
    let mut views: Vec<(OpRef, u32)> = vec![];
    let mut at = key;
    let mut tensor = loop {
        if let Some(tensor) = passing(at).or_else(|| found(at)) {
            break tensor;
        }
        let (op, source) = store::with(at.0, |node| -> Result<_> { Ok((node.op.clone(), near(node, 0)?)) })?;
        assert!(op.is_view(), "bug: a replay lost a value of {} on its way", op.name());
        views.push((op, at.1));
        match source {
            Source::Here(tensor) => break tensor,
            Source::Made(up) => at = up,
        }
    };
    while let Some((op, output)) = views.pop() {
        tensor = run::compute(&*op, &[&tensor], true)?.swap_remove(output as usize);
    }
    Ok(tensor)
}

/// An output of a node as the node laid it out, when its bytes are there.
pub(super) fn found(key: Key) -> Option<Tensor> {
    let storage = resident::find(key)?;
    let meta = store::with(key.0, |node| node.outputs[key.1 as usize].clone());
    Some(Tensor::on(meta, storage, 0))
}

pub(super) fn recipe(id: NodeId) -> Result<Recipe> {
    let (op, context, inputs) = store::with(id, |node| -> Result<_> {
        let context = Context { op: node.op.name(), module: node.module, line: node.line };
        let inputs = (0..node.inputs.len()).map(|i| near(node, i)).collect::<Result<SmallVec<[Source; 4]>>>()?;
        Ok((node.op.clone(), context, inputs))
    })?;
    let look = |source: Source| match source {
        Source::Made(key) => found(key).map_or(Source::Made(key), Source::Here),
        here => here,
    };
    Ok(Recipe { id, op, context, inputs: inputs.into_iter().map(look).collect() })
}

/// Where input `i` of a node is to be had: in its own slots, among its pins, or from its maker.
fn near(node: &Node, i: usize) -> Result<Source> {
    let own = node.saved.iter().flat_map(|s| s.iter()).find(|s| s.is_input(i));
    if let Some(saved) = own
        && let Some(tensor) = Saved::tensor(saved)
    {
        saved.check(node.op.name(), node.line)?;
        return Ok(Source::Here(tensor.clone()));
    }
    let pin = node.extra.iter().flat_map(|e| &e.pins).find(|p| p.0 as usize == i);
    if let Some((_, version, tensor)) = pin {
        check_version(tensor, *version, node.op.name(), node.line)?;
        return Ok(Source::Here(tensor.clone()));
    }
    let input = &node.inputs[i];
    if input.node.is_some() && node.saved.is_some() {
        return Ok(Source::Made((input.node, input.output)));
    }
    let name = node.op.name();
    Err(Error::graph(format!(
        "backward: {name} must be computed again, but what it read was freed by an earlier backward; \
         pass retain_graph=True to that one"
    )))
}
