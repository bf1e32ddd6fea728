//! One recorded application of an op.

use super::Var;
use super::custom::Custom;
use super::resident::Tracked;
use super::store::NodeId;
use crate::arena::Context;
use crate::arena::names::Name;
use crate::error::{Error, Result};
use crate::ops::laws::Exact;
use crate::ops::{Back, Metas, Op, OpRef};
use crate::tensor::{Meta, Storage, Tensor};
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
    value: Value,
}

enum Value {
    Here(Tensor),
    /// Dropped: how it lay on the storage of the value that it was, or was a window on.
    Gone(Box<(Meta, usize)>),
    /// Taken out for good.
    Nothing,
}

const OUTPUT: u32 = 1 << 31;
const LEAF: &str = "leaf";

impl Saved {
    pub fn input(i: usize, tensor: &Tensor) -> Saved {
        Saved::new(i as u32, tensor)
    }
    /// An input that is not kept, because its maker makes it again.
    pub fn spared(i: usize, tensor: &Tensor) -> Saved {
        let lay = Box::new((tensor.meta.clone(), tensor.offset()));
        Saved { slot: i as u32, version: tensor.storage().version(), value: Value::Gone(lay) }
    }
    pub fn output(i: usize, tensor: &Tensor) -> Saved {
        Saved::new(i as u32 | OUTPUT, tensor)
    }
    fn new(slot: u32, tensor: &Tensor) -> Saved {
        tensor.storage().mark_saved();
        Saved { slot, version: tensor.storage().version(), value: Value::Here(tensor.clone()) }
    }
    /// The value, when nobody else holds it.
    pub fn sole(&self) -> Option<&Tensor> {
        self.tensor().filter(|tensor| Arc::strong_count(tensor.storage()) == 1)
    }
    /// A second hold on the same value.
    pub fn lend(&self) -> Saved {
        let value = match &self.value {
            Value::Here(tensor) => {
                tensor.storage().mark_saved();
                Value::Here(tensor.clone())
            }
            Value::Gone(lay) => Value::Gone(lay.clone()),
            Value::Nothing => Value::Nothing,
        };
        Saved { slot: self.slot, version: self.version, value }
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
        if let Value::Here(tensor) = &self.value { Some(tensor) } else { None }
    }
    /// One answer for an input, another for an output, each given its position.
    pub fn position<T>(&self, input: impl FnOnce(usize) -> T, output: impl FnOnce(usize) -> T) -> T {
        if self.slot & OUTPUT == 0 { input(self.slot as usize) } else { output((self.slot & !OUTPUT) as usize) }
    }
    /// Gives the value away, and remembers how it lay, so that it can be brought back.
    pub fn let_go(&mut self) -> Option<Tensor> {
        let tensor = self.tensor()?;
        let lay = Box::new((tensor.meta.clone(), tensor.offset()));
        let Value::Here(tensor) = std::mem::replace(&mut self.value, Value::Gone(lay)) else { return None };
        tensor.storage().unmark_saved();
        Some(tensor)
    }
    /// The value was made again, in `storage`.
    pub fn bring_back(&mut self, storage: &Arc<Storage>) {
        if let Value::Gone(lay) = &self.value {
            storage.mark_saved();
            self.version = storage.version();
            self.value = Value::Here(Tensor::on(lay.0.clone(), storage.clone(), lay.1));
        }
    }
    /// Errors when the value was changed in place since it was saved.
    pub fn check(&self, node: &str, recorded_at: Name) -> Result<()> {
        let Some(tensor) = self.tensor() else { return Ok(()) };
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
        if let Value::Here(tensor) = std::mem::replace(&mut self.value, Value::Nothing) {
            tensor.storage().unmark_saved();
        }
    }
}

/// What only some nodes have.
#[derive(Default)]
pub struct Extra {
    pub slots: SmallVec<[(u32, Arc<Leaf>); 1]>,
    pub hooks: Vec<(u64, u32, Hook)>,
    /// Inputs that no tracked node makes, kept so that the node can be replayed: value and version, by position.
    pub pins: Vec<(u32, u32, Tensor)>,
    /// A gradient that the user wrote.
    pub custom: Option<Custom>,
    /// What running it again costs, for an op that is cheap and whose node keeps what that takes. Seconds of the cost model.
    pub remake: Option<f64>,
    /// Nodes that have its first output made again, for themselves or on the way to their own.
    pub readers: u32,
    /// Its place in the table of values that can be dropped.
    pub tracked: Option<Tracked>,
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

    /// Where the gradient of a leaf goes that no hook waits for.
    pub fn plain_leaf(&self) -> Option<Arc<Leaf>> {
        let extra = self.extra.as_ref().filter(|extra| self.is_leaf() && extra.hooks.is_empty())?;
        let [(0, leaf)] = extra.slots.as_slice() else { return None };
        Some(leaf.clone())
    }

    pub fn slot(&self, output: u32) -> Option<Arc<Leaf>> {
        let extra = self.extra.as_ref()?;
        extra.slots.iter().find(|(out, _)| *out == output).map(|(_, leaf)| leaf.clone())
    }

    pub fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    pub fn retain_slot(&mut self, output: u32) {
        if self.slot(output).is_none() {
            self.extra_mut().slots.push((output, Arc::default()));
        }
    }

    pub fn add_hook(&mut self, output: u32, hook: Hook) -> u64 {
        let hooks = &mut self.extra_mut().hooks;
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
