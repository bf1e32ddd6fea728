//! Lines of a kernel that stand for several, written out: a driver may keep an array that a loop runs over in memory, and
//! variables in registers.

/// `text` without its comments, each line with `$x` once for each number of axis `x`, for every axis it names, the first as the
/// outermost. `$xq`, `$xr` and `$xc` are the number's quad, its place in it, and the name of that component of a vector.
pub fn unroll(text: &str, axes: &[(&str, usize)]) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("//")).map(|line| line.to_string() + "\n");
    lines.map(|line| written_out(line, axes)).collect()
}

fn written_out(line: String, axes: &[(&str, usize)]) -> String {
    let Some((&(name, count), inner)) = axes.split_first() else { return line };
    let sign = format!("${name}");
    if !line.contains(&sign) {
        return written_out(line, inner);
    }
    let one = |i: usize| {
        let line = line.replace(&format!("{sign}q"), &(i / 4).to_string());
        let line = line.replace(&format!("{sign}r"), &(i % 4).to_string());
        let line = line.replace(&format!("{sign}c"), ["x", "y", "z", "w"][i % 4]);
        written_out(line.replace(&sign, &i.to_string()), inner)
    };
    (0..count).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_out_for_each_number_of_each_axis() {
        let text = unroll("// $i\nplain\ns$i_$j += a$iq.$ic * b$j + $ir;\n", &[("i", 6), ("h", 9), ("j", 2)]);
        assert!(text.starts_with("plain\ns0_0 += a0.x * b0 + 0;\ns0_1 += a0.x * b1 + 0;\n"));
        assert!(text.ends_with("s5_1 += a1.y * b1 + 1;\n"));
        assert_eq!(text.lines().count(), 13);
    }
}
