// Sorted runs of each line, merged in pairs: a slot goes as far as there are slots before it in its own run and in the other.

@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

fn slot(i: u32) -> Slot {
    let at = i * STRIDE;
    var low = 0u;
    if (STRIDE == 3u) {
        low = x[at + 1u];
    }
    return Slot(vec2<u32>(x[at], low), x[at + STRIDE - 1u]);
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let e = thread(id, groups);
    if (e >= p.n * p.lines) {
        return;
    }
    let line = e / p.n;
    let i = e % p.n;
    let start = i - i % (2u * p.run);
    let middle = min(start + p.run, p.n);
    let end = min(start + 2u * p.run, p.n);
    let own = slot(e);
    let left = i < middle;
    let other = select(start, middle, left);
    var low = other;
    var high = select(middle, end, left);
    while (low < high) {
        let half = (low + high) >> 1u;
        if (before(slot(line * p.n + half), own)) {
            low = half + 1u;
        } else {
            high = half;
        }
    }
    put(line, start + (i - select(middle, start, left)) + (low - other), own);
}
