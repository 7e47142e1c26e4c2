//! The MLP mixer (NUMERICS.md section 9).

use jetblock_ops::linear::Epilogue;
use jetblock_ops::swiglu::SwiGlu;
use jetblock_simd::Cpu;

use crate::ModelError;
use crate::model::{Kernels, MlpWeights, linear};
use crate::workspace::{Workspace, sized};

/// `out = down(relu2(up(u)))`, or with a gate `down(silu(gate(u)) * up(u))`.
pub(crate) fn forward<K: Kernels>(
    kernels: &K,
    cpu: &Cpu,
    workspace: &mut Workspace,
    u: &[f32],
    weights: &MlpWeights,
    out: &mut [f32],
) -> Result<(), ModelError> {
    let Workspace {
        prepared,
        intermediate,
        gate,
        ..
    } = workspace;
    let rows = u.len() / weights.up.weight.k();
    let len = rows * weights.up.weight.n();
    let up = sized(intermediate, len);
    let inner = match &weights.gate {
        None => {
            linear(kernels, cpu, prepared, u, &weights.up, Epilogue::Relu2, up)?;
            up
        }
        Some(weight) => {
            let gate = sized(gate, len);
            prepared.prepare_into(cpu, u, weight.weight.k())?;
            let jobs = vec![
                weight.job(prepared, Epilogue::None, gate),
                weights.up.job(prepared, Epilogue::None, up),
            ];
            kernels.grouped_linear(cpu, jobs)?;
            SwiGlu { up }.cpu(gate, cpu)?;
            gate
        }
    };
    let down = &weights.down;
    Ok(linear(
        kernels,
        cpu,
        prepared,
        inner,
        down,
        Epilogue::None,
        out,
    )?)
}
