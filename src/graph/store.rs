//! Where nodes live: pages of a growing arena, and the counts that say when a node is no longer needed.

use super::node::{Leaf, Node};
use crate::arena::trace;
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// A node's place in the order of recording. Ids are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    pub const NONE: NodeId = NodeId(u64::MAX);
    pub fn is_some(self) -> bool {
        self != NodeId::NONE
    }
    pub fn number(self) -> u64 {
        self.0
    }
}

const PAGE: usize = 512;
/// Nodes dropped at a time outside the lock: their drop may run code of the caller.
const BATCH: usize = 64;

struct Page {
    nodes: Vec<Option<Node>>,
    live: usize,
}

struct Store {
    /// Pages from `first` on; `None` where all nodes are gone.
    pages: VecDeque<Option<Page>>,
    first: u64,
    next: u64,
    live: usize,
}

static STORE: Mutex<Store> = Mutex::new(Store { pages: VecDeque::new(), first: 0, next: 0, live: 0 });

impl Store {
    fn page(&mut self, id: NodeId) -> &mut Page {
        let at = (id.0 / PAGE as u64 - self.first) as usize;
        self.pages[at].as_mut().expect("bug: a freed node was asked for")
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.page(id).nodes[id.0 as usize % PAGE].as_mut().expect("bug: a freed node was asked for")
    }

    fn find(&mut self, id: NodeId) -> Option<&mut Node> {
        let at = (id.0 / PAGE as u64).checked_sub(self.first)? as usize;
        self.pages.get_mut(at)?.as_mut()?.nodes.get_mut(id.0 as usize % PAGE)?.as_mut()
    }

    fn push(&mut self, node: Node) -> NodeId {
        let id = NodeId(self.next);
        self.next += 1;
        self.live += 1;
        if id.0.is_multiple_of(PAGE as u64) {
            self.pages.push_back(Some(Page { nodes: Vec::with_capacity(PAGE), live: 0 }));
        }
        let page = self.page(id);
        page.nodes.push(Some(node));
        page.live += 1;
        id
    }

    fn take(&mut self, id: NodeId) -> Node {
        let page = self.page(id);
        let node = page.nodes[id.0 as usize % PAGE].take().expect("bug: a node was freed twice");
        page.live -= 1;
        // The page being filled stays, even when all its nodes are gone.
        if page.live == 0 && page.nodes.len() == PAGE {
            let at = (id.0 / PAGE as u64 - self.first) as usize;
            self.pages[at] = None;
            while let Some(None) = self.pages.front() {
                self.pages.pop_front();
                self.first += 1;
            }
        }
        self.live -= 1;
        node
    }
}

/// A counted hold on a node, as the maker of one of its outputs.
pub struct NodeRef {
    id: NodeId,
    output: u32,
}

impl NodeRef {
    pub fn id(&self) -> NodeId {
        self.id
    }
    pub fn output(&self) -> u32 {
        self.output
    }
    /// Another hold, on an output of a node that is alive.
    pub fn hold(id: NodeId, output: u32) -> NodeRef {
        STORE.lock().node(id).holders += 1;
        NodeRef { id, output }
    }
}

impl Clone for NodeRef {
    fn clone(&self) -> NodeRef {
        NodeRef::hold(self.id, self.output)
    }
}

impl Drop for NodeRef {
    fn drop(&mut self) {
        release(self.id);
    }
}

/// Appends a node that already counts as a holder of its inputs, and returns the first hold on it.
pub fn push(mut node: Node) -> NodeRef {
    node.holders = 1;
    let mut store = STORE.lock();
    for input in &node.inputs {
        if input.node.is_some() {
            store.node(input.node).holders += 1;
        }
    }
    NodeRef { id: store.push(node), output: 0 }
}

/// Lets go of a node, and of all that only it held. A loop with a list, not a recursion.
fn release(id: NodeId) {
    {
        // Nearly always another holder is left, and there is nothing to collect.
        let mut store = STORE.lock();
        let node = store.node(id);
        if node.holders > 1 {
            node.holders -= 1;
            return;
        }
    }
    // Most nodes die alone or with a few: without a list of the heap's.
    let mut pending: SmallVec<[NodeId; 8]> = SmallVec::from_slice(&[id]);
    let mut dead: SmallVec<[Node; 2]> = SmallVec::new();
    while !pending.is_empty() {
        {
            let mut store = STORE.lock();
            while let Some(id) = pending.pop() {
                let node = store.node(id);
                node.holders -= 1;
                if node.holders > 0 {
                    continue;
                }
                let node = store.take(id);
                trace::done(id.0);
                pending.extend(node.inputs.iter().map(|i| i.node).filter(|n| n.is_some()));
                dead.push(node);
                if dead.len() == BATCH {
                    break;
                }
            }
        }
        // In their order, as plans expect; `clear` would begin at the end.
        dead.drain(..).for_each(drop);
    }
}

pub fn with<T>(id: NodeId, read: impl FnOnce(&Node) -> T) -> T {
    read(STORE.lock().node(id))
}

pub fn with_mut<T>(id: NodeId, change: impl FnOnce(&mut Node) -> T) -> T {
    change(STORE.lock().node(id))
}

/// Every node that is alive, in the order of recording.
pub fn for_each(mut read: impl FnMut(NodeId, &Node)) {
    let store = STORE.lock();
    for (p, page) in store.pages.iter().enumerate() {
        for (i, node) in page.iter().flat_map(|page| page.nodes.iter().enumerate()) {
            if let Some(node) = node {
                read(NodeId((store.first + p as u64) * PAGE as u64 + i as u64), node);
            }
        }
    }
}

/// As `with_mut`, for a node that may be gone already.
pub fn find_mut<T>(id: NodeId, change: impl FnOnce(&mut Node) -> T) -> Option<T> {
    STORE.lock().find(id).map(change)
}

/// The places where gradients are kept, of all nodes that are alive.
pub fn leaves() -> Vec<Arc<Leaf>> {
    let store = STORE.lock();
    let nodes = store.pages.iter().flatten().flat_map(|page| page.nodes.iter().flatten());
    let slots = nodes.filter_map(|node| node.extra.as_ref()).flat_map(|extra| &extra.slots);
    slots.map(|(_, leaf)| leaf.clone()).collect()
}

pub fn live_nodes() -> usize {
    STORE.lock().live
}

/// The id that the next node will get: marks a moment in the order of recording.
pub fn next_id() -> u64 {
    STORE.lock().next
}
