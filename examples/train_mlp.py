"""A network with one hidden layer on a1a, its weights in dense tables.

    python examples/train_mlp.py                                  # in this process
    fastps-launch --servers 2 --workers 2 examples/train_mlp.py   # on a cluster

Weights begin as arrays. The first worker to ask for a table writes them; with `--checkpoint` and
after a restart of any worker the table is there already, and what was trained stays.
"""

from pathlib import Path

import numpy as np

import fastps

DATA = Path(__file__).parent / "data" / "a1a"
FEATURES, HIDDEN = 124, 16
EPOCHS, BATCH = 5, 64


def read(path):
    """Return labels (n,) of 0 and 1, and features (n, FEATURES) of 0 and 1."""
    lines = [line.split() for line in path.read_text().splitlines()]
    labels = np.array([float(words[0]) > 0 for words in lines], np.float32)
    features = np.zeros((len(lines), FEATURES), np.float32)
    for row, words in enumerate(lines):
        features[row, [int(word.split(":")[0]) for word in words[1:]]] = 1
    return labels, features


def forward(first, second, features):
    """Return the hidden layer and the probabilities."""
    hidden = np.tanh(features @ first)
    return hidden, 1 / (1 + np.exp(-hidden @ second))


def learn(tables, labels, features):
    """Pull the weights, and push the gradient of one minibatch."""
    first, second = (table.pull() for table in tables)
    hidden, probabilities = forward(first, second, features)
    residuals = (probabilities - labels) / len(labels)
    back = np.outer(residuals, second) * (1 - hidden**2)
    tables[0].push(features.T @ back)
    tables[1].push(hidden.T @ residuals)


def main():
    labels, features = read(DATA / "a1a")
    random = np.random.default_rng(7)
    starts = range(0, len(labels), BATCH)
    adam = fastps.optimizers.Adam(lr=0.02)
    with fastps.connect() as client:
        tables = [
            client.dense_table(name, optimizer=adam, initializer=random.normal(0, 0.1, shape))
            for name, shape in (("first", (FEATURES, HIDDEN)), ("second", (HIDDEN,)))
        ]
        for _ in range(EPOCHS):
            # Each minibatch goes to one worker; the loop ends when all of them are done.
            for start in client.chunks(starts):
                part = slice(start, start + BATCH)
                learn(tables, labels[part], features[part])
            client.clock()
        if client.rank == 0:
            test_labels, test_features = read(DATA / "a1a.t")
            _, probabilities = forward(*(table.pull() for table in tables), test_features)
            print(f"test accuracy {np.mean((probabilities > 0.5) == test_labels):.4f}")


if __name__ == "__main__":
    main()
