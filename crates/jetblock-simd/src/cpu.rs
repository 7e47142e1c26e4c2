//! What a computation runs on: an instruction-set level and a pool of threads.

use std::sync::Arc;

use crate::{Kernel, Level, fp_env};

/// A level and a thread pool; cheap to clone. No result depends on either.
#[derive(Clone, Debug)]
pub struct Cpu {
    level: Level,
    pool: Option<Arc<rayon::ThreadPool>>,
    threads: usize,
}

/// Why a [`Cpu`] could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum CpuError {
    /// The processor lacks the level asked for.
    LevelUnavailable(Level),
    /// Zero threads, or more than [`Cpu::MAX_THREADS`].
    Threads(usize),
    /// The operating system refused the threads.
    Pool(rayon::ThreadPoolBuildError),
}

impl std::fmt::Display for CpuError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CpuError::LevelUnavailable(level) => {
                let have: Vec<_> = Level::available().iter().map(|l| l.name()).collect();
                write!(
                    f,
                    "instruction-set level {level} is not available, this processor has {}",
                    have.join(", ")
                )
            }
            CpuError::Threads(n) => {
                write!(f, "thread count {n} is outside 1..={}", Cpu::MAX_THREADS)
            }
            CpuError::Pool(e) => write!(f, "cannot start the thread pool: {e}"),
        }
    }
}

impl std::error::Error for CpuError {}

impl Cpu {
    /// More threads than this are surely a mistake.
    pub const MAX_THREADS: usize = 1024;

    /// A CPU with this many threads (one means: no pool, everything on the caller's thread).
    pub fn new(threads: usize, level: Level) -> Result<Cpu, CpuError> {
        if !level.is_available() {
            return Err(CpuError::LevelUnavailable(level));
        }
        if threads == 0 || threads > Cpu::MAX_THREADS {
            return Err(CpuError::Threads(threads));
        }
        let pool = if threads == 1 {
            None
        } else {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                // Kernels keep tiles on the stack, and unoptimised builds keep much more there.
                .stack_size(8 << 20)
                .thread_name(|i| format!("jetblock-{i}"))
                .start_handler(|_| fp_env::set_for_thread())
                .build()
                .map_err(CpuError::Pool)?;
            Some(Arc::new(pool))
        };
        Ok(Cpu {
            level,
            pool,
            threads,
        })
    }

    /// One thread at the best level.
    pub fn single() -> Cpu {
        Cpu {
            level: Level::best(),
            pool: None,
            threads: 1,
        }
    }

    /// One thread at the same level.
    #[must_use]
    pub fn one_thread(&self) -> Cpu {
        Cpu {
            level: self.level,
            pool: None,
            threads: 1,
        }
    }

    /// The instruction-set level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs a kernel at this CPU's level, on the calling thread.
    #[inline]
    pub fn run<K: Kernel>(&self, kernel: K) -> K::Output {
        self.level.run(kernel)
    }

    /// Runs `f` on a worker of the pool (on the calling thread where there is none). Parallel calls inside `f` then find
    /// the pool awake: entering it from outside for each would cost more than a small one takes.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(f),
            None => f(),
        }
    }

    /// Calls `f` once per item, possibly in parallel. Items own what they write (for example a [`crate::TileMut`]), so
    /// the schedule decides who computes an item and never how.
    pub fn par_items<I: Send, F: Fn(I) + Send + Sync>(&self, items: Vec<I>, f: F) {
        match &self.pool {
            Some(pool) if items.len() > 1 => pool.install(|| {
                use rayon::prelude::*;
                items.into_par_iter().for_each(f);
            }),
            _ => items.into_iter().for_each(f),
        }
    }

    /// Cuts `out` into rows of `row_len` and calls `f(first_row, rows)` on disjoint runs of whole rows.
    pub fn par_rows<T: Send, F: Fn(usize, &mut [T]) + Send + Sync>(
        &self,
        out: &mut [T],
        row_len: usize,
        grain: usize,
        f: F,
    ) {
        assert!(
            row_len > 0 && out.len().is_multiple_of(row_len),
            "rows of {row_len} do not cover {} elements",
            out.len()
        );
        let rows = out.len() / row_len;
        let Some(pool) = self.pool.as_ref().filter(|_| rows > grain) else {
            if rows > 0 {
                f(0, out);
            }
            return;
        };
        let pieces = rows.div_ceil(grain.max(1)).min(self.threads * 4).max(1);
        let per_piece = rows.div_ceil(pieces);
        pool.install(|| {
            use rayon::prelude::*;
            out.par_chunks_mut(per_piece * row_len)
                .with_max_len(1)
                .enumerate()
                .for_each(|(i, chunk)| f(i * per_piece, chunk));
        });
    }
}
