//! The index of a sharded checkpoint.
#![no_main]

use jetblock_models::checkpoint::ShardIndex;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(index) = ShardIndex::parse(bytes) else {
        return;
    };
    assert!(
        index.files().iter().all(|file| !file.contains(['/', '\\'])),
        "shards lie in the folder"
    );
});
