//! Weight files mapped into memory, and giving their pages back.
#![allow(
    unsafe_code,
    reason = "mapping a file and dropping its pages are unsafe by nature"
)]

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// A read-only private mapping of a whole file.
pub(crate) struct MappedFile {
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps the file. It must stay as it is while it is mapped: see [`Checkpoint::open`](super::Checkpoint::open).
    pub(crate) fn new(file: &File) -> io::Result<MappedFile> {
        if file.metadata()?.len() == 0 {
            return Ok(MappedFile { map: None });
        }
        // SAFETY: the mapping is read-only and private. That nobody changes the file under it is the documented duty of the
        // caller of `Checkpoint::open`; no mapping can ensure it.
        let map = unsafe { Mmap::map(file)? };
        Ok(MappedFile { map: Some(map) })
    }

    /// The bytes of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    /// Drops the resident pages that `part` touches, if it lies in this file. The pages at both ends may hold other tensors:
    /// they are dropped too, a later access brings them back from the file.
    pub(super) fn release(&self, part: &[u8]) -> bool {
        let all = self.bytes().as_ptr_range();
        let part = part.as_ptr_range();
        let inside = all.start <= part.start && part.end <= all.end;
        if inside {
            self.drop_pages(
                part.start as usize - all.start as usize,
                part.end as usize - part.start as usize,
            );
        }
        inside
    }

    #[cfg(unix)]
    fn drop_pages(&self, offset: usize, length: usize) {
        let Some(map) = self.map.as_ref().filter(|_| length > 0) else {
            return;
        };
        // SAFETY: MADV_DONTNEED on a private file mapping that is never written drops page table entries only; the same
        // bytes come back from the file on the next access, so slices of the mapping stay valid and unchanged.
        let dropped = unsafe {
            map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, length)
        };
        // Advice may be refused (some file systems): memory stays resident, nothing else changes.
        drop(dropped);
    }

    #[cfg(not(unix))]
    fn drop_pages(&self, _offset: usize, _length: usize) {}
}
