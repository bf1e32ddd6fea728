//! What is not kept at all, budget or not: results of passes over memory that a dear op saved as its input, when the pass can
//! be run again from what its own node keeps. A norm before a large product, an activation after one.

use super::Var;
use super::node::Saved;
use super::replay;
use super::store::{self, NodeId};
use crate::arena::ledger::Category;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::{Mask, Op, OpRef, bit};
use crate::tensor::{Meta, Tensor};
use smallvec::SmallVec;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Values below this many bytes are not worth the trouble.
const LEAST_BYTES: usize = 64 << 10;
/// What making a value again may cost, as a share of the forward of the op that reads it. That op's sweep costs twice its
/// forward, so a step is slower by a third of this at the very most.
static SHARE: AtomicU64 = AtomicU64::new(0.30f64.to_bits());

/// Sets that share, for measuring what it costs and saves; at zero everything is kept. Returns the one before.
pub fn set_share(share: f64) -> f64 {
    f64::from_bits(SHARE.swap(share.to_bits(), Relaxed))
}

fn seconds(op: &dyn Op, x: &[&Var], y: &[Tensor]) -> f64 {
    let metas: SmallVec<[&Meta; 4]> = x.iter().map(|v| &v.tensor.meta).collect();
    let outputs: SmallVec<[Meta; 2]> = y.iter().map(|t| t.meta.clone()).collect();
    op.cost(&metas, &outputs).seconds(outputs[0].device)
}

/// What running the maker of a value again would cost, if its node can.
fn remake_cost(v: &Var) -> Option<f64> {
    let node = v.node.as_ref()?;
    store::with(node.id(), |maker| {
        let cost = maker.extra.as_ref()?.remake?;
        let same = node.output() == 0 && maker.outputs[0] == v.tensor.meta;
        (same && v.version == v.tensor.storage().version() && v.tensor.offset() == 0).then_some(cost)
    })
}

/// The inputs that need not be kept for the vjp of `op`, because they are made again at next to no cost.
pub fn spared(op: &dyn Op, x: &[&Var], y: &[Tensor], saves: Mask, needs: Mask) -> Mask {
    let (mut spared, share) = (0, f64::from_bits(SHARE.load(Relaxed)));
    let mut own = None;
    for (i, v) in x.iter().enumerate() {
        let large = v.tensor.meta.bytes() >= LEAST_BYTES;
        if large
            && saves & needs & bit(i) != 0
            && let Some(cost) = remake_cost(v)
            && cost <= share * *own.get_or_insert_with(|| seconds(op, x, y))
        {
            spared |= bit(i);
            count_reader(v);
        }
    }
    spared
}

/// One more node depends on this value's being made again.
fn count_reader(v: &Var) {
    let maker = v.node.as_ref().expect("bug: a value without a maker cannot be made again").id();
    store::with_mut(maker, |maker| maker.extra_mut().readers += 1);
}

/// A value that is kept for the vjp of another op: where its own maker can read it too, that keeps nothing beside it.
pub fn share(v: &Var) {
    let Some(node) = v.node.as_ref().filter(|node| node.output() == 0) else { return };
    // The bits of a GPU are read in a 32nd of the time. Behind a product they take a kernel of their own, else none.
    if v.tensor.device() != Device::Cpu && !is_behind_dear(node.id()) {
        return;
    }
    // A value that was written to in place is not what its maker made, whatever its handle says.
    if v.tensor.storage().version() != 0 || v.tensor.offset() != 0 {
        return;
    }
    let freed = store::with_mut(node.id(), |maker| {
        let plain = maker.op.reads_first() && maker.outputs[0] == v.tensor.meta;
        let tracked = maker.extra.as_ref().is_some_and(|extra| extra.tracked.is_some());
        let [own] = maker.saved.as_deref_mut().filter(|_| plain && !tracked)? else { return None };
        (!own.is_output(0)).then(|| std::mem::replace(own, Saved::output(0, &v.tensor)))
    });
    drop(freed);
}

/// True when what the node read first was made by an op that is no pass over memory.
fn is_behind_dear(maker: NodeId) -> bool {
    let input = store::with(maker, |maker| maker.inputs.first().map_or(NodeId::NONE, |input| input.node));
    input != NodeId::NONE && store::with(input, |node| !node.op.cheap())
}

/// For a cheap op that was just computed: the cost of running it again from what its node holds, and the inputs that the
/// node must hold for that beside what it saves. `None` when an input is neither kept nor to be remade.
pub fn remaking(op: &dyn Op, x: &[&Var], y: &[Tensor], needs: Mask, saved: &[Saved]) -> Option<(f64, Pins)> {
    if !op.cheap() || y[0].meta.bytes() < LEAST_BYTES {
        return None;
    }
    let mut cost = seconds(op, x, y);
    let (mut pins, mut remade) = (Pins::new(), SmallVec::<[&Var; 2]>::new());
    for (i, v) in x.iter().enumerate() {
        let kept = saved.iter().any(|s| s.is_input(i) && s.tensor().is_some());
        if kept {
            continue;
        }
        // What another node has saved already is let go after this node: older nodes are visited later.
        let held = || v.tensor.storage().category() == Some(Category::Activation) && v.check_fresh(op.name()).is_ok();
        if needs & bit(i) == 0 || v.is_leaf() || held() {
            pins.push((i as u32, v.tensor.storage().version(), v.tensor.clone()));
        } else {
            cost += remake_cost(v)?;
            remade.push(v);
        }
    }
    remade.into_iter().for_each(count_reader);
    Some((cost, pins))
}

pub type Pins = Vec<(u32, u32, Tensor)>;

/// The first output of a node, made again from what it and the nodes above it hold. Where the sweep comes by once and
/// completely, what is left of the node may be its slope.
pub fn remake(id: NodeId, once: bool) -> Result<Tensor> {
    match if once { split(id) } else { None } {
        Some(op) => replay::take_apart(id, op),
        None => replay::remake((id, 0)),
    }
}

/// What can stand for a node whose value only one more node reads: value and slope are then made in one pass, the slope
/// where the input was.
fn split(id: NodeId) -> Option<OpRef> {
    store::with(id, |node| {
        let op = node.op.split()?;
        let [input] = node.saved.as_deref()? else { return None };
        let (input, output) = (input.sole().filter(|_| input.is_input(0))?, &node.outputs[0]);
        let plain = input.meta == *output && output.layout.is_dense() && input.offset() == 0;
        let fits = plain && output.dtype == DType::F32 && output.device == Device::Cpu;
        (fits && node.extra.as_ref()?.readers == 1).then_some(op)
    })
}
