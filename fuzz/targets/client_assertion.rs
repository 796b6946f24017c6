//! Fuzzes a client assertion, or a key set.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keyrelay_server::fuzzing::client_assertion(data));
