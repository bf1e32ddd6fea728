//! The list of ops. It is also the list of what is tested: see `laws`.

use super::OpRef;
use super::args::{Args, Attribute};
use super::laws::Sample;
use crate::error::{Error, Result};
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::LazyLock;

/// One line of the registry.
pub struct Entry {
    pub name: &'static str,
    pub build: fn(&mut Args) -> Result<OpRef>,
    pub samples: fn() -> Vec<Sample>,
}

static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let mut list = Vec::new();
    super::pointwise::register(&mut list);
    super::views::register(&mut list);
    super::cast::register(&mut list);
    super::matmul::register(&mut list);
    super::linear::register(&mut list);
    super::relu::register(&mut list);
    super::reduce::register(&mut list);
    super::softmax::register(&mut list);
    super::layer_norm::register(&mut list);
    super::batch_norm::register(&mut list);
    super::conv2d::register(&mut list);
    super::attention::register(&mut list);
    super::pooling::register(&mut list);
    super::recurrent::register(&mut list);
    super::cross_entropy::register(&mut list);
    super::index::register(&mut list);
    super::rearrange::register(&mut list);
    super::sorting::register(&mut list);
    super::scan::register(&mut list);
    super::cat::register(&mut list);
    super::split::register(&mut list);
    super::dropout::register(&mut list);
    super::transfer::register(&mut list);
    list
});

/// Each line, and whether all operands of its op are values, so that a number among them is a 0-d tensor.
static BY_NAME: LazyLock<FxHashMap<&'static str, (&'static Entry, bool)>> = LazyLock::new(|| {
    let mut list = Vec::new();
    super::pointwise::register(&mut list);
    let elementwise: FxHashSet<&str> = list.iter().map(|e| e.name).collect();
    let map: FxHashMap<_, _> = ENTRIES.iter().map(|e| (e.name, (e, elementwise.contains(e.name)))).collect();
    assert_eq!(map.len(), ENTRIES.len(), "bug: two ops of one name");
    map
});

pub fn entries() -> &'static [Entry] {
    &ENTRIES
}

/// The line of this name, and whether the op is elementwise.
pub fn entry(name: &str) -> Result<(&'static Entry, bool)> {
    BY_NAME
        .get(name)
        .copied()
        .ok_or_else(|| Error::value(format!("apply: there is no op '{name}'; op_names() lists what there is")))
}

pub fn build(name: &str, attributes: &[Attribute]) -> Result<OpRef> {
    let (entry, _) = entry(name)?;
    (entry.build)(&mut Args::new(entry.name, attributes))
}
