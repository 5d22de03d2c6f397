"""Search with AutoKeras for some minutes; run in an environment that has autokeras 3 and TensorFlow.

    .venv-peers/bin/python benchmarks/peers/autokeras_search.py TASK.npz FOUND.json

The task holds `{train,validation,test}_{inputs,targets}`, `seed` and `minutes`; images are `(N, channels, height,
width)`, rows of a table `(N, features)`. AutoKeras 3 has no limit of time: a callback ends the search when the time is
over, in the middle of an epoch if need be, and keeps the weights of the epoch with the best validation accuracy among
all trials. Those predict the test samples, once. There is no last training on all samples, which would be beyond the
time.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import autokeras
import keras
import numpy as np
import tensorflow
from autokeras.engine.tuner import AutoTuner

MOST_TRIALS = 10_000


class Best:
    """What is best so far; callbacks are copied for every trial, this is not."""

    deadline = 0.0
    score = -1.0
    trials = 0
    epochs = 0
    scores: list[float] = []  # noqa: RUF012 -- of every trial
    pipeline = None
    kept = None


class UntilTheTimeIsOver(keras.callbacks.Callback):
    """Keeps the best weights and ends the search."""

    def on_train_begin(self, logs=None):  # noqa: ARG002
        """A trial."""
        Best.trials += 1
        Best.scores.append(-1.0)

    def on_train_batch_end(self, batch, logs=None):  # noqa: ARG002
        """Look at the clock."""
        if time.time() > Best.deadline:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):  # noqa: ARG002
        """Keep the weights where they are the best."""
        score = float((logs or {}).get("val_accuracy", -1.0))
        Best.epochs += 1
        Best.scores[-1] = max(Best.scores[-1], score)
        if score > Best.score:
            Best.score = score
            Best.kept = (self.model, self.model.get_weights(), Best.pipeline)
        if time.time() > Best.deadline:
            raise KeyboardInterrupt


def remember_pipelines() -> None:
    """Keep what prepares the inputs of the trial that runs."""
    prepare = AutoTuner._prepare_model_build

    def prepared(self, hp, **kwargs):
        found = prepare(self, hp, **kwargs)
        Best.pipeline = found[0]
        return found

    AutoTuner._prepare_model_build = prepared


def take_numpy_integers() -> None:
    """AutoKeras 3.0.0 gives Keras widths as NumPy integers, which Keras 3.15 refuses."""
    plain = keras.layers.Dense.__init__

    def converted(self, units, *args, **kwargs):
        plain(self, int(units), *args, **kwargs)

    keras.layers.Dense.__init__ = converted


def inputs_of(array: np.ndarray) -> np.ndarray:
    """Channels last."""
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def main() -> None:
    """Search, predict, write."""
    tensorflow.config.threading.set_intra_op_parallelism_threads(1)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    with np.load(sys.argv[1]) as file:
        task = dict(file)
    parts = {name: inputs_of(task[f"{name}_inputs"]) for name in ("train", "validation", "test")}
    targets = {name: task[f"{name}_targets"].astype(np.int64) for name in parts}
    remember_pipelines()
    take_numpy_integers()
    begin = time.time()
    Best.deadline = begin + 60 * float(task["minutes"])
    kind = autokeras.ImageClassifier if parts["train"].ndim == 4 else autokeras.StructuredDataClassifier
    with tempfile.TemporaryDirectory() as folder:
        made = kind(max_trials=MOST_TRIALS, seed=int(task["seed"]), directory=folder, overwrite=True)
        try:
            made.fit(
                parts["train"],
                targets["train"],
                validation_data=(parts["validation"], targets["validation"]),
                callbacks=[UntilTheTimeIsOver()],
                verbose=0,
            )
        except KeyboardInterrupt:
            pass
        seconds = time.time() - begin
        found = {"trials": Best.trials, "epochs": Best.epochs, "seconds": seconds, "scores": Best.scores}
        found["version"] = autokeras.__version__
        if Best.kept is None:
            found |= {"error": None, "validation": None, "parameters": None, "reason": "no epoch ended in time"}
        else:
            model, weights, pipeline = Best.kept
            model.set_weights(weights)
            predicted = {name: predict(made, model, pipeline, parts[name]) for name in ("validation", "test")}
            right = {name: float(np.mean(values == targets[name])) for name, values in predicted.items()}
            found |= {"error": 100 * (1 - right["test"]), "validation": 100 * right["validation"]}
            found |= {"best seen": 100 * Best.score, "parameters": int(model.count_params())}
    Path(sys.argv[2]).write_text(json.dumps(found))


def predict(made, model, pipeline, inputs: np.ndarray) -> np.ndarray:
    """Classes."""
    dataset = made._adapt(inputs, made.inputs)
    outputs = pipeline.postprocess(model.predict(pipeline.transform_x(dataset), verbose=0))
    return np.asarray(outputs).reshape(len(inputs)).astype(np.int64)


if __name__ == "__main__":
    main()
