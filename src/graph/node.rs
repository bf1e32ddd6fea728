//! One recorded application of an op.

use super::Var;
use super::custom::Custom;
use super::store::NodeId;
use crate::arena::Context;
use crate::arena::names::Name;
use crate::error::{Error, Result};
use crate::ops::laws::Exact;
use crate::ops::{Back, Metas, Op, OpRef};
use crate::tensor::{Meta, Tensor};
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::sync::Arc;

/// Called with a gradient on its way; may return another in its place.
pub type Hook = Arc<dyn Fn(&Var) -> Result<Option<Var>> + Send + Sync>;

/// The place where the gradients arriving at a leaf are summed.
#[derive(Default)]
pub struct Leaf {
    pub grad: Mutex<Option<Var>>,
}

/// Where an input came from, and what it looked like.
pub struct Input {
    pub meta: Meta,
    /// `NodeId::NONE` for an input that needs no gradient.
    pub node: NodeId,
    pub output: u32,
}

/// A value kept for the vjp. Marks its storage as needed while it lives.
pub struct Saved {
    /// The input's position, or the output's with the top bit set.
    slot: u32,
    version: u32,
    tensor: Option<Tensor>,
}

const OUTPUT: u32 = 1 << 31;
const LEAF: &str = "leaf";

impl Saved {
    pub fn input(i: usize, tensor: &Tensor) -> Saved {
        Saved::new(i as u32, tensor)
    }
    pub fn output(i: usize, tensor: &Tensor) -> Saved {
        Saved::new(i as u32 | OUTPUT, tensor)
    }
    fn new(slot: u32, tensor: &Tensor) -> Saved {
        tensor.storage().mark_saved();
        Saved { slot, version: tensor.storage().version(), tensor: Some(tensor.clone()) }
    }
    /// A second hold on the same value.
    pub fn lend(&self) -> Saved {
        if let Some(tensor) = &self.tensor {
            tensor.storage().mark_saved();
        }
        Saved { slot: self.slot, version: self.version, tensor: self.tensor.clone() }
    }
    pub fn is_input(&self, i: usize) -> bool {
        self.slot == i as u32
    }
    pub fn is_output(&self, i: usize) -> bool {
        self.slot == i as u32 | OUTPUT
    }
    pub fn name(&self) -> String {
        let kind = if self.slot & OUTPUT == 0 { "input" } else { "output" };
        format!("{kind} {}", self.slot & !OUTPUT)
    }
    pub fn tensor(&self) -> Option<&Tensor> {
        self.tensor.as_ref()
    }
    /// Forgets the value; it can be brought back by replay.
    pub fn drop_value(&mut self) {
        if let Some(tensor) = self.tensor.take() {
            tensor.storage().unmark_saved();
        }
    }
    /// Errors when the value was changed in place since it was saved.
    pub fn check(&self, node: &str, recorded_at: Name) -> Result<()> {
        let Some(tensor) = &self.tensor else { return Ok(()) };
        check_version(tensor, self.version, node, recorded_at)
    }
}

pub fn check_version(tensor: &Tensor, version: u32, node: &str, recorded_at: Name) -> Result<()> {
    if tensor.storage().version() == version {
        return Ok(());
    }
    let place = |line: Name| if line.is_none() { String::new() } else { format!(" at {}", line.text()) };
    Err(Error::graph(format!(
        "backward: a value of shape {:?} that {node}{} saved for its gradient was changed in place{}; \
         use an out-of-place op there, or clone the value before it",
        tensor.shape(),
        place(recorded_at),
        place(tensor.storage().written_at()),
    )))
}

impl Drop for Saved {
    fn drop(&mut self) {
        self.drop_value();
    }
}

/// What only some nodes have.
#[derive(Default)]
pub struct Extra {
    pub slots: SmallVec<[(u32, Arc<Leaf>); 1]>,
    pub hooks: Vec<(u64, u32, Hook)>,
    /// Inputs without history, kept so that the node can be replayed: value and version, by position.
    pub pins: Vec<(u32, u32, Tensor)>,
    /// A gradient that the user wrote.
    pub custom: Option<Custom>,
}

pub struct Node {
    pub op: OpRef,
    pub inputs: SmallVec<[Input; 2]>,
    pub outputs: Metas,
    /// `None` once a sweep has freed them.
    pub saved: Option<Box<[Saved]>>,
    pub extra: Option<Box<Extra>>,
    /// Handles and later nodes that hold this one.
    pub holders: u32,
    pub module: Name,
    pub line: Name,
}

impl Node {
    pub fn leaf(tensor: &Tensor) -> Node {
        let context = Context::get();
        let slots = SmallVec::from_iter([(0, Arc::new(Leaf::default()))]);
        Node {
            op: OpRef::Static(&LeafOp),
            inputs: SmallVec::new(),
            outputs: SmallVec::from_iter([tensor.meta.clone()]),
            saved: Some(Box::default()),
            extra: Some(Box::new(Extra { slots, ..Extra::default() })),
            holders: 0,
            module: context.module,
            line: context.line,
        }
    }

    pub fn is_leaf(&self) -> bool {
        self.op.name() == LEAF
    }

    pub fn slot(&self, output: u32) -> Option<Arc<Leaf>> {
        let extra = self.extra.as_ref()?;
        extra.slots.iter().find(|(out, _)| *out == output).map(|(_, leaf)| leaf.clone())
    }

    fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    pub fn retain_slot(&mut self, output: u32) {
        if self.slot(output).is_none() {
            self.extra().slots.push((output, Arc::default()));
        }
    }

    pub fn add_hook(&mut self, output: u32, hook: Hook) -> u64 {
        let hooks = &mut self.extra().hooks;
        let id = hooks.last().map_or(0, |(id, ..)| id + 1);
        hooks.push((id, output, hook));
        id
    }

    /// Takes a hook out; the caller drops it, outside the graph's lock.
    pub fn remove_hook(&mut self, id: u64) -> Option<Hook> {
        let hooks = &mut self.extra.as_mut()?.hooks;
        let at = hooks.iter().position(|(other, ..)| *other == id)?;
        Some(hooks.remove(at).2)
    }
}

/// The op of a leaf: computes nothing; the sweep ends here.
#[derive(Debug)]
struct LeafOp;

impl Op for LeafOp {
    fn name(&self) -> &'static str {
        LEAF
    }
    fn infer(&self, _x: &[&Meta], _recording: bool) -> Result<Metas> {
        Err(Error::internal("bug: a leaf was computed"))
    }
    fn cpu(&self, _x: &[&Tensor], _y: &[Tensor]) -> Result<()> {
        Err(Error::internal("bug: a leaf was computed"))
    }
    fn vjp(&self, _back: &mut Back) -> Result<()> {
        Ok(())
    }
    fn reference(&self, _x: &[Exact]) -> Option<Vec<Exact>> {
        None
    }
}
