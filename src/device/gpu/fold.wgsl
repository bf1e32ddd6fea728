// Sums over some axes: an output for each index of the kept ones. Four axes of each kind, the last fastest.
// WIDE = 0: a thread adds up one output. WIDE = 1: a group does, and its threads meet in a tree.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> part: array<f32, 256>;

fn start(o: u32) -> i32 {
    let o3 = o % p.kept3;
    let r3 = o / p.kept3;
    let o2 = r3 % p.kept2;
    let r2 = r3 / p.kept2;
    let o1 = r2 % p.kept1;
    let o0 = r2 / p.kept1;
    return i32(p.x_at) + i32(o0) * p.step0 + i32(o1) * p.step1 + i32(o2) * p.step2 + i32(o3) * p.step3;
}

fn element(base: i32, r: u32) -> f32 {
    let o3 = r % p.gone3;
    let r3 = r / p.gone3;
    let o2 = r3 % p.gone2;
    let r2 = r3 / p.gone2;
    let o1 = r2 % p.gone1;
    let o0 = r2 / p.gone1;
    return x[u32(base + i32(o0) * p.move0 + i32(o1) * p.move1 + i32(o2) * p.move2 + i32(o3) * p.move3)];
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(workgroup_id) wid: vec3<u32>,
        @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    if (WIDE == 0u) {
        let o = thread(id, groups);
        if (o >= p.outputs) {
            return;
        }
        let base = start(o);
        var sum = 0.0f;
        // Short sums first, so that long ones keep their digits.
        for (var r = 0u; r < p.count; r += 128u) {
            var short = 0.0f;
            for (var i = r; i < min(r + 128u, p.count); i++) {
                short += element(base, i);
            }
            sum += short;
        }
        y[p.y_at + o] = sum * p.scale;
        return;
    }
    let o = group(wid, groups);
    if (o >= p.outputs) {
        return;
    }
    let base = start(o);
    var sum = 0.0f;
    for (var r = t; r < p.count; r += 256u) {
        sum += element(base, r);
    }
    part[t] = sum;
    for (var half = 128u; half > 0u; half = half >> 1u) {
        workgroupBarrier();
        if (t < half) {
            part[t] += part[t + half];
        }
    }
    if (t == 0u) {
        y[p.y_at + o] = part[0] * p.scale;
    }
}
