//! Fuzzes an `Authorization` header of the scheme Basic.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keyrelay_server::fuzzing::basic_header(data));
