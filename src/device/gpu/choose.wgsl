// Places drawn in proportion to whole weights: y [rows, samples] from their running totals `ends` [rows, n], int64. A draw is below
// the last total, and belongs to the first place whose total is above it.

@group(0) @binding(0) var<storage, read_write> ends: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec2<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = thread(id, groups);
    if (i >= p.count) {
        return;
    }
    let first = p.ends_at + i / p.samples * p.n;
    let bits = vec2<u32>(random_bits(vec2<u32>(2u * i + 1u, 0u)), random_bits(vec2<u32>(2u * i, 0u)));
    let drawn = high_product(bits, ends[first + p.n - 1u]);
    var low = 0u;
    var high = p.n - 1u;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (i_wide_less(drawn, ends[first + middle])) {
            high = middle;
        } else {
            low = middle + 1u;
        }
    }
    y[p.y_at + i] = vec2<u32>(low, 0u);
}
