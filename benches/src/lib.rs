//! Timing on a machine that other work may share, and the machine's own limits.
//!
//! A figure of one thread is work per second of that thread's processor time, so waiting for a core does not count.
//! What neighbours do to caches and memory still does: measure a limit and the thing compared with it in turns,
//! and report the median of their ratios ([`median`]).

pub mod engine;
pub mod limits;
pub mod machine;
pub mod perplexity;

use std::time::{Duration, Instant};

/// Runs `f`, which returns the work it did, until `least` has passed; gives work per second.
pub fn rate(clock: Clock, least: Duration, mut f: impl FnMut() -> f64) -> f64 {
    let (wall, start) = (Instant::now(), clock.now());
    let mut work = 0.0;
    loop {
        work += f();
        let passed = clock.now() - start;
        // The wall bounds the run where the clock stands still because others have the core.
        if passed >= least || (wall.elapsed() > 20 * least && !passed.is_zero()) {
            return work / passed.as_secs_f64();
        }
    }
}

/// What a second is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Processor time of the calling thread.
    Thread,
    /// Processor time of all threads together.
    Process,
    /// Time on the wall, for work on several threads.
    Wall,
}

impl Clock {
    /// Time on it so far.
    pub fn now(self) -> Duration {
        let id = match self {
            Clock::Thread => libc::CLOCK_THREAD_CPUTIME_ID,
            Clock::Process => libc::CLOCK_PROCESS_CPUTIME_ID,
            Clock::Wall => libc::CLOCK_MONOTONIC,
        };
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        #[allow(unsafe_code, reason = "the standard library has no thread clock")]
        // SAFETY: writes one timespec, to a local variable.
        let failed = unsafe { libc::clock_gettime(id, &raw mut time) };
        assert_eq!(failed, 0, "the clock exists on every supported system");
        Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
    }
}

/// The middle value and the quartiles around it.
pub fn median(values: &[f64]) -> Spread {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |q: usize| sorted[(sorted.len() - 1) * q / 4];
    Spread {
        low: at(1),
        median: at(2),
        high: at(3),
        best: at(4),
    }
}

/// Quartiles and the largest value.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// First quartile.
    pub low: f64,
    /// Median.
    pub median: f64,
    /// Third quartile.
    pub high: f64,
    /// Largest.
    pub best: f64,
}
