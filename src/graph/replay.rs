//! Bringing back a dropped value by running its node's forward again: same op, same attributes, same inputs, same bits.

use super::Var;
use super::node::{Saved, check_version};
use super::store::{self, NodeId};
use crate::arena::{Context, trace};
use crate::error::{Error, Result};
use crate::ops::{Mask, OpRef, bit, run};
use crate::tensor::Tensor;
use smallvec::SmallVec;
use std::cell::Cell;
use std::collections::HashMap;

thread_local! {
    static PINNING: Cell<bool> = const { Cell::new(false) };
}

/// While on, nodes recorded on this thread keep hold of their inputs without history, so that they can be replayed.
pub fn set_pinning(on: bool) -> bool {
    PINNING.replace(on)
}

pub fn pinning() -> bool {
    PINNING.get()
}

/// The inputs that no node on the way back can make again: leaves, constants, and what needs no gradient.
pub fn pins(x: &[&Var], needs: Mask) -> Vec<(u32, u32, Tensor)> {
    let kept = x.iter().enumerate().filter(|(i, v)| needs & bit(*i) == 0 || v.is_leaf());
    kept.map(|(i, v)| (i as u32, v.tensor.storage().version(), v.tensor.clone())).collect()
}

/// Drops every value that the nodes on the way from `root` saved and that another node could make again. Returns how many.
pub fn drop_saved(root: &Var) -> usize {
    let Some(node) = root.node() else { return 0 };
    let mut pending = vec![node.id()];
    let mut seen = std::collections::HashSet::new();
    let mut dropped: Vec<Tensor> = Vec::new();
    while let Some(id) = pending.pop() {
        if !seen.insert(id) {
            continue;
        }
        store::with_mut(id, |node| {
            pending.extend(node.inputs.iter().map(|i| i.node).filter(|n| n.is_some()));
            let pinned = |i: usize| node.extra.as_ref().is_some_and(|e| e.pins.iter().any(|p| p.0 as usize == i));
            let replayable = node.extra.as_ref().is_some_and(|e| !e.pins.is_empty()) || !node.inputs.is_empty();
            if node.extra.as_ref().is_some_and(|e| e.custom.is_some()) {
                return;
            }
            for saved in node.saved.iter_mut().flat_map(|s| s.iter_mut()) {
                if replayable && !(0..node.inputs.len()).any(|i| saved.is_input(i) && pinned(i)) {
                    dropped.extend(saved.tensor().cloned());
                    saved.drop_value();
                }
            }
        });
    }
    dropped.len()
}

/// What is needed to run a node again.
struct Recipe {
    op: OpRef,
    inputs: SmallVec<[Source; 4]>,
    context: Context,
}

enum Source {
    Value(Tensor),
    Output(NodeId, u32),
}

/// The outputs of node `id`, the extra ones included, computed again from what is still there.
pub fn replay(id: NodeId) -> Result<Vec<Tensor>> {
    let mut made: HashMap<NodeId, Vec<Tensor>> = HashMap::new();
    let mut pending = vec![id];
    while let Some(&next) = pending.last() {
        if made.contains_key(&next) {
            pending.pop();
            continue;
        }
        let recipe = store::with(next, recipe)?;
        let missing: Vec<NodeId> = recipe
            .inputs
            .iter()
            .filter_map(|s| match s {
                Source::Output(node, _) if !made.contains_key(node) => Some(*node),
                _ => None,
            })
            .collect();
        if !missing.is_empty() {
            pending.extend(missing);
            continue;
        }
        let input = |s: &Source| match s {
            Source::Value(tensor) => tensor.clone(),
            Source::Output(node, output) => made[node][*output as usize].clone(),
        };
        let inputs: SmallVec<[Tensor; 4]> = recipe.inputs.iter().map(input).collect();
        let references: SmallVec<[&Tensor; 4]> = inputs.iter().collect();
        let before = recipe.context.set();
        let _span = trace::Span::of_node(trace::Work::Replay, next.number(), recipe.context);
        let outputs = run::compute(&*recipe.op, &references, true);
        before.set();
        made.insert(next, outputs?.into_vec());
        pending.pop();
    }
    Ok(made.remove(&id).expect("bug: a replay that made nothing"))
}

fn recipe(node: &super::node::Node) -> Result<Recipe> {
    let find = |i: usize| -> Result<Source> {
        let saved = node.saved.iter().flat_map(|s| s.iter()).find(|s| s.is_input(i));
        if let Some(tensor) = saved.and_then(Saved::tensor) {
            return Ok(Source::Value(tensor.clone()));
        }
        let pin = node.extra.iter().flat_map(|e| &e.pins).find(|p| p.0 as usize == i);
        if let Some((_, version, tensor)) = pin {
            check_version(tensor, *version, node.op.name(), node.line)?;
            return Ok(Source::Value(tensor.clone()));
        }
        let input = &node.inputs[i];
        if input.node.is_some() {
            return Ok(Source::Output(input.node, input.output));
        }
        Err(Error::internal(format!("bug: {} cannot be replayed: its input {i} was not kept", node.op.name())))
    };
    let inputs = (0..node.inputs.len()).map(find).collect::<Result<_>>()?;
    let context = Context { op: node.op.name(), module: node.module, line: node.line };
    Ok(Recipe { op: node.op.clone(), inputs, context })
}
