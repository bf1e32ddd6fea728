//! Interned strings: module paths and source lines, four bytes each in a tag.

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::{Arc, LazyLock};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(u32);

#[derive(Default)]
struct Table {
    ids: FxHashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
}

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(|| {
    let empty: Arc<str> = "".into();
    Mutex::new(Table { ids: FxHashMap::from_iter([(empty.clone(), 0)]), texts: vec![empty] })
});

impl Name {
    pub const NONE: Name = Name(0);

    pub fn intern(text: &str) -> Name {
        let mut table = TABLE.lock();
        if let Some(&id) = table.ids.get(text) {
            return Name(id);
        }
        let (id, text): (u32, Arc<str>) = (table.texts.len() as u32, text.into());
        table.ids.insert(text.clone(), id);
        table.texts.push(text);
        Name(id)
    }

    pub fn text(self) -> Arc<str> {
        TABLE.lock().texts[self.0 as usize].clone()
    }

    /// For keeping a name in an atomic.
    pub fn bits(self) -> u32 {
        self.0
    }

    pub fn from_bits(bits: u32) -> Name {
        Name(bits)
    }

    pub fn is_none(self) -> bool {
        self == Name::NONE
    }
}

/// All texts from the name number `first` on.
pub fn texts_from(first: usize) -> Vec<Arc<str>> {
    TABLE.lock().texts.get(first..).unwrap_or_default().to_vec()
}
