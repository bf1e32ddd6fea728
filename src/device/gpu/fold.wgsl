// Folds over some axes of x: an output for each index of the kept ones. Four axes of each kind, the last fastest. In front
// stand T, what a fold carries, and its parts: first, term (of an element), join and conclude (which writes the output, or
// calls `finish`).
// GONE = 1: of the folded axes only the last has more than one place.
// WHO = 0: a thread folds alone. WHO = 1: a group does, and its threads meet in a tree. WHO = 2: a group folds SIDE outputs,
// which lie side by side, each with threads that are SIDE apart.
// Long folds are cut into `splits`. STAGE = 0: there is one. STAGE = 1: each leaves what it carries in `part`, [splits,
// outputs]. STAGE = 2: those are joined.

var<workgroup> tree: array<T, 256>;

fn start(o: u32) -> i32 {
    let o3 = o % p.kept3;
    let r3 = o / p.kept3;
    let o2 = r3 % p.kept2;
    let r2 = r3 / p.kept2;
    let o1 = r2 % p.kept1;
    let o0 = r2 / p.kept1;
    return i32(p.x_at) + i32(o0) * p.step0 + i32(o1) * p.step1 + i32(o2) * p.step2 + i32(o3) * p.step3;
}

fn element(base: i32, o: u32, r: u32) -> T {
    if (STAGE == 2u) {
        return part[r * p.outputs + o];
    }
    if (GONE == 1u) {
        return term(u32(base + i32(r) * p.move3), o, r);
    }
    let o3 = r % p.gone3;
    let r3 = r / p.gone3;
    let o2 = r3 % p.gone2;
    let r2 = r3 / p.gone2;
    let o1 = r2 % p.gone1;
    let o0 = r2 / p.gone1;
    let at = base + i32(o0) * p.move0 + i32(o1) * p.move1 + i32(o2) * p.move2 + i32(o3) * p.move3;
    return term(u32(at), o, r);
}

fn end(o: u32, split: u32, total: T) {
    if (STAGE == 1u) {
        part[split * p.outputs + o] = total;
    } else {
        conclude(o, total);
    }
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(workgroup_id) wid: vec3<u32>,
        @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    var outputs = p.outputs;
    var unit = thread(id, groups);
    if (WHO == 1u) {
        unit = group(wid, groups);
    }
    if (WHO == 2u) {
        outputs = (p.outputs + SIDE - 1u) / SIDE * SIDE;
        let blocks = outputs / SIDE;
        let block = group(wid, groups);
        unit = block / blocks * outputs + block % blocks * SIDE + t % SIDE;
    }
    let split = unit / outputs;
    // Beyond the last output the last again, which is not written.
    let own = unit % outputs;
    let o = min(own, p.outputs - 1u);
    if (split >= p.splits) {
        return;
    }
    let head = split * p.run;
    let tail = min(head + p.run, p.terms);
    let base = start(o);
    var total = first();
    if (WHO == 0u) {
        // Short ones first, so that long sums keep their digits.
        for (var r = head; r < tail; r += 128u) {
            var short = first();
            for (var i = r; i < min(r + 128u, tail); i++) {
                short = join(short, element(base, o, i));
            }
            total = join(total, short);
        }
        end(o, split, total);
        return;
    }
    let apart = select(1u, SIDE, WHO == 2u);
    for (var r = head + t / apart; r < tail; r += 256u / apart) {
        total = join(total, element(base, o, r));
    }
    tree[t] = total;
    for (var half = 128u / apart; half > 0u; half = half >> 1u) {
        workgroupBarrier();
        if (t < half * apart) {
            tree[t] = join(tree[t], tree[t + half * apart]);
        }
    }
    if (t < apart && own < p.outputs) {
        end(o, split, tree[t]);
    }
}
