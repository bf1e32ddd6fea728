// int64 rows of zeros with a 1 at the place of each class number.

@group(0) @binding(0) var<storage, read_write> x: array<vec2<i32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec2<i32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let e = thread(id, groups);
    if (e >= p.n) {
        return;
    }
    let found = place(x[p.x_at + e / p.classes], p.classes, p.site, 0u);
    y[e] = vec2<i32>(select(0, 1, found == i32(e % p.classes)), 0);
}
