//! A step as records: what ran, in order, what it allocated, and which values could have been dropped meanwhile.

/// A value of the tape: an index into `Tape::values`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u32);

/// One step, from the first recorded op to the first recorded op of the next step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tape {
    /// Bytes alive when the step begins: parameters, optimizer state, inputs.
    pub base: u64,
    pub ops: Vec<Op>,
    pub values: Vec<Value>,
}

/// A result of a recorded op that could be made again.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub bytes: u64,
    /// The op that makes it: an index into `Tape::ops`.
    pub maker: u32,
}

/// One position of the step: a recorded op's forward, or the visit of a node by the sweep.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Op {
    pub name: String,
    pub module: String,
    /// Time of one run, in seconds of the cost model.
    pub cost: f64,
    /// A forward's inputs that are values, whether or not they are kept afterwards: what a replay of it needs.
    /// For a visit: the values that its vjp reads. All must be there when the op begins.
    pub reads: Vec<ValueId>,
    /// What running it allocates and frees, in order. A replay does the same again.
    pub inner: Vec<Event>,
    /// What happens after it and before the next op begins; not part of a replay.
    pub outer: Vec<Event>,
    /// A forward: it can be replayed. False for a visit.
    pub forward: bool,
}

impl Op {
    /// The same op on the same values; what Python does around it may differ.
    pub fn is_like(&self, other: &Op) -> bool {
        self.name == other.name && self.forward == other.forward && self.reads == other.reads
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes that belong to no value: gradients, workspaces, what Python holds.
    Alloc(u64),
    Free(u64),
    /// A forward's output comes to life. In `inner` of its maker only, once.
    Make(ValueId),
    /// From here on only saved slots hold the value: it may be dropped. Not before it was made.
    Unpin(ValueId),
    /// The value's last use is over. Nothing reads it afterwards.
    Release(ValueId),
}
