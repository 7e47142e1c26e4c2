//! The machine a measurement ran on, and who else used it.

use std::fs;
use std::thread;
use std::time::Duration;

/// The processor's name as the system gives it.
pub fn processor() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_string())
    });
    name.unwrap_or_else(|| format!("unnamed {} processor", std::env::consts::ARCH))
}

/// Cores that this process may use.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// How many cores are busy while the caller waits, so with work that is not its own; `None` where the system does
/// not say.
pub fn busy_cores() -> Option<f64> {
    // In ticks of a hundredth of a second on every Linux: the wait is long enough to resolve 3 % of a core.
    const TICK: f64 = 0.01;
    let wait = Duration::from_millis(300);
    let before = busy_ticks()?;
    thread::sleep(wait);
    Some((busy_ticks()? - before) as f64 * TICK / wait.as_secs_f64())
}

fn busy_ticks() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<u64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .map_while(|ticks| ticks.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq)
}
