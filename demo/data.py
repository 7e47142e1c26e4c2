"""Rows of tokens for training and evaluation."""
import os

import numpy as np


class Tokens:
    def __init__(self, work, name):
        z = np.load(os.path.join(work, name + ".npz"))
        self.ids, self.ends, self.bytes = z["ids"].astype(np.int64), z["ends"], z["bytes"]
        self.source, self.sources = z["source"], [str(s) for s in z["sources"]]
        self.starts = np.concatenate([[0], self.ends[:-1]])

    def __len__(self):
        return len(self.ends)

    def row(self, i):
        return self.ids[self.starts[i]:self.ends[i]]


class Stream:
    """Endless rows of n tokens, epoch after epoch in a new order.

    text: documents one after another, cut anywhere. chat: every row starts with a whole chat, the last one may be cut.
    """
    def __init__(self, tokens, n, seed, whole):
        self.tokens, self.n, self.whole = tokens, n, whole
        self.rng, self.buffer, self.order = np.random.default_rng(seed), np.zeros(0, np.int64), []

    def next(self):
        if self.whole:
            self.buffer = self.buffer[:0]
        while len(self.buffer) < self.n:
            if not len(self.order):
                self.order = self.rng.permutation(len(self.tokens)).tolist()
            self.buffer = np.concatenate([self.buffer, self.tokens.row(self.order.pop())])
        row, self.buffer = self.buffer[:self.n], self.buffer[self.n - 1:]
        return row


class Mix:
    def __init__(self, work, length, text_rows, chat_rows, seed=3):
        self.text = Stream(Tokens(work, "train_text"), length + 1, seed, False)
        self.chat = Stream(Tokens(work, "train_chat"), length + 1, seed + 1, True)
        self.counts = text_rows, chat_rows

    def next(self):
        """text_rows + chat_rows rows of length + 1 tokens, interleaved"""
        rows = [self.text.next() for _ in range(self.counts[0])] + [self.chat.next() for _ in range(self.counts[1])]
        half = len(rows) // 2
        return np.stack([rows[i // 2 + (i % 2) * half] for i in range(len(rows))] if self.counts[0] == self.counts[1] else rows)


def windows(tokens, length):
    """Every held-out document cut into windows of at most length + 1 tokens that overlap by one, so that each token but
    the first of a document is predicted once."""
    for i in range(len(tokens)):
        row = tokens.row(i)
        for a in range(0, len(row) - 1, length):
            yield i, row[a:a + length + 1]
