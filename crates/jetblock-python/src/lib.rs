//! `jetblock._core`: what the Python package needs of the Rust crates, and nothing that Python can do as well itself.
//!
//! Arrays come as they are, as `torch.Tensor` or `numpy.ndarray`; [`tensor`] finds their memory. Everything that computes
//! releases Python's global lock while it does.

mod checksum;
mod command;
mod convert;
mod error;
mod formats;
mod model;
mod ops;
mod pool;
mod tensor;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    #[pymodule_export]
    use crate::checksum::{checksum, first_difference};
    #[pymodule_export]
    use crate::command::run_command;
    #[pymodule_export]
    use crate::formats::{dequantize_e4m3, dequantize_nvfp4, quantize_e4m3, quantize_nvfp4};
    #[pymodule_export]
    use crate::model::{Generation, Model, available_isas, check_receipt, compare_receipts};
    #[pymodule_export]
    use crate::ops::{
        PackedConv, PackedWeight, activation, adaptive_avg_pool, attention, avg_pool,
        binary64_function, causal_conv1d, conv, cumsum, decay_rates, dynamic_causal_conv1d,
        embedding, gated_delta_rule, group_norm, layer_norm, linear, linear_attention, matmul,
        moe_combine, moe_router, power, randn, reduce, rms_norm, rms_norm_gated, rope, sample,
        sdpa, selective_scan, similarity, softmax, swiglu, topk, upsample,
    };
    #[pymodule_export]
    use crate::pool::{get_cpu, set_cpu};

    #[pymodule_export]
    const LINEAR_ATTENTION_EPS: f32 = jetblock_ops::linear_attention::EPS;
    #[pymodule_export]
    const NUMERICS_VERSION: u32 = jetblock_numerics::NUMERICS_VERSION;
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
