//! config.json: spellings that are accepted, and the messages of those that are not.

use insta::assert_snapshot;
use jetblock_models::config::{LayerKind, ModelConfig};
use jetblock_tensor::DType;
use serde_json::{Value, json};

use crate::folder::{folder, message, with};

fn read(changes: Value) -> ModelConfig {
    ModelConfig::from_json(&with(changes)).expect("a valid configuration")
}

fn refusal(changes: Value) -> String {
    ModelConfig::from_json(&with(changes))
        .expect_err("an invalid configuration")
        .to_string()
}

fn refusal_of(text: &str) -> String {
    ModelConfig::from_json(text.as_bytes())
        .expect_err("an invalid configuration")
        .to_string()
}

#[test]
fn the_stack_has_two_spellings_and_the_list_wins() {
    let letters = read(json!({}));
    let original = json!(["mamba", "attention", "mlp", "moe"]);
    let newer = json!(["linear_attention", "full_attention", "mlp", "moe"]);
    for list in [original, newer] {
        let listed = read(json!({"layers_block_type": list, "hybrid_override_pattern": null}));
        assert_eq!(listed, letters);
        let both =
            read(json!({"layers_block_type": listed_names(), "hybrid_override_pattern": "MMMM"}));
        assert_eq!(both, letters, "the list wins");
    }
    assert_eq!(letters.pattern(), "M*-E");
    let kinds = [
        LayerKind::Mamba,
        LayerKind::Attention,
        LayerKind::Mlp,
        LayerKind::Moe,
    ];
    assert_eq!(letters.layers, kinds);
}

fn listed_names() -> Value {
    json!(["linear_attention", "attention", "mlp", "moe"])
}

#[test]
fn aliases_are_read_and_must_agree() {
    let plain = read(json!({}));
    let aliased = read(json!({
        "layer_norm_epsilon": null, "norm_eps": 1e-5, "head_dim": null, "attention_head_dim": 16,
        "ssm_state_size": null, "mamba_d_state": 16, "n_groups": null, "mamba_n_groups": 4,
        "conv_kernel": null, "mamba_d_conv": 4, "mamba_dt_limit": [0.0, {"__float__": "Infinity"}],
    }));
    assert_eq!(aliased, plain);
    assert_eq!(
        read(json!({"norm_eps": 1e-5, "attention_head_dim": 16})),
        plain,
        "repeated"
    );
    assert_snapshot!(refusal(json!({"norm_eps": 1e-6})), @"config.json: layer_norm_epsilon says 0.00001, but norm_eps says 1e-6");
    assert_snapshot!(refusal(json!({"attention_head_dim": 128})), @"config.json: head_dim says 16, but attention_head_dim says 128");
    assert_snapshot!(refusal(json!({"dtype": "bfloat16", "torch_dtype": "float32"})), @r#"config.json: dtype says "bfloat16", but torch_dtype says "float32""#);
}

#[test]
fn infinity_has_many_spellings() {
    let text = String::from_utf8(with(json!({"time_step_limit": [0.0, 7.5]}))).expect("text");
    for upper in ["Infinity", r#"{"__float__": "Infinity"}"#, "1e300"] {
        let config = ModelConfig::from_json(text.replace("7.5", upper).as_bytes()).expect("valid");
        assert_eq!(config.time_step_limit, (0.0, f32::INFINITY), "{upper}");
    }
    assert_eq!(
        read(json!({})).time_step_limit,
        (0.0, f32::INFINITY),
        "absent"
    );
    assert_eq!(
        read(json!({"time_step_limit": [0.25, 7.5]})).time_step_limit,
        (0.25, 7.5)
    );
    assert_snapshot!(refusal_of(&text.replace("7.5", "NaN")), @r#"config.json: time_step_limit is [0.0,{"__float__":"NaN"}], expected two ascending numbers"#);
    assert_snapshot!(refusal_of(&text.replace("7.5", "-Infinity")), @r#"config.json: time_step_limit is [0.0,{"__float__":"-Infinity"}], expected two ascending numbers"#);
    assert_snapshot!(refusal(json!({"time_step_limit": [0.0]})), @"config.json: time_step_limit is [0.0], expected two ascending numbers");
    assert_snapshot!(refusal(json!({"time_step_limit": {"__float__": "Infinity"}})), @r#"config.json: time_step_limit is {"__float__":"Infinity"}, expected two ascending numbers"#);
}

#[test]
fn dead_fields_change_nothing() {
    let dead = json!({
        "expand": 2, "rope_theta": 10000, "partial_rotary_factor": 0.5, "sliding_window": 4096, "chunk_size": 128,
        "time_step_min": 0.001, "time_step_max": 0.1, "time_step_floor": 1e-4, "residual_in_fp32": true,
        "rescale_prenorm_residual": true, "mamba_ssm_cache_dtype": "bfloat16", "mamba_proj_bias": false,
        "moe_shared_expert_overlap": true, "use_mamba_kernels": true, "num_logits_to_keep": 1,
    });
    assert_eq!(read(dead), read(json!({})));
}

#[test]
fn the_mlp_width_may_be_a_list() {
    let widths = |pattern: &str, list: Value| {
        let layers = pattern.len();
        read(json!({"hybrid_override_pattern": pattern, "num_hidden_layers": layers, "intermediate_size": list}))
            .intermediate_sizes
    };
    assert_eq!(widths("-M-", json!(72)), [72, 0, 72]);
    assert_eq!(widths("-M-", json!([72])), [72, 0, 72]);
    assert_eq!(
        widths("-M-", json!([72, 80])),
        [72, 0, 80],
        "one a dense layer"
    );
    assert_eq!(
        widths("-M-", json!([72, 0, 80])),
        [72, 0, 80],
        "one a layer"
    );
    assert_snapshot!(refusal(json!({"intermediate_size": [72, 80]})), @"config.json: intermediate_size is a list of 2, expected 1, 1 (dense layers) or 4 (layers) entries");
    assert_snapshot!(refusal(json!({"intermediate_size": [0]})), @"config.json: intermediate_size is 0, expected a whole number from 1 to 1048576");
}

#[test]
fn fields_of_absent_kinds_are_not_needed() {
    let config = ModelConfig::from_json(
        br#"{"model_type": "nemotron_h", "vocab_size": 10, "hidden_size": 4, "layer_norm_epsilon": 1e-5,
            "hybrid_override_pattern": "-", "intermediate_size": 8, "num_attention_heads": "not read"}"#,
    );
    assert_eq!(config.expect("valid").num_attention_heads, 0);
}

#[test]
fn tokens_and_dtypes() {
    let config = read(
        json!({"bos_token_id": 1, "eos_token_id": [2, 11], "pad_token_id": 0, "torch_dtype": "bfloat16"}),
    );
    assert_eq!(
        (config.bos_token_id, config.pad_token_id),
        (Some(1), Some(0))
    );
    assert_eq!(
        (config.eos_token_ids.as_slice(), config.dtype),
        (&[2, 11][..], Some(DType::BF16))
    );
    assert_eq!(
        read(json!({"eos_token_id": 2, "dtype": "torch.float16"})).dtype,
        Some(DType::F16)
    );
    assert_eq!(read(json!({})).dtype, None);
    assert_snapshot!(refusal(json!({"eos_token_id": [2, -1]})), @"config.json: eos_token_id is -1, expected a token id");
    assert_snapshot!(refusal(json!({"dtype": "float64"})), @r#"config.json: dtype is "float64", expected bfloat16, float16 or float32"#);
    assert_snapshot!(refusal(json!({"dtype": 16})), @"config.json: dtype is 16, expected a string");
}

#[test]
fn the_stack_is_checked() {
    assert_snapshot!(refusal(json!({"num_hidden_layers": 5})), @"config.json: num_hidden_layers says 5 layers, but hybrid_override_pattern says 4 layers");
    assert_snapshot!(refusal(json!({"hybrid_override_pattern": "M*-X"})), @"config.json: hybrid_override_pattern, layer 3, is 'X', expected one of M, *, - and E");
    assert_snapshot!(refusal(json!({"hybrid_override_pattern": ""})), @"config.json: hybrid_override_pattern is 0 layers, expected 1 to 4096 layers");
    assert_snapshot!(refusal(json!({"hybrid_override_pattern": null})), @"config.json: layers_block_type or hybrid_override_pattern is missing, expected the layer kinds");
    assert_snapshot!(refusal(json!({"hybrid_override_pattern": ["mamba"]})), @r#"config.json: hybrid_override_pattern is ["mamba"], expected a string"#);
    assert_snapshot!(refusal(json!({"layers_block_type": ["mamba", "hyena"]})), @r#"config.json: layers_block_type, layer 1, is "hyena", expected one of mamba (linear_attention), attention (full_attention), mlp and moe"#);
    assert_snapshot!(refusal(json!({"layers_block_type": "mamba"})), @r#"config.json: layers_block_type is "mamba", expected a list of layer kinds"#);
    assert_snapshot!(refusal(json!({"layers_block_type": vec!["mamba"; 5000]})), @"config.json: layers_block_type is 5000 layers, expected 1 to 4096 layers");
}

#[test]
fn sizes_are_bounded_and_divisible() {
    assert_snapshot!(refusal(json!({"hidden_size": 0})), @"config.json: hidden_size is 0, expected a whole number from 1 to 1048576");
    assert_snapshot!(refusal(json!({"hidden_size": 4096.5})), @"config.json: hidden_size is 4096.5, expected a whole number from 1 to 1048576");
    assert_snapshot!(refusal(json!({"vocab_size": 1_u64 << 40})), @"config.json: vocab_size is 1099511627776, expected a whole number from 1 to 4194304");
    assert_snapshot!(refusal(json!({"hidden_size": null})), @"config.json: hidden_size is missing, expected a whole number from 1 to 1048576");
    assert_snapshot!(refusal(json!({"head_dim": null})), @"config.json: head_dim or attention_head_dim is missing, expected a whole number from 1 to 65536");
    assert_snapshot!(refusal(json!({"num_attention_heads": 7})), @"config.json: num_attention_heads is 7, expected a multiple of num_key_value_heads = 2");
    assert_snapshot!(refusal(json!({"num_attention_heads": 65536, "head_dim": 65536})), @"config.json: num_attention_heads * head_dim is 4294967296, expected at most 4194304");
    assert_snapshot!(refusal(json!({"mamba_num_heads": 10})), @"config.json: mamba_num_heads is 10, expected a multiple of n_groups = 4");
    assert_snapshot!(refusal(json!({"mamba_num_heads": 65536, "mamba_head_dim": 65536})), @"config.json: mamba_num_heads * mamba_head_dim is 4294967296, expected at most 4194304");
    assert_snapshot!(refusal(json!({"n_groups": 8, "ssm_state_size": 65536 * 8})), @"config.json: ssm_state_size is 524288, expected a whole number from 1 to 65536");
    assert_snapshot!(refusal(json!({"conv_kernel": 65})), @"config.json: conv_kernel is 65, expected a whole number from 1 to 64");
    assert_snapshot!(refusal(json!({"layer_norm_epsilon": 0.0})), @"config.json: layer_norm_epsilon is 0.0, expected a positive number");
    assert_snapshot!(refusal(json!({"layer_norm_epsilon": 1e-60})), @"config.json: layer_norm_epsilon is 1.0000000000000001e-60, expected a positive number");
    assert_snapshot!(refusal(json!({"use_bias": "yes"})), @r#"config.json: use_bias is "yes", expected true or false"#);
}

#[test]
fn routing_is_checked() {
    assert_snapshot!(refusal(json!({"num_experts_per_tok": 5})), @"config.json: num_experts_per_tok is 5, expected 1 to 4 (the routed experts of topk_group groups)");
    assert_snapshot!(refusal(json!({"n_group": 3})), @"config.json: n_routed_experts is 8, expected a multiple of n_group = 3");
    assert_snapshot!(refusal(json!({"n_group": 0})), @"config.json: n_group is 0, expected at least 1");
    assert_snapshot!(refusal(json!({"topk_group": 3})), @"config.json: topk_group is 3, expected 1 to 2 (n_group)");
    assert_snapshot!(refusal(json!({"routed_scaling_factor": null})), @"config.json: routed_scaling_factor is missing, expected a positive number");
    assert_snapshot!(refusal(json!({"n_routed_experts": 131_072, "layers_block_type": ["moe", "moe"], "num_hidden_layers": 2})), @"config.json: n_routed_experts * MoE layers is 262144, expected at most 131072");
    assert_snapshot!(refusal(json!({"n_shared_experts": 2})), @"config.json: n_shared_experts 2 is not supported: a layer has one shared expert of width moe_shared_expert_intermediate_size");
    assert_snapshot!(refusal(json!({"mlp_hidden_act": "silu"})), @r#"config.json: mlp_hidden_act "silu" is not supported: this model family uses "relu2""#);
    assert_snapshot!(refusal(json!({"mamba_hidden_act": "gelu"})), @r#"config.json: mamba_hidden_act "gelu" is not supported: this model family uses "silu""#);
    assert_snapshot!(refusal(json!({"num_nextn_predict_layers": 1})), @"config.json: mtp_layers_block_type or mtp_hybrid_override_pattern is missing, expected the layer kinds");
    assert_snapshot!(refusal(json!({"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*-"})), @"config.json: mtp_hybrid_override_pattern is *-, expected mamba, attention and moe layers");
}

#[test]
fn other_models_are_refused() {
    assert_snapshot!(refusal(json!({"model_type": "gpt2"})), @r#"config.json: model_type "gpt2" is not supported: this version runs nemotron_h, llama, mistral, qwen2, qwen3"#);
    assert_snapshot!(refusal(json!({"model_type": null})), @"config.json: model_type is missing, expected one of nemotron_h, llama, mistral, qwen2, qwen3");
    assert_snapshot!(refusal(json!({"model_type": null, "architectures": ["LlamaForCausalLM"]})), @r#"config.json: architectures "LlamaForCausalLM" is not supported: this version runs nemotron_h, llama, mistral, qwen2, qwen3"#);
}

#[test]
fn text_that_is_not_json_is_refused() {
    assert_snapshot!(refusal_of(""), @"config.json: not valid JSON: EOF while parsing a value at line 1 column 0");
    assert_snapshot!(refusal_of("[1, 2]"), @"config.json: not valid JSON: the top level is a list, expected an object");
    assert_snapshot!(refusal_of(r#"{"model_type": "nemotron_h""#), @"config.json: not valid JSON: EOF while parsing an object at line 1 column 27");
    assert_snapshot!(refusal_of(&"[".repeat(100_000)), @"config.json: not valid JSON: recursion limit exceeded at line 1 column 128");
    let error = ModelConfig::from_json(b"{\"\xff\": 1}").expect_err("not UTF-8");
    assert_snapshot!(error, @"config.json: not valid JSON: invalid utf-8 sequence of 1 bytes from index 2");
    let dir = folder(&[]);
    let error = ModelConfig::open(dir.path()).expect_err("no file");
    assert_snapshot!(message(dir.path(), error), @"DIR/config.json: No such file or directory (os error 2)");
}
