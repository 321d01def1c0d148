"""Build Llama 3.2 on the meta device and give it memory and weights in one pass, in bfloat16.

python examples/meta_llama.py            # two small layers
python examples/meta_llama.py --full     # all 1.2 billion parameters, 2.5 GB
"""

import argparse
import time

import torch

import tritoninit as ti
from tritoninit.presets import PRESETS, Llama

SMALL = {"vocabulary": 1000, "width": 256, "depth": 2, "heads": 8, "kv_heads": 2, "inner": 512}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    full = parser.parse_args().full
    device = "cuda" if torch.cuda.is_available() else "cpu"

    with torch.device("meta"):  # shapes only: nothing is allocated, nothing drawn
        model = Llama() if full else Llama(**SMALL)
    start = time.perf_counter()
    report = ti.initialize_(model, PRESETS["llama-3.2-1b"].rules, seed=0, device=device, dtype=torch.bfloat16)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    size = sum(parameter.nbytes for parameter in model.parameters())
    print(f"{size / 1e6:,.1f} MB on {device} in {seconds:.3f} s")
    print(report)

    tokens = torch.arange(12, device=device).view(2, 6)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    print("logits", tuple(model(tokens).shape), "tied:", tied)


if __name__ == "__main__":
    main()
