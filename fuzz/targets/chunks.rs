#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| keybearer::fuzzing::run("chunks", input));
