//! Advice to the operating system about large buffers.

use std::mem::MaybeUninit;

/// Asks for huge pages behind memory that is about to be filled.
///
/// Weights are read from end to end for every token; with small pages the address translation and the prefetcher,
/// which stops at a page's end, cost a good part of the bandwidth. A hint: where it is not followed nothing changes.
pub fn prefer_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let (start, end) = (memory.as_ptr().addr(), memory.as_ptr().addr() + size_of_val(memory));
        let (first, last) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if first < last {
            let first = memory.as_mut_ptr().wrapping_byte_add(first - start);
            // SAFETY: whole pages inside a buffer that is borrowed exclusively; the advice keeps their contents.
            // A refusal (a kernel without huge pages, or with larger pages) is harmless.
            unsafe { libc::madvise(first.cast(), last - first.addr(), libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_changes_no_contents() {
        for len in [0, 1, 5000, 3 << 20] {
            let mut buffer: Vec<u8> = vec![7; len];
            buffer.reserve(len);
            prefer_huge_pages(buffer.spare_capacity_mut());
            assert!(buffer.iter().all(|&v| v == 7));
        }
    }
}
