//! The header of a safetensors file.
#![no_main]

use jetblock_models::checkpoint::Header;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::parse("fuzz", bytes) else {
        return;
    };
    let tensors: u64 = header
        .tensors
        .iter()
        .map(|tensor| tensor.bytes.end - tensor.bytes.start)
        .sum();
    assert!(tensors <= bytes.len() as u64, "tensors tile the file");
});
