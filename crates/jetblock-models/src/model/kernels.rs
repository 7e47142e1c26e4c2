//! The computations whose order of operations a schedule could change.
//!
//! A serving model runs on [`Contract`] and nothing else: [`super::Model::forward`] does not take kernels. The trait
//! exists so that the control (`jetblock-control`) can compute the same model the usual way, for measurements.

use jetblock_ops::OpError;
use jetblock_ops::attention::Attention;
use jetblock_ops::linear::{LinearJob, grouped_linear};
use jetblock_ops::rms_norm::RmsNorm;
use jetblock_ops::rms_norm_gated::RmsNormGated;
use jetblock_ops::selective_scan::SelectiveScan;
use jetblock_simd::Cpu;

/// One way to order the operations of a model's reductions and recurrences.
pub trait Kernels: Sync {
    /// See [`RmsNorm`].
    fn rms_norm(&self, cpu: &Cpu, args: &RmsNorm<'_>, out: &mut [f32]) -> Result<(), OpError>;
    /// See [`RmsNormGated`].
    fn rms_norm_gated(
        &self,
        cpu: &Cpu,
        args: &RmsNormGated<'_>,
        out: &mut [f32],
    ) -> Result<(), OpError>;
    /// See [`grouped_linear`].
    fn grouped_linear(&self, cpu: &Cpu, jobs: Vec<LinearJob<'_>>) -> Result<(), OpError>;
    /// See [`SelectiveScan`].
    fn selective_scan(
        &self,
        cpu: &Cpu,
        args: &SelectiveScan<'_>,
        states: &mut [&mut [f32]],
        out: &mut [f32],
    ) -> Result<(), OpError>;
    /// See [`Attention`].
    fn attention(&self, cpu: &Cpu, args: &Attention<'_>, out: &mut [f32]) -> Result<(), OpError>;
}

/// The contract's kernels: NUMERICS.md.
#[derive(Clone, Copy, Debug)]
pub struct Contract;

impl Kernels for Contract {
    fn rms_norm(&self, cpu: &Cpu, args: &RmsNorm<'_>, out: &mut [f32]) -> Result<(), OpError> {
        args.cpu(out, cpu)
    }
    fn rms_norm_gated(
        &self,
        cpu: &Cpu,
        args: &RmsNormGated<'_>,
        out: &mut [f32],
    ) -> Result<(), OpError> {
        args.cpu(out, cpu)
    }
    fn grouped_linear(&self, cpu: &Cpu, jobs: Vec<LinearJob<'_>>) -> Result<(), OpError> {
        grouped_linear(cpu, jobs)
    }
    fn selective_scan(
        &self,
        cpu: &Cpu,
        args: &SelectiveScan<'_>,
        states: &mut [&mut [f32]],
        out: &mut [f32],
    ) -> Result<(), OpError> {
        args.cpu(states, out, cpu)
    }
    fn attention(&self, cpu: &Cpu, args: &Attention<'_>, out: &mut [f32]) -> Result<(), OpError> {
        args.cpu(out, cpu)
    }
}
