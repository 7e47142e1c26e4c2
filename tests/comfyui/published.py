"""The nodes of the published JetBlock Optimizer 2.0 and 4.0 packs, as workflows hold them."""

from typing import Any

from harness import Graph, Node

SAMPLER = ("model", "positive", "negative", "latent_image")
FAST = {"seed": 7, "steps": 14, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}

Widgets = dict[str, Any]
PUBLISHED: dict[str, tuple[tuple[str, ...], Widgets, dict[str, str]]] = {
    "JetBlockModelOptimizer": (
        ("model",),
        {"optimization_level": "high", "use_temporal_skip": True, "cache_patterns": True},
        {"optimized_model": "MODEL", "stats": "STRING"},
    ),
    "JetBlockSampler": (SAMPLER, {**FAST, "skip_ratio": 0.5}, {"samples": "LATENT", "performance_stats": "STRING"}),
    "JetBlockCacheManager": ((), {"action": "stats", "cache_size_gb": 8.0}, {"cache_info": "STRING"}),
    "JetBlockBenchmark": (
        ("model",),
        {"batch_size": 2, "resolution": "512", "iterations": 3},
        {"benchmark_results": "STRING"},
    ),
    "JetBlockAutoOptimizer": ((), {"enable": True, "profile_mode": False}, {"status": "STRING"}),
    "JetBlockDeterministicSampler": (
        SAMPLER,
        FAST,
        {"samples": "LATENT", "checksum": "STRING", "determinism_report": "STRING"},
    ),
    "JetBlockChecksumValidator": (
        ("latent",),
        {"expected_checksum": ""},
        {"latent": "LATENT", "matches": "BOOLEAN", "validation_report": "STRING"},
    ),
    "JetBlockModeSwitch": ((), {"mode": "deterministic", "seed": 42}, {"status": "STRING"}),
    "JetBlockCompatibilityChecker": (
        (),
        {"analyze_current": True, "auto_adjust": True, "workflow_json": ""},
        {
            "compatibility_report": "STRING",
            "optimization_level": "STRING",
            "skip_ratio": "FLOAT",
            "use_temporal_skip": "BOOLEAN",
            "use_pattern_cache": "BOOLEAN",
        },
    ),
    "JetBlockSmartOptimizer": (
        ("model",),
        {"auto_detect": True, "override_level": "auto", "safe_mode": False},
        {"optimized_model": "MODEL", "optimization_report": "STRING"},
    ),
    "JetBlockWorkflowProfiler": (
        (),
        {"profile_depth": "standard", "show_recommendations": True},
        {"profiling_report": "STRING"},
    ),
    "JetBlockSafetySwitch": (
        (),
        {"enable_optimizations": True, "reset_cache": False, "verbose_logging": False},
        {"status": "STRING"},
    ),
    "CosmosGPUMonitor": (
        (),
        {"update_interval": 1.0, "show_graph": True},
        {"stats": "STRING", "temperature": "", "power": "", "memory_used": "", "health_status": "STRING"},
    ),
    "CosmosPredictiveLoader": (
        (),
        {"current_node": "KSampler", "enable_preloading": True, "max_preload_gb": 8.0},
        {"predictions": "STRING", "preloaded_models": "STRING"},
    ),
    "CosmosWorkflowLearner": (
        (),
        {"node_type": "KSampler", "execution_time": 1.5, "model_used": "", "save_patterns": True},
        {"learning_report": "STRING"},
    ),
    "CosmosInterpolationSampler": (
        SAMPLER,
        {**FAST, "scheduler": "normal", "interpolation_strength": 0.7, "key_frame_ratio": 0.3},
        {"samples": "LATENT", "interpolation_stats": "STRING"},
    ),
    "CosmosDashboard": ((), {"refresh": True}, {"dashboard": "STRING"}),
    "CosmosAutoTuner": (
        ("model",),
        {"target_temperature": 75.0, "aggressive_mode": False},
        {"tuned_model": "MODEL", "tuning_report": "STRING"},
    ),
    "JetBlockNemotronOptimizer": (
        ("model",),
        {
            "determinism_level": "balanced",
            "enable_mamba2_determinism": True,
            "enable_moe_determinism": True,
            "enable_attention_optimization": True,
            "seed": 42,
        },
        {"optimized_model": "MODEL", "architecture_report": "STRING", "optimization_report": "STRING"},
    ),
    "JetBlockHybridProfiler": (("model",), {}, {"architecture_summary": "STRING", "detailed_report": "STRING"}),
    "JetBlockMamba2Deterministic": (
        ("model",),
        {"force_torch_forward": True, "use_fp32_ssm_states": True, "validate_determinism": False},
        {"model": "MODEL", "status": "STRING"},
    ),
    "JetBlockCascadeMode": (
        (),
        {"mode": "think", "query": "Why?", "max_thinking_tokens": 1000},
        {"selected_mode": "STRING", "thinking_budget": "INT", "analysis": "STRING"},
    ),
    "JetBlockV4DeterministicSampler": (
        SAMPLER,
        {**FAST, "determinism_level": "paranoid"},
        {"samples": "LATENT", "checksum": "STRING", "report": "STRING"},
    ),
    "JetBlockV4ModeSwitch": ((), {"mode": "strict", "seed": 42}, {"status": "STRING"}),
    "JetBlockUniversalDeterminism": (
        ("model",),
        {"determinism_level": "strict", "seed": 42},
        {"model": "MODEL", "status": "STRING"},
    ),
}
"""By id: inputs that links feed, values of the others in their order, and kinds of the outputs by name. An output
without a kind has nothing in its place now."""


def add(graph: Graph, node_id: str, feeds: dict[str, Any], **values: Any) -> Node:
    """Adds a published node with all of its inputs."""
    sockets, widgets, _ = PUBLISHED[node_id]
    return graph.add(node_id, **{name: feeds[name] for name in sockets}, **{**widgets, **values})
