// Pooling of images [n, rows, columns, channels], and its way back, which gathers from the windows that hold an element.
// HOW = 0: y = the maximum of each window of x, where in it that is (PLACES = 1) and where in its channel (INDICES = 1).
// HOW = 1: y = the sum of x over the windows whose maximum was here. HOW = 2: y = x where the maxima were.
// HOW = 3: y = the mean of each window. HOW = 4: the gradient of that.
// DIVISOR = 0: elements that exist; 1: those of the padded input too; 2: p.divisor.

@group(0) @binding(2) var<storage, read_write> places: array<u32>;
@group(0) @binding(3) var<storage, read_write> indices: array<vec2<u32>>;

struct Axis {
    input: i32,
    output: i32,
    kernel: i32,
    stride: i32,
    padding: i32,
    dilation: i32,
}

fn rows() -> Axis {
    return Axis(p.row_input, p.row_output, p.row_kernel, p.row_stride, p.row_padding, p.row_dilation);
}

fn columns() -> Axis {
    return Axis(p.col_input, p.col_output, p.col_kernel, p.col_stride, p.col_padding, p.col_dilation);
}

// Where tap 0 of window t lies, and the taps inside the input.
struct Window {
    first: i32,
    head: i32,
    tail: i32,
}

fn window(axis: Axis, t: i32) -> Window {
    if (ADAPTIVE == 1u) {
        let first = t * axis.input / axis.output;
        return Window(first, 0, ((t + 1) * axis.input + axis.output - 1) / axis.output - first);
    }
    let first = t * axis.stride - axis.padding;
    let head = min((max(-first, 0) + axis.dilation - 1) / axis.dilation, axis.kernel);
    let tail = (max(axis.input - first, 0) + axis.dilation - 1) / axis.dilation;
    return Window(first, head, clamp(tail, head, axis.kernel));
}

// The range that holds all windows that hold element i.
fn windows(axis: Axis, i: i32) -> vec2<i32> {
    if (ADAPTIVE == 1u) {
        return vec2<i32>(i * axis.output / axis.input, ((i + 1) * axis.output + axis.input - 1) / axis.input);
    }
    let at = i + axis.padding;
    let head = (max(at - axis.dilation * (axis.kernel - 1), 0) + axis.stride - 1) / axis.stride;
    return vec2<i32>(head, min(at / axis.stride + 1, axis.output));
}

// The tap of a window at element i, or -1.
fn tap(axis: Axis, w: Window, i: i32) -> i32 {
    let distance = i - w.first;
    let k = distance / axis.dilation;
    return select(-1, k, distance >= 0 && k * axis.dilation == distance && k >= w.head && k < w.tail);
}

fn count(axis: Axis, w: Window) -> i32 {
    if (ADAPTIVE == 1u || DIVISOR == 0u) {
        return w.tail - w.head;
    }
    return min(axis.input + axis.padding - w.first, axis.kernel);
}

fn divisor(row: Window, col: Window) -> f32 {
    if (DIVISOR == 2u) {
        return p.divisor;
    }
    return f32(count(rows(), row)) * f32(count(columns(), col));
}

fn input_at(image: i32, row: i32, col: i32, channel: i32) -> u32 {
    return u32(((image * p.row_input + row) * p.col_input + col) * p.channels + channel);
}

fn output_at(image: i32, row: i32, col: i32, channel: i32) -> u32 {
    return u32(((image * p.row_output + row) * p.col_output + col) * p.channels + channel);
}

fn place_at(e: u32) -> i32 {
    if (BYTES == 1u) {
        return i32((places[e >> 2u] >> ((e & 3u) * 8u)) & 0xffu);
    }
    return i32(places[e]);
}

// One element of the side that is written; the place of a maximum comes back.
fn element(e: u32) -> u32 {
    let channel = i32(e % p.channels_u);
    let pixel = i32(e / p.channels_u);
    let back = HOW == 1u || HOW == 4u;
    let width = select(p.col_output, p.col_input, back);
    let height = select(p.row_output, p.row_input, back);
    let col = pixel % width;
    let row = pixel / width % height;
    let image = pixel / width / height;
    if (back) {
        let row_range = windows(rows(), row);
        let col_range = windows(columns(), col);
        var sum = 0.0f;
        for (var r = row_range.x; r < row_range.y; r++) {
            let row_window = window(rows(), r);
            let down = tap(rows(), row_window, row);
            for (var c = col_range.x; c < col_range.y && down >= 0; c++) {
                let col_window = window(columns(), c);
                let across = tap(columns(), col_window, col);
                if (across < 0) {
                    continue;
                }
                let at = output_at(image, r, c, channel);
                if (HOW == 4u) {
                    sum += x_at(p.x_at + at) / divisor(row_window, col_window);
                } else if (place_at(at) == down * p.col_kernel + across) {
                    sum += x_at(p.x_at + at);
                }
            }
        }
        y_put(p.y_at + e, sum);
        return 0u;
    }
    let row_window = window(rows(), row);
    let col_window = window(columns(), col);
    if (HOW == 2u) {
        let place = place_at(e);
        let r = clamp(row_window.first + place / p.col_kernel * p.row_dilation, 0, p.row_input - 1);
        let c = clamp(col_window.first + place % p.col_kernel * p.col_dilation, 0, p.col_input - 1);
        y_put(p.y_at + e, x_at(p.x_at + input_at(image, r, c, channel)));
        return 0u;
    }
    var sum = 0.0f;
    var best = -m_inf();
    var place = row_window.head * p.col_kernel + col_window.head;
    for (var down = row_window.head; down < row_window.tail; down++) {
        let r = row_window.first + down * p.row_dilation;
        for (var across = col_window.head; across < col_window.tail; across++) {
            let c = col_window.first + across * p.col_dilation;
            let value = x_at(p.x_at + input_at(image, r, c, channel));
            if (HOW == 3u) {
                sum += value;
            } else if (value > best || m_is_nan(value)) {
                best = value;
                place = down * p.col_kernel + across;
            }
        }
    }
    if (HOW == 3u) {
        y_put(p.y_at + e, sum / divisor(row_window, col_window));
        return 0u;
    }
    y_put(p.y_at + e, best);
    if (INDICES == 1u) {
        let r = row_window.first + place / p.col_kernel * p.row_dilation;
        let c = col_window.first + place % p.col_kernel * p.col_dilation;
        indices[p.indices_at + e] = vec2<u32>(u32(r * p.col_input + c), 0u);
    }
    return u32(place);
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let t = thread(id, groups);
    if (HOW > 0u) {
        if (t < p.n) {
            _ = element(t);
        }
        return;
    }
    // Four bytes of places are one word.
    var word = 0u;
    for (var i = 0u; i < 4u; i++) {
        let e = t * 4u + i;
        if (e < p.n) {
            let place = element(e);
            if (PLACES == 1u && BYTES == 0u) {
                places[e] = place;
            }
            word |= place << (i * 8u);
        }
    }
    if (PLACES == 1u && BYTES == 1u && t * 4u < p.n) {
        places[t] = word;
    }
}
