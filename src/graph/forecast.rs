//! A forecast: a step run on paper, after which every gradient is what it was.

use super::Var;
use super::node::Leaf;
use super::store::{self, NodeId};
use crate::arena;
use crate::arena::ledger::Tag;
use crate::error::{Error, Result};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A gradient as it was before the forecast; with its tag, when a stand-in took its place on the bill.
struct Before {
    leaf: Arc<Leaf>,
    grad: Option<Var>,
    billed_as: Option<Tag>,
}

/// By the address of the leaf.
static BEFORE: Mutex<Option<FxHashMap<usize, Before>>> = Mutex::new(None);
/// Nodes from here on were recorded in the forecast.
static FIRST: AtomicU64 = AtomicU64::new(0);

/// From now on this thread works on paper. What only a leaf holds gets a stand-in, so that the step may free it.
pub fn begin() -> Result<()> {
    arena::set_paper(true);
    FIRST.store(store::next_id(), Relaxed);
    let noted = store::leaves().iter().try_for_each(note);
    if noted.is_err() {
        end();
    }
    noted
}

/// A forecast is about to change the gradient of a leaf: it is put back when the forecast ends.
pub fn note(leaf: &Arc<Leaf>) -> Result<()> {
    if !arena::on_paper() {
        return Ok(());
    }
    let mut list = BEFORE.lock();
    let list = list.get_or_insert_default();
    let key = Arc::as_ptr(leaf).addr();
    if list.contains_key(&key) {
        return Ok(());
    }
    let mut slot = leaf.grad.lock();
    let stand_in = match &*slot {
        // A gradient with a history stays: its graph may look at it.
        Some(grad) if grad.node.is_none() => grad.tensor.stand_in()?,
        _ => None,
    };
    let before = match stand_in {
        Some((twin, tag)) => {
            let grad = slot.replace(Var::constant(twin));
            Before { leaf: leaf.clone(), grad, billed_as: Some(tag) }
        }
        None => Before { leaf: leaf.clone(), grad: slot.clone(), billed_as: None },
    };
    list.insert(key, before);
    Ok(())
}

/// Back to numbers, and all gradients to what they were.
pub fn end() {
    arena::set_paper(false);
    let list = BEFORE.lock().take().unwrap_or_default();
    for Before { leaf, grad, billed_as } in list.into_values() {
        let paper = leaf.grad.lock().take();
        drop(paper);
        if let (Some(grad), Some(tag)) = (&grad, billed_as) {
            grad.tensor.settle(tag);
        }
        *leaf.grad.lock() = grad;
    }
}

/// A sweep on paper frees what nodes saved, so it may only visit those of the forecast.
pub fn may_visit(id: NodeId) -> Result<()> {
    if !arena::on_paper() || id.number() >= FIRST.load(Relaxed) {
        return Ok(());
    }
    Err(Error::graph(
        "backward: this graph was recorded before the forecast, which would free its saved values; \
         let the step that is forecast run the forward as well",
    ))
}
