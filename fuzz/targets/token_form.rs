//! Fuzzes a form at the token endpoint.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keyrelay_server::fuzzing::token_form(data));
