//! Taking a step down as a tape: which ops ran, what came and went, and which values could have been dropped.
//!
//! What dropping and replaying does is left out, so that a step gives the same tape under any budget. A tape has the bytes of
//! one memory space; ops of other devices are on it, and their values are not.

use super::resident::{self, Hint, Key};
use super::store::NodeId;
use crate::arena;
use crate::arena::deltas::Delta;
use crate::arena::space::Space;
use crate::plan::Search;
use crate::plan::tape::{Event, Op, Tape, Value, ValueId};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// What a tape needs to know of a recorded op.
pub struct Recorded<'a> {
    pub node: NodeId,
    /// Block and bytes of each output; `None` for foreign memory. Empty for a view.
    pub outputs: &'a [Option<(u32, u64)>],
    pub reads: &'a [Key],
    pub cost: f64,
}

/// What the user said of values of a tape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hints(BTreeMap<u32, Hint>);

impl Hints {
    pub fn get(&self, value: u32) -> Option<Hint> {
        self.0.get(&value).copied()
    }

    /// How a plan is to be looked for.
    pub fn search(&self, quick: bool) -> Search {
        let of = |hint| self.0.iter().filter(move |(_, h)| **h == hint).map(|(value, _)| ValueId(*value)).collect();
        Search { must_keep: of(Hint::Keep), must_drop: of(Hint::Drop), quick, ..Search::default() }
    }
}

#[derive(Default)]
pub struct Capture {
    space: Space,
    pub tape: Tape,
    hints: Hints,
    /// The value that a live block holds.
    blocks: FxHashMap<u32, u32>,
    ids: FxHashMap<Key, u32>,
    keys: Vec<Key>,
    /// Of each value: its release is on the tape.
    released: Vec<bool>,
    /// Values that somebody besides their slots may still hold.
    pinned: Vec<u32>,
    deltas: Vec<Delta>,
    /// Blocks that hold no value and came in this step: where on the tape they did.
    came: FxHashMap<u32, Place>,
    /// Bytes of blocks from before the step that went, of roles that outlive steps.
    went: Vec<u64>,
}

/// Where an event is on the tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    op: u32,
    outer: bool,
    at: u32,
}

impl Capture {
    pub fn start(space: Space) -> Capture {
        arena::take_down(space, true);
        let mut capture = Capture::default();
        capture.space = space;
        capture.tape.base = arena::stats_of(space).live as u64;
        capture
    }

    pub fn value(&self, key: Key) -> Option<u32> {
        self.ids.get(&key).copied()
    }

    pub fn key(&self, value: ValueId) -> Key {
        self.keys[value.0 as usize]
    }

    /// An op or a visit is about to begin: what happened meanwhile belongs to the one before.
    pub fn boundary(&mut self) {
        self.flush();
        self.unpin();
    }

    pub fn end_forward(&mut self, name: &str, module: &str, recorded: Recorded) {
        arena::drain_deltas(self.space, &mut self.deltas);
        let maker = self.tape.ops.len() as u32;
        let mut made: FxHashMap<usize, u32> = FxHashMap::default();
        for (k, output) in recorded.outputs.iter().enumerate() {
            let Some((block, bytes)) = *output else { continue };
            let own = |d: &Delta| matches!(d, Delta::Alloc { id, .. } if *id == block);
            let Some(at) = self.deltas.iter().rposition(own) else { continue };
            let value = self.tape.values.len() as u32;
            self.tape.values.push(Value { bytes, maker });
            self.released.push(false);
            self.keys.push((recorded.node, k as u32));
            self.ids.insert((recorded.node, k as u32), value);
            self.pinned.push(value);
            made.insert(at, value);
        }
        let mut inner = Vec::new();
        let deltas = std::mem::take(&mut self.deltas);
        for (i, delta) in deltas.iter().enumerate() {
            match made.get(&i) {
                Some(&value) => {
                    if let Delta::Alloc { id, .. } = delta {
                        self.blocks.insert(*id, value);
                    }
                    inner.push(Event::Make(ValueId(value)));
                }
                None => {
                    let place = Place { op: maker, outer: false, at: inner.len() as u32 };
                    inner.extend(self.event(delta, place));
                }
            }
        }
        self.recycle(deltas);
        let reads = self.values(recorded.reads);
        let (name, module) = (name.to_string(), module.to_string());
        self.tape.ops.push(Op { name, module, cost: recorded.cost, reads, inner, outer: vec![], forward: true });
    }

    pub fn visit(&mut self, name: &str, module: &str, reads: &[Key], cost: f64) {
        let reads = self.values(reads);
        let (name, module) = (name.to_string(), module.to_string());
        self.tape.ops.push(Op { name, module, cost, reads, ..Op::default() });
    }

    /// A value now lives in the block `to`, and what lived there goes when `from` goes.
    pub fn moved(&mut self, key: Key, from: u32, to: u32) {
        if let Some(value) = self.value(key) {
            if let Some(place) = self.came.remove(&to) {
                self.came.insert(from, place);
            }
            let old = self.blocks.insert(to, value);
            match old {
                Some(old) => self.blocks.insert(from, old),
                None => self.blocks.remove(&from),
            };
        }
    }

    /// Something else is now in the block of a value: nothing can be made from that any more, and its bytes stay.
    pub fn overwritten(&mut self, block: u32, bytes: u64) {
        self.flush();
        let Some(release) = self.blocks.remove(&block).and_then(|value| self.release(value)) else { return };
        let (op, outer, at) = self.end();
        self.came.insert(block, Place { op, outer, at: at as u32 + 1 });
        self.append(vec![release, Event::Alloc(bytes)]);
    }

    /// A value goes that is not there.
    pub fn vanished(&mut self, key: Key) {
        self.flush();
        if let Some(value) = self.value(key) {
            let events = self.release(value).into_iter().collect();
            self.append(events);
        }
    }

    /// Takes down what the user said of a value; returns which it is.
    pub fn hint(&mut self, key: Key, hint: Hint) -> Option<u32> {
        let value = self.value(key)?;
        self.hints.0.insert(value, hint);
        Some(value)
    }

    /// The step is over.
    pub fn finish(mut self) -> (Tape, Hints) {
        self.flush();
        self.unpin();
        self.settle();
        (std::mem::take(&mut self.tape), std::mem::take(&mut self.hints))
    }

    /// What came to stay, such as the state of an optimizer in its first step, will be there before the next step like this
    /// one: it is no part of the tape. Where as many bytes of such roles went, a step replaces them each time.
    fn settle(&mut self) {
        let staying = arena::lasting(self.space, self.came.keys().copied());
        let mut places: Vec<Place> = staying.iter().map(|block| self.came[block]).collect();
        places.sort_unstable();
        let bytes = |tape: &Tape, place: Place| {
            let op = &tape.ops[place.op as usize];
            let events = if place.outer { &op.outer } else { &op.inner };
            if let Event::Alloc(bytes) = events[place.at as usize] { bytes } else { 0 }
        };
        for went in std::mem::take(&mut self.went) {
            if let Some(replaced) = places.iter().position(|place| bytes(&self.tape, *place) == went) {
                places.remove(replaced);
            }
        }
        for place in places.into_iter().rev() {
            let op = &mut self.tape.ops[place.op as usize];
            let events = if place.outer { &mut op.outer } else { &mut op.inner };
            events.remove(place.at as usize);
        }
    }

    fn values(&self, keys: &[Key]) -> Vec<ValueId> {
        let mut list = Vec::with_capacity(keys.len());
        for value in keys.iter().filter_map(|key| self.value(*key)).map(ValueId) {
            if !list.contains(&value) {
                list.push(value);
            }
        }
        list
    }

    fn flush(&mut self) {
        arena::drain_deltas(self.space, &mut self.deltas);
        let deltas = std::mem::take(&mut self.deltas);
        let (op, outer, from) = self.end();
        let mut events = Vec::new();
        for delta in &deltas {
            let place = Place { op, outer, at: (from + events.len()) as u32 };
            events.extend(self.event(delta, place));
        }
        self.recycle(deltas);
        if self.tape.ops.is_empty() {
            self.came.clear();
            self.went.clear();
        }
        self.append(events);
    }

    /// Where the next event comes: the last op, whether it is outside of it, and how many there are.
    fn end(&self) -> (u32, bool, usize) {
        self.tape.ops.last().map_or((0, false, 0), |op| {
            let from = if op.forward { op.outer.len() } else { op.inner.len() };
            (self.tape.ops.len() as u32 - 1, op.forward, from)
        })
    }

    fn append(&mut self, events: Vec<Event>) {
        match self.tape.ops.last_mut() {
            Some(op) if op.forward => op.outer.extend(events),
            Some(op) => op.inner.extend(events),
            // Before the first op the step has not begun.
            None => {}
        }
    }

    /// A delta as an event of a step without drops, and where that will be.
    fn event(&mut self, delta: &Delta, place: Place) -> Option<Event> {
        match *delta {
            Delta::Holds { id, value } => {
                self.blocks.insert(id, value);
                None
            }
            Delta::Alloc { engine: true, .. } => None,
            Delta::Alloc { id, bytes, .. } => {
                self.came.insert(id, place);
                Some(Event::Alloc(bytes))
            }
            Delta::Free { id, bytes, engine, lasting } => match self.blocks.remove(&id) {
                _ if engine => None,
                Some(value) => self.release(value),
                None => {
                    if self.came.remove(&id).is_none() && lasting {
                        self.went.push(bytes);
                    }
                    Some(Event::Free(bytes))
                }
            },
        }
    }

    fn release(&mut self, value: u32) -> Option<Event> {
        let before = std::mem::replace(&mut self.released[value as usize], true);
        (!before).then_some(Event::Release(ValueId(value)))
    }

    /// Notes the values that only saved slots hold from here on.
    fn unpin(&mut self) {
        let pinned = std::mem::take(&mut self.pinned);
        let state = resident::holders(pinned.iter().map(|v| self.keys[*v as usize]));
        let mut events = vec![];
        for (value, state) in pinned.into_iter().zip(state) {
            match state {
                resident::Holder::Others => self.pinned.push(value),
                resident::Holder::Slots => events.push(Event::Unpin(ValueId(value))),
                resident::Holder::Nobody => {}
            }
        }
        self.append(events);
    }

    fn recycle(&mut self, mut deltas: Vec<Delta>) {
        deltas.clear();
        self.deltas = deltas;
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        arena::take_down(self.space, false);
    }
}
