//! JetBlock, in this process.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use jetblock_models::{LogitRows, Model, Options, Piece, SequenceState, Workspace};
use jetblock_numerics::paint;
use jetblock_simd::{Cpu, Level};

use super::{Engine, Work};

/// A model, packed.
pub struct JetBlock {
    model: Model,
    workspace: Workspace,
    level: Level,
    cpus: BTreeMap<usize, Cpu>,
    /// Sequences that have read `context` tokens.
    prompted: Vec<SequenceState>,
    context: usize,
}

impl JetBlock {
    /// Loads a model folder or a GGUF file.
    pub fn load(folder: &Path, level: Level) -> anyhow::Result<JetBlock> {
        let model = Model::load(folder, Options::default(), &mut |_| ())
            .with_context(|| format!("cannot load {}", folder.display()))?;
        Ok(JetBlock {
            workspace: model.workspace(),
            model,
            level,
            cpus: BTreeMap::new(),
            prompted: Vec::new(),
            context: 0,
        })
    }

    /// The token of a sequence at a position.
    fn token(&self, sequence: usize, position: usize) -> u32 {
        paint::hash(sequence as u32, position as u32) % self.model.config().vocab_size as u32
    }

    fn tokens(&self, sequence: usize, count: usize) -> Vec<u32> {
        (0..count).map(|p| self.token(sequence, p)).collect()
    }

    /// Feeds each sequence its piece and computes the logits of the last token.
    fn step(
        &mut self,
        states: &mut [SequenceState],
        pieces: &[Vec<u32>],
        threads: usize,
    ) -> anyhow::Result<()> {
        let mut batch: Vec<Piece<'_>> = states
            .iter_mut()
            .zip(pieces)
            .map(|(state, ids)| Piece {
                state,
                ids,
                logits: LogitRows::Last,
            })
            .collect();
        let cpu = &self.cpus[&threads];
        for logits in self.model.forward(&mut batch, cpu, &mut self.workspace)? {
            black_box(logits?);
        }
        Ok(())
    }

    /// Clones of sequences that have read their prompts.
    fn prompted(
        &mut self,
        batch: usize,
        context: usize,
        threads: usize,
    ) -> anyhow::Result<Vec<SequenceState>> {
        if self.context != context {
            self.prompted.clear();
            self.context = context;
        }
        while self.prompted.len() < batch {
            let mut state = [self.model.new_state()];
            let prompt = self.tokens(self.prompted.len(), context);
            self.step(&mut state, &[prompt], threads)?;
            self.prompted.extend(state);
        }
        Ok(self.prompted[..batch].to_vec())
    }
}

impl Engine for JetBlock {
    fn tokens_per_second(&mut self, work: Work, threads: usize) -> anyhow::Result<f64> {
        if !self.cpus.contains_key(&threads) {
            self.cpus.insert(threads, Cpu::new(threads, self.level)?);
        }
        let start = match work {
            Work::Prefill { tokens } => {
                let mut state = [self.model.new_state()];
                let prompt = self.tokens(0, tokens);
                let start = Instant::now();
                self.step(&mut state, &[prompt], threads)?;
                start
            }
            Work::Decode {
                batch,
                steps,
                context,
            } => {
                let mut states = self.prompted(batch, context, threads)?;
                let start = Instant::now();
                for position in context..context + steps {
                    let ids: Vec<_> = (0..batch).map(|s| vec![self.token(s, position)]).collect();
                    self.step(&mut states, &ids, threads)?;
                }
                start
            }
        };
        Ok(work.tokens() as f64 / start.elapsed().as_secs_f64())
    }

    fn version(&self) -> String {
        format!(
            "{} ({}, operands {})",
            env!("CARGO_PKG_VERSION"),
            self.level,
            self.model.operand_kind().name()
        )
    }
}
