// BACK = 0: y = softmax of the rows of x, or with LOG = 1 its logarithm. BACK = 1: y = the gradient from the result x and
// its gradient dy. The elements of y go to `finish`.


@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
    if (!sit(group(wid, groups), t)) {
        return;
    }
    let x_row = p.x_at + row_start();
    let dy_row = p.dy_at + row_start();
    let e = row_start();
    if (BACK == 1u) {
        var sum = 0.0f;
        for (var j = lane; j < p.columns; j += LANES) {
            let slope = dy_at(dy_row + j * p.inner);
            if (LOG == 1u) {
                sum += slope;
            } else {
                sum += slope * x_at(x_row + j * p.inner);
            }
        }
        sum = total(sum);
        for (var j = lane; j < p.columns && is_own(); j += LANES) {
            let value = x_at(x_row + j * p.inner);
            let slope = dy_at(dy_row + j * p.inner);
            if (LOG == 1u) {
                finish(e + j * p.inner, slope - m_exp(value) * sum);
            } else {
                finish(e + j * p.inner, value * (slope - sum));
            }
        }
        return;
    }
    var top = -m_inf();
    for (var j = lane; j < p.columns; j += LANES) {
        top = m_max(top, x_at(x_row + j * p.inner));
    }
    top = largest(top);
    var sum = 0.0f;
    for (var j = lane; j < p.columns; j += LANES) {
        sum += m_exp(x_at(x_row + j * p.inner) - top);
    }
    sum = total(sum);
    let rest = m_log(sum);
    for (var j = lane; j < p.columns && is_own(); j += LANES) {
        let value = x_at(x_row + j * p.inner) - top;
        if (LOG == 1u) {
            finish(e + j * p.inner, value - rest);
        } else {
            finish(e + j * p.inner, m_exp(value) / sum);
        }
    }
}
