//! What is computed on: threads and instruction set. No result depends on either.

use std::mem::ManuallyDrop;
use std::sync::Mutex;

use jetblock_simd::{Cpu, Level};
use pyo3::prelude::*;

use crate::error::argument;

/// The CPU that the operators compute on.
static OPERATORS: Pool = Pool::new();

/// A [`Cpu`] that survives `fork`: a child process has none of its parent's threads, so it starts its own.
pub(crate) struct Pool(Mutex<Option<(u32, ManuallyDrop<Cpu>)>>);

impl Pool {
    const fn new() -> Pool {
        Pool(Mutex::new(None))
    }

    pub(crate) fn of(cpu: Cpu) -> Pool {
        let pool = Pool::new();
        pool.set(cpu);
        pool
    }

    fn set(&self, cpu: Cpu) {
        let mut slot = self.0.lock().expect("no holder of the lock panics");
        *slot = Some((std::process::id(), ManuallyDrop::new(cpu)));
    }

    /// The CPU of this process; the standard one where none was set.
    pub(crate) fn get(&self) -> PyResult<Cpu> {
        let mut slot = self.0.lock().expect("no holder of the lock panics");
        let pid = std::process::id();
        let cpu = match &*slot {
            Some((owner, cpu)) if *owner == pid => return Ok(Cpu::clone(cpu)),
            // The parent's pool cannot be ended here: its threads, which would have to take part, do not exist.
            Some((_, parents)) => cpu(Some(parents.threads()), Some(parents.level()))?,
            None => cpu_of_environment()?,
        };
        *slot = Some((pid, ManuallyDrop::new(cpu.clone())));
        Ok(cpu)
    }
}

/// The CPU that operators compute on now.
pub(crate) fn operators() -> PyResult<Cpu> {
    OPERATORS.get()
}

/// A CPU; all cores and the best level where nothing is said.
pub(crate) fn cpu(threads: Option<usize>, level: Option<Level>) -> PyResult<Cpu> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let level = level.unwrap_or_else(Level::best);
    Cpu::new(threads.unwrap_or_else(cores), level).map_err(argument)
}

/// [`cpu`] with the defaults that the command has too.
pub(crate) fn cpu_or_environment(threads: Option<usize>, isa: Option<&str>) -> PyResult<Cpu> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let threads = match (threads, variable("JETBLOCK_THREADS")) {
        (None, Some(text)) => Some(text.parse().map_err(|_| {
            argument(format!(
                "JETBLOCK_THREADS is {text:?}, expected a number of threads"
            ))
        })?),
        (threads, _) => threads,
    };
    let isa = isa.map(str::to_owned).or_else(|| variable("JETBLOCK_ISA"));
    let level = isa.map(|name| name.parse::<Level>().map_err(argument));
    cpu(threads, level.transpose()?)
}

fn cpu_of_environment() -> PyResult<Cpu> {
    cpu_or_environment(None, None)
}

/// Chooses what operators compute on.
#[pyfunction]
#[pyo3(signature = (threads=None, isa=None))]
pub(crate) fn set_cpu(threads: Option<usize>, isa: Option<&str>) -> PyResult<()> {
    OPERATORS.set(cpu_or_environment(threads, isa)?);
    Ok(())
}

/// Threads and instruction-set level of the operators.
#[pyfunction]
pub(crate) fn get_cpu() -> PyResult<(usize, &'static str)> {
    let cpu = operators()?;
    Ok((cpu.threads(), cpu.level().name()))
}
