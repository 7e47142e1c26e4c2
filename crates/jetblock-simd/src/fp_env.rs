//! The floating-point environment the contract needs, whatever the host program has set.
//!
//! Any library in a process can switch rounding direction or turn on flush-to-zero for a thread, and new threads
//! inherit it on some systems. Every public entry that computes holds a [`Guard`]; pool workers set it for life.

/// IEEE defaults on this thread while it lives; the caller's environment returns on drop.
#[must_use = "the environment is restored when the guard is dropped"]
#[derive(Debug)]
pub struct Guard {
    saved: u64,
    /// Control registers belong to a thread, so the guard must not leave it.
    not_send: std::marker::PhantomData<*const ()>,
}

impl Guard {
    /// Sets round to nearest even, no flush-to-zero, no denormals-are-zero, all exceptions masked.
    pub fn new() -> Guard {
        let saved = control();
        if saved & CHECKED != DEFAULT {
            set_control((saved & !CHECKED) | DEFAULT);
        }
        Guard {
            saved,
            not_send: std::marker::PhantomData,
        }
    }
}

impl Default for Guard {
    fn default() -> Guard {
        Guard::new()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.saved & CHECKED != DEFAULT {
            set_control(self.saved);
        }
    }
}

/// Whether this thread has the contract's environment now.
pub fn is_default() -> bool {
    control() & CHECKED == DEFAULT
}

/// Sets the contract's environment for the rest of this thread's life (pool workers).
pub(crate) fn set_for_thread() {
    set_control((control() & !CHECKED) | DEFAULT);
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use std::arch::asm;

    /// MXCSR: DAZ (6), exception masks (7-12), rounding control (13-14), FTZ (15).
    pub(super) const CHECKED: u64 = 0xFFC0;
    /// All exceptions masked, round to nearest, no flushing.
    pub(super) const DEFAULT: u64 = 0x1F80;

    pub(super) fn control() -> u64 {
        let mut csr = 0_u32;
        // SAFETY: stores MXCSR to a local variable.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut csr, options(nostack, preserves_flags)) };
        u64::from(csr)
    }

    pub(super) fn set_control(value: u64) {
        let csr = value as u32;
        // SAFETY: the value is a former MXCSR with only mode bits changed, so no reserved bit is set.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const csr, options(nostack, preserves_flags)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    use std::arch::asm;

    /// FPCR: FIZ (0), AH (1), NEP (2), trap enables (8-12, 15), FZ16 (19), RMode (22-23), FZ (24), DN (25).
    pub(super) const CHECKED: u64 = 0x03C8_9F07;
    /// Round to nearest, no flushing, no traps, NaN payloads propagate.
    pub(super) const DEFAULT: u64 = 0;

    pub(super) fn control() -> u64 {
        let fpcr: u64;
        // SAFETY: reads a control register.
        unsafe { asm!("mrs {}, fpcr", out(reg) fpcr, options(nomem, nostack, preserves_flags)) };
        fpcr
    }

    pub(super) fn set_control(value: u64) {
        // SAFETY: the value is a former FPCR with only mode bits changed.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the floating-point environment guard is written for x86_64 and aarch64");

use arch::{CHECKED, DEFAULT, control, set_control};

/// Puts this thread into flush-to-zero, denormals-are-zero and round-up, for tests that the guard undoes it.
#[doc(hidden)]
pub fn disturb_for_tests() {
    #[cfg(target_arch = "x86_64")]
    set_control((control() & !0x6000) | 0x8040 | 0x4000);
    #[cfg(target_arch = "aarch64")]
    set_control(control() | 0x0140_0000);
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn guard_sets_and_restores() {
        std::thread::spawn(|| {
            disturb_for_tests();
            let tiny = f32::from_bits(1);
            assert!(!is_default());
            assert_eq!(
                black_box(tiny) * black_box(1.0),
                0.0,
                "the disturbance must be felt without the guard"
            );
            {
                let _guard = Guard::new();
                assert!(is_default());
                assert_eq!((black_box(tiny) * black_box(1.0)).to_bits(), 1);
            }
            assert!(!is_default(), "the caller's environment returns");
        })
        .join()
        .expect("the thread does not panic");
    }
}
