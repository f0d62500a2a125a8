//! What the fuzz targets in `fuzz/` do with one input, each a function that stops when a promise is
//! broken. Ordinary tests run them over the inputs kept in `fuzz/corpus`.
//!
//! This is no part of the program: it is there for tests and with the feature `fuzzing` only.

mod authority;
mod challenge;
mod chunks;
mod configuration;
mod frames;
pub(crate) mod head;
mod headers;
mod library;
mod path;
mod token_answer;

#[cfg(test)]
mod properties_tests;
#[cfg(test)]
mod tests;

/// A target: stops when its input breaks a promise.
pub type Target = fn(&[u8]);

/// All targets by name; each has a file in `fuzz/targets` and a folder in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 9] = [
    ("authority", authority::target),
    ("challenge", challenge::target),
    ("chunks", chunks::target),
    ("configuration", configuration::target),
    ("frames", frames::target),
    ("head", head::target),
    ("headers", headers::target),
    ("path", path::target),
    ("token_answer", token_answer::target),
];

/// Runs the target `name` on `input`.
///
/// # Panics
/// When the input breaks a promise, or when there is no such target.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.expect("the name is in the table");
    target(input);
}
