"""Take over the initialisation of a model that was never written for this library.

python examples/intercept_transformers.py
"""

from transformers import GPT2Config, GPT2LMHeadModel

import tritoninit as ti


def main() -> None:
    sizes = {"n_layer": 2, "n_embd": 128, "n_head": 4, "vocab_size": 1000, "n_positions": 64}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    with ti.intercept(seed=0) as intercepted:
        model = GPT2LMHeadModel(config)
    print(intercepted.report(model))


if __name__ == "__main__":
    main()
