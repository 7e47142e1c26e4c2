//! The control: a model's reductions and recurrences the way they are usually written, for measurements only.
//!
//! It shows two things beside the contract's kernels: how many different answers common practice gives to one request,
//! and what the guarantee costs. Nothing here is a deliberate slowdown or a deliberate disorder:
//!
//! - matrix products run one chain over all of K, in blocks of a cache's size for many rows; a single row has more
//!   chains than one to hide latency, as many as the vectors are wide, and K is split among the threads;
//! - products with quantized weights are the contract's, which has the only kernel for them;
//! - norms sum in as many lanes as the vectors have;
//! - the Mamba-2 scan is chunked for prefill, from where the piece starts, and a state update for single tokens;
//! - attention takes smaller blocks of keys when it decodes.
//!
//! No serving path can reach it: [`jetblock_models::Model::forward`] takes no kernels.
#![forbid(unsafe_code)]

mod linear;
mod norm;
mod scan;

use jetblock_models::model::Kernels;
use jetblock_ops::OpError;
use jetblock_ops::attention::Attention;
use jetblock_ops::linear::LinearJob;
use jetblock_ops::rms_norm::RmsNorm;
use jetblock_ops::rms_norm_gated::RmsNormGated;
use jetblock_ops::selective_scan::SelectiveScan;
use jetblock_simd::Cpu;

/// The usual kernels.
#[derive(Clone, Copy, Debug)]
pub struct Control;

impl Kernels for Control {
    fn rms_norm(&self, cpu: &Cpu, args: &RmsNorm<'_>, out: &mut [f32]) -> Result<(), OpError> {
        args.check()?;
        norm::rms_norm(cpu, args, out);
        Ok(())
    }

    fn rms_norm_gated(
        &self,
        cpu: &Cpu,
        args: &RmsNormGated<'_>,
        out: &mut [f32],
    ) -> Result<(), OpError> {
        args.check()?;
        norm::rms_norm_gated(cpu, args, out);
        Ok(())
    }

    fn grouped_linear(&self, cpu: &Cpu, jobs: Vec<LinearJob<'_>>) -> Result<(), OpError> {
        // Quantized weights have one kernel, the contract's.
        let (quantized, plain) = jobs
            .into_iter()
            .partition(|job| job.weight.format().is_some());
        linear::grouped(cpu, plain);
        jetblock_ops::linear::grouped_linear(cpu, quantized)
    }

    fn selective_scan(
        &self,
        cpu: &Cpu,
        args: &SelectiveScan<'_>,
        states: &mut [&mut [f32]],
        out: &mut [f32],
    ) -> Result<(), OpError> {
        args.check()?;
        scan::selective_scan(cpu, args, states, out);
        Ok(())
    }

    fn attention(&self, cpu: &Cpu, args: &Attention<'_>, out: &mut [f32]) -> Result<(), OpError> {
        let decoding = args.segments.iter().all(|segment| segment.len() == 1);
        Attention {
            split: if decoding { 64 } else { 256 },
            ..args.clone()
        }
        .cpu(out, cpu)
    }
}
