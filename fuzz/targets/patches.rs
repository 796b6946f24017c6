//! Fuzzes JSON Patches that are applied to one resource, one after another.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keyrelay_server::fuzzing::patches(data));
