//! States kept in a folder: they come back in other engines and processes with their bits, and nothing else does.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jetblock_models::{Model, Options};
use jetblock_ops::attention::KvDtype;
use jetblock_ops::linear::OperandKind;
use jetblock_runtime::{Engine, EngineOptions, FolderStats, PrefixFolder, Request};
use jetblock_simd::{Cpu, Level};
use jetblock_tensor::Digest;

use crate::{Answer, answer, fed, finish, keeping, load, model, prompt, request, soak_requests};

const WEIGHTS: Digest = Digest([7; 32]);

fn open(path: &Path, budget: u64, model: &Arc<Model>) -> PrefixFolder {
    PrefixFolder::open(path, budget, model.clone(), WEIGHTS).expect("a folder")
}

/// What a fresh process would answer with this folder behind it, and what the folder did.
fn answer_with(
    folder: PrefixFolder,
    model: &Arc<Model>,
    cpu: &Cpu,
    request: &Request,
) -> (Answer, FolderStats, Vec<String>) {
    let mut engine = Engine::new(model.clone(), cpu.clone(), keeping(1 << 30, 8));
    engine.keep_prefixes_in(folder);
    let answer = answer(&mut engine, request);
    let cache = engine.prefix_cache().expect("there is a folder");
    cache.flush();
    let folder = cache.folder().expect("there is a folder");
    (answer, folder.stats(), folder.take_warnings())
}

fn plain(model: &Arc<Model>, request: &Request) -> Answer {
    answer(&mut crate::engine(model, keeping(0, 8)), request)
}

/// The kept files, by ascending name.
fn files(path: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(path).expect("a folder");
    let mut files: Vec<PathBuf> = listed.map(|item| item.expect("readable").path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "jbstate"));
    files.sort();
    files
}

fn bytes(path: &Path) -> u64 {
    let sizes = files(path).into_iter();
    sizes
        .map(|file| fs::metadata(file).expect("it is there").len())
        .sum()
}

#[test]
fn a_hit_from_disk_is_a_miss_at_every_cut() {
    let cpu = Cpu::single();
    let options = |operands, kv_dtype| Options {
        operands: Some(operands),
        kv_dtype: Some(kv_dtype),
        ..Options::default()
    };
    for dtype in KvDtype::ALL {
        for kind in [OperandKind::Bf16, OperandKind::F32] {
            let model = load(options(kind, dtype));
            let whole = request(prompt(41), 3, 6);
            let want = plain(&model, &whole);
            for cut in 1..whole.prompt.len() {
                let path = tempfile::tempdir().expect("a folder");
                let mut folder = open(path.path(), 1 << 30, &model);
                // In two pieces where there is room for two.
                for cut in [cut / 2, cut] {
                    let tokens = &whole.prompt[..cut];
                    if cut > 0 {
                        folder.keep(tokens, &fed(&model, tokens));
                    }
                }
                let folder = open(path.path(), 1 << 30, &model);
                let (got, stats, warnings) = answer_with(folder, &model, &cpu, &whole);
                assert_eq!(got, want, "{dtype}, cut {cut}");
                assert_eq!((stats.hits, stats.tokens), (1, cut as u64), "{dtype}");
                assert!(warnings.is_empty(), "{warnings:?}");
            }
        }
    }
}

#[test]
fn threads_and_levels_read_what_others_wrote() {
    let model = model();
    let whole = request(prompt(41), 3, 6);
    let want = plain(&model, &whole);
    let mut cpus = Vec::new();
    for level in Level::available() {
        for threads in [1, 3] {
            cpus.push(Cpu::new(threads, level).expect("available"));
        }
    }
    for (writer, reader) in cpus.iter().zip(cpus.iter().cycle().skip(1)) {
        let path = tempfile::tempdir().expect("a folder");
        let answer = |cpu| answer_with(open(path.path(), 1 << 30, &model), &model, cpu, &whole);
        let (first, written, _) = answer(writer);
        let (second, read, warnings) = answer(reader);
        assert_eq!((&first, &second), (&want, &want));
        // 8, 16, 24, 32, 40, and the end of the answer.
        assert_eq!((written.hits, written.written), (0, 6));
        assert_eq!((read.hits, read.tokens, read.written), (1, 40, 0));
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

#[test]
fn a_wrong_state_on_disk_is_seen() {
    let model = model();
    let whole = request(prompt(41), 3, 6);
    let path = tempfile::tempdir().expect("a folder");
    let mut other = prompt(20);
    other[4] ^= 1;
    // A writer that takes one prompt's state for another's.
    open(path.path(), 1 << 30, &model).keep(&prompt(20), &fed(&model, &other));
    let folder = open(path.path(), 1 << 30, &model);
    let (got, stats, _) = answer_with(folder, &model, &Cpu::single(), &whole);
    assert_eq!((stats.hits, stats.tokens), (1, 20));
    assert_ne!(got, plain(&model, &whole));
}

#[test]
fn damaged_files_are_refused_and_written_anew() {
    let model = model();
    let whole = request(prompt(41), 3, 6);
    let want = plain(&model, &whole);
    let path = tempfile::tempdir().expect("a folder");
    let answer = || {
        let folder = open(path.path(), 1 << 30, &model);
        answer_with(folder, &model, &Cpu::single(), &whole)
    };
    answer();
    let whole_file = |tokens: usize| {
        let end = format!("-{tokens}.jbstate");
        let mut files = files(path.path()).into_iter();
        files
            .find(|file| file.to_string_lossy().ends_with(&end))
            .expect("it was kept")
    };
    // The last piece, and one that others go on from.
    for (tokens, left) in [(40, 32), (16, 8)] {
        let file = whole_file(tokens);
        let good = fs::read(&file).expect("readable");
        let mut damages: Vec<Vec<u8>> = vec![
            Vec::new(),
            good[..100].to_vec(),
            good[..good.len() / 2].to_vec(),
            b"something else altogether".repeat(100),
        ];
        let changes = [0, 8, 12, 44, 76, 108, 116, 124, 156, 188, 219, 230, 300];
        damages.extend(changes.map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        }));
        damages.push([&good[..], b"more"].concat());
        // The snapshot of a piece that others go on from is not read.
        if tokens == 40 {
            let mut bytes = good.clone();
            bytes[good.len() - 1] ^= 1;
            damages.push(bytes);
        }
        for (i, damage) in damages.into_iter().enumerate() {
            fs::write(&file, damage).expect("writable");
            let (got, stats, warnings) = answer();
            assert_eq!(got, want, "{tokens}, damage {i}");
            assert_eq!(
                (stats.refused, stats.tokens),
                (1, left),
                "{tokens}, damage {i}"
            );
            let name = file.to_string_lossy();
            assert!(
                warnings.len() == 1 && warnings[0].starts_with(&format!("{name} is not used: ")),
                "{warnings:?}"
            );
            // Now it is whole again.
            let (got, stats, warnings) = answer();
            assert_eq!(
                (got, stats.tokens),
                (want.clone(), 40),
                "{tokens}, damage {i}"
            );
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }
    // The process that refused it writes it anew, and uses that.
    let file = whole_file(40);
    fs::write(&file, b"damaged").expect("writable");
    let mut folder = open(path.path(), 1 << 30, &model);
    assert_eq!(folder.longest(&whole.prompt), 32);
    let tokens = &whole.prompt[..40];
    folder.keep(tokens, &fed(&model, tokens));
    assert_eq!(folder.longest(&whole.prompt), 40);
    assert_eq!((folder.stats().refused, folder.stats().written), (1, 1));
    // No file at all, and a folder in its place.
    fs::remove_file(&file).expect("it was there");
    fs::create_dir(&file).expect("nothing is there");
    let (got, stats, warnings) = answer();
    assert_eq!((got, stats.tokens), (want, 32));
    assert_eq!(
        warnings.len(),
        2,
        "it can be neither read nor replaced: {warnings:?}"
    );
}

#[test]
fn what_others_left_is_not_taken() {
    let path = tempfile::tempdir().expect("a folder");
    let (model, whole) = (model(), request(prompt(41), 3, 6));
    let cpu = Cpu::single();
    let answer = |model: &Arc<Model>, weights| {
        let folder = PrefixFolder::open(path.path(), 1 << 30, model.clone(), weights);
        answer_with(folder.expect("a folder"), model, &cpu, &whole)
    };
    answer(&model, WEIGHTS);
    let mine = files(path.path());
    // The same configuration with other weights, the same weights with other options: each has files of its own.
    let fp8 = load(Options {
        kv_dtype: Some(KvDtype::Fp8),
        ..Options::default()
    });
    for (model, weights, why) in [
        (&model, Digest([8; 32]), "other weights"),
        (&fp8, WEIGHTS, "other configuration or options"),
    ] {
        let (got, stats, warnings) = answer(model, weights);
        assert_eq!(got, plain(model, &whole));
        assert_eq!((stats.hits, stats.written), (0, 6));
        assert!(warnings.is_empty(), "{warnings:?}");
        // Not even under the name of its own.
        let all = files(path.path());
        let other = all
            .iter()
            .find(|file| !mine.contains(file))
            .expect("six more");
        let (_, tokens) = other
            .to_str()
            .expect("a name")
            .rsplit_once('-')
            .expect("of this form");
        let ends_so = |file: &&PathBuf| file.to_string_lossy().ends_with(&format!("-{tokens}"));
        fs::copy(mine.iter().find(ends_so).expect("the same cuts"), other).expect("writable");
        let (got, stats, warnings) = answer(model, weights);
        assert_eq!(got, plain(model, &whole));
        assert_eq!(stats.refused, 1);
        assert!(warnings[0].contains(why), "{warnings:?}");
        for file in all.iter().filter(|file| !mine.contains(file)) {
            fs::remove_file(file).expect("it was there");
        }
    }
    let (_, stats, _) = answer(&model, WEIGHTS);
    assert_eq!((stats.hits, stats.refused), (1, 0));
}

#[test]
fn what_prompts_have_in_common_is_stored_once() {
    let model = model();
    let path = tempfile::tempdir().expect("a folder");
    let mut folder = open(path.path(), 1 << 30, &model);
    let (base, mut sizes) = (prompt(64), Vec::new());
    for cut in [16, 32, 48, 64] {
        folder.keep(&base[..cut], &fed(&model, &base[..cut]));
        sizes.push(bytes(path.path()));
    }
    let steps: Vec<u64> = sizes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(steps, [sizes[0]; 3]);
    // The whole state at once takes the snapshot once.
    let kv = 16 * (model.kv_bytes_per_token(model.kv_dtype()) + 4) as u64;
    let alone = tempfile::tempdir().expect("a folder");
    open(alone.path(), 1 << 30, &model).keep(&base, &fed(&model, &base));
    assert_eq!(bytes(alone.path()), sizes[0] + 3 * kv);
}

#[test]
fn the_least_recently_used_file_goes_first() {
    let model = model();
    let path = tempfile::tempdir().expect("a folder");
    let tokens = |first: u32| (first..first + 10).collect::<Vec<u32>>();
    let longer = |first: u32| (first..first + 11).collect::<Vec<u32>>();
    open(path.path(), 1 << 30, &model).keep(&tokens(0), &fed(&model, &tokens(0)));
    let one = bytes(path.path());
    fs::write(path.path().join("notes.txt"), vec![0; 10 * one as usize]).expect("writable");
    fs::write(path.path().join(".jbstate-stopped"), b"half").expect("writable");
    let mut folder = open(path.path(), 3 * one + one / 2, &model);
    for first in 1..3 {
        folder.keep(&tokens(first), &fed(&model, &tokens(first)));
    }
    assert_eq!(files(path.path()).len(), 3);
    // The first is used again, so the second is the oldest when the fourth comes.
    assert!(folder.take(&longer(0), 0).is_some());
    folder.keep(&tokens(3), &fed(&model, &tokens(3)));
    let found = [0, 1, 2, 3].map(|first| folder.longest(&longer(first)));
    assert_eq!(found, [10, 0, 10, 10]);
    assert_eq!(
        folder.longest(&tokens(0)),
        0,
        "a token must be left to feed"
    );
    assert_eq!((bytes(path.path()), folder.stats().evictions), (3 * one, 1));
    // A piece that goes on from another keeps that in place.
    let state = fed(&model, &longer(2));
    folder.keep(&longer(2), &state);
    assert!(folder.longest(&(2..14).collect::<Vec<u32>>()) == 11);
    // Larger than everything: not kept, and nothing goes for it.
    let before = files(path.path());
    let mut tiny = open(path.path(), one - 1, &model);
    tiny.keep(&prompt(10), &fed(&model, &prompt(10)));
    assert_eq!((files(path.path()), tiny.stats().too_large), (before, 1));
    // What a stopped writer left is gone, what is not ours is not.
    assert!(path.path().join("notes.txt").exists());
    assert!(!path.path().join(".jbstate-stopped").exists());
}

#[test]
fn several_writers_stay_within_the_budget_together() {
    let model = model();
    let path = tempfile::tempdir().expect("a folder");
    let budget = 600_000;
    let requests: Vec<Request> = (0..12)
        .map(|i| {
            let (len, family) = (10 + (i * 7) % 23, i % 3);
            let tokens = (0..len).map(|t| (t * (family + 3) + family) % 97).collect();
            request(tokens, u64::from(i), 3)
        })
        .collect();
    let want: Vec<Answer> = requests.iter().map(|r| plain(&model, r)).collect();
    let done = AtomicBool::new(false);
    let sum = |stats: Vec<FolderStats>| {
        let add = |of: fn(&FolderStats) -> u64| stats.iter().map(of).sum::<u64>();
        (add(|s| s.hits), add(|s| s.evictions), add(|s| s.refused))
    };
    let (stats, most) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            loop {
                let is_last = done.load(Ordering::Relaxed);
                // What a folder says while files come and go is no total: look when nobody writes.
                if let Ok(lock) = File::open(path.path().join(".lock")) {
                    lock.lock().expect("it can be locked");
                    most = most.max(bytes(path.path()));
                }
                if is_last {
                    return most;
                }
                std::thread::yield_now();
            }
        });
        let work = |offset: usize| {
            let (path, model, requests, want) = (path.path(), &model, &requests, &want);
            move || {
                let mut all = Vec::new();
                for i in 0..60 {
                    // Each twice, so that the second finds what the first left unless others needed the room.
                    let i = (i / 2 * 5 + offset) % requests.len();
                    let folder = open(path, budget, model);
                    let (got, stats, warnings) =
                        answer_with(folder, model, &Cpu::single(), &requests[i]);
                    assert_eq!(got, want[i]);
                    assert!(warnings.is_empty(), "{warnings:?}");
                    all.push(stats);
                }
                all
            }
        };
        let workers: Vec<_> = (0..3).map(|i| scope.spawn(work(4 * i))).collect();
        let stats = workers
            .into_iter()
            .flat_map(|w| w.join().expect("it works"));
        let stats = stats.collect();
        done.store(true, Ordering::Relaxed);
        (stats, watcher.join().expect("it watches"))
    });
    assert!(budget / 2 < most && most <= budget, "{most} bytes");
    let (hits, evictions, refused) = sum(stats);
    println!("{hits} hits, {evictions} evictions, {most} bytes");
    // How many is up to who runs when.
    assert!(hits > 0 && evictions > 0);
    assert_eq!(refused, 0);
}

/// The requests of `memory_stays_within_the_budget`, with a folder that holds a few states more. What is asked again is
/// answered again, whatever was kept, moved to the folder, read from there or gone meanwhile.
#[test]
fn memory_and_folder_stay_within_their_budgets() {
    let model = model();
    let path = tempfile::tempdir().expect("a folder");
    let (in_memory, in_folder) = (200_000, 600_000);
    let options = EngineOptions {
        max_sequences: 16,
        ..keeping(in_memory, 4)
    };
    let mut engine = crate::engine(&model, options);
    engine.keep_prefixes_in(open(path.path(), in_folder, &model));
    let (mut seen, mut most) = (0, 0);
    let mut known: HashMap<(Vec<u32>, u64), Answer> = HashMap::new();
    for round in 0..1000 {
        let mut asked = HashMap::new();
        for request in soak_requests(round) {
            let key = (request.prompt.clone(), request.seed);
            let id = engine.submit(request).expect("a valid request");
            asked.insert(id, key);
        }
        let answers = finish(&mut engine, &mut |engine| {
            let cache = engine.prefix_cache().expect("asked for");
            assert!(cache.stats().bytes <= in_memory);
        });
        for (id, answer) in answers {
            let before = known.entry(asked.remove(&id).expect("it was asked"));
            assert_eq!(*before.or_insert_with(|| answer.clone()), answer);
            seen += 1;
        }
        most = most.max(bytes(path.path()));
        assert!(most <= in_folder, "{most} bytes after round {round}");
    }
    let cache = engine.prefix_cache().expect("asked for");
    let (memory, folder) = (cache.stats(), cache.folder().expect("set").stats());
    assert_eq!(seen, 10_000);
    assert!(known.len() < 1000 && most > in_folder / 2);
    assert!(
        memory.evictions > 1000 && folder.evictions > 1000 && folder.hits > 1000,
        "both budgets were felt and states were used: {memory:?} {folder:?}"
    );
    assert_eq!(folder.refused, 0);
    println!("{memory:?} {folder:?}, most bytes in the folder {most}");
}
