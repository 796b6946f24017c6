//! Fuzzes a search query.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keyrelay_server::fuzzing::search_query(data));
