//! The bits of this version, as committed in `golden/v<N>/`.

use std::path::Path;

use jetblock_numerics::NUMERICS_VERSION;

mod vectors;

#[test]
fn golden_bits() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/v{NUMERICS_VERSION}"));
    for (name, text) in vectors::files() {
        let committed =
            std::fs::read_to_string(folder.join(name)).expect("golden files are committed");
        for (line, (got, want)) in text.lines().zip(committed.lines()).enumerate() {
            assert_eq!(
                got,
                want,
                "{name}, line {}: bits changed without a new NUMERICS_VERSION",
                line + 1
            );
        }
        assert_eq!(
            text.lines().count(),
            committed.lines().count(),
            "{name}: other entries than committed"
        );
    }
}
