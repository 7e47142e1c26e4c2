//! Text in, text out: tokenizer, chat template, sampler, scheduler, streaming generation.
