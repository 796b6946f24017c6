//! Fuzzes a JSON Patch, with the resource it is for.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keyrelay_server::fuzzing::json_patch(data));
