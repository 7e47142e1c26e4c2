//! States kept in memory, and guesses.

use std::collections::HashMap;

use jetblock_models::SequenceState;
use jetblock_runtime::{EngineOptions, PrefixCache, Request, RequestId};

use crate::{
    Answer, answer, engine, fed, feed, finish, keeping, model, prompt, request, soak_requests,
};

#[test]
fn a_hit_is_a_miss_at_every_cut() {
    let model = model();
    let whole = request(prompt(41), 3, 6);
    let want = answer(&mut engine(&model, EngineOptions::default()), &whole);
    for cut in 1..whole.prompt.len() {
        // A request with the first tokens alone leaves its state behind, and continues differently.
        let mut engine = engine(&model, keeping(1 << 30, 1000));
        answer(
            &mut engine,
            &request([&whole.prompt[..cut], &[96]].concat(), 9, 2),
        );
        let before = engine.prefix_cache().expect("asked for").stats();
        assert_eq!(answer(&mut engine, &whole), want, "cut {cut}");
        let after = engine.prefix_cache().expect("asked for").stats();
        assert_eq!(
            (after.hits, after.tokens_reused),
            (before.hits + 1, before.tokens_reused + cut as u64)
        );
    }
}

#[test]
fn a_wrong_state_is_seen() {
    let model = model();
    let whole = request(prompt(41), 3, 6);
    let want = answer(&mut engine(&model, EngineOptions::default()), &whole);
    let mut engine = engine(&model, keeping(1 << 30, 1000));
    let mut other = prompt(20);
    other[4] ^= 1;
    let state = fed(&model, &other);
    engine
        .prefix_cache()
        .expect("asked for")
        .keep(&prompt(20), &state);
    assert_ne!(answer(&mut engine, &whole), want);
}

#[test]
fn samples_of_one_prompt_compute_it_once() {
    let model = model();
    let requests: Vec<Request> = (0..6).map(|seed| request(prompt(30), seed, 4)).collect();
    let want: Vec<Answer> = requests
        .iter()
        .map(|r| answer(&mut engine(&model, EngineOptions::default()), r))
        .collect();
    assert!(want.iter().any(|other| *other != want[0]));
    let mut engine = engine(&model, keeping(1 << 30, 8));
    let ids: Vec<RequestId> = requests
        .iter()
        .map(|r| engine.submit(r.clone()).expect("a valid request"))
        .collect();
    let answers = finish(&mut engine, &mut |_| {});
    for (id, want) in ids.iter().zip(&want) {
        assert_eq!(&answers[id], want);
    }
    let stats = engine.prefix_cache().expect("asked for").stats();
    assert_eq!((stats.misses, stats.hits), (1, 5));
    assert_eq!(stats.tokens_reused, 5 * 29);
}

/// Bytes of the kept states, each block counted once.
fn counted(cache: &PrefixCache) -> usize {
    let mut blocks = HashMap::new();
    let mut bytes = 0;
    for (tokens, state) in cache.states() {
        bytes += size_of_val(tokens) + state.unshared_bytes();
        state.visit_shared(&mut |address, bytes| {
            blocks.insert(address, bytes);
        });
    }
    bytes + blocks.values().sum::<usize>()
}

#[test]
fn the_least_recently_used_state_goes_first() {
    let model = model();
    let tokens = prompt(200);
    let state = fed(&model, &tokens[..10]);
    let one = state.unshared_bytes() + shared_bytes(&state) + 40;
    let mut cache = PrefixCache::new(3 * one + 200);
    for first in 0..3 {
        let tokens: Vec<u32> = (first..first + 10).collect();
        cache.keep(&tokens, &fed(&model, &tokens));
    }
    assert_eq!(cache.stats().states, 3);
    // The first is used again, so the second is the oldest when the fourth comes.
    assert!(cache.take(&(0..11).collect::<Vec<u32>>()).is_some());
    cache.keep(&tokens[..10], &state);
    assert_eq!(cache.stats().evictions, 1);
    assert_eq!(cache.longest(&(1..12).collect::<Vec<u32>>()), 0);
    assert_eq!(cache.longest(&(0..11).collect::<Vec<u32>>()), 10);
    assert_eq!(cache.longest(&tokens), 10);
    assert_eq!(
        cache.longest(&tokens[..10]),
        0,
        "a token must be left to feed"
    );
    assert_eq!(cache.stats().bytes, counted(&cache));
    // Larger than everything: not kept, and nothing is left over.
    let mut tiny = PrefixCache::new(one - 1);
    tiny.keep(&tokens[..10], &state);
    assert_eq!((tiny.stats().states, tiny.stats().bytes), (0, 0));
}

fn shared_bytes(state: &SequenceState) -> usize {
    let mut sum = 0;
    state.visit_shared(&mut |_, bytes| sum += bytes);
    sum
}

#[test]
fn shared_blocks_count_once() {
    let model = model();
    // A block holds the keys of 64 tokens: the first is in both states.
    let tokens = prompt(80);
    let mut state = fed(&model, &tokens[..70]);
    let mut cache = PrefixCache::new(1 << 30);
    cache.keep(&tokens[..70], &state);
    feed(&model, &mut state, &tokens[70..]);
    cache.keep(&tokens, &state);
    let apart = |(tokens, state): (&[u32], &SequenceState)| {
        size_of_val(tokens) + state.unshared_bytes() + shared_bytes(state)
    };
    let apart: usize = cache.states().into_iter().map(apart).sum();
    assert!(cache.stats().bytes < apart, "a block is shared");
    assert_eq!(cache.stats().bytes, counted(&cache));
}

#[test]
fn the_longest_prefix_is_found_among_many() {
    let model = model();
    let mut cache = PrefixCache::new(1 << 30);
    let base = prompt(12);
    for (len, last) in [(3, 5), (7, 90), (7, 1), (11, 60), (5, 96)] {
        let tokens = [&base[..len], &[last]].concat();
        cache.keep(&tokens, &fed(&model, &tokens));
    }
    for len in [2, 6, 9] {
        cache.keep(&base[..len], &fed(&model, &base[..len]));
    }
    for len in 0..=12 {
        let want = [2, 6, 9].into_iter().rfind(|kept| *kept < len).unwrap_or(0);
        assert_eq!(cache.longest(&base[..len]), want, "{len} tokens");
    }
}

/// 10,000 requests that share prefixes of many lengths, in batches, within a budget that holds a few states.
#[test]
fn memory_stays_within_the_budget() {
    let model = model();
    let budget = 200_000;
    let options = EngineOptions {
        max_sequences: 16,
        ..keeping(budget, 4)
    };
    let mut engine = engine(&model, options);
    let mut seen = 0;
    for round in 0..1000_u32 {
        for request in soak_requests(round) {
            engine.submit(request).expect("a valid request");
        }
        let answers = finish(&mut engine, &mut |engine| {
            let cache = engine.prefix_cache().expect("asked for");
            assert!(cache.stats().bytes <= budget);
        });
        seen += answers.len();
        let cache = engine.prefix_cache().expect("asked for");
        if round % 50 == 0 {
            assert_eq!(cache.stats().bytes, counted(cache));
        }
    }
    let stats = engine.prefix_cache().expect("asked for").stats();
    assert_eq!(seen, 10_000);
    assert!(
        stats.evictions > 1000 && stats.hits > 1000,
        "the budget was felt and states were used: {stats:?}"
    );
}

/// A request for a few words only, so that there is always something to guess: rightly or wrongly.
fn repetitive(temperature: f32, seed: u64) -> Request {
    let mut request = request((0..36).map(|i| [5, 9, 60][i % 3]).collect(), seed, 40);
    request.sampling.temperature = temperature;
    request.sampling.logit_bias = vec![(5, 60.0), (9, 60.0), (60, 60.0)];
    request
}

#[test]
fn guesses_do_not_change_an_answer() {
    let model = model();
    let requests: Vec<Request> = [(0.0, 1), (0.05, 2), (0.7, 3), (1.5, 4)]
        .into_iter()
        .map(|(temperature, seed)| repetitive(temperature, seed))
        .collect();
    let want: Vec<Answer> = requests
        .iter()
        .map(|r| answer(&mut engine(&model, EngineOptions::default()), r))
        .collect();
    for speculate in [1, 3, 16] {
        for step_rows in [2, 7, 256] {
            let options = EngineOptions {
                speculate,
                step_rows,
                ..keeping(1 << 20, 5)
            };
            let mut engine = engine(&model, options);
            let ids: Vec<RequestId> = requests
                .iter()
                .map(|r| engine.submit(r.clone()).expect("a valid request"))
                .collect();
            let answers = finish(&mut engine, &mut |_| {});
            for (id, want) in ids.iter().zip(&want) {
                assert_eq!(&answers[id], want, "{options:?}");
            }
            let stats = engine.speculation();
            if step_rows == 256 {
                assert!(
                    0 < stats.accepted && stats.accepted < stats.drafted,
                    "some guesses are right and some are wrong: {stats:?}"
                );
            }
        }
    }
}

#[test]
fn a_stop_token_among_the_guesses_ends_the_answer() {
    let model = model();
    let mut request = repetitive(0.7, 1);
    let whole = answer(&mut engine(&model, EngineOptions::default()), &request);
    for at in 0..whole.len() {
        request.stop_tokens = vec![whole[at].0];
        let want = answer(&mut engine(&model, EngineOptions::default()), &request);
        let options = EngineOptions {
            speculate: 8,
            ..EngineOptions::default()
        };
        assert_eq!(answer(&mut engine(&model, options), &request), want);
    }
}
