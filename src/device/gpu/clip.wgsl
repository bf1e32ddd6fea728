// The norm of many tensors taken as one vector, and their clipping by it. KIND 0: the sum of the squares of each 1024 elements.
// KIND 1: the root of the sum of these. KIND 2: each element times most / (norm + 1e-6) where that is below 1, or NaN.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> parts: array<f32>;
@group(0) @binding(2) var<storage, read_write> norm: array<f32>;
@group(0) @binding(3) var<storage, read_write> rows: array<u32>;

var<workgroup> part: array<f32, 256>;

fn total(t: u32, own: f32) -> f32 {
    part[t] = own;
    for (var half = 128u; half > 0u; half = half >> 1u) {
        workgroupBarrier();
        if (t < half) {
            part[t] += part[t + half];
        }
    }
    return part[0];
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
    let here = group(wid, groups);
    if (here >= p.groups) {
        return;
    }
    if (KIND == 1u) {
        // Each thread's sum in two parts, so that many small ones are not lost in it.
        var sum = 0.0f;
        var error = 0.0f;
        for (var i = t; i < p.parts; i += 256u) {
            let next = parts[i];
            let more = sum + next;
            error += select(next - (more - sum), sum - (more - next), sum < next);
            sum = more;
        }
        let all = total(t, sum + select(0.0f, error, m_is_finite(sum)));
        if (t == 0u) {
            norm[p.norm_at] = sqrt(all);
        }
        return;
    }
    let row = parameter(here);
    let n = rows[row + 1u];
    let start = (here - rows[row]) * 1024u;
    let x_at = rows[row + 2u];
    if (KIND == 0u) {
        var sum = 0.0f;
        for (var i = start + t; i < min(n, start + 1024u); i += 256u) {
            sum += x[x_at + i] * x[x_at + i];
        }
        let all = total(t, sum);
        if (t == 0u) {
            // In the order of the list, so that the sum does not depend on where tensors lie.
            parts[rows[row + 7u] + here - rows[row]] = all;
        }
        return;
    }
    let factor = p.most / (norm[p.norm_at] + 1e-6f);
    // A NaN must reach the gradients, not be hidden.
    if (factor < 1.0f || m_is_nan(factor)) {
        for (var i = start + t; i < min(n, start + 1024u); i += 256u) {
            x[x_at + i] *= factor;
        }
    }
}
