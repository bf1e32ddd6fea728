// What every kernel may call: its place in the grid. A grid is one-dimensional for the kernel; it was folded because one
// axis of a dispatch has at most 65,535 groups.

const GROUP: u32 = 256u;

// The number of this thread, for kernels of 256 threads a group.
fn thread(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.y * (groups.x * GROUP) + id.x;
}

// The number of this group.
fn group(id: vec3<u32>, groups: vec3<u32>) -> u32 {
    return id.y * groups.x + id.x;
}
