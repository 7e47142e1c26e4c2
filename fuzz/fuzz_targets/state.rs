//! A saved state, with checksums put right where the bytes begin with an odd number: what is accepted is exactly what
//! would be written.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use jetblock_models::{Model, Options, StateCodec};
use jetblock_tensor::{Digest, digest};

/// The bytes of a header before its ids, and where the digests of the sections are in it.
const FIXED: usize = 188;
const SECTIONS: usize = 124;

const IDS: [u32; 3] = [5, 6, 7];

static CODEC: LazyLock<StateCodec> = LazyLock::new(|| {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/nemotron/tiny_mlp_moe");
    let model = Model::load(&folder, Options::default(), &mut |_| {}).expect("the fixture loads");
    StateCodec::new(Arc::new(model), Digest([7; 32]))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if first % 2 == 1 {
        put_checksums_right(&mut bytes);
    }
    let prefixes = CODEC.prefixes(&IDS);
    let Ok(from) = CODEC.read_from(&prefixes, IDS.len(), &mut &bytes[..]) else {
        return;
    };
    let Ok(piece) = CODEC.read(&prefixes, IDS.len(), &mut &bytes[..], true) else {
        return;
    };
    if let Ok(state) = CODEC.restore(&[piece]) {
        assert_eq!(from, 0, "a state begins at the first token");
        let written = CODEC.write(&state, &prefixes, 0).expect("its own state");
        assert!(written == bytes, "accepted, and not what would be written");
    }
});

/// As a writer would have made them for these sections.
fn put_checksums_right(bytes: &mut [u8]) {
    let piece = |tokens| CODEC.piece_bytes(0, tokens) as usize;
    let (one, kv_and_id) = (piece(1), piece(2) - piece(1));
    let snapshot = one - FIXED - 32 - kv_and_id;
    let Some(&from) = bytes.get(108) else {
        return;
    };
    let ids = IDS.len().saturating_sub(from.into());
    let header = FIXED + 4 * ids + 32;
    let Some(snapshot) = bytes.len().checked_sub(snapshot).filter(|at| *at >= header) else {
        return;
    };
    let sections = [&bytes[header..snapshot], &bytes[snapshot..]];
    let sections = sections.map(|bytes| digest::sha256(bytes).0).concat();
    bytes[SECTIONS..FIXED].copy_from_slice(&sections);
    let checksum = digest::sha256(&bytes[..header - 32]).0;
    bytes[header - 32..header].copy_from_slice(&checksum);
}
