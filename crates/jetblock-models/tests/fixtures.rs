//! The small checkpoints that other tests compute with can be loaded, and are what their README says.

use std::path::{Path, PathBuf};

use jetblock_models::checkpoint::Checkpoint;
use jetblock_models::config::ModelConfig;
use jetblock_testing::{read_npy_f32, read_npy_i64};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/nemotron")
        .join(name)
}

#[test]
fn fixtures_have_the_tensors_of_their_configuration() {
    for (name, pattern, tensors) in [
        ("tiny_mlp_moe", "M-M*ME", 59),
        ("tiny_latent_moe", "MEM*EMEME", 136),
    ] {
        let config = ModelConfig::open(&fixture(name)).expect("a valid configuration");
        let checkpoint = Checkpoint::open(fixture(name)).expect("valid files");
        let expected = config.tensors();
        checkpoint.check(&expected).expect("the right tensors");
        assert_eq!(
            (config.pattern().as_str(), checkpoint.len(), expected.len()),
            (pattern, tensors, tensors)
        );
        for tensor in &expected {
            let view = checkpoint.tensor(&tensor.name).expect("checked");
            let values = view.to_f32();
            assert_eq!(values.len() as u64, tensor.elements());
            assert!(values.iter().all(|x| x.is_finite()), "{}", tensor.name);
            checkpoint.release(view.bytes);
            assert_eq!(view.to_f32(), values, "released bytes stay readable");
        }
    }
}

#[test]
fn reference_logits_have_the_shapes_of_the_readme() {
    for name in ["tiny_mlp_moe", "tiny_latent_moe"] {
        let ids = read_npy_i64(fixture(name).join("ids.npy"));
        assert_eq!(
            (
                ids.shape,
                read_npy_i64(fixture(name).join("n_prefill.npy")).data
            ),
            (vec![45], vec![19])
        );
        for file in ["prefill.npy", "decode.npy", "chunked.npy"] {
            assert_eq!(read_npy_f32(fixture(name).join(file)).shape, [45, 97]);
        }
    }
}
