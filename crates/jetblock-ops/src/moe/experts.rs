//! The experts' MLPs over dispatched rows, in pieces of bounded size.

use std::ops::Range;

use jetblock_simd::Cpu;

use super::{Dispatch, Routes};
use crate::OpError;
use crate::linear::{Epilogue, LinearJob, PackedMatrix, Prepared, Rows, grouped_linear};

/// Bytes of intermediate results at a time.
const SCRATCH_BYTES: usize = 16 << 20;

/// `out[r] = +0; for chosen e ascending: fma(w_e, down_e(relu2(up_e(x[r]))), out[r])`.
///
/// | name | shape | dtype |
/// |------|-------|-------|
/// | x    | `[R, D]` | operands of the experts' kind |
/// | up   | E times `[I, D]` | packed |
/// | down | E times `[O, I]` | packed |
/// | out  | `[R, O]` | f32 |
///
/// Slots are taken in order, a piece at a time, and each piece is added to `out` before the next: rows meet their
/// experts in ascending order whatever the size of a piece.
#[derive(Clone, Copy, Debug)]
pub struct Experts<'a> {
    /// Rows `[R, D]`.
    pub x: &'a Prepared,
    /// The router's choice.
    pub routes: &'a Routes,
    /// One matrix for each expert.
    pub up: &'a [PackedMatrix],
    /// One matrix for each expert.
    pub down: &'a [PackedMatrix],
    /// `[I]` for each expert, or none at all.
    pub up_bias: &'a [Vec<f32>],
    /// `[O]` for each expert, or none at all.
    pub down_bias: &'a [Vec<f32>],
}

/// What computes the products: [`grouped_linear`], or the control's.
pub type GroupedLinear<'a> = dyn Fn(&Cpu, Vec<LinearJob<'_>>) -> Result<(), OpError> + 'a;

/// Buffers of [`Experts`], reused from layer to layer.
#[derive(Debug, Default)]
pub struct ExpertWorkspace {
    dispatch: Dispatch,
    hidden: Vec<f32>,
    prepared: Option<Prepared>,
    y: Vec<f32>,
}

impl Experts<'_> {
    const NAME: &'static str = "experts";

    /// Whether the arguments fit together and `out` has the shape of the result.
    pub fn check(&self, out: &[f32]) -> Result<(), OpError> {
        let (Some(up), Some(down)) = (self.up.first(), self.down.first()) else {
            return OpError::check_len(Self::NAME, "experts", 0, 1);
        };
        OpError::check_len(Self::NAME, "down", self.down.len(), self.up.len())?;
        for bias in [self.up_bias, self.down_bias] {
            if !bias.is_empty() {
                OpError::check_len(Self::NAME, "biases", bias.len(), self.up.len())?;
            }
        }
        for (up_e, down_e) in self.up.iter().zip(self.down) {
            OpError::check_len(Self::NAME, "up, inputs", up_e.k(), self.x.k())?;
            OpError::check_len(Self::NAME, "up, outputs", up_e.n(), up.n())?;
            OpError::check_len(Self::NAME, "down, inputs", down_e.k(), up.n())?;
            OpError::check_len(Self::NAME, "down, outputs", down_e.n(), down.n())?;
        }
        let routes = self.x.rows() * self.routes.per_row;
        OpError::check_len(
            Self::NAME,
            "routes [R, k]",
            self.routes.experts.len(),
            routes,
        )?;
        OpError::check_len(
            Self::NAME,
            "out [R, O]",
            out.len(),
            self.x.rows() * down.n(),
        )
    }

    /// Computes `out [R, O]`.
    pub fn cpu(
        &self,
        out: &mut [f32],
        workspace: &mut ExpertWorkspace,
        cpu: &Cpu,
    ) -> Result<(), OpError> {
        self.run(out, workspace, cpu, &grouped_linear)
    }

    /// [`Experts::cpu`] with the products computed by `linear`.
    pub fn run(
        &self,
        out: &mut [f32],
        workspace: &mut ExpertWorkspace,
        cpu: &Cpu,
        linear: &GroupedLinear<'_>,
    ) -> Result<(), OpError> {
        self.check(out)?;
        // The hidden row twice: as computed and as operands.
        let slot_bytes = 4 * (2 * self.up[0].n() + self.down[0].n());
        let most = (SCRATCH_BYTES / slot_bytes).max(1);
        self.in_pieces(out, workspace, most, cpu, linear)
    }

    /// [`Experts::run`] with at most `most` slots at a time.
    pub(super) fn in_pieces(
        &self,
        out: &mut [f32],
        workspace: &mut ExpertWorkspace,
        most: usize,
        cpu: &Cpu,
        linear: &GroupedLinear<'_>,
    ) -> Result<(), OpError> {
        let (up, down) = (&self.up[0], &self.down[0]);
        let ExpertWorkspace {
            dispatch,
            hidden,
            prepared,
            y,
        } = workspace;
        dispatch.fill(self.routes, self.up.len())?;
        if prepared.as_ref().is_none_or(|p| p.kind() != down.kind()) {
            *prepared = Some(Prepared::new(down.kind()));
        }
        let prepared = prepared.as_mut().expect("set above");
        out.fill(0.0);
        let mut next = 0;
        while next < dispatch.rows().len() {
            let piece = next..piece_end(dispatch, next, most);
            let runs = runs(dispatch, &piece);
            hidden.resize(piece.len() * up.n(), 0.0);
            let mut left = &mut hidden[..];
            let jobs = runs.iter().map(|(e, slots)| LinearJob {
                x: self.x,
                rows: Rows::List(&dispatch.rows()[slots.clone()]),
                weight: &self.up[*e],
                bias: self.up_bias.get(*e).map(Vec::as_slice),
                epilogue: Epilogue::Relu2,
                out: left
                    .split_off_mut(..slots.len() * up.n())
                    .expect("hidden holds every slot"),
            });
            linear(cpu, jobs.collect())?;
            prepared.prepare_into(cpu, hidden, up.n())?;
            y.resize(piece.len() * down.n(), 0.0);
            let mut left = &mut y[..];
            let jobs = runs.iter().map(|(e, slots)| LinearJob {
                x: prepared,
                rows: Rows::Range(slots.start - piece.start..slots.end - piece.start),
                weight: &self.down[*e],
                bias: self.down_bias.get(*e).map(Vec::as_slice),
                epilogue: Epilogue::None,
                out: left
                    .split_off_mut(..slots.len() * down.n())
                    .expect("y holds every slot"),
            });
            linear(cpu, jobs.collect())?;
            next = piece.end;
            dispatch.combine(piece, y, down.n(), out, cpu)?;
        }
        Ok(())
    }
}

/// Where a piece ends: after as many whole experts as fit, so that their weights are read once; inside an expert only
/// if it does not fit alone.
fn piece_end(dispatch: &Dispatch, start: usize, most: usize) -> usize {
    let limit = dispatch.rows().len().min(start + most);
    let ends = (0..dispatch.n_routed_experts()).map(|e| dispatch.slots(e).end);
    let whole = ends.take_while(|&end| end <= limit).last().unwrap_or(0);
    if whole > start { whole } else { limit }
}

/// The experts of a piece with their slots in it.
fn runs(dispatch: &Dispatch, piece: &Range<usize>) -> Vec<(usize, Range<usize>)> {
    let slots = |e: usize| {
        let all = dispatch.slots(e);
        (e, all.start.max(piece.start)..all.end.min(piece.end))
    };
    (0..dispatch.n_routed_experts())
        .map(slots)
        .filter(|(_, slots)| !slots.is_empty())
        .collect()
}
