// The step that the way back begins with: no product, as the gradient of the last h is given.
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let e = thread(id, groups);
    if (e < p.m * p.hidden) {
        step_back(e, later[p.later_at + e]);
    }
}
