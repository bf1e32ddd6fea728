//! What a capture is told of the graph: the work, and which node needs which block.

use super::node::Node;
use super::store::{self, NodeId, NodeRef};
use crate::arena::Context;
use crate::arena::space::Space;
use crate::arena::trace::{self, Span};
use crate::ops::Op;
use crate::tensor::{Meta, Storage, Tensor};
use smallvec::SmallVec;
use std::collections::HashMap;

pub fn forward(op: &dyn Op) -> Span {
    Span::forward(op.name())
}

pub fn cost(span: &mut Span, op: &dyn Op, x: &[&Tensor], y: &[Tensor]) {
    span.cost(|| {
        let x: SmallVec<[&Meta; 4]> = x.iter().map(|t| &t.meta).collect();
        let y: SmallVec<[Meta; 2]> = y.iter().map(|t| t.meta.clone()).collect();
        let cost = op.cost(&x, &y);
        (cost.flops, cost.bytes)
    });
}

/// Notes the blocks that a node just recorded needs.
pub fn recorded(node: &NodeRef) {
    if !trace::on() {
        return;
    }
    let (blocks, context) = store::with(node.id(), |n| {
        let saved = n.saved.iter().flat_map(|list| list.iter());
        let blocks = saved.filter_map(|s| s.tensor()?.storage().block());
        let context = Context { op: n.op.name(), module: n.module, line: n.line };
        (blocks.collect::<SmallVec<[(Space, u32); 4]>>(), context)
    });
    blocks.into_iter().for_each(|block| trace::need(block, node.id().number(), context));
}

/// Notes that a value made again, now in this block, is needed by a node as its first block was.
pub fn needs_again(id: NodeId, node: &Node, storage: &Storage) {
    if let (true, Some(block)) = (trace::on(), storage.block()) {
        let context = Context { op: node.op.name(), module: node.module, line: node.line };
        trace::need(block, id.number(), context);
    }
}

/// A node as a row of a table.
#[derive(Clone, Copy)]
pub struct NodeFacts {
    pub id: NodeId,
    pub context: Context,
    /// Live nodes that a sweep from the newest one visits before this one.
    pub visits_away: usize,
}

/// For each block that a live node saved, the nodes that need it, the one visited first at the front.
pub fn needs() -> HashMap<(Space, u32), Vec<NodeFacts>> {
    let mut rows: HashMap<(Space, u32), Vec<NodeFacts>> = HashMap::new();
    let mut seen = 0;
    store::for_each(|id, node| {
        let context = Context { op: node.op.name(), module: node.module, line: node.line };
        for saved in node.saved.iter().flat_map(|list| list.iter()) {
            if let Some(block) = saved.tensor().and_then(|t| t.storage().block()) {
                rows.entry(block).or_default().push(NodeFacts { id, context, visits_away: seen });
            }
        }
        seen += usize::from(!node.is_leaf());
    });
    for list in rows.values_mut() {
        list.reverse();
        // Counted from the oldest node so far.
        list.iter_mut().for_each(|facts| facts.visits_away = seen - 1 - facts.visits_away);
    }
    rows
}
