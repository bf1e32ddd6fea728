// Σ y · dy of each row: what all scores of the row have in common on the way back.

@group(0) @binding(2) var<storage, read_write> totals: array<f32>;

fn begin(at: i32, steps: vec4<i32>, l: vec4<u32>) -> i32 {
    let moved = vec4<i32>(l) * steps;
    return at + moved.x + moved.y + moved.z + moved.w;
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let e = thread(id, groups);
    if (e >= p.groups) {
        return;
    }
    let lead = e / p.queries;
    let row = i32(e % p.queries);
    let l2 = lead / p.lead.w;
    let l1 = l2 / p.lead.z;
    let l = vec4<u32>(l1 / p.lead.y, l1 % p.lead.y, l2 % p.lead.z, lead % p.lead.w);
    let y_start = begin(p.y_at.x, p.y_lead, l) + row * p.y_at.y;
    let dy_start = begin(p.dy_at.x, p.dy_lead, l) + row * p.dy_at.y;
    var total = 0.0f;
    for (var c = 0u; c < p.value_width; c++) {
        total += y_at(u32(y_start + i32(c) * p.y_at.z)) * dy_at(u32(dy_start + i32(c) * p.dy_at.z));
    }
    totals[e] = total;
}
