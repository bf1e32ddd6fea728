// Where values belong in sorted rows [.., n], as int64: before equal elements, or with RIGHT = 1 after them. ONE = 1: one row
// for all values. `value_key` is `key` of the values.

@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> values: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec2<u32>>;

fn below(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x < b.x || (a.x == b.x && (a.y < b.y || (RIGHT == 1u && a.y == b.y)));
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let e = thread(id, groups);
    if (e >= p.m) {
        return;
    }
    let own = value_key(p.values_at + e);
    let start = p.x_at + select((e / p.each) * p.n, 0u, ONE == 1u);
    var low = 0u;
    var high = p.n;
    while (low < high) {
        let middle = (low + high) >> 1u;
        if (below(key(start + middle), own)) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    y[e] = vec2<u32>(low, 0u);
}
