// The numbers of rows from int64 indices, axis by axis: y = y · size + index, or -1 once one is out of range. FIRST = 1: y
// holds nothing yet.

@group(0) @binding(0) var<storage, read_write> index: array<vec2<i32>>;
@group(0) @binding(1) var<storage, read_write> y: array<i32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let i = thread(id, groups);
    if (i >= p.n) {
        return;
    }
    let here = place(index[p.index_at + i], p.size, p.site, p.axis);
    var before = 0;
    if (FIRST == 0u) {
        before = y[i];
    }
    y[i] = select(before * i32(p.size) + here, -1, before < 0 || here < 0);
}
