// Elements as bits, whatever their type, of BYTES each. A thread makes one element, or one word of those that share words;
// y then begins at its storage's start and is all of it. `element` is the kernel's.

@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;

fn bits(at: u32) -> vec2<u32> {
    if (BYTES == 8u) {
        return vec2<u32>(x[2u * at], x[2u * at + 1u]);
    }
    if (BYTES == 4u) {
        return vec2<u32>(x[at], 0u);
    }
    if (BYTES == 2u) {
        return vec2<u32>((x[at >> 1u] >> ((at & 1u) * 16u)) & 0xffffu, 0u);
    }
    return vec2<u32>((x[at >> 2u] >> ((at & 3u) * 8u)) & 0xffu, 0u);
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let t = thread(id, groups);
    if (BYTES >= 4u) {
        if (t >= p.n) {
            return;
        }
        let value = element(t);
        if (BYTES == 8u) {
            y[2u * (p.y_at + t)] = value.x;
            y[2u * (p.y_at + t) + 1u] = value.y;
        } else {
            y[p.y_at + t] = value.x;
        }
        return;
    }
    let each = select(4u, 2u, BYTES == 2u);
    let first = t * each;
    if (first >= p.n) {
        return;
    }
    var word = 0u;
    for (var i = 0u; i < min(each, p.n - first); i++) {
        word |= (element(first + i).x & select(0xffu, 0xffffu, BYTES == 2u)) << (i * (32u / each));
    }
    y[t] = word;
}
