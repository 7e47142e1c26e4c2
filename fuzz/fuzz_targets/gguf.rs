//! The header of a GGUF file, and the configuration in it.
#![no_main]

use jetblock_models::gguf::Header;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = Header::parse("fuzz", bytes) else {
        return;
    };
    let used: usize = header.tensors.iter().map(|tensor| tensor.bytes.len()).sum();
    assert!(used <= bytes.len(), "tensors lie in the file, apart");
    if let Ok(config) = header.config("fuzz") {
        assert!(config.tensors().iter().all(|tensor| tensor.elements() > 0));
    }
});
