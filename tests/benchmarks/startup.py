"""What a worker's process takes before it edits: imports, the model, its first call.

    python tests/benchmarks/startup.py               # the shapes model
    python tests/benchmarks/startup.py --model DIR   # any other

Each of --rounds rounds is a process of its own; medians are printed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

STEPS = """
import json, sys, time
took, started = {}, time.perf_counter()
def done(name):
    global started
    took[name], started = time.perf_counter() - started, time.perf_counter()
import tasks.work
done("import_tasks_s")
import torch
from cogvideo_core.models import model
from cogvideo_core.stages import edit
done("import_models_s")
from cogvideo_core.settings.specs import ModelSpec
made = model.load(ModelSpec(path=sys.argv[1]))
done("load_s")
text = made.embed([""])
done("text_encoder_s")
shape = made.latents(made.shape.frames, made.shape.height, made.shape.width)
for name in ("first_call_s", "second_call_s"):
    made.one_row(text)(torch.zeros(*shape), 999)
    done(name)
print(json.dumps(took))
"""


def one(model: str) -> dict[str, float]:
    """Seconds by step of one fresh process."""
    done = subprocess.run([sys.executable, "-c", STEPS, model], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rounds = [one(args.model) for _ in range(args.rounds)]
    medians = {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]}
    for name, value in medians.items():
        print(f"{name:>16} {value:8.3f}")
    print(json.dumps(medians | {"start_s": round(sum(medians.values()) - medians["second_call_s"], 3)}))


if __name__ == "__main__":
    main()
