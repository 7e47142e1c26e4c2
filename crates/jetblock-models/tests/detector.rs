//! The detector's figures are those that are published, or follow from published dimensions.

use std::path::{Path, PathBuf};

use jetblock_models::checkpoint::Checkpoint;
use jetblock_models::config::{LayerKind, ModelConfig};
use jetblock_models::detector::{Part, Profile};

fn config(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/configs/{name}.json"));
    std::fs::read(path).expect("a fixture")
}

fn profile(name: &str) -> Profile {
    Profile::from_json(&config(name), None).expect("a valid configuration")
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/nemotron")
        .join(name)
}

#[test]
fn parameters_are_the_published_ones() {
    let expected = [
        ("nano_30b", 31_577_940_288),
        ("super_120b", 120_668_707_840),
        ("ultra_550b", 549_308_993_536),
        ("nano_4b", 3_973_556_832),
        ("nano_9b_v2", 8_888_227_328),
        ("llama_3_8b", 8_030_261_248),
        ("mixtral_8x7b", 46_702_792_704),
        ("qwen3_0_6b", 596_049_920),
        ("qwen3_30b_a3b", 30_532_122_624),
        ("qwen2_5_0_5b", 494_032_768),
    ];
    for (name, parameters) in expected {
        let profile = profile(name);
        assert_eq!((name, profile.total.parameters), (name, parameters));
        assert_eq!(
            profile
                .parts
                .iter()
                .map(|p| p.amount.parameters)
                .sum::<u64>(),
            parameters
        );
        assert_eq!(
            (profile.total.bytes_bf16, profile.total.bytes_stored),
            (2 * parameters, None)
        );
    }
    assert_eq!(
        profile("super_120b").mtp.map(|mtp| mtp.parameters),
        Some(2_942_325_248)
    );
    assert_eq!(
        profile("ultra_550b")
            .mtp
            .map(|mtp| mtp.parameters / 100_000_000),
        Some(112),
        "11.2 B"
    );
    assert_eq!(profile("nano_30b").mtp, None);
}

#[test]
fn patterns_have_the_published_counts() {
    let expected = [
        ("nano_30b", 52, [23, 6, 0, 23]),
        ("super_120b", 88, [40, 8, 0, 40]),
        ("ultra_550b", 108, [48, 12, 0, 48]),
        ("nano_4b", 42, [21, 4, 17, 0]),
        ("nano_9b_v2", 56, [27, 4, 25, 0]),
    ];
    for (name, layers, counts) in expected {
        let config = ModelConfig::from_json(&config(name)).expect("a valid configuration");
        let profile = profile(name);
        assert_eq!(
            (name, LayerKind::ALL.map(|kind| config.count(kind))),
            (name, counts)
        );
        assert_eq!(
            (
                profile.layers,
                profile.attention_only.layers,
                profile.attention_only.of
            ),
            (layers, counts[1], layers)
        );
        let reported = LayerKind::ALL.map(|kind| {
            profile
                .part(Part::Layers(kind))
                .map_or(0, |part| part.count)
        });
        assert_eq!(reported, counts);
    }
    let nano = ModelConfig::from_json(&config("nano_30b")).expect("a valid configuration");
    let at = |kind| {
        (0..52)
            .filter(|i| nano.layers[*i] == kind)
            .collect::<Vec<usize>>()
    };
    assert_eq!(at(LayerKind::Attention), [5, 12, 19, 26, 33, 42]);
    let mamba = [
        0, 2, 4, 7, 9, 11, 14, 16, 18, 21, 23, 25, 28, 30, 32, 35, 37, 39, 41, 44, 46, 48, 50,
    ];
    assert_eq!(at(LayerKind::Mamba), mamba);
    assert_eq!(nano.tensors().len(), 6243);
}

#[test]
fn derived_widths_come_from_heads() {
    let expected = [
        ("nano_30b", 4096, 6144, 10304),
        ("super_120b", 8192, 10240, 18560),
        ("ultra_550b", 16384, 18432, 35072),
        ("nano_4b", 7680, 9728, 17504),
        ("nano_9b_v2", 10240, 12288, 22656),
    ];
    for (name, inner, conv_dim, in_proj) in expected {
        let config = ModelConfig::from_json(&config(name)).expect("a valid configuration");
        let got = (
            config.mamba_inner(),
            config.conv_dim(),
            config.in_proj_rows(),
        );
        assert_eq!((name, got), (name, (inner, conv_dim, in_proj)));
        assert_eq!(config.time_step_limit, (0.0, f32::INFINITY));
    }
}

#[test]
fn memory_is_that_of_the_tables() {
    const MIB: u64 = 1 << 20;
    let expected = [
        ("nano_30b", [12288, 6144, 3072, 1728], 46 * MIB, 847_872),
        (
            "super_120b",
            [16384, 8192, 4096, 2304],
            160 * MIB,
            2_457_600,
        ),
        (
            "ultra_550b",
            [24576, 12288, 6144, 3456],
            384 * MIB,
            5_308_416,
        ),
    ];
    for (name, kv, ssm, conv_bf16) in expected {
        let Profile {
            state,
            kv_per_token,
            ..
        } = profile(name);
        let got = [
            kv_per_token.f32,
            kv_per_token.bf16,
            kv_per_token.fp8,
            kv_per_token.nvfp4,
        ];
        assert_eq!(
            (name, got, state.ssm_f32, state.conv_bf16),
            (name, kv, ssm, conv_bf16)
        );
        assert_eq!(state.conv_f32, 2 * conv_bf16);
        assert_eq!(state.kept(), ssm + 2 * conv_bf16);
    }
    assert_eq!(profile("llama_3_8b").kv_per_token.bf16, 131_072);
    assert_eq!(profile("llama_3_8b").state.kept(), 0);
}

#[test]
fn active_parameters_leave_out_experts_not_chosen() {
    let nano = profile("nano_30b").active;
    let table = 131_072 * 2688;
    let expert = 2 * 1856 * 2688;
    assert_eq!((nano.experts_per_token, nano.experts), (6, 128));
    assert_eq!(
        nano.with_both_tables,
        31_577_940_288 - 23 * (128 - 6) * expert
    );
    assert_eq!(nano.with_both_tables / 100_000_000, 35, "3.6 B, rounded");
    assert_eq!(nano.body_and_head / 10_000_000, 322, "3.2 B");
    assert_eq!(
        (nano.body_and_head, nano.body),
        (
            nano.with_both_tables - table,
            nano.with_both_tables - 2 * table
        )
    );
    assert_eq!(
        profile("mixtral_8x7b").active.with_both_tables,
        12_879_925_248,
        "12.9 B"
    );
    // A tied table is the head.
    let qwen = profile("qwen3_0_6b").active;
    assert_eq!(
        (qwen.with_both_tables, qwen.body_and_head, qwen.experts),
        (596_049_920, 596_049_920, 0)
    );
    assert_eq!(qwen.body, 596_049_920 - 151_936 * 1024);
}

#[test]
fn headers_confirm_the_configuration() {
    for name in ["tiny_mlp_moe", "tiny_latent_moe"] {
        let with = Profile::open(fixture(name)).expect("a valid folder");
        let without = Profile::from_json(
            &std::fs::read(fixture(name).join("config.json")).expect("there"),
            None,
        );
        let without = without.expect("valid");
        assert_eq!(
            (with.total.parameters, &with.plan),
            (without.total.parameters, &without.plan)
        );
        let stored = with.stored.as_ref().expect("weight files");
        assert_eq!(
            with.total.bytes_stored,
            Some(4 * with.total.parameters),
            "stored in f32"
        );
        assert_eq!(stored.bytes, 4 * with.total.parameters);
        assert!(
            with.plan
                .iter()
                .all(|plan| !plan.precision.contains("bf16 projection")),
            "an f32 model"
        );
    }
    // The wrong configuration for the weights.
    let other = std::fs::read(fixture("tiny_latent_moe").join("config.json")).expect("there");
    let checkpoint = Checkpoint::open(fixture("tiny_mlp_moe")).expect("valid files");
    let error = Profile::from_json(&other, Some(&checkpoint)).expect_err("other tensors");
    insta::assert_snapshot!(error, @"model.safetensors: tensor backbone.layers.0.mixer.in_proj.weight has shape [328, 48], expected [264, 48]");
}

#[test]
fn unknown_families_are_refused() {
    let error = Profile::from_json(br#"{"model_type": "gpt2"}"#, None).expect_err("unknown");
    insta::assert_snapshot!(error, @r#"config.json: model_type "gpt2" is not supported: the detector knows nemotron_h, llama, mistral, mixtral, qwen2, qwen3, qwen3_moe"#);
}

#[test]
fn json_has_the_figures() {
    let json = serde_json::to_value(profile("nano_30b")).expect("serialisable");
    assert_eq!(json["total"]["parameters"], 31_577_940_288_u64);
    assert_eq!(
        (&json["parts"][1]["part"], &json["parts"][1]["count"]),
        (&"mamba".into(), &23.into())
    );
    assert_eq!(json["kv_per_token"]["nvfp4"], 1728);
    assert_eq!(json["plan"][0]["part"], "mamba");
}

#[test]
fn the_report_is_for_people() {
    insta::assert_snapshot!(profile("nano_30b"), @r"
    nemotron_h: 52 layers, 31,577,940,288 parameters, 3,580,076,352 active

    stack (M mamba, * attention, - mlp, E moe)
         0  MEMEM*EMEM EM*EMEMEM* EMEMEM*EME MEM*EMEMEM EM*EMEMEME
        50  ME

      part         layers         parameters      in bf16    as stored
      embeddings                 352,321,536   672.00 MiB            -
      mamba            23        891,132,608     1.65 GiB            -
      attention         6        140,394,240   267.78 MiB            -
      moe              23     29,841,767,680    55.58 GiB            -
      norm_f                           2,688     5.25 KiB            -
      lm_head                    352,321,536   672.00 MiB            -
      total            52     31,577,940,288    58.81 GiB            -

    active parameters per token (6 of 128 routed experts)
      layers and norms            2,875,433,280
      with the output table       3,227,754,816
      with both tables            3,580,076,352

    memory of a sequence
      ssm state, f32                 48,234,496 bytes (46.00 MiB)
      conv state, f32                 1,695,744 bytes; 847,872 in bf16, as other engines keep it
      keys, values, f32                  12,288 bytes per token, 384.00 MiB for 32,768 tokens
      keys, values, bf16                  6,144 bytes per token, 192.00 MiB for 32,768 tokens
      keys, values, fp8                   3,072 bytes per token, 96.00 MiB for 32,768 tokens
      keys, values, nvfp4                 1,728 bytes per token, 54.00 MiB for 32,768 tokens

    an optimizer for attention alone would touch 6 of 52 layers

    plan
      mamba       recurrence, token by token, in prefill and decode alike
                  bf16 projections; f32 convolution, dt, state and gated norm
                  because every split of a prompt is exact, and rounding the state at each token would accumulate
      attention   keys in blocks of fixed size at absolute positions, written before they are read; no RoPE
                  bf16 projections and scores; f32 softmax and weighted sum; f32, bf16, fp8 or nvfp4 cache
                  because the blocks of a row depend on its own position, not on the batch or the step
      moe         6 of 128 experts combined in ascending order, then the shared expert
                  f32 router and combine; bf16 experts
                  because a near-tie in the router flips experts, and an ascending sum does not depend on who else is routed
      lm_head     one product with its own table, for the rows whose logits are asked for
                  bf16 projection of the f32 residual stream; f32 logits
                  because the residual stream stays f32 from the embeddings to the last norm

    no weight files: counted from config.json alone
    ");
    insta::assert_snapshot!(Profile::open(fixture("tiny_latent_moe")).expect("valid"), @r"
    nemotron_h: 9 layers, 182,976 parameters, 144,576 active

    stack (M mamba, * attention, - mlp, E moe)
         0  MEM*EMEME

      part         layers         parameters      in bf16    as stored
      embeddings                       4,656     9.09 KiB    18.18 KiB
      mamba             4             67,360   131.56 KiB   263.12 KiB
      attention         1             12,336    24.09 KiB    48.18 KiB
      moe               4             93,920   183.43 KiB   366.87 KiB
      norm_f                              48         96 B        192 B
      lm_head                          4,656     9.09 KiB    18.18 KiB
      total             9            182,976   357.37 KiB   714.75 KiB

    active parameters per token (3 of 8 routed experts)
      layers and norms                  135,264
      with the output table             139,920
      with both tables                  144,576

    memory of a sequence
      ssm state, f32                     16,384 bytes (16.00 KiB)
      conv state, f32                     9,216 bytes; 4,608 in bf16, as other engines keep it
      keys, values, f32                     256 bytes per token, 8.00 MiB for 32,768 tokens
      keys, values, bf16                    128 bytes per token, 4.00 MiB for 32,768 tokens
      keys, values, fp8                      64 bytes per token, 2.00 MiB for 32,768 tokens
      keys, values, nvfp4                    36 bytes per token, 1.12 MiB for 32,768 tokens

    an optimizer for attention alone would touch 1 of 9 layers

    plan
      mamba       recurrence, token by token, in prefill and decode alike
                  f32 projections; f32 convolution, dt, state and gated norm
                  because every split of a prompt is exact, and rounding the state at each token would accumulate
      attention   keys in blocks of fixed size at absolute positions, written before they are read; no RoPE
                  f32 projections and scores; f32 softmax and weighted sum; f32, bf16, fp8 or nvfp4 cache
                  because the blocks of a row depend on its own position, not on the batch or the step
      moe         3 of 8 experts in a latent space of 24 combined in ascending order, then the shared expert
                  f32 router and combine; f32 experts
                  because a near-tie in the router flips experts, and an ascending sum does not depend on who else is routed
      lm_head     one product with its own table, for the rows whose logits are asked for
                  f32 projection of the f32 residual stream; f32 logits
                  because the residual stream stays f32 from the embeddings to the last norm

    136 tensors in 1 file, 714.75 KiB
      F32             136 tensors        714.75 KiB
    ");
    insta::assert_snapshot!(profile("mixtral_8x7b"), @r#"
    mixtral: 32 layers, 46,702,792,704 parameters, 12,879,925,248 active

      part         layers         parameters      in bf16    as stored
      embeddings                 131,072,000   250.00 MiB            -
      attention        32      1,342,308,352     2.50 GiB            -
      moe              32     45,098,336,256    84.00 GiB            -
      norm_f                           4,096     8.00 KiB            -
      lm_head                    131,072,000   250.00 MiB            -
      total            32     46,702,792,704    86.99 GiB            -

    active parameters per token (2 of 8 routed experts)
      layers and norms           12,617,781,248
      with the output table      12,748,853,248
      with both tables           12,879,925,248

    memory of a sequence
      keys, values, f32                 262,144 bytes per token, 8.00 GiB for 32,768 tokens
      keys, values, bf16                131,072 bytes per token, 4.00 GiB for 32,768 tokens
      keys, values, fp8                  65,536 bytes per token, 2.00 GiB for 32,768 tokens
      keys, values, nvfp4                36,864 bytes per token, 1.12 GiB for 32,768 tokens

    an optimizer for attention alone would touch 32 of 32 layers

    only counted, not run: config.json: model_type "mixtral" is not supported: this version runs mixtures of experts of nemotron_h only

    no weight files: counted from config.json alone
    "#);
}
