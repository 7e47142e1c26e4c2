//! Model folders made by tests.

use std::path::Path;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A configuration with a layer of each kind that a MoE model has, small enough to change field by field.
pub(crate) fn tiny_config() -> Map<String, Value> {
    let config = json!({
        "model_type": "nemotron_h",
        "vocab_size": 97, "hidden_size": 48, "layer_norm_epsilon": 1e-5,
        "hybrid_override_pattern": "M*-E", "num_hidden_layers": 4,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16,
        "mamba_num_heads": 8, "mamba_head_dim": 12, "ssm_state_size": 16, "n_groups": 4, "conv_kernel": 4,
        "intermediate_size": 72,
        "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40,
        "moe_shared_expert_intermediate_size": 56, "routed_scaling_factor": 2.5, "n_group": 2, "topk_group": 1,
    });
    match config {
        Value::Object(map) => map,
        _ => unreachable!("an object"),
    }
}

/// The configuration with fields replaced; `null` removes one, as absent and null are the same.
pub(crate) fn with(changes: Value) -> Vec<u8> {
    let mut config = tiny_config();
    for (name, value) in changes.as_object().expect("an object") {
        config.insert(name.clone(), value.clone());
    }
    serde_json::to_vec(&config).expect("serialisable")
}

/// One tensor of a file: name, dtype, shape, bytes.
pub(crate) type Tensor = (String, &'static str, Vec<usize>, Vec<u8>);

/// A well-formed file of F32 tensors of zeros.
pub(crate) fn zeros(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let tensors: Vec<Tensor> = tensors
        .iter()
        .map(|(name, shape)| {
            (
                name.to_string(),
                "F32",
                shape.to_vec(),
                vec![0; 4 * shape.iter().product::<usize>()],
            )
        })
        .collect();
    file_of(&tensors)
}

/// A well-formed file.
pub(crate) fn file_of(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        data.extend_from_slice(bytes);
        header.insert(
            name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}),
        );
    }
    raw_file(&Value::Object(header).to_string(), &data)
}

/// A file with any header text and data.
pub(crate) fn raw_file(header: &str, data: &[u8]) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        data,
    ]
    .concat()
}

/// A folder of files.
pub(crate) fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).expect("written");
    }
    dir
}

/// The message without the path of the temporary folder.
pub(crate) fn message(dir: &Path, error: impl std::fmt::Display) -> String {
    error.to_string().replace(&dir.display().to_string(), "DIR")
}
