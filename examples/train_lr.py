"""Logistic regression on a1a, written out over the public interface.

    python examples/train_lr.py                                  # in this process
    fastps-launch --servers 2 --workers 2 examples/train_lr.py   # on a cluster

The command `fastps train lr` is the complete version: any libsvm files, penalties, metrics, plots.
"""

from pathlib import Path

import numpy as np

import fastps

DATA = Path(__file__).parent / "data" / "a1a"
EPOCHS, BATCH = 5, 64


def read(path):
    """Return labels (n,) of 0 and 1, and for each example its feature ids (all values are 1)."""
    lines = [line.split() for line in path.read_text().splitlines()]
    labels = np.array([float(words[0]) > 0 for words in lines], np.float32)
    return labels, [[int(word.split(":")[0]) for word in words[1:]] for words in lines]


def margins(weights, examples):
    """Return each example's sum of weights, with one pull for all of them."""
    values = weights.pull(np.concatenate(examples))
    lengths = [len(ids) for ids in examples]
    return np.add.reduceat(values, np.cumsum([0, *lengths[:-1]]))


def learn(weights, labels, examples):
    """Push the gradient of one minibatch; the server merges ids and applies the optimizer."""
    residuals = 1 / (1 + np.exp(-margins(weights, examples))) - labels
    weights.push(np.concatenate(examples), np.repeat(residuals, [len(ids) for ids in examples]))


def main():
    labels, examples = read(DATA / "a1a")
    starts = range(0, len(examples), BATCH)
    with fastps.connect() as client:
        weights = client.sparse_table("weights", optimizer=fastps.optimizers.AdaGrad(lr=0.2))
        for _ in range(EPOCHS):
            # Each minibatch goes to one worker; the loop ends when all of them are done.
            for start in client.chunks(starts):
                part = slice(start, start + BATCH)
                learn(weights, labels[part], examples[part])
            client.clock()
        if client.rank == 0:
            test_labels, test_examples = read(DATA / "a1a.t")
            right = (margins(weights, test_examples) > 0) == test_labels
            print(f"test accuracy {np.mean(right):.4f} with {len(weights)} weights")


if __name__ == "__main__":
    main()
