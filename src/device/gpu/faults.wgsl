// Indices that may be out of range: see faults.rs. The words are binding FAULTS.

@group(0) @binding(FAULTS) var<storage, read_write> faults: array<atomic<u32>, 8>;

// The first kernel to come claims word 0; of its bad indices on an axis the lowest stays, so that the order of threads does
// not matter. Nearest to what 32 bits hold where the index is beyond, and never 0.
fn note(index: vec2<i32>, site: u32, axis: u32) {
    let fits = index.y == (index.x >> 31u);
    let end = select(2147483646, -2147483647, index.y < 0);
    let value = select(end, clamp(index.x, -2147483647, 2147483646), fits);
    var owner = 0u;
    loop {
        let claim = atomicCompareExchangeWeak(&faults[0], 0u, site);
        owner = claim.old_value;
        if (claim.exchanged || owner != 0u) {
            break;
        }
    }
    if (owner == 0u || owner == site) {
        atomicMax(&faults[1u + axis], ~(bitcast<u32>(value) ^ 0x80000000u));
    }
}

// The place that an index names among `size`, or -1. With ENDS = 1 it may count from the end.
fn place(index: vec2<i32>, size: u32, site: u32, axis: u32) -> i32 {
    let low = bitcast<u32>(index.x);
    if (index.y == 0 && low < size) {
        return i32(low);
    }
    if (ENDS == 1u && index.y == -1 && low != 0u && 0u - low <= size) {
        return i32(low + size);
    }
    note(index, site, axis);
    return -1;
}
