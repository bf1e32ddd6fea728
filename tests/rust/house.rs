//! The rules of the house that have a reason: the order of the layers, and who may do what.

use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up: a file imports only from layers before its own, or from its own.
const LAYERS: [&[&str]; 7] = [
    &["error", "real"],
    &["shape", "dtype", "arena", "plan"],
    &["device"],
    &["tensor"],
    &["ops"],
    &["graph"],
    &["bindings"],
];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, list: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, list);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                list.push((path, text));
            }
        }
    }
    let mut list = vec![];
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut list);
    list
}

/// The top-level module a file belongs to.
fn module(path: &Path) -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let first = path.strip_prefix(&src).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_string()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|l| l.contains(&module))
}

/// Code without its comments and without its own tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn files_import_only_from_the_layers_above_their_own() {
    for (path, text) in sources() {
        let own = module(&path);
        let Some(own_layer) = layer(&own) else { continue };
        for part in code(&text).split("crate::").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if let Some(other) = layer(&name) {
                assert!(other <= own_layer, "{}: {own} imports {name}, which stands below it", path.display());
            }
        }
    }
}

#[test]
fn every_module_says_what_it_is() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{}: no //! at the top", path.display());
    }
}

#[test]
fn unsafe_stays_in_its_rooms_and_python_in_the_bindings() {
    for (path, text) in sources() {
        let (own, code) = (module(&path), code(&text));
        if !["arena", "device", "real"].contains(&own.as_str()) {
            let words = code.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| *w == "unsafe").count();
            assert_eq!(words, 0, "{}: unsafe outside arena, device and real", path.display());
        }
        if own != "bindings" {
            assert!(!code.contains("pyo3"), "{}: pyo3 outside the bindings", path.display());
        }
    }
}

/// A closure over lanes is not inlined for certain, and one that is not runs without the instructions of its level, many
/// times slower; a macro is what it looks like.
#[test]
fn functions_over_lanes_take_no_closures() {
    for (path, text) in sources() {
        for function in code(&text).split("fn ").skip(1) {
            let signature = function.split(['{', ';']).next().unwrap();
            let closure = ["Fn(", "FnMut(", "FnOnce("].iter().any(|word| signature.contains(word));
            assert!(!(closure && signature.contains("Lanes")), "{}: fn {signature}", path.display());
        }
    }
}
