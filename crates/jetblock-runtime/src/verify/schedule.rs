//! One way to compute a request: who shares the batch, how the prompt is cut, on what it runs.

use jetblock_numerics::rng::{self, Draw};
use jetblock_simd::Level;

/// A schedule variable of the contract. Every axis varies its own variable; `Combined` varies all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Axis {
    /// The same run again.
    Repeat,
    /// Sequences in the batch, 1..=33 and around the kernels' dispatch edges.
    BatchSize,
    /// Slot of the request in the batch.
    Position,
    /// Content, length and fate of the other sequences: NaN states, cancellation.
    Neighbours,
    /// Every cut of the prompt in two, then random cuts.
    PromptSplit,
    /// One prefill against prefix plus single tokens, for every prefix.
    PrefillVsDecode,
    /// Prompt pieces and single tokens of several sequences in one step.
    MixedSteps,
    /// Threads 1..=4.
    Threads,
    /// Every instruction-set level of this processor.
    SimdLevel,
    /// A snapshot at every position, other tokens fed, the snapshot restored.
    SnapshotRestore,
    /// Other processes.
    FreshProcess,
    /// Everything at once.
    Combined,
}

impl Axis {
    /// All axes, in report order.
    pub const ALL: [Axis; 12] = [
        Axis::Repeat,
        Axis::BatchSize,
        Axis::Position,
        Axis::Neighbours,
        Axis::PromptSplit,
        Axis::PrefillVsDecode,
        Axis::MixedSteps,
        Axis::Threads,
        Axis::SimdLevel,
        Axis::SnapshotRestore,
        Axis::FreshProcess,
        Axis::Combined,
    ];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Axis::Repeat => "repeat",
            Axis::BatchSize => "batch_size",
            Axis::Position => "position",
            Axis::Neighbours => "neighbours",
            Axis::PromptSplit => "prompt_split",
            Axis::PrefillVsDecode => "prefill_vs_decode",
            Axis::MixedSteps => "mixed_steps",
            Axis::Threads => "threads",
            Axis::SimdLevel => "simd_level",
            Axis::SnapshotRestore => "snapshot_restore",
            Axis::FreshProcess => "fresh_process",
            Axis::Combined => "combined",
        }
    }

    /// How many of 1000 runs an axis gets; `Combined` takes what is left.
    fn weight(self) -> usize {
        match self {
            Axis::Repeat => 20,
            Axis::BatchSize | Axis::Threads => 60,
            Axis::Position | Axis::Neighbours | Axis::MixedSteps => 120,
            Axis::PromptSplit => 160,
            Axis::PrefillVsDecode => 60,
            Axis::SimdLevel => 20,
            Axis::SnapshotRestore => 60,
            Axis::FreshProcess => 10,
            Axis::Combined => 0,
        }
    }
}

/// What the schedules may use.
#[derive(Clone, Debug)]
pub struct Space {
    /// Tokens of the request.
    pub tokens: usize,
    /// Levels to run at; the first is the baseline's.
    pub levels: Vec<Level>,
    /// Largest thread count.
    pub max_threads: usize,
    /// Batch sizes of the `BatchSize` axis.
    pub batch_sizes: Vec<usize>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Threads of the pool.
    pub threads: usize,
    /// Instruction-set level.
    pub level: Level,
    /// Sequences in the batch, the request among them.
    pub batch: usize,
    /// Slot of the request.
    pub slot: usize,
    /// Lengths of the pieces in which the request is fed.
    pub pieces: Vec<usize>,
    /// Seed of the neighbours' tokens, piece lengths and fates.
    pub neighbours: u64,
    /// Longest neighbour piece in a step.
    pub neighbour_rows: usize,
    /// Neighbours may hold NaN states and may be cancelled and replaced.
    pub hostile: bool,
    /// Piece boundary after which a snapshot is taken, other tokens are fed and the snapshot is restored.
    pub snapshot_after: Option<usize>,
}

impl Space {
    /// The run all others are compared with: alone, one thread, one prefill.
    pub fn baseline(&self) -> Schedule {
        Schedule {
            threads: 1,
            level: self.levels[0],
            batch: 1,
            slot: 0,
            pieces: vec![self.tokens],
            neighbours: 0,
            neighbour_rows: 1,
            hostile: false,
            snapshot_after: None,
        }
    }

    /// `runs` schedules over the axes, in report order. Equal arguments give equal schedules.
    pub fn schedules(&self, runs: usize) -> Vec<(Axis, Schedule)> {
        let mut out = Vec::with_capacity(runs);
        for axis in Axis::ALL {
            let mut count = if axis == Axis::Combined {
                runs - out.len()
            } else {
                (axis.weight() * runs / 1000).max(1)
            };
            count = count.min(runs - out.len());
            out.extend((0..count).map(|i| (axis, self.schedule(axis, i))));
        }
        out
    }

    fn schedule(&self, axis: Axis, i: usize) -> Schedule {
        let mut rng = Draws::new(axis as u64, i as u64);
        let mut s = self.baseline();
        s.neighbours = rng.next();
        match axis {
            Axis::Repeat | Axis::FreshProcess => {}
            Axis::BatchSize => {
                s.batch = self.batch_sizes[i % self.batch_sizes.len()];
                s.slot = s.batch / 2;
            }
            Axis::Position => {
                s.batch = [2, 3, 5, 8, 17][i % 5];
                s.slot = match i / 5 % 3 {
                    0 => 0,
                    1 => s.batch - 1,
                    _ => rng.below(s.batch),
                };
            }
            Axis::Neighbours => {
                s.batch = 2 + rng.below(6);
                s.slot = rng.below(s.batch);
                // Lengths around 9 and 10 have changed kernels elsewhere.
                s.neighbour_rows = 1 + rng.below(24);
                s.hostile = true;
                s.pieces = self.cut(&mut rng, 4);
            }
            Axis::PromptSplit => {
                s.pieces = if i < self.tokens - 1 {
                    vec![i + 1, self.tokens - i - 1]
                } else {
                    self.cut(&mut rng, 9)
                };
            }
            Axis::PrefillVsDecode => {
                let prefix = 1 + i % self.tokens;
                s.pieces = std::iter::once(prefix)
                    .chain(vec![1; self.tokens - prefix])
                    .collect();
            }
            Axis::MixedSteps => {
                s.batch = 2 + rng.below(9);
                s.slot = rng.below(s.batch);
                s.neighbour_rows = 1 + rng.below(12);
                s.pieces = self.cut(&mut rng, 12);
            }
            Axis::Threads => {
                s.threads = 1 + i % self.max_threads;
                s.batch = 1 + i / self.max_threads % 9;
                s.pieces = self.cut(&mut rng, 1 + i % 3);
            }
            Axis::SimdLevel => {
                s.level = self.levels[i % self.levels.len()];
                if i >= self.levels.len() {
                    s.pieces = self.cut(&mut rng, 6);
                    s.batch = 1 + i % 3;
                }
            }
            Axis::SnapshotRestore => {
                let at = 1 + i % (self.tokens - 1);
                s.pieces = vec![at, self.tokens - at];
                s.snapshot_after = Some(0);
            }
            Axis::Combined => {
                s.threads = 1 + rng.below(self.max_threads);
                // The scalar level is slow; the SimdLevel axis has it.
                let fast: Vec<Level> = self
                    .levels
                    .iter()
                    .copied()
                    .filter(|&l| l != Level::Scalar)
                    .collect();
                s.level = if fast.is_empty() {
                    self.levels[0]
                } else {
                    fast[rng.below(fast.len())]
                };
                s.batch = 1 + rng.below(9);
                s.slot = rng.below(s.batch);
                s.neighbour_rows = 1 + rng.below(16);
                s.hostile = rng.below(2) == 0;
                s.pieces = self.cut(&mut rng, 8);
                s.snapshot_after = (rng.below(3) == 0).then(|| rng.below(s.pieces.len()));
            }
        }
        s
    }

    /// Random pieces, at most `most`, that sum to the request's length.
    fn cut(&self, rng: &mut Draws, most: usize) -> Vec<usize> {
        let mut cuts: Vec<usize> = (1..most).map(|_| 1 + rng.below(self.tokens - 1)).collect();
        cuts.extend([0, self.tokens]);
        cuts.sort_unstable();
        cuts.dedup();
        cuts.windows(2).map(|w| w[1] - w[0]).collect()
    }
}

/// Reproducible draws for schedules and neighbours.
pub(super) struct Draws {
    seed: u64,
    stream: u64,
    drawn: u64,
}

impl Draws {
    pub(super) fn new(seed: u64, stream: u64) -> Draws {
        Draws {
            seed,
            stream,
            drawn: 0,
        }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.drawn += 1;
        // A domain of its own keeps schedules apart from token draws.
        let draw = Draw {
            position: self.drawn,
            sample: self.stream as u32,
            domain: 0x5643_4844,
        };
        let [low, high, ..] = rng::words(self.seed, draw);
        (u64::from(high) << 32) | u64::from(low)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Space {
        Space {
            tokens: 48,
            levels: Level::available(),
            max_threads: 4,
            batch_sizes: (1..=33).collect(),
        }
    }

    #[test]
    fn schedules_are_reproducible_and_complete() {
        for runs in [12, 100, 1000] {
            let schedules = space().schedules(runs);
            assert_eq!(schedules.len(), runs);
            assert_eq!(schedules, space().schedules(runs));
            for axis in Axis::ALL.into_iter().filter(|_| runs >= 100) {
                assert!(
                    schedules.iter().any(|(a, _)| *a == axis),
                    "{} has no run",
                    axis.name()
                );
            }
            for (axis, s) in &schedules {
                assert_eq!(s.pieces.iter().sum::<usize>(), 48, "{}", axis.name());
                assert!(s.pieces.iter().all(|&p| p > 0) && s.slot < s.batch);
            }
        }
    }

    #[test]
    fn every_axis_varies_its_variable() {
        let schedules = space().schedules(1000);
        let values = |axis: Axis, value: &dyn Fn(&Schedule) -> String| {
            let of_axis = schedules.iter().filter(|(a, _)| *a == axis);
            of_axis
                .map(|(_, s)| value(s))
                .collect::<std::collections::BTreeSet<_>>()
                .len()
        };
        assert_eq!(values(Axis::BatchSize, &|s| s.batch.to_string()), 33);
        assert!(values(Axis::Position, &|s| format!("{} of {}", s.slot, s.batch)) > 15);
        assert!(
            values(Axis::Neighbours, &|s| format!(
                "{} {}",
                s.neighbours, s.hostile
            )) > 100
        );
        assert_eq!(
            values(Axis::PrefillVsDecode, &|s| format!("{:?}", s.pieces)),
            48
        );
        assert!(values(Axis::MixedSteps, &|s| format!("{:?} {}", s.pieces, s.batch)) > 100);
        assert_eq!(values(Axis::Threads, &|s| s.threads.to_string()), 4);
        assert_eq!(
            values(Axis::SimdLevel, &|s| s.level.to_string()),
            space().levels.len()
        );
        assert_eq!(
            values(Axis::SnapshotRestore, &|s| format!(
                "{:?} {:?}",
                s.pieces, s.snapshot_after
            )),
            47
        );
        assert!(
            schedules
                .iter()
                .filter(|(a, _)| *a == Axis::SnapshotRestore)
                .all(|(_, s)| s.snapshot_after == Some(0))
        );
        // The axis gets what the others leave of 1000 runs, and no two of its schedules are alike.
        assert_eq!(values(Axis::Combined, &|s| format!("{s:?}")), 190);
    }

    #[test]
    fn every_cut_of_the_prompt_is_tried() {
        let schedules = space().schedules(1000);
        for cut in 1..48 {
            let pieces = vec![cut, 48 - cut];
            assert!(
                schedules
                    .iter()
                    .any(|(a, s)| *a == Axis::PromptSplit && s.pieces == pieces),
                "cut at {cut}"
            );
        }
    }
}
