//! The values that recorded ops made: which are there, which saved slots hold them, and what making them again takes.
//!
//! Kept only of what is recorded while the thread tracks: under a budget, or inside a checkpointed region. A value is held
//! by its slots and by the user's handles; it can be dropped when only slots are left. Locks in the order: this table, the
//! store, the arena. Nothing is allocated from the arena under any of them.

use super::capture::Recorded;
use super::node::{Node, Saved};
use super::region::{self, Region};
use super::store::{self, NodeId};
use super::{Var, session};
use crate::arena::space::Space;
use crate::ops::{Mask, Op, bit};
use crate::tensor::{Meta, Storage, Tensor};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Weak};

/// A result of a node: the node, and which of its outputs.
pub type Key = (NodeId, u32);

thread_local! {
    static TRACKING: Cell<bool> = const { Cell::new(false) };
}

/// While on, what this thread records can be dropped and made again. Returns what it was.
pub fn set_tracking(on: bool) -> bool {
    TRACKING.replace(on)
}

pub fn tracking() -> bool {
    TRACKING.get()
}

/// What the user said of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hint {
    #[default]
    None,
    Keep,
    Drop,
}

/// One output of a tracked node.
pub(super) struct Made {
    storage: Weak<Storage>,
    /// The storage's version when the value was made: a later in-place write makes it another value.
    version: u32,
    pub space: Space,
    pub bytes: usize,
    /// The saved slots that hold it, or held it before it was dropped: node, and place among its saved.
    pub slots: SmallVec<[(NodeId, u32); 2]>,
    pub hint: Hint,
}

/// A tracked node, as one that can run again.
pub(super) struct Maker {
    /// Seconds of the cost model.
    pub cost: f64,
    /// Cost of all that was recorded up to and including it.
    pub clock: f64,
    /// The tracked values it reads, views looked through.
    pub inputs: SmallVec<[Key; 2]>,
    pub outputs: SmallVec<[Made; 1]>,
    pub region: Option<Arc<Region>>,
}

#[derive(Default)]
pub(super) struct Table {
    pub makers: FxHashMap<NodeId, Maker>,
    /// Cost of all that was recorded while tracking.
    pub clock: f64,
    /// Where recording, or the sweep, has come to on that clock.
    pub now: f64,
}

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);
/// Tracked nodes alive: zero tells everyone at once that there is nothing to look up.
static COUNT: AtomicUsize = AtomicUsize::new(0);

pub fn any() -> bool {
    COUNT.load(Relaxed) > 0
}

/// A node's part in the table, given back with the node.
pub struct Tracked {
    id: NodeId,
    /// Of each saved slot, the value it holds.
    slots: SmallVec<[Option<Key>; 4]>,
}

impl Tracked {
    pub fn key(&self, slot: usize) -> Option<Key> {
        self.slots[slot]
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let mut table = TABLE.lock();
        table.leave(self.id, &self.slots);
        let gone = |made: &Made| made.slots.is_empty() && made.storage.strong_count() == 0;
        let unwanted = |key: &Key| table.made(*key).is_some_and(gone);
        let vanished: SmallVec<[Key; 2]> = self.slots.iter().flatten().copied().filter(unwanted).collect();
        if table.makers.remove(&self.id).is_some() {
            COUNT.fetch_sub(1, Relaxed);
        }
        drop(table);
        for key in vanished {
            session::vanished(key);
        }
    }
}

impl Made {
    /// The value, when its bytes are there and still what was computed.
    fn alive(&self) -> Option<Arc<Storage>> {
        self.storage.upgrade().filter(|storage| storage.version() == self.version)
    }

    /// True when saved slots are all that holds it.
    pub fn droppable(&self) -> bool {
        let held_by_slots = |storage: Arc<Storage>| Arc::strong_count(&storage) == self.slots.len() + 1;
        !self.slots.is_empty() && self.hint != Hint::Keep && self.alive().is_some_and(held_by_slots)
    }
}

impl Table {
    pub fn made(&self, key: Key) -> Option<&Made> {
        self.makers.get(&key.0)?.outputs.get(key.1 as usize)
    }

    fn made_mut(&mut self, key: Key) -> Option<&mut Made> {
        self.makers.get_mut(&key.0)?.outputs.get_mut(key.1 as usize)
    }

    pub fn missing(&self, key: Key) -> bool {
        self.made(key).is_none_or(|made| made.alive().is_none())
    }

    fn leave(&mut self, id: NodeId, slots: &[Option<Key>]) {
        for key in slots.iter().flatten() {
            if let Some(made) = self.made_mut(*key) {
                made.slots.retain(|(node, _)| *node != id);
            }
        }
    }

    /// Takes the value out of its slots; the caller drops what is returned after unlocking.
    pub fn evict(&mut self, key: Key, freed: &mut Vec<Tensor>) -> usize {
        let Some(made) = self.made(key) else { return 0 };
        for &(node, slot) in &made.slots {
            let take = |n: &mut Node| n.saved.as_mut().and_then(|saved| saved[slot as usize].let_go());
            freed.extend(store::find_mut(node, take).flatten());
        }
        made.bytes
    }
}

pub(super) fn with_table<T>(read: impl FnOnce(&mut Table) -> T) -> T {
    read(&mut TABLE.lock())
}

/// The value behind a handle, views looked through, when it is tracked.
fn base(table: &Table, mut id: NodeId, mut output: u32) -> Option<Key> {
    while !table.makers.contains_key(&id) {
        (id, output) = store::with(id, |n| n.op.is_view().then(|| (n.inputs[0].node, n.inputs[0].output)))?;
        if !id.is_some() {
            return None;
        }
    }
    Some((id, output))
}

/// Of each input, the tracked value it is or looks at. A copy, or what was written to since, is another value: it is pinned.
pub fn bases(x: &[&Var], needs: Mask) -> SmallVec<[Option<Key>; 4]> {
    let table = TABLE.lock();
    let base = |(i, v): (usize, &&Var)| {
        let node = v.node.as_ref().filter(|_| needs & bit(i) != 0)?;
        let key = base(&table, node.id(), node.output())?;
        let is_there = |storage: Arc<Storage>| Arc::ptr_eq(&storage, v.tensor.storage());
        table.made(key)?.alive().is_some_and(is_there).then_some(key)
    };
    x.iter().enumerate().map(base).collect()
}

/// Enters a node that was just recorded: its outputs as values, its saved slots as their holders.
pub fn track(id: NodeId, op: &dyn Op, x: &[&Var], y: &[Tensor], bases: &[Option<Key>]) {
    let metas: SmallVec<[&Meta; 4]> = x.iter().map(|v| &v.tensor.meta).collect();
    let outputs: SmallVec<[Meta; 2]> = y.iter().map(|t| t.meta.clone()).collect();
    // An op that makes views where it can, and copies where it cannot, is a maker in the second case only.
    let is_view = op.is_view() && y.iter().all(|t| t.shares_storage(&x[0].tensor));
    let cost = if is_view { 0.0 } else { op.cost(&metas, &outputs).seconds(outputs[0].device) };
    let mut table = TABLE.lock();
    table.clock += cost;
    table.now = table.clock;
    let reads: SmallVec<[Key; 2]> = bases.iter().flatten().copied().collect();
    if !is_view {
        let made = |t: &Tensor| Made {
            storage: Arc::downgrade(t.storage()),
            version: t.storage().version(),
            space: t.device().space(),
            bytes: t.storage().charged_bytes(),
            slots: SmallVec::new(),
            hint: Hint::None,
        };
        let region = region::current();
        let maker =
            Maker { cost, clock: table.clock, inputs: reads.clone(), outputs: y.iter().map(made).collect(), region };
        table.makers.insert(id, maker);
        COUNT.fetch_add(1, Relaxed);
    }
    store::with_mut(id, |node| {
        let saved = node.saved.as_deref().unwrap_or_default();
        let slots = saved.iter().enumerate().map(|(j, saved)| {
            let key = saved.position(|i| bases[i], |k| (!is_view).then_some((id, k as u32)))?;
            let tensor = saved.tensor()?;
            let made = table.made_mut(key)?;
            // A slot on other memory than the maker's (after an in-place write) is left alone: it is never dropped.
            if !made.alive().is_some_and(|storage| Arc::ptr_eq(&storage, tensor.storage())) {
                return None;
            }
            made.slots.push((id, j as u32));
            Some(key)
        });
        let slots = slots.collect();
        node.extra_mut().tracked = Some(Tracked { id, slots });
    });
    drop(table);
    if let Some(region) = region::current() {
        region.note(id, y.len());
    }
    if session::active() {
        let space = session::space();
        let block = |t: &Tensor| Some((t.storage().block_in(space)?, t.storage().charged_bytes() as u64));
        let outputs: SmallVec<[Option<(u32, u64)>; 2]> =
            if is_view { SmallVec::new() } else { y.iter().map(block).collect() };
        session::after_forward(op.name(), Recorded { node: id, outputs: &outputs, reads: &reads, cost });
    }
}

/// The values that the node saved and that are not there, in the order of its slots.
pub fn gone(id: NodeId) -> SmallVec<[Key; 2]> {
    store::with(id, |node| {
        let Some(tracked) = node.extra.as_ref().and_then(|e| e.tracked.as_ref()) else { return SmallVec::new() };
        let saved = node.saved.iter().flat_map(|s| s.iter()).enumerate();
        let gone = saved.filter(|(_, s)| s.tensor().is_none()).filter_map(|(j, _)| tracked.key(j));
        let mut list: SmallVec<[Key; 2]> = SmallVec::new();
        gone.for_each(|key| {
            if !list.contains(&key) {
                list.push(key)
            }
        });
        list
    })
}

/// The sweep is about to take what node `id` saved: its slots hold nothing any more.
pub fn visited(id: NodeId) {
    let tracked = store::with_mut(id, |node| {
        node.extra.as_mut().and_then(|e| e.tracked.as_mut()).map(|t| std::mem::take(&mut t.slots))
    });
    if let Some(slots) = tracked {
        TABLE.lock().leave(id, &slots);
    }
}

/// The sweep has come to node `id`.
pub fn arrive(id: NodeId) {
    let mut table = TABLE.lock();
    if let Some(clock) = table.makers.get(&id).map(|m| m.clock) {
        table.now = clock;
    }
}

/// The cost of one run of a tracked node, in seconds of the cost model.
pub fn cost(id: NodeId) -> f64 {
    TABLE.lock().makers.get(&id).map_or(0.0, |maker| maker.cost)
}

/// An in-place op wrote the result of `node` into the memory of `target`: that is where the value lives from now on, if it is all
/// of that memory. Returns whether it is.
pub fn moved(node: NodeId, result: &Tensor, target: &Tensor) -> bool {
    let whole = target.offset() == 0
        && target.layout() == result.layout()
        && target.dtype() == result.dtype()
        && target.storage().charged_bytes() == result.storage().charged_bytes();
    let mut table = TABLE.lock();
    // Slots that saved the result itself hold its first memory; then there are two copies, and neither is dropped.
    let Some(made) = table.made_mut((node, 0)).filter(|made| whole && made.slots.is_empty()) else { return false };
    made.storage = Arc::downgrade(target.storage());
    made.version = target.storage().version();
    drop(table);
    session::moved((node, 0), result.storage(), target.storage());
    true
}

/// The tracked values that a node reads, in ascending order.
pub fn reads(id: NodeId) -> SmallVec<[Key; 4]> {
    let mut reads: SmallVec<[Key; 4]> =
        TABLE.lock().makers.get(&id).map_or_else(SmallVec::new, |maker| maker.inputs.iter().copied().collect());
    reads.sort_unstable();
    reads.dedup();
    reads
}

/// The bytes of a value, when they are there.
pub fn find(key: Key) -> Option<Arc<Storage>> {
    TABLE.lock().made(key)?.alive()
}

/// Puts a value made again back into all its slots.
pub fn restore(key: Key, value: &Tensor) {
    let mut table = TABLE.lock();
    let Some(made) = table.made_mut(key) else { return };
    made.storage = Arc::downgrade(value.storage());
    made.version = value.storage().version();
    let storage = value.storage();
    for &(node, slot) in &made.slots {
        store::find_mut(node, |n| {
            if let Some(saved) = &mut n.saved {
                Saved::bring_back(&mut saved[slot as usize], storage);
                super::trace::needs_again(node, n, storage);
            }
        });
    }
}

/// Who holds a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    Others,
    /// Saved slots alone: it may be dropped, or was already.
    Slots,
    Nobody,
}

pub fn holders(keys: impl Iterator<Item = Key>) -> Vec<Holder> {
    let table = TABLE.lock();
    let holder = |key: Key| {
        let Some(made) = table.made(key) else { return Holder::Nobody };
        match (made.alive(), made.slots.len()) {
            (None, 0) => Holder::Nobody,
            (None, _) => Holder::Slots,
            (Some(storage), slots) if slots > 0 && Arc::strong_count(&storage) == slots + 1 => Holder::Slots,
            _ => Holder::Others,
        }
    };
    keys.map(holder).collect()
}

/// The values that the saved slots of a node hold, in the order of the slots.
pub fn saved_by(id: NodeId) -> SmallVec<[Key; 4]> {
    store::with(id, |node| {
        let tracked = node.extra.as_ref().and_then(|e| e.tracked.as_ref());
        tracked.map_or_else(SmallVec::new, |t| t.slots.iter().flatten().copied().collect())
    })
}

/// True when a value brought back on the way to something else should stay for its own later use.
pub fn keeps(key: Key, visitor: NodeId) -> bool {
    let planned = session::planned(key);
    let table = TABLE.lock();
    let Some(made) = table.made(key) else { return false };
    if made.slots.is_empty() {
        return false;
    }
    if let Some(said) = planned {
        return said;
    }
    let region = |id: NodeId| table.makers.get(&id).and_then(|m| m.region.clone());
    region::encloses(&region(key.0), &region(visitor))
}

/// True when saved slots wait for the value.
pub fn awaited(key: Key) -> bool {
    TABLE.lock().made(key).is_some_and(|made| !made.slots.is_empty())
}

/// Drops a value if only slots hold it; returns the bytes freed.
pub fn drop_value(key: Key) -> usize {
    let mut freed = vec![];
    let mut table = TABLE.lock();
    let bytes = if table.made(key).is_some_and(Made::droppable) { table.evict(key, &mut freed) } else { 0 };
    drop(table);
    bytes
}

/// What the user says of the value behind a handle; false when it is not tracked.
pub fn hint(var: &Var, hint: Hint) -> bool {
    let Some(node) = var.node() else { return false };
    let mut table = TABLE.lock();
    let Some(key) = base(&table, node.id(), node.output()) else { return false };
    let Some(made) = table.made_mut(key) else { return false };
    made.hint = hint;
    drop(table);
    session::hinted(key, hint);
    true
}

/// Drops every value that a node on the way from `root` saved and that can be made again, whoever else holds it, and forgets
/// those other holders. For the law of replay. Returns how many.
pub fn drop_saved(root: &Var) -> usize {
    let Some(node) = root.node() else { return 0 };
    let (mut pending, mut seen) = (vec![node.id()], std::collections::HashSet::new());
    let mut freed = vec![];
    while let Some(id) = pending.pop() {
        if !seen.insert(id) {
            continue;
        }
        store::with(id, |node| pending.extend(node.inputs.iter().map(|i| i.node).filter(|n| n.is_some())));
        let mut table = TABLE.lock();
        let outputs = table.makers.get(&id).map_or(0, |m| m.outputs.len());
        for k in 0..outputs {
            let key = (id, k as u32);
            table.evict(key, &mut freed);
            table.made_mut(key).expect("bug: an output vanished").storage = Weak::new();
        }
    }
    freed.len()
}
