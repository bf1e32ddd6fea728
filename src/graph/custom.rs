//! Ops whose gradient the user writes.

use super::node::{Extra, Input, Node, Saved};
use super::store::{self, NodeId, NodeRef};
use super::{Var, grad_enabled};
use crate::arena::Context;
use crate::error::{Error, Result};
use crate::ops::laws::Exact;
use crate::ops::{Back, Metas, Op};
use crate::tensor::{Meta, Tensor};
use smallvec::SmallVec;
use std::sync::Arc;

/// A gradient from outside: from the saved values and the outputs' gradients to one for each input.
pub trait CustomVjp: Send + Sync {
    fn vjp(&self, saved: Vec<Var>, dy: Vec<Option<Var>>) -> Result<Vec<Option<Var>>>;
}

/// Where a saved value came from, so that its history can be found again: an input's maker, or the node's own output.
#[derive(Clone, Copy)]
pub enum Origin {
    Nowhere,
    Maker(NodeId, u32),
    Own(u32),
}

#[derive(Clone)]
pub struct Custom {
    pub vjp: Arc<dyn CustomVjp>,
    pub origins: Vec<Origin>,
}

#[derive(Debug)]
struct CustomOp {
    name: &'static str,
}

impl Op for CustomOp {
    fn name(&self) -> &'static str {
        self.name
    }
    fn infer(&self, _x: &[&Meta], _recording: bool) -> Result<Metas> {
        Err(Error::graph(format!("{}: a custom op cannot be computed again; it is never dropped", self.name)))
    }
    fn cpu(&self, _x: &[&Tensor], _y: &[Tensor]) -> Result<()> {
        Err(Error::internal("bug: a custom op was computed by the engine"))
    }
    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Err(Error::internal("bug: a custom op's own gradient was not asked"))
    }
    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}

/// A name that lives as long as the process; there are as many as custom functions.
fn lasting(name: &str) -> &'static str {
    use parking_lot::Mutex;
    static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let mut names = NAMES.lock();
    if let Some(known) = names.iter().find(|n| **n == name) {
        return known;
    }
    let new: &'static str = Box::leak(name.to_string().into_boxed_str());
    names.push(new);
    new
}

/// Gives `outputs` a history of one node with the user's gradient.
pub fn record_custom(
    name: &str,
    inputs: &[Var],
    outputs: &[Var],
    saved: &[Var],
    vjp: Arc<dyn CustomVjp>,
) -> Result<Vec<Var>> {
    let wanted = |v: &Var| v.node.is_some() && v.tensor.dtype().is_float();
    if !grad_enabled() || !inputs.iter().any(wanted) {
        return Ok(outputs.iter().map(Var::detach).collect());
    }
    let origin = |v: &Var| {
        if let Some(i) =
            outputs.iter().position(|o| o.tensor.shares_storage(&v.tensor) && o.tensor.meta == v.tensor.meta)
        {
            return Origin::Own(i as u32);
        }
        v.node.as_ref().map_or(Origin::Nowhere, |n| Origin::Maker(n.id(), n.output()))
    };
    let held = |v: &Var| inputs.iter().any(|i| i.node.as_ref().map(NodeRef::id) == v.node.as_ref().map(NodeRef::id));
    let origins: Vec<Origin> = saved
        .iter()
        .map(|v| match origin(v) {
            // A maker that is no input of this node may be gone by the time of the sweep.
            Origin::Maker(..) if !held(v) => Origin::Nowhere,
            other => other,
        })
        .collect();
    let input = |v: &Var| {
        let (node, output) = match &v.node {
            Some(n) if wanted(v) => (n.id(), n.output()),
            _ => (NodeId::NONE, 0),
        };
        Input { meta: v.tensor.meta.clone(), node, output }
    };
    let kept: SmallVec<[Saved; 4]> = saved.iter().enumerate().map(|(i, v)| Saved::input(i, &v.tensor)).collect();
    let context = Context::get();
    let node = store::push(Node {
        op: CustomOp { name: lasting(name) }.into(),
        inputs: inputs.iter().map(input).collect(),
        outputs: outputs.iter().map(|v| v.tensor.meta.clone()).collect(),
        saved: Some(kept.into_vec().into_boxed_slice()),
        extra: Some(Box::new(Extra { custom: Some(Custom { vjp, origins }), ..Extra::default() })),
        holders: 0,
        module: context.module,
        line: context.line,
    });
    let made = |(i, v): (usize, &Var)| {
        if v.tensor.dtype().is_float() {
            Var::made_by(v.tensor.clone(), NodeRef::hold(node.id(), i as u32))
        } else {
            v.detach()
        }
    };
    Ok(outputs.iter().enumerate().map(made).collect())
}
