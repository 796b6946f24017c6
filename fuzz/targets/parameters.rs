//! Fuzzes the input of `$rotate-secret`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keyrelay_server::fuzzing::parameters(data));
