//! Reading weights leaves no weight pages resident.
#![cfg(target_os = "linux")]

use jetblock_models::checkpoint::{Checkpoint, SINGLE_FILE};

use crate::folder::{folder, zeros};

/// Resident bytes of the mapping that holds this address.
fn resident(address: usize) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("readable");
    let mut inside = false;
    for line in maps.lines() {
        let range = line
            .split_whitespace()
            .next()
            .and_then(|range| range.split_once('-'));
        let bounds = range.and_then(|(a, b)| {
            usize::from_str_radix(a, 16)
                .ok()
                .zip(usize::from_str_radix(b, 16).ok())
        });
        match bounds {
            Some((start, end)) => inside = (start..end).contains(&address),
            None if inside && line.starts_with("Rss:") => {
                let kib = line
                    .split_whitespace()
                    .nth(1)
                    .and_then(|n| n.parse::<usize>().ok());
                return kib.expect("a number") << 10;
            }
            None => {}
        }
    }
    panic!("no mapping at {address:#x}");
}

#[test]
fn released_pages_leave_memory_and_stay_readable() {
    const ELEMENTS: usize = 1 << 20;
    let dir = folder(&[(
        SINGLE_FILE,
        &zeros(&[("a", &[ELEMENTS]), ("b", &[ELEMENTS])]),
    )]);
    let checkpoint = Checkpoint::open(dir.path()).expect("valid");
    let (a, b) = (
        checkpoint.tensor("a").expect("there"),
        checkpoint.tensor("b").expect("there"),
    );
    let at = a.bytes.as_ptr() as usize;
    let sum: u64 = a
        .bytes
        .iter()
        .chain(b.bytes)
        .map(|byte| u64::from(*byte))
        .sum();
    assert_eq!(sum, 0);
    assert!(resident(at) >= 8 * ELEMENTS, "the test would show nothing");
    checkpoint.release(a.bytes);
    assert!(
        resident(at) < 5 * ELEMENTS,
        "only b is left: {}",
        resident(at)
    );
    checkpoint.release(b.bytes);
    assert!(resident(at) < ELEMENTS, "nothing is left: {}", resident(at));
    assert_eq!(a.to_f32(), vec![0.0; ELEMENTS]);
}
