//! Bringing back dropped values by running their makers again: same op, same attributes, same inputs, same bits.
//!
//! All the makers that are missing on the way run once each, in the order of recording. What is made on the way and not kept
//! is freed after its last use in this replay.

use super::node::{Node, Saved, check_version};
use super::resident::{self, Key};
use super::store::{self, NodeId};
use super::{Var, budget, session};
use crate::arena::{self, Context};
use crate::error::{Error, Result};
use crate::ops::{Mask, OpRef, bit, run};
use crate::tensor::Tensor;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::collections::BTreeMap;

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
        let before = (Context::get(), arena::by_engine(true));
        let result = bring_back(id, &wanted, &mut held);
        before.0.set();
        arena::by_engine(before.1);
        result?;
    }
    Ok(held)
}

/// What is needed to run a node again.
struct Recipe {
    op: OpRef,
    inputs: SmallVec<[Source; 4]>,
    context: Context,
}

enum Source {
    Here(Tensor),
    Made(NodeId, u32),
}

fn bring_back(visitor: NodeId, wanted: &[Key], held: &mut Vec<Tensor>) -> Result<()> {
    let mut recipes: BTreeMap<NodeId, Recipe> = BTreeMap::new();
    // Of each node whose outputs pass through this replay, the last one that reads them.
    let mut last: FxHashMap<NodeId, NodeId> = FxHashMap::default();
    let mut pending: Vec<NodeId> = wanted.iter().map(|key| key.0).collect();
    while let Some(id) = pending.pop() {
        if recipes.contains_key(&id) {
            continue;
        }
        let recipe = recipe(id)?;
        for source in &recipe.inputs {
            if let Source::Made(maker, _) = source {
                let reader = last.entry(*maker).or_insert(id);
                *reader = id.max(*reader);
                pending.push(*maker);
            }
        }
        recipes.insert(id, recipe);
    }
    let mut passing: FxHashMap<NodeId, Vec<Option<Tensor>>> = FxHashMap::default();
    while let Some((id, recipe)) = recipes.pop_first() {
        let read: SmallVec<[NodeId; 4]> = recipe.inputs.iter().filter_map(Source::maker).collect();
        let outputs = run_again(recipe, &passing)?;
        budget::count_replay(resident::cost(id));
        let is_read = last.contains_key(&id);
        let mut kept = vec![];
        for (k, value) in outputs.into_iter().enumerate() {
            let key = (id, k as u32);
            let here = resident::find(key).is_some();
            let is_wanted = wanted.contains(&key);
            if !here && (is_wanted || resident::keeps(key, visitor)) {
                resident::restore(key, &value);
                session::restored(key, value.storage().block_id());
            }
            if is_wanted && !here {
                held.push(value.clone());
            }
            kept.push((is_read && !here).then_some(value));
        }
        if is_read {
            passing.insert(id, kept);
        }
        for maker in read {
            if last[&maker] == id {
                passing.remove(&maker);
            }
        }
    }
    Ok(())
}

impl Source {
    fn maker(&self) -> Option<NodeId> {
        match self {
            Source::Here(_) => None,
            Source::Made(id, _) => Some(*id),
        }
    }
}

fn run_again(recipe: Recipe, passing: &FxHashMap<NodeId, Vec<Option<Tensor>>>) -> Result<run::Outputs> {
    let input = |source: &Source| match source {
        Source::Here(tensor) => tensor.clone(),
        Source::Made(maker, k) => match passing.get(maker).and_then(|outputs| outputs[*k as usize].as_ref()) {
            Some(tensor) => tensor.clone(),
            // It was there all along: its maker ran for another of its outputs.
            None => found(*maker, *k).expect("bug: a replay lost a value on its way"),
        },
    };
    let inputs: SmallVec<[Tensor; 4]> = recipe.inputs.iter().map(input).collect();
    let references: SmallVec<[&Tensor; 4]> = inputs.iter().collect();
    recipe.context.set();
    run::compute(&*recipe.op, &references, true)
}

/// An output of a node as the node laid it out, when its bytes are there.
fn found(id: NodeId, output: u32) -> Option<Tensor> {
    let storage = resident::find((id, output))?;
    let meta = store::with(id, |node| node.outputs[output as usize].clone());
    Some(Tensor::on(meta, storage, 0))
}

fn recipe(id: NodeId) -> Result<Recipe> {
    let (op, context, inputs) = store::with(id, |node| -> Result<_> {
        let context = Context { op: node.op.name(), module: node.module, line: node.line };
        let inputs = (0..node.inputs.len()).map(|i| near(node, i)).collect::<Result<SmallVec<[Source; 4]>>>()?;
        Ok((node.op.clone(), context, inputs))
    })?;
    let look = |source: Source| match source {
        Source::Made(maker, k) => found(maker, k).map_or(Source::Made(maker, k), Source::Here),
        here => here,
    };
    Ok(Recipe { op, context, inputs: inputs.into_iter().map(look).collect() })
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
        return Ok(Source::Made(input.node, input.output));
    }
    let name = node.op.name();
    Err(Error::graph(format!(
        "backward: {name} must be computed again, but what it read was freed by an earlier backward; \
         pass retain_graph=True to that one"
    )))
}
