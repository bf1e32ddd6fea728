//! What was computed, and the way back: an append-only arena of nodes.
//!
//! Ids only grow, so a consumer's id is above its producers' and the way back is a walk in descending id. Nodes live in
//! pages; a page is freed with its last node. Nothing here recurses: a million chained nodes drop on a small stack.

pub mod budget;
mod capture;
mod custom;
mod follow;
pub mod forecast;
pub mod frugal;
mod lean;
mod node;
pub mod record;
pub mod region;
pub mod replay;
pub mod resident;
pub mod session;
mod store;
pub mod sweep;
mod trace;

pub use custom::{CustomVjp, record_custom};
pub use node::{Hook, Leaf};
pub use record::{apply, apply_in_place, grad_enabled, set_grad_enabled};
pub use store::{NodeId, NodeRef, live_nodes, next_id};
pub use sweep::{Request, sweep};
pub use trace::{NodeFacts, needs};

use crate::error::{Error, Result};
use crate::tensor::Tensor;
use std::sync::Arc;

/// A tensor with its history: what callers hold.
#[derive(Clone)]
pub struct Var {
    pub tensor: Tensor,
    node: Option<NodeRef>,
    /// The storage's version when this value was made; a later write through another handle makes the history wrong.
    version: u32,
}

impl Var {
    /// A value without history.
    pub fn constant(tensor: Tensor) -> Var {
        let version = tensor.storage().version();
        Var { tensor, node: None, version }
    }

    /// A leaf: gradients arriving here are kept.
    pub fn leaf(tensor: Tensor) -> Var {
        let node = store::push(node::Node::leaf(&tensor));
        let version = tensor.storage().version();
        Var { tensor, node: Some(node), version }
    }

    fn made_by(tensor: Tensor, node: NodeRef) -> Var {
        let version = tensor.storage().version();
        Var { tensor, node: Some(node), version }
    }

    pub fn requires_grad(&self) -> bool {
        self.node.is_some()
    }

    pub fn is_leaf(&self) -> bool {
        self.node.as_ref().is_none_or(|n| store::with(n.id(), |node| node.is_leaf()))
    }

    pub fn node(&self) -> Option<&NodeRef> {
        self.node.as_ref()
    }

    /// The name of the op that made this value.
    pub fn op_name(&self) -> Option<&'static str> {
        let node = self.node.as_ref()?;
        store::with(node.id(), |n| if n.is_leaf() { None } else { Some(n.op.name()) })
    }

    pub fn detach(&self) -> Var {
        Var::constant(self.tensor.clone())
    }

    /// Where the gradient of a leaf, or of a value asked to retain it, is kept.
    pub fn grad_slot(&self) -> Option<Arc<Leaf>> {
        let node = self.node.as_ref()?;
        store::with(node.id(), |n| n.slot(node.output()))
    }

    /// Keeps the gradient of a value that is not a leaf.
    pub fn retain_grad(&self) -> Result<()> {
        let node = self.node.as_ref().ok_or_else(|| {
            Error::graph("retain_grad: this tensor does not require a gradient; make it from one that does")
        })?;
        store::with_mut(node.id(), |n| n.retain_slot(node.output()));
        Ok(())
    }

    /// Calls `hook` with the gradient of this value in every later sweep; it may return another in its place.
    pub fn add_hook(&self, hook: Hook) -> Result<u64> {
        let node = self.node.as_ref().ok_or_else(|| {
            Error::graph("register_hook: this tensor does not require a gradient; make it from one that does")
        })?;
        Ok(store::with_mut(node.id(), |n| n.add_hook(node.output(), hook)))
    }

    pub fn remove_hook(&self, id: u64) {
        if let Some(node) = &self.node {
            let removed = store::with_mut(node.id(), |n| n.remove_hook(id));
            drop(removed);
        }
    }

    /// An in-place write through another handle since this value was made.
    fn check_fresh(&self, op: &str) -> Result<()> {
        if self.node.is_none() || self.version == self.tensor.storage().version() || self.is_leaf() {
            return Ok(());
        }
        let line = self.tensor.storage().written_at();
        let at = if line.is_none() { String::new() } else { format!(" at {}", line.text()) };
        Err(Error::graph(format!(
            "{op}: its input shares memory with a tensor that was changed in place{at}, after it was taken; \
             clone it before the change"
        )))
    }

    /// After a write through this very handle, its history is up to date again.
    pub fn refresh(&mut self) {
        self.version = self.tensor.storage().version();
    }
}

/// The values that the node behind `var` keeps for its vjp, by name: "input 0", "output 1".
pub fn saved_values(var: &Var) -> Vec<(String, Var)> {
    let Some(node) = var.node() else { return vec![] };
    store::with(node.id(), |n| {
        let saved = n.saved.iter().flat_map(|list| list.iter());
        saved.filter_map(|s| Some((s.name(), Var::constant(s.tensor()?.clone())))).collect()
    })
}
